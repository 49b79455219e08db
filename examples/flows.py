# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How do the size and the outline of tumour cells go together?
#
# For 569 breast tumours the nuclei of the cells were measured under a microscope (Street, Wolberg
# and Mangasarian 1993, Nuclear feature extraction for breast tumor diagnosis). Two of the numbers
# are the mean area of the nuclei and the fractal dimension of their outline: how rough it is.
#
# The cloud that they make is bent, with a tail. A normal density cannot say that, and a mixture of
# normals pieces it together. A normalizing flow bends one simple density until it fits, and
# keeps an exact log density while it does.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
from sklearn.datasets import load_breast_cancer, load_diabetes

import probgen as pg

cells = load_breast_cancer(as_frame=True).frame
cells = cells.rename(columns={"mean area": "area", "mean fractal dimension": "roughness"})
cells = cells[["area", "roughness"]]
held = cells.sample(frac=0.25, random_state=0)
train = cells.drop(held.index)

flow = pg.Flow(base="normal", random_state=0).fit(train)
normal = pg.GaussianMixture(1, random_state=0).fit(train)
pg.compare({"flow": flow, "one normal": normal}, held)

# %% [markdown]
# `base="normal"` asks for the plainest flow: one normal cloud, bent. What it has learned can be
# drawn. On the left are rows in the space of the base, where they should look like round noise,
# with a straight grid; on the right the same grid and rows in the table's units.

# %%
axes = flow.plot.warp(train)

# %% [markdown]
# Where the lines crowd, the flow has squeezed much probability into little room. The density is
# exact: no sampling, no binning.

# %%
ax = flow.plot.density(train)

# %% [markdown]
# By default a flow starts from a mixture (`base="mixture"`) and bends that: with few rows it is
# the safer start, because training keeps the best state on rows held out, the start included.
#
# Each row has a place in the base space, and the way back is exact. Between two tumours the flow
# can therefore go along the bend, where tumours are, instead of cutting across it.

# %%
ends = [(train[name] - train[name].quantile(0.97)).abs().argmin() for name in train]
few = train.iloc[ends]
path = flow.interpolate(few.iloc[[0]], few.iloc[[1]], steps=9)
path

# %%
ax = flow.plot.density(train)
ax.plot(path["area"], path["roughness"], "o-", color="black")
ax.plot(few["area"], few["roughness"], ":", color="black")
flow.log_prob(path).round(1).tolist()

# %% [markdown]
# ## A target given other columns
#
# Columns named in `given=` are conditioned on and never modelled. The flow is then the density of
# what is left, whatever its shape: not only a mean and a spread. Here it is the progress of
# diabetes after a year given age, body mass index, blood pressure and one blood serum measurement
# (Efron, Hastie, Johnstone and Tibshirani 2004, Least angle regression).

# %%
diabetes = load_diabetes(as_frame=True, scaled=False).frame
diabetes = diabetes.rename(columns={"bp": "pressure", "s5": "triglycerides"})
features = ["age", "bmi", "pressure", "triglycerides"]
diabetes = diabetes[[*features, "target"]].rename(columns={"target": "progress"})
later = diabetes.sample(frac=0.3, random_state=0)
first = diabetes.drop(later.index)

progress = pg.Flow(restarts=3, random_state=0).fit(first, given=features)
draws = progress.sample(400, given=later[features], random_state=0)["progress"]
ends = draws.groupby(level=0).quantile([0.05, 0.5, 0.95]).unstack().loc[later.index]
inside = later["progress"].between(ends[0.05], ends[0.95])
print(f"90 % intervals hold {inside.mean():.0%} of {len(later)} patients not fitted")

# %%
order = ends[0.5].sort_values().index
fig, ax = plt.subplots(figsize=(7, 3.5))
place = np.arange(len(order))
ax.fill_between(place, ends.loc[order, 0.05], ends.loc[order, 0.95], alpha=0.3, label="90 %")
ax.plot(place, later.loc[order, "progress"], ".", label="observed")
ax.set(xlabel="patients, by their median", ylabel="progress")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# One number can be right by chance. If the whole conditional distribution is right, the value of
# each patient is at a uniform place in it: the curve stays in the band.

# %%
axes = progress.plot.pit(later)

# %% [markdown]
# ## A flow as a guide
#
# The same kind of map serves where the density is that of parameters: as the guide of a model of
# your own. Here the posterior lies along a parabola, which no normal guide can follow.


# %%
def parabola(batch):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with batch.rows():
        pyro.sample("y", dist.Normal(a**2 + b, 1.0), obs=batch["y"])


rng = np.random.default_rng(0)
rows = pd.DataFrame({"y": rng.normal(1, 1, 10)})
fig, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharex=True, sharey=True)
for ax, guide in zip(axes, ["multivariate", "flow"], strict=True):
    own = pg.Pair(parabola, guide=guide, draws=1000, random_state=0).fit(rows)
    posterior = own.to_arviz().posterior
    ax.plot(posterior["a"].to_numpy().ravel(), posterior["b"].to_numpy().ravel(), ".", alpha=0.3)
    ax.set(title=f"guide={guide!r}", xlabel="a", ylabel="b")
fig.tight_layout()

# %% [markdown]
# ## How far to trust it
#
# The first flow again, on the tumours that it has not seen: `check` compares it with independent
# columns, with a mixture of the same rows, and rows that it draws with the table.

# %%
flow.check(held, train=train)

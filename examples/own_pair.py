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
# # How heavy is a penguin of this flipper length, whatever its species?
#
# A ready-made family does not know that heavier penguins have longer flippers in every species,
# nor that the species differ by how heavy they are at one length. You do, and can write it down:
# a model is a Pyro function of the rows, and everything that can be asked of a fitted density
# can be asked of yours.
#
# Two models of about twenty lines follow: a hierarchical regression for the 342 penguins that
# were measured (Gorman, Williams and Fraser 2014), and a count with too many zeros for
# handwritten digits.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits

import probgen as pg
from probgen.datasets import penguins

given = ["species", "flipper_length_mm"]
table = penguins()[[*given, "body_mass_g"]].dropna(ignore_index=True)
held = table.sample(frac=0.25, random_state=1)
train = table.drop(held.index)
train.head(3)


# %% [markdown]
# ## A hierarchical regression
#
# `batch["column"]` is a column in the table's own units: grams, millimetres, codes of the
# species. What is outside `batch.rows()` is shared by all rows; what is inside belongs to one. A
# column that is modelled has one site, named after it.


# %%
def hierarchical(batch):
    mean = pyro.sample("mean", dist.Normal(4000.0, 1000.0))
    spread = pyro.sample("spread", dist.HalfNormal(1000.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 100.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1000.0))
    with pyro.plate("species", 3):
        offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
    with batch.rows():
        intercept = mean + spread * offset[batch["species"]]
        loc = intercept + slope * (batch["flipper_length_mm"] - 200.0)
        pyro.sample("body_mass_g", dist.Normal(loc, sigma), obs=batch["body_mass_g"])


# %% [markdown]
# There is no guide: the five globals get a normal one, here with a full covariance, since the
# slope and the intercepts of the species depend on each other. Species and flipper length are
# `given`: the model conditions on them and says nothing about them.

# %%
settings = {"guide": "multivariate", "batch_size": 1000, "random_state": 0}
model = pg.Pair(hierarchical, **settings).fit(train, given=given)
model.result_.reason

# %%
groups = model.to_arviz()
draws = groups["posterior"]
for name in ("slope", "sigma"):
    value = draws[name].values
    print(f"{name:6} {value.mean():7.1f} ± {value.std():.1f}")

# %% [markdown]
# A millimetre of flipper is worth some 40 grams, in any species. Every verb works as it does for
# the other families: a density with its interval, new penguins, and how odd one of them is.

# %%
model.log_prob(held, interval=0.9).head(3).round(2)

# %%
asked = {"species": "Gentoo", "flipper_length_mm": 220.0}
new = model.sample(1000, given=asked, random_state=0)
new["body_mass_g"].describe()[["mean", "std", "min", "max"]].round(0)

# %%
figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
lengths = np.linspace(170, 235, 40)
for number, (species, rows) in enumerate(table.groupby("species", observed=True)):
    x, y = rows["flipper_length_mm"], rows["body_mass_g"]
    axes.scatter(x, y, s=8, color=f"C{number}", alpha=0.6)
    inside = lengths[(lengths > x.min() - 3) & (lengths < x.max() + 3)]
    asked = pd.DataFrame({"species": species, "flipper_length_mm": inside})
    drawn = model.sample(400, given=asked, random_state=1)["body_mass_g"]
    low, high = (drawn.groupby(level=0).quantile(q) for q in (0.05, 0.95))
    axes.fill_between(inside, low, high, alpha=0.15, color=f"C{number}", label=species)
axes.set(xlabel="flipper length (mm)", ylabel="body mass (g)")
axes.legend(title="90 % of new penguins", frameon=False)
# %% [markdown]
# ## Can it be believed?
#
# The verdict comes from the rows that the fit has seen and those it has not: did training
# converge, is the density as good on new rows, and do the draws of the guide stand for the
# posterior?

# %%
print(model.check(held, train=train))

# %% [markdown]
# ## A count with too many zeros
#
# Each of 1,797 handwritten digits is an 8 by 8 grid that counts ink, from 0 to 16. Near the upper
# left corner, does a digit that has a loop (0, 6, 8 or 9) leave more ink? Most digits leave none
# at all there. A tenth of the loops is hidden, as if nobody had looked: such a cell is a latent of
# its row, drawn from its own distribution, and what depends on it uses the value that
# `pyro.sample` returns.

# %%
digits = load_digits()
loop = pd.array(np.isin(digits.target, [0, 6, 8, 9]), dtype="boolean")
cells = pd.DataFrame({"loop": loop, "ink": digits.images[:, 1, 1].astype(int)})
cells.loc[::10, "loop"] = pd.NA
print(f"{(cells['ink'] == 0).mean():.0%} of the cells are blank")

# %%
POSITIVE = dist.constraints.positive
SHARE = dist.constraints.unit_interval


def zero_inflated(batch):
    blank = pyro.param("blank", torch.tensor(0.5), constraint=SHARE)
    share = pyro.param("share", torch.tensor(0.5), constraint=SHARE)
    rate = pyro.param("rate", torch.ones(2), constraint=POSITIVE)
    with batch.rows():
        loop = pyro.sample("loop", dist.Bernoulli(share), obs=batch["loop"])
        ink = dist.ZeroInflatedPoisson(rate[loop.long()], gate=blank)
        pyro.sample("ink", ink, obs=batch["ink"])


counts = pg.Pair(zero_inflated, random_state=0).fit(cells)
{name: value.round(2) for name, value in counts.params_.items()}

# %% [markdown]
# Was there a loop, given the ink? The answer needs no code: the probability of a row is the sum
# over what is hidden in it.

# %%
asked = pd.DataFrame({"ink": [0, 4, 12]})
with_loop = counts.log_prob(asked.assign(loop=pd.array([True] * 3, dtype="boolean")))
without = counts.log_prob(asked.assign(loop=pd.array([False] * 3, dtype="boolean")))
chance = 1 / (1 + np.exp(without - with_loop))
pd.Series(chance.to_numpy().round(2), index=asked["ink"], name="probability of a loop")

# %% [markdown]
# ## And is this one any good?
#
# Blank cells come out right by design. The rest does less so: ink varies more than a Poisson
# count, as the histogram shows, and the comparison with independent columns, whose margins are
# flexible, says what that costs.

# %%
drawn = counts.sample(len(cells), random_state=0)
figure, axes = plt.subplots(figsize=(6.5, 3), layout="constrained")
steps = np.arange(-0.5, 21.5)
axes.hist(cells["ink"], steps, density=True, alpha=0.4, label="digits")
axes.hist(drawn["ink"], steps, density=True, histtype="step", color="black", label="the pair")
axes.set(xlabel="ink", ylabel="share")
axes.legend(frameon=False)
# %%
print(counts.check(cells))


# %% [markdown]
# The remedy is one line, a count that may vary more: a negative binomial. Compare the mean log
# densities, nats a row.


# %%
def overdispersed(batch):
    blank = pyro.param("blank", torch.tensor(0.5), constraint=SHARE)
    share = pyro.param("share", torch.tensor(0.5), constraint=SHARE)
    odds = pyro.param("odds", torch.zeros(2))
    shape = pyro.param("shape", torch.ones(2), constraint=POSITIVE)
    with batch.rows():
        loop = pyro.sample("loop", dist.Bernoulli(share), obs=batch["loop"]).long()
        body = dist.NegativeBinomial(shape[loop], logits=odds[loop])
        ink = dist.ZeroInflatedDistribution(body, gate=blank.expand(len(batch)))
        pyro.sample("ink", ink, obs=batch["ink"])


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    wider = pg.Pair(overdispersed, random_state=0).fit(cells)
whole = cells.dropna()
pd.Series({"Poisson": counts.score(whole), "negative binomial": wider.score(whole)}).round(3)

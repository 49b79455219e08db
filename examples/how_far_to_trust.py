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
# # Which blood serum measurements go with the progress of diabetes, and how sure can we be?
#
# For 442 patients five measurements of their blood serum and the progress of their disease a
# year later are known (Efron, Hastie, Johnstone and Tibshirani 2004, Least angle regression).
# Some of the measurements say nearly the same: total cholesterol and its LDL part correlate at
# 0.9.
#
# A fit gives numbers whatever the data. Two questions are asked of them here: can the density be
# believed, and can the intervals? They have different answers more often than not.

# %%
import warnings

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
from sklearn.datasets import load_diabetes
from sklearn.neighbors import KernelDensity

import probgen as pg
from probgen import plots

serum = ["cholesterol", "ldl", "hdl", "ratio", "triglycerides"]
frame = load_diabetes(as_frame=True, scaled=False).frame
frame = frame.rename(columns=dict(zip(["s1", "s2", "s3", "s4", "s5"], serum, strict=True)))
table = frame.rename(columns={"target": "progress"})[[*serum, "progress"]]
held = table.sample(frac=0.25, random_state=0)
train = table.drop(held.index)
table[serum].corr().round(2)

# %% [markdown]
# ## A regression, fitted twice
#
# Each measurement is taken in units of its standard deviation, and has a slope of its own.

# %%
spread = train[serum].std()


def regression(batch):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 300.0))
    noise = pyro.sample("noise", dist.HalfNormal(100.0))
    with pyro.plate("serum", len(serum)):
        slope = pyro.sample("slope", dist.Normal(0.0, 50.0))
    with batch.rows():
        loc = intercept
        for i, name in enumerate(serum):
            loc = loc + slope[i] * batch[name] / spread[name]
        pyro.sample("progress", dist.Normal(loc, noise), obs=batch["progress"])


apart = pg.Pair(regression, guide="mean_field", random_state=0).fit(train, given=serum)
joint = pg.Pair(regression, guide="multivariate", random_state=0).fit(train, given=serum)

# %% [markdown]
# The first guide takes the parameters as independent of each other, the second lets them
# correlate. As densities of new patients the two cannot be told apart:

# %%
pg.compare({"apart": apart, "joint": joint}, held)

# %% [markdown]
# As statements about the slopes they differ widely:

# %%
fig, ax = plt.subplots(figsize=(7, 3))
for number, (name, model) in enumerate([("apart", apart), ("joint", joint)]):
    found = model.parameters(interval=0.9).query("site == 'slope'")
    places = [place + 0.25 * number for place in range(len(serum))]
    ends = [found["mean"] - found["lower"], found["upper"] - found["mean"]]
    ax.errorbar(found["mean"], places, xerr=ends, fmt="o", label=name)
ax.axvline(0, color="0.5", linestyle=":")
ax.set_yticks(range(len(serum)), serum)
ax.set(xlabel="progress for one standard deviation more; 90 % intervals")
ax.legend(frameon=False)
fig.tight_layout()

# %% [markdown]
# Where two measurements say the same, the data tell what their slopes add up to, and not which
# of them it comes from. Independent parameters cannot express that, so the first guide settles
# on one combination and claims to know each slope.
#
# ## What `check` says
#
# You need not know this beforehand. `check` takes rows that the fit did not see, and those that
# it saw, and gives two verdicts with their reasons.

# %%
apart.check(held, train=train)

# %%
joint.check(held, train=train)

# %% [markdown]
# The *k-hat of the guide* compares the guide with the posterior that it stands for: the heavier
# the tail of their ratio, the larger k-hat (Vehtari et al. 2024). The advice is to let the guide
# correlate. A longer look is leave-one-out: how probable each patient is to a model of all the
# others. It too weighs the draws of the guide, and shows row by row where that is not possible.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore", pg.ApproximationWarning)  # it is what we want to see
    rows = {"apart": apart.loo(train), "joint": joint.loo(train)}
{
    name: f"{found.elpd:.0f} ± {found.se:.0f}, bad rows: {found.bad:.0%}"
    for name, found in rows.items()
}

# %%
ax = plots.khat(rows["joint"])

# %% [markdown]
# ## Which density of the whole table?
#
# A regression says nothing of the measurements themselves. Several families model all six
# columns together, and so does a kernel density of scikit-learn. `compare` fits each of them to
# the same folds, scores the rows left out in the table's own units, and says which differences
# are larger than chance. `Stack` is the mixture of them that does best on rows left out.

# %%
models = {
    "independent": pg.Independent(random_state=0),
    "normal": pg.GaussianMixture(1, random_state=0),
    "mixture": pg.GaussianMixture(4, random_state=0),
    "heavy tails": pg.StudentT(random_state=0),
    "kernels": KernelDensity(bandwidth=0.4),
}
kinds = dict.fromkeys(table.columns, {"kind": "real", "atoms": ()})
found = pg.compare(models, train, folds=4, columns=kinds)
found

# %%
ax = plots.elpd(found)

# %% [markdown]
# The weights are those of the mixture of these models that does best on the rows left out:
# `pg.Stack(models)` fits it. A leaderboard ranks; it does not say that the best is good. That is
# asked of the best one, on the patients that no fit has seen.

# %%
best = models.get(found.best, models["mixture"])
if not isinstance(best, pg.Density):
    best = pg.SklearnDensity(best)
best = best.set_params(columns=kinds).fit(train)
best.check(held, train=train)

# %%
axes = plots.pit(best, held)

# %% [markdown]
# The density can be used. Its intervals should not be, if components share their rows: where
# they do, the data leave open how many there are, and an interval from one answer is too narrow
# ([how the rules were found](../how-to/check-a-fit.md)). A column whose curve leaves the band is
# one to look at: the ratio is mostly written as a whole number, which a smooth density can only
# spread out. `columns={"ratio": {"kind": "real", "atoms": (2, 3, 4, 5)}}` gives these values a
# mass of their own.

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
# # What can be said of a penguin of which only some things are known?
#
# 344 penguins were measured near Palmer Station in Antarctica (Gorman, Williams and Fraser 2014,
# Ecological sexual dimorphism and environmental variability within a community of Antarctic
# penguins). Some were measured in part, and of some the sex is not known. A new bird may come with
# any of the eight columns, and be asked about any other.
#
# `pg.Autoregressive` is one masked network that has learned every column given any of the others.
# It scores a row cell by cell in some order of the columns, and averages over a few orders. With
# so few rows three networks from different seeds are averaged.

# %%
import matplotlib.pyplot as plt
import pandas as pd

import probgen as pg
from probgen.datasets import penguins

table = penguins()
held = table.sample(frac=0.3, random_state=0)
train = table.drop(held.index)
model = pg.Autoregressive(restarts=3, random_state=0).fit(train)
mixture = pg.GaussianMixture(components=6, random_state=0).fit(train)
apart = pg.Independent(random_state=0).fit(train)
pg.compare({"any order": model, "mixture": mixture, "independent": apart}, held)

# %% [markdown]
# On birds that no fit has seen it is about as good as a mixture, and both are far from columns on
# their own.
#
# ## Any columns, given any others
#
# Columns that are left out are not filled in: the network never learned to need them. So a
# marginal and a conditional cost what a whole row costs.

# %%
birds = held.dropna().head(4)
pd.DataFrame(
    {
        "mass": model.log_prob(birds[["body_mass_g"]]),
        "mass | sex": model.log_prob(birds[["body_mass_g"]], given=birds[["sex"]]),
        "mass | species, sex": model.log_prob(
            birds[["body_mass_g"]], given=birds[["species", "sex"]]
        ),
        "species, sex": model.log_prob(birds[["species", "sex"]]),
    }
).round(2)

# %% [markdown]
# What is the sex of a bird whose bill and flipper were measured? A conditional of two levels is
# two log densities. They are probabilities and add up to one, but for the little that is kept for
# a level never seen.

# %%
known = ["species", "bill_length_mm", "bill_depth_mm", "flipper_length_mm"]
sex = pd.DataFrame(
    {
        level: model.log_prob(birds[known].assign(sex=level)[["sex"]], given=birds[known])
        for level in ["female", "male"]
    }
)
probability = sex.map(lambda value: 2.718281828**value)
probability.assign(total=probability.sum(axis=1), seen=birds["sex"]).round(3)

# %% [markdown]
# ## How far the orders agree
#
# The network is trained for all orders at once, and two orders of the same columns give nearly,
# not exactly, the same density. `details=True` states it: `se` is the standard error that the mean
# over the fixed orders has as an estimate of the mean over all orders.

# %%
model.log_prob(birds, details=True).round(3)

# %% [markdown]
# That is what `coherent` is about: the density of some columns is not precisely the integral of
# that of more, as it is for a mixture.

# %%
model.members_[0].coherent, mixture.members_[0].coherent

# %% [markdown]
# ## Holes and new birds
#
# Rows are drawn column after column, known cells first. Each draw fills the same holes anew.

# %%
holes = table[table["sex"].isna() & table["body_mass_g"].notna()]
draws = model.impute(holes, draws=40, random_state=0)
share = pd.concat(draws)["sex"].eq("male").groupby(level=0).mean()
holes[["species", "body_mass_g"]].assign(male=share)

# %%
drawn = model.sample(400, given={"species": "Adelie"}, random_state=0)
fig, ax = plt.subplots(figsize=(6, 4))
for sex, colour in [("female", "#0072B2"), ("male", "#D55E00")]:
    own = drawn[drawn["sex"] == sex]
    real = table[(table["species"] == "Adelie") & (table["sex"] == sex)]
    ax.scatter(own["flipper_length_mm"], own["body_mass_g"], s=8, alpha=0.4, color=colour)
    ax.scatter(
        real["flipper_length_mm"],
        real["body_mass_g"],
        s=26,
        facecolors="none",
        edgecolors=colour,
        label=f"{sex}: rings are birds, dots are draws",
    )
ax.set(xlabel="flipper length (mm)", ylabel="body mass (g)")
ax.legend(frameon=False, fontsize="small")
fig.tight_layout()

# %% [markdown]
# ## How far to trust it
#
# Drawn rows look like the table. `check` also fits a mixture to the same birds and says whether
# the network was worth its cost. The verdict on intervals is no: a few networks are a few values
# of the parameters and no posterior. `restarts=20, bootstrap=True` gives intervals, at the cost of
# twenty fits.

# %%
model.check(held, train=train)

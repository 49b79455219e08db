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
# # Which of these penguins are odd, and why?
#
# Between 2007 and 2009 biologists measured 344 penguins of three species near Palmer Station,
# Antarctica (Gorman, Williams and Fraser 2014). The table mixes numbers with categories, and it
# has holes: two birds were not measured at all, and the sex of eleven is unknown.
#
# Is there a bird in it that does not look like any other, or a number that was written down
# wrongly? A single column rarely tells: 4,400 g is a light Gentoo and a heavy Chinstrap. The joint
# density of all columns does.

# %%
import pandas as pd

import probgen as pg
from probgen.datasets import penguins

table = penguins()
table.head()

# %% [markdown]
# ## Fit a density
#
# A fit reads from the table what each column is. It can be told better: flippers were measured in
# whole millimetres, which alone would look like a count, and a year is an ordered category here. A
# quarter of the rows is held out, to judge the fit by rows that it has not seen.

# %%
held = table.sample(frac=0.25, random_state=1)
train = table.drop(held.index)
kinds = {"flipper_length_mm": "real", "year": "ordered"}
model = pg.GaussianMixture(components=6, restarts=2, columns=kinds, random_state=0).fit(train)
model.schema_.describe()[["kind", "levels", "grid", "why"]]

# %% [markdown]
# Holes need no care. A missing cell is integrated out, in the fit and in every question, so no row
# is dropped and no cell is made up.
#
# ## How probable is a row?
#
# Log densities are natural logarithms in the table's own units: per millimetre, per gram. The
# floor for any joint density is the one that treats all columns as independent.

# %%
floor = pg.Independent(schema=model.schema_, random_state=0).fit(train)
pd.DataFrame({"mixture": model.log_prob(held), "independent": floor.log_prob(held)}).mean()

# %% [markdown]
# The difference, in nats a row, is what the columns say about one another.
#
# ## The odd rows
#
# Surprisal is -log p. How large is large? The model answers by drawing rows itself: `tail_prob` is
# the share of them that are at least as surprising, and `culprit` is the column whose value
# surprises most, given all others in the row.

# %%
odd = model.outliers(table).sort_values("rank").head(6)
odd.join(table[["species", "sex", "bill_length_mm", "body_mass_g"]])

# %% [markdown]
# `explain` splits the surprisal of a row into one share a column; the shares add up to it exactly.
# The waterfall compares each share with what that column usually contributes.

# %%
oddest = table.loc[[odd.index[0]]]
print(f"shares add up to {model.explain(oddest).sum(axis=1).item():.6f}")
print(f"surprisal is     {model.surprisal(oddest).item():.6f}")
_ = model.plot.waterfall(oddest)

# %% [markdown]
# With few penguins in the tail a small `tail_prob` is no verdict: among 344 rows, about three
# below 0.01 are what chance gives. These rows deserve a look in the field notes, not deletion.
#
# ## A question about one column
#
# How heavy is a female Gentoo? The other columns are integrated out. The density at 5,000 g is
# exact; the quantiles and the probability come from draws, and so have an error.

# %%
given = {"species": "Gentoo", "sex": "female"}
mass = model.sample(4000, given=given, random_state=0)["body_mass_g"]
share = (mass > 5000).mean()
error = (share * (1 - share) / len(mass)) ** 0.5
exact = model.log_prob(pd.DataFrame({"body_mass_g": [5000.0]}), given=given).item()
print(f"log p(5000 g | Gentoo, female)    = {exact:.2f}")
print(f"p(mass > 5000 g | Gentoo, female) = {share:.3f} ± {error:.3f}")
mass.quantile([0.05, 0.5, 0.95])

# %% [markdown]
# ## Can this be believed?
#
# First by eye: rows that the model draws should look like the real ones.

# %%
_ = model.plot.pairs(train)

# %% [markdown]
# Then by the report. *Fit for density* asks whether log densities, samples and conditionals can be
# used; *fit for intervals* asks the same of posterior intervals, which need more.

# %%
model.check(held, train=train)

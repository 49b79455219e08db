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
# # Which rows of this table are odd, and which cells are to blame?
#
# Around 1990 the cell nuclei in 569 breast tumours were measured under a microscope (Street,
# Wolberg and Mangasarian 1993; the table comes with scikit-learn). Suppose that a laboratory goes
# on measuring, and that some of its records go wrong: a decimal point slips, two cells of a row
# are swapped, a cell is copied from another line. Can the bad records be found, with a promise
# about how many of the alarms are false, and can the bad cell be named?
#
# We keep most of the rows as the reference, and spoil some of the others by hand, so that the
# right answer is known.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

import probgen as pg

cancer = load_breast_cancer(as_frame=True)
means = [name for name in cancer.data if name.startswith("mean")]
table = cancer.data[means].rename(columns=lambda name: name.removeprefix("mean "))
table["tumour"] = pd.Categorical(np.array(["malignant", "benign"])[cancer.target])
new = table.sample(80, random_state=1)
old = table.drop(new.index)
new.head(3).T

# %% [markdown]
# ## Seven planted errors

# %%
spoilt = new.copy()
picks = spoilt.sample(7, random_state=3).index
blame = {}
for row, name in zip(picks[:3], ["texture", "smoothness", "symmetry"], strict=True):
    spoilt.loc[row, name] *= 10  # a decimal point slips
    blame[row] = name
for row in picks[3:5]:  # two cells are swapped
    radius, texture = spoilt.at[row, "radius"], spoilt.at[row, "texture"]
    spoilt.at[row, "radius"], spoilt.at[row, "texture"] = texture, radius
    blame[row] = "radius and texture"
for row, other in zip(picks[5:], picks[:2], strict=True):  # a cell is copied from another line
    spoilt.loc[row, "area"] = new.loc[other, "area"]
    blame[row] = "area"
pd.Series(blame, name="spoilt")

# %% [markdown]
# Looked at one column at a time, most of them hide: their values lie within the range that the
# column has anyway.

# %%
numeric = spoilt.drop(columns="tumour")
beyond = (numeric < old.min(numeric_only=True)) | (numeric > old.max(numeric_only=True))
print(
    f"spoilt rows with a value beyond the range: {int(beyond.loc[picks].any(axis=1).sum())} of 7"
)
print(f"sound rows with one: {int(beyond.drop(index=picks).any(axis=1).sum())} of {len(new) - 7}")

# %% [markdown]
# ## P-values that hold whatever the model is
#
# The joint density of all columns knows better. A row is judged by its surprisal, -log p. How
# large is large? `calibration=0.4` holds 40 % of the reference apart: the fit does not see them,
# and a new row is ranked among them. If it comes from the same source, its p-value is uniform,
# also if the model is poor. `fdr=0.2` flags rows so that one alarm in five at most is to be
# expected to be false.

# %%
kinds = dict.fromkeys(["radius", "perimeter", "area"], "positive")
model = pg.GaussianMixture(components=2, columns=kinds, random_state=0).fit(old, calibration=0.4)
odd = model.outliers(spoilt, fdr=0.2)
flagged = odd[odd["flag"]].sort_values("rank")
flagged.assign(spoilt=[blame.get(row, "-") for row in flagged.index]).drop(columns="method").round(
    3
)

# %% [markdown]
# `culprit` is the column that surprises most, given all others in the row. For a swap it names
# one of the two cells. `repair` proposes the one change that raises the density most: the cell,
# what it holds, what would be the most probable there, and the log density before and after.

# %%
model.repair(spoilt.loc[flagged.index])

# %% [markdown]
# A waterfall shows the evidence in one row: how much more each column surprises than it does in
# rows that the model draws. Here it is the last of the list, where radius and texture were
# swapped. Both numbers are ordinary ones; beside the area and the perimeter they are not.

# %%
_ = model.plot.waterfall(spoilt.loc[[flagged.index[-1]]])

# %% [markdown]
# ## And the table itself?
#
# The other question: no reference, just one table, of which some rows may be odd. `folds=5`
# judges each row by a refit that has not seen it. The p-values are then ranks of the rows among
# themselves, and so the oddest of 569 rows has 1 / 569 however odd it is: no false discovery rate
# can be promised, and none is (`fdr=None`). It is a list to look through, from the top.

# %%
own = model.outliers(table, fdr=None, folds=5)
own.sort_values("rank").head(5).round(3)

# %% [markdown]
# To flag rows of the table itself one must trust the model: `method="model"` takes the share of
# rows drawn by the model that are as surprising, again by refits.

# %%
trusting = model.outliers(table, fdr=0.1, folds=5, method="model")
print(f"{int(trusting['flag'].sum())} of {len(table)} rows flagged by the model's own tail")

# %% [markdown]
# ## Can this be believed?
#
# The sound rows among the new ones are the test: their p-values should be uniform, so that the
# line follows the diagonal within the band. On the left, p-values by rows held apart: they hold.
# On the right those that trust the model, for the same rows: the line leaves the band. Real
# tumours are less surprising to this model than the rows that it draws itself, so its p-values
# are too large. That errs on the safe side, but by accident: another model, or another table,
# errs on the other.

# %%
sound = new.drop(index=picks)
_, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
model.plot.p_values(sound, ax=axes[0])
_ = model.plot.p_values(sound, method="model", ax=axes[1])

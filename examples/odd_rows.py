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
# In 1991 chemists measured 13 constituents of 178 Italian wines of three growers (Forina et al.;
# the table comes with scikit-learn). Suppose that a laboratory goes on measuring such wines, and
# that some of its records go wrong: a decimal point slips, two cells of a row are swapped, a bottle
# gets the label of another grower. Each number by itself may look fine. Can the bad records be
# found, with a promise about how many of the alarms are false, and can the bad cell be named?
#
# We keep two thirds of the wines as the reference, and spoil some of the others by hand, so that
# the right answer is known.

# %%
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

import probgen as pg

wine = load_wine(as_frame=True)
table = wine.data.rename(columns={"od280/od315_of_diluted_wines": "od280"})
table["grower"] = pd.Categorical(np.array(["A", "B", "C"])[wine.target])
old = table.sample(frac=0.66, random_state=1)
new = table.drop(old.index)
new.head(3).T

# %% [markdown]
# ## Seven planted errors

# %%
spoilt = new.copy()
picks = spoilt.sample(7, random_state=3).index
blame = {}
for row, name in zip(picks[:3], ["alcohol", "total_phenols", "proline"], strict=True):
    spoilt.loc[row, name] = spoilt.loc[row, name] * (0.1 if name == "proline" else 10)
    blame[row] = {name}
for row in picks[3:5]:
    pair = ["flavanoids", "hue"] if row == picks[3] else ["malic_acid", "od280"]
    spoilt.loc[row, pair] = spoilt.loc[row, pair[::-1]].to_numpy()
    blame[row] = set(pair)
for row in picks[5:]:
    spoilt.loc[row, "grower"] = "C" if spoilt.loc[row, "grower"] != "C" else "A"
    blame[row] = {"grower"}
pd.Series({row: ", ".join(sorted(names)) for row, names in blame.items()}, name="spoilt")

# %% [markdown]
# Looked at one column at a time, most of them hide: the spoilt values lie within the range that the
# column has anyway.

# %%
numeric = spoilt.drop(columns="grower")
beyond = (numeric < old.min(numeric_only=True)) | (numeric > old.max(numeric_only=True))
print(f"spoilt rows with a value beyond the range: {int(beyond.loc[picks].any(axis=1).sum())} of 7")
print(f"sound rows with one: {int(beyond.drop(index=picks).any(axis=1).sum())} of {len(new) - 7}")

# %% [markdown]
# ## P-values that hold whatever the model is
#
# The joint density of all columns knows better. A row is judged by its surprisal, -log p. How large
# is large? `calibration=0.4` holds 40 % of the reference apart: the fit does not see them, and a new
# row is ranked among them. If it comes from the same source, its p-value is uniform, also if the
# model is poor. `fdr=0.2` flags rows so that at most one alarm in five is to be expected to be false.

# %%
model = pg.GaussianMixture(components=3, random_state=0).fit(old, calibration=0.4)
odd = model.outliers(spoilt, fdr=0.2)
flagged = odd[odd["flag"]].sort_values("rank")
flagged.assign(spoilt=[", ".join(sorted(blame.get(row, {"-"}))) for row in flagged.index])

# %% [markdown]
# `culprit` is the column that surprises most, given all others in the row. For a swap it names one
# of the two cells. `repair` proposes the one change that raises the density most: the cell, what it
# holds, what would be the most probable there, and the log density before and after.

# %%
model.repair(spoilt.loc[flagged.index])

# %% [markdown]
# A waterfall shows the evidence in one row: how much more each column surprises than it does in rows
# that the model draws.

# %%
_ = model.plot.waterfall(spoilt.loc[[flagged.index[0]]])

# %% [markdown]
# ## And the table itself?
#
# The other question: no reference, just one table, of which some rows may be odd. `folds=5` judges
# each row by a refit that has not seen it. The p-values are then ranks of the rows among themselves,
# and so the oddest of 178 rows has 1 / 178 however odd it is: no false discovery rate can be
# promised, and none is (`fdr=None`). It is a list to look through, from the top.

# %%
own = model.outliers(table, fdr=None, folds=5)
own.sort_values("rank").head(5).round(3)

# %% [markdown]
# To flag rows of the table itself one must trust the model: `method="model"` takes the share of rows
# drawn by the model that are as surprising, again by refits.

# %%
trusting = model.outliers(table, fdr=0.2, folds=5, method="model")
print(f"{int(trusting['flag'].sum())} of {len(table)} rows flagged by the model's own tail")

# %% [markdown]
# ## Can this be believed?
#
# The sound rows among the new ones are the test: their p-values should be uniform, so that the line
# follows the diagonal within the band. On the left, p-values by rows held apart. On the right those
# that trust the model, for the same rows: where the line climbs above the diagonal at once, more
# sound rows look odd to the model than should. With few components and 70 wines to fit, it does not
# know the tails.

# %%
import matplotlib.pyplot as plt

sound = new.drop(index=picks)
_, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
model.plot.p_values(sound, ax=axes[0])
_ = model.plot.p_values(sound, method="model", ax=axes[1])

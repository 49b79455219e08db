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
# # Would these patients have fared better with a lower weight?
#
# Of 442 people with diabetes, age, sex, body mass, blood pressure and blood values were measured,
# and one year later how far the disease had progressed (Efron, Hastie, Johnstone and Tibshirani
# 2004, Least angle regression; the table comes with scikit-learn). Heavy patients had got worse.
# Is it their weight? A table of what was seen cannot answer that alone. A Bayesian network
# says what has to be added, and what follows.

# %%
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

import probgen as pg

raw = load_diabetes(as_frame=True, scaled=False).frame
names = {
    "age": "age",  # years
    "sex": "sex",  # the file does not say which code is which
    "bmi": "bmi",  # kg / m2
    "bp": "pressure",  # mean arterial, mmHg
    "s3": "hdl",  # mg / dl
    "s5": "log_tg",  # logarithm of triglycerides
    "s6": "glucose",  # mg / dl
    "target": "progression",  # a score, one year later
}
table = raw[list(names)].rename(columns=names)
table["sex"] = pd.Categorical(table["sex"].map({1.0: "code 1", 2.0: "code 2"}))
table.head(3)

# %% [markdown]
# Three blood values are left out. The total cholesterol is a sum of parts, one value is the ratio
# of two others, and LDL is commonly worked out from the rest. To set a computed number and keep
# the numbers that it is computed from is not a thing that anyone can do.
#
# ## What we know, and what the table may say
#
# Time is known here: nobody's glucose acts on their age, and next year's state acts on nothing.
# `tiers` says so. That body mass comes before the pressure and the blood values is not known in
# this way. It is what most physicians would assume, and we will come back to it. Age and sex do
# not act on each other; an edge between them could only tell who came to the clinic.
#
# Whole numbers are taken as counts unless one says otherwise. These three are measurements.

# %%
measured = dict.fromkeys(["age", "glucose", "progression"], "real")
time = [["age", "sex"], ["bmi"], ["pressure", "hdl", "log_tg", "glucose"], ["progression"]]
settings = {
    "columns": measured,
    "tiers": time,
    "forbidden": [("age", "sex"), ("sex", "age")],
    "random_state": 0,
}
model = pg.BayesianNetwork(**settings).fit(table)
print(model.describe())

# %% [markdown]
# This is the whole model: for each column its parents, and a line in them. Where `sex` is a parent
# there is a line for each. Directions within a tier were left to the search. One node at a time:

# %%
model.table("hdl").round(2)

# %% [markdown]
# ## Any question about any columns
#
# The network is a density. What belongs in a hole, which rows are odd and by which cell, how
# probable is an event: all answers are sums and integrals over what a row does not show.

# %%
hidden = table.head(5).assign(hdl=np.nan)
pd.DataFrame({"hdl": table["hdl"].head(5), "filled": model.impute(hidden)["hdl"]})

# %%
some = table.head(150)
odd = model.outliers(some, fdr=None).nlargest(3, "surprisal")
some.join(odd[["surprisal", "p_value", "culprit"]].round(3), how="inner").loc[odd.index]

# %% [markdown]
# ## How sure are the edges?
#
# One graph is one answer to "which edges". `restarts=20` learns nineteen more, each from a
# bootstrap sample of the rows, and fits each to all of them. The share of graphs with an edge says
# how far the rows settle it.

# %%
several = pg.BayesianNetwork(**settings, restarts=20, draws=20).fit(table)
several.edges_.sort_values("probability", ascending=False).reset_index(drop=True)

# %%
ax = several.plot.network(highlight=["bmi", "progression"])

# %% [markdown]
# That body mass and triglycerides are joined to the progression stands in nearly every graph. The
# picture is that of all rows; what only other graphs hold is in `edge_probabilities_`. Both
# directions together say whether two columns are joined at all:

# %%
p = several.edge_probabilities_
within = time[2]
(p + p.T).loc[within, within].round(2)

# %% [markdown]
# Within the tier of pressure and blood values most edges are surer than their directions. Graphs
# that state the same independences fit any table equally well, whatever its size: then it is
# chance which of them is shown, and none is evidence for its arrows.
#
# ## To see is not to set
#
# A body mass of 32 tells something of the age, and so of all that comes with age. A body mass
# that was *set* to 32 does not. `do` cuts the arrows into it.

# %%
event = "progression > 200"
seen, put = model.prob(event, given={"bmi": 32}), model.prob(event, do={"bmi": 32})
print(f"with a body mass of 32: {seen.value:.3f}; were it set to 32: {put.value:.3f}")

# %% [markdown]
# The difference is small, because age is the only common cause that the graph knows. So age is
# what a regression has to hold fixed, and the rest must *not* be: they lie on the way.

# %%
model.adjustment_sets("bmi", "progression")

# %%
change = several.effect("bmi", "progression", values=(32, 27))
print(f"{change.attrs['graphs']} different graphs")
change.round(1)

# %% [markdown]
# Five units less, and the score would be lower by so much on average, with a 90 % interval that
# holds what the rows leave open about the lines *and* about the edges.
#
# Per unit it is more than the slope in the line of `progression` above. That slope holds pressure
# and blood values fixed, though part of the effect goes through them. A regression on all columns
# gives that slope, which answers another question.

# %%
slope = model.table("progression")["bmi"].iloc[0]
whole = model.effect("bmi", "progression")["effect"].iloc[0]
print(f"a unit of body mass, all others held fixed: {slope:.1f}; in all: {whole:.1f}")

# %% [markdown]
# ## What this rests on
#
# **The order that we stated.** Suppose that nothing is known of body mass, and it is put beside
# the blood values. The search may then turn its arrows as it likes.

# %%
early, late = ["age", "sex"], ["bmi", "pressure", "hdl", "log_tg", "glucose"]
other = pg.BayesianNetwork(**settings | {"tiers": [early, late, ["progression"]]}).fit(table)
print(other.edges_.query("child == 'bmi' or parent == 'bmi'").to_string(index=False))
print(other.adjustment_sets("bmi", "progression"))
other.effect("bmi", "progression", values=(32, 27)).round(1)

# %% [markdown]
# The density is about as good, and the effect another: what was on the way counts as a common
# cause now. Between these two no number of patients decides. What is known about bodies does.
#
# **No unmeasured common causes.** Diet, exercise, income and treatment may act on weight and on
# the course of the disease. They are not in the table, no interval knows of them, and they may
# well explain part of the effect.
#
# **An intervention that can be made.** Five units by diet, by surgery and by illness are three
# interventions. The network has one number for all.
#
# **Straight lines.** If the effect is larger among the heavy, a line averages over it.
#
# ## Is it a good density, at least?
#
# If rows of the model did not look like the table, the rest would not matter. A quarter of the
# patients are kept apart. `check` may object to the age: a study has a limit on age, and a normal
# distribution has none. That bends no line above, but the density is not one to find odd ages by.

# %%
held = table.sample(frac=0.25, random_state=0)
train = table.drop(held.index)
pg.BayesianNetwork(**settings).fit(train).check(held, train=train)

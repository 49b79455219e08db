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
# # What do the measurements of a penguin have in common?
#
# Gorman, Williams and Fraser (2014, Ecological sexual dimorphism and environmental variability
# within a community of Antarctic penguins) measured 344 penguins: four numbers, the sex, the
# island and the year. Some cells are holes. The columns go together, and one would like to know
# by what: size, shape, something else?
#
# A variational autoencoder answers with a few latent numbers a row, from which all columns,
# numbers and categories alike, follow independently. We hide the species from it, and see what
# it finds on its own.

# %%
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import probgen as pg
from probgen.datasets import penguins

table = penguins()
species = table["species"]
birds = table.drop(columns=["species", "year"])
print(f"{birds.isna().any(axis=1).sum()} of {len(birds)} rows have holes")

held = birds.sample(frac=0.2, random_state=0)
train = birds.drop(held.index)
model = pg.VAE(
    latents=4, hidden=(64, 64), noise=0.1, learning_rate=3e-3, random_state=0
).fit(train)  # fmt: skip
apart = pg.Independent(random_state=0).fit(train)
pg.compare({"autoencoder": model, "independent columns": apart}, held)

# %% [markdown]
# ## How many dimensions are there?
#
# Each latent costs nats: the divergence of what the guide says of a row from the prior (`kl`). A
# part of that tells rows apart (`mutual_information`), and the rest is how far all rows together
# lie from the prior (`aggregate_kl`).

# %%
model.latent_summary(birds).round(2)

# %%
axes = model.plot.latents(table, colour="species")

# %% [markdown]
# Gentoos, of which the model was never told, lie apart.
#
# ## What does a dimension mean?
#
# Take one bird, move one latent at a time, and look at what comes out.

# %%
walk = model.traverse(birds.iloc[[0]], values=[-2, -1, 0, 1, 2])
walk

# %% [markdown]
# The same for the numbers of 60 birds: how far each goes, on average, in units of its own
# standard deviation.

# %%
numbers = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]
moved = model.traverse(birds.sample(60, random_state=0), values=[-2, -1, 0, 1, 2])
course = moved[numbers].groupby(["dimension", "value"], sort=False).mean()
course = (course - birds[numbers].mean()) / birds[numbers].std()
names = course.index.unique("dimension")
fig, axes = plt.subplots(1, len(names), figsize=(10, 3.2), sharey=True)
for ax, name in zip(axes, names, strict=True):
    for column in numbers:
        ax.plot(course.loc[name].index, course.loc[name, column], "o-", label=column)
    ax.set(title=name, xlabel="sd of the prior")
axes[0].set_ylabel("standardised value")
axes[-1].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
fig.tight_layout()

# %% [markdown]
# One dimension is size: all numbers rise and fall together. Another sets the depth of the bill
# against the rest: flat bills on large birds are what Gentoos have.
#
# ## Adding and taking away an attribute
#
# The difference between the mean latents of males and females is a direction. Females moved along
# it become the males they might have been: heavier, with deeper bills.

# %%
male = model.attribute_vector(birds, "sex == 'male'")
females = birds[birds["sex"] == "female"]
latent = model.latent(females)
before = model.reconstruct(females, latent=latent)
after = model.reconstruct(females, latent=latent + male)
print(f"{(after['sex'] == 'male').mean():.0%} of the females come out as males")
pd.DataFrame({
    "moved along": (after[numbers] - before[numbers]).mean(),
    "males less females in the table": birds[birds["sex"] == "male"][numbers].mean()
    - females[numbers].mean(),
}).round(1)  # fmt: skip

# %% [markdown]
# And the way from the first bird to the last, in four steps:

# %%
model.interpolate(birds.iloc[[0]], birds.iloc[[-1]], steps=5)

# %% [markdown]
# ## Latents as features
#
# The model is a transformer of scikit-learn: the mean latents of a row are features for whatever
# stands behind it in a pipeline. It takes holes and categories as they are. Are three clusters the
# three species?

# %%
clusters = make_pipeline(model, KMeans(3, n_init=10, random_state=0))
clusters[-1].fit(model.transform(birds))
pd.crosstab(pd.Series(clusters.predict(birds), name="cluster"), [species, table["sex"]])

# %% [markdown]
# They are not: Gentoos have one to themselves, and the others are divided by sex, not by species.
# What a few latents keep is what most columns have in common.
#
# The species are still in there. With two, five or ten labelled birds of each species, logistic
# regression on four latents comes close to that on all columns, for which holes must be filled,
# numbers scaled and categories encoded by hand.

# %%
by_hand = make_column_transformer(
    (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
    (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["island", "sex"]),
)
spaces = {"latents": model.transform(birds), "columns by hand": by_hand.fit_transform(birds)}
accuracy = pd.DataFrame(index=pd.Index([2, 5, 10], name="labels a species"), columns=list(spaces))
for name, features in spaces.items():
    for labels in accuracy.index:
        scores = []
        for seed in range(20):
            few = species.groupby(species, observed=True).sample(labels, random_state=seed).index
            rest = species.index.difference(few)
            fit = LogisticRegression(max_iter=1000).fit(features[few], species[few])
            scores.append(fit.score(features[rest], species[rest]))
        accuracy.loc[labels, name] = round(sum(scores) / len(scores), 3)
accuracy

# %% [markdown]
# ## How far to trust it
#
# `check` looks whether training has ended, whether the importance weights behind the density are
# even enough, whether rows that the model draws look like the table, and whether all latents are
# alive. Where the weights of some rows are uneven, ``model.log_prob(held, error=0.05)`` spends as
# many draws on each as it needs.

# %%
model.check(held, train=train)

# %% [markdown]
# A latent dies where the weight of its divergence is too large for what it tells. With eight times
# the weight they do, and the report names them. Half a nat a dimension that costs nothing keeps
# them alive.

# %%
for free_bits in (0.0, 0.5):
    heavy = pg.VAE(
        latents=4, hidden=(32,), beta=8.0, free_bits=free_bits, noise=0.0, random_state=0
    ).fit(train)  # fmt: skip
    report = heavy.check(held)
    print(next(f"{f.status}: {f.text}" for f in report.findings if f.name == "collapsed latents"))

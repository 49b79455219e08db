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
# # What does half a digit tell of the other half?
#
# 1,797 digits were written by hand and scanned to 8 x 8 pixels of 17 grey levels (Alpaydin and
# Kaynak 1998, Optical recognition of handwritten digits). An image is a row of a table, a pixel is
# a column. A variational autoencoder learns their joint density, and so answers for any pixels
# given any others.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from probgen.datasets import digits

warnings.simplefilter("ignore", ConvergenceWarning)  # the fits stop early, to be quick
warnings.simplefilter("ignore", pg.ApproximationWarning)  # looked into at the end

table = digits()
pixels = table.drop(columns="digit")
train, held = pixels[:1400], pixels[1400:]


def show(images: dict[str, pd.DataFrame]) -> None:
    """A row of small images for each table."""
    rows, columns = len(images), max(map(len, images.values()))
    fig, axes = plt.subplots(
        rows, columns, figsize=(0.62 * columns + 1.2, 0.68 * rows + 0.3), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for line, (name, few) in zip(axes, images.items(), strict=True):
        grey = few[pixels.columns].to_numpy(float).reshape(-1, 8, 8)
        for axis, image in zip(line, grey, strict=False):
            # hidden pixels, NaN, are shown in colour
            axis.imshow(image, cmap=plt.get_cmap("gray_r").with_extremes(bad="lightsteelblue"),
                        vmin=0, vmax=16)  # fmt: skip
        line[0].text(-0.25, 0.5, name, ha="right", va="center", transform=line[0].transAxes)
    fig.subplots_adjust(left=1.1 / (0.62 * columns + 1.2), right=0.99, wspace=0.08, hspace=0.08)


# %% [markdown]
# `pixels="logistic"` says that all columns are grey levels 0 to 16, whatever single ones look
# like: the corner pixel is 0 in every training image, and stays a pixel that may hold ink. Each
# costs the network two numbers, a place and a spread, however many levels there are. `masked=0.5`
# hides pixels of half of the images in each step: the model is asked for hidden ones later.

# %%
settings = dict(
    hidden=(128,), learning_rate=4e-3, batch_size=64, max_epochs=50, validation=0.0, noise=0.0,
    masked=0.5, random_state=0,
)  # fmt: skip
model = pg.VAE(latents=16, pixels="logistic", **settings).fit(train)
new = model.sample(12, random_state=1)
show({"written": held[:12], "drawn": new, "smooth": model.reconstruct(new)})

# %% [markdown]
# Pixels are drawn independently given the 16 numbers behind an image, which makes drawn digits a
# little grainy. `reconstruct` gives the middle of each pixel instead, and a digit is easier to
# read. No drawn digit is a copy: the nearest training image is farther from it than from a
# digit that somebody wrote, of which the grain is a part.

# %%
for name, few in {"written": held[:100], "drawn": model.sample(100, random_state=2)}.items():
    gap = np.abs(few.to_numpy()[:, None] - train.to_numpy()).mean(2).min(1)
    print(f"{name}: {np.median(gap):.2f} grey levels a pixel to the nearest training image")

# %% [markdown]
# ## Between two digits
#
# Between the latents of two images lies a path of images. Strokes bend, open and close on the
# way; half-way an image is blurred where no digit lies between the two.

# %%
digit = table["digit"][1400:]
pairs = [(0, 6), (3, 5), (4, 9)]
first = pd.concat([held[digit == a].iloc[[2]] for a, _ in pairs])
last = pd.concat([held[digit == b].iloc[[2]] for _, b in pairs])
path = model.interpolate(first, last, steps=10)
show({f"{a} to {b}": path.loc[[row]] for (a, b), row in zip(pairs, first.index, strict=True)})

# %% [markdown]
# ## Half of a digit
#
# A pixel that is not there is a hole, and holes are filled by `impute`: with the median of each
# pixel given those that are seen, or with whole draws. Draws differ where the upper half leaves
# more than one digit open.

# %%
below = [name for name in pixels if int(name[1]) >= 4]
ten = held.iloc[[0, 1, 2, 4, 5, 6, 7, 9, 11, 23]]
half = ten.astype(float)
half[below] = np.nan
draws = model.impute(half, draws=3, random_state=0)
show({"written": ten, "seen": half, "median": model.impute(half),
      **{f"draw {i + 1}": own for i, own in enumerate(draws)}})  # fmt: skip


# %% [markdown]
# Was it worth it? The mean squared error of the hidden pixels, on digits that were not fitted,
# beside that of the mean image. Scattered holes are easier than half an image.


# %%
def error(found: pd.DataFrame, true: pd.DataFrame, at: np.ndarray | None = None) -> float:
    """Mean squared error, in squared grey levels."""
    gap = found[pixels.columns].to_numpy(float) - true.to_numpy(float)
    return float((gap**2)[at].mean() if at is not None else (gap**2).mean())


def mean_image(true: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(np.tile(train.mean(), (len(true), 1)), true.index, true.columns)


rng = np.random.default_rng(0)
errors = {}
hidden = {"lower half": np.tile([name in below for name in pixels], (len(held), 1)),
          "half, scattered": rng.random(held.shape) < 0.5}  # fmt: skip
for name, at in hidden.items():
    filled = model.impute(held.astype(float).mask(at))
    errors[name] = error(mean_image(held), held, at), error(filled, held, at)
pd.DataFrame(errors, ["mean image", "model"]).round(1)

# %% [markdown]
# ## Noise
#
# A model that reads noisy images while it learns, and has to explain the clean ones, takes noise
# off (Im, Ahn, Memisevic and Bengio 2017, Denoising criterion for variational auto-encoding
# framework). `corruption` is the noise in standard deviations of a pixel, about 6 grey levels;
# noisy pixels are no whole numbers, so here they are real ones, `pixels="normal"`.

# %%
clean = pg.VAE(latents=16, pixels="normal", corruption=0.7, **settings).fit(train)
noisy = held + rng.normal(0, 4, held.shape)
cleaned = clean.reconstruct(noisy)
show({"written": ten, "noisy": noisy.loc[ten.index], "cleaned": cleaned.loc[ten.index]})
pd.Series({"noisy": error(noisy, held), "mean image": error(mean_image(held), held),
           "cleaned": error(cleaned, held)}).round(1)  # fmt: skip


# %% [markdown]
# ## Sixteen pixels to sixty-four
#
# Columns named in `given=` are conditioned on and never modelled. Given means of blocks of four
# pixels, the model learns what fine image goes with a coarse one. Convolutions know which pixels
# are neighbours: `network="conv"` with the shape of the image.


# %%
def coarse(images: pd.DataFrame) -> pd.DataFrame:
    """Means of blocks of 2 x 2 pixels."""
    blocks = images.to_numpy(float).reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    names = [f"block{i}" for i in range(16)]
    return pd.DataFrame(blocks, images.index, names)


blocks = coarse(train)
sharp = pg.VAE(latents=8, pixels="logistic", network="conv", shape=(8, 8),
               **{**settings, "max_epochs": 20}).fit(train.join(blocks),
               given=list(blocks))  # fmt: skip
unknown = pd.DataFrame(np.nan, held.index, held.columns)
fine = sharp.impute(unknown.join(coarse(held)))
enlarged = coarse(held).to_numpy().reshape(-1, 4, 4).repeat(2, 1).repeat(2, 2).reshape(-1, 64)
enlarged = pd.DataFrame(enlarged, held.index, held.columns)
show({"16 pixels": enlarged.loc[ten.index], "64 pixels": fine.loc[ten.index], "written": ten})
pd.Series({"16 pixels": error(enlarged, held), "64 pixels": error(fine, held)}).round(1)

# %% [markdown]
# ## How far to trust it
#
# Images can please the eye and still be improbable. The held-out log density, beside that of
# pixels that are independent and of a mixture of ten images, says how much of the structure is
# there. It is itself an estimate, an average over latents with a standard error. A k-hat above
# 0.7 says that a few latents carry most of the average: the estimate is then more likely too
# low than too high, and its error larger than stated. With 16 latents that is the rule. The
# lead over the rivals is far larger than what is in doubt.

# %%
few = held[:150]
alone = pg.Independent(schema=model.schema_, random_state=0).fit(train)
mixture = pg.GaussianMixture(10, schema=model.schema_, random_state=0).fit(train)
found = model.log_prob(few, details=True)
rivals = {"independent": alone.log_prob(few), "mixture of 10": mixture.log_prob(few)}
for name, own in rivals.items():
    gain = found["log_prob"] - own
    print(f"nats an image above {name}: {gain.mean():.1f} +- {gain.sem():.1f}")
bad = (found["khat"] > 0.7).mean()
print(f"standard error of an image: {found['se'].median():.2f} nats; k-hat above 0.7: {bad:.0%}")

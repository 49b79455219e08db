"""Flows: zuko's answers, Jacobians, masses, holes, tails, and what training starts from."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

import probgen as pg
from probgen.batch import Batch
from probgen.elbo import lean_loss
from probgen.families.flow import RowFlow
from probgen.nn.bases import MixtureBase, NormalBase, StudentBase
from probgen.nn.splines import affine, affine_back, spline, spline_back
from probgen.nn.warps import Kind, Warp
from probgen.session import guarded, noise

KINDS: tuple[Kind, ...] = ("spline", "coupling", "affine", "realnvp")


def warp(kind: Kind, size: int, context: int = 0, scale: float = 0.15) -> Warp:
    """A flow with random weights, float64."""
    with noise(size + 10 * context):
        made = Warp(kind, size, context, transforms=3, hidden=(16, 16), bins=5).double()
        for parameter in made.parameters():
            parameter.data = scale * torch.randn_like(parameter)
    return made.eval()


def rows(size: int, n: int = 100, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(size, n, dtype=torch.float64, generator=generator())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "context"), [(1, 0), (1, 3), (2, 0), (5, 0), (6, 2)])
def test_the_answers_are_those_of_zuko(kind, size, context):
    own, x = warp(kind, size, context, 0.1), rows(size, scale=1.5)
    given = rows(context) if context else None
    there = own.flow(None if given is None else given.T)
    with torch.no_grad():
        z, log_det = own(x, given)
        image, wanted = there.transform.call_and_ladj(x.T)
    assert (z.T - image).abs().max() < 1e-10
    assert (log_det - wanted).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "context"), [(1, 0), (1, 3), (4, 0), (7, 2)])
def test_a_flow_and_its_inverse_undo_one_another(kind, size, context):
    own, z = warp(kind, size, context), rows(size)
    given = rows(context) if context else None
    with torch.no_grad():
        again, _ = own(own.back(z, given), given)
    assert (again - z).abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_determinant_is_that_of_the_jacobian(kind):
    own, x = warp(kind, 4, 2), rows(4, 6)
    given, here = rows(2, 6), torch.tensor([True, False, True, True])
    for present in (None, here[:, None].expand(4, 6)):
        value = x if present is None else torch.where(present, x, 0.0)
        _, log_det = own(value, given, present)
        keep = torch.arange(4) if present is None else here.nonzero()[:, 0]
        for n in range(6):
            column = None if present is None else present[:, [n]]

            def image(own_column, n=n, column=column):
                return own(own_column[:, None], given[:, [n]], column)[0][:, 0]

            wanted = torch.linalg.slogdet(jacobian(image, value[:, n])[keep][:, keep])[1]
            assert abs(float(log_det[n] - wanted)) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_absent_entries_do_not_matter_and_come_back_as_0(kind):
    own, z = warp(kind, 5), rows(5)
    present = torch.rand(5, 100, generator=generator()) < 0.6
    z = torch.where(present, z, 0.0)
    with torch.no_grad():
        x = own.back(z, None, present)
        again, _ = own(x, None, present)
    assert bool((x[~present] == 0).all())
    assert (again - z).abs().max() < 1e-9


def test_maps_of_single_numbers_have_the_slopes_they_state():
    x = torch.linspace(-7, 7, 200, dtype=torch.float64)
    for forth, back, size in ((spline, spline_back, 17), (affine, affine_back, 2)):
        raw = torch.randn(size, 200, dtype=torch.float64, generator=generator())
        own = x.clone().requires_grad_()
        y, log_slope = forth(own, raw)
        [slope] = torch.autograd.grad(y.sum(), own)
        assert (slope.log() - log_slope).abs().max() < 1e-9
        assert (back(y.detach(), raw) - x).abs().max() < 1e-9


# --- bases ------------------------------------------------------------------------------------


def base(kind: str, size: int) -> NormalBase | MixtureBase:
    with noise(3):
        plain = StudentBase(size) if kind == "student" else NormalBase(size)
        own = (MixtureBase(size, 3) if kind == "mixture" else plain).double()
        for parameter in own.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return own


@pytest.mark.parametrize("kind", ["normal", "student", "mixture"])
@pytest.mark.parametrize("absent", [False, True])
def test_bases_integrate_to_one_over_the_entries_that_are_there(kind, absent):
    own = base(kind, 3 if absent else 2)
    t = torch.linspace(-6, 6, 401, dtype=torch.float64)
    grid, log_length = t.sinh(), t.cosh().log() + math.log(float(t[1] - t[0]))
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    z = torch.stack([a.flatten(), b.flatten()])
    present = None
    if absent:
        z = torch.stack([z[0], torch.zeros_like(z[0]), z[1]])
        present = torch.tensor([True, False, True])[:, None].expand(3, z.shape[1])
    lengths = (log_length[:, None] + log_length).flatten()
    with torch.no_grad():
        mass = (own.log_prob(z, present, None) + lengths).exp().sum()
    assert abs(float(mass) - 1) < 2e-3


@pytest.mark.parametrize("kind", ["normal", "student", "mixture"])
def test_draws_of_a_base_score_as_a_density_does(kind):
    """Over draws of p the mean of q / (p + q) is that of p / (p + q) over draws of q."""
    one, two, n = base(kind, 2), NormalBase(2).double(), 4000
    with noise(5), torch.no_grad():
        drawn = one.draw(n, None, None), two.draw(n, None, None)
        share = [torch.sigmoid(one.log_prob(z, None, None) - two.log_prob(z, None, None))
                 for z in drawn]  # fmt: skip
    gap, spread = (1 - share[0]).mean() - share[1].mean(), (share[0].var() + share[1].var()) / n
    assert abs(float(gap)) < 4 * math.sqrt(float(spread))


# --- the family -------------------------------------------------------------------------------


def mixed(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Real columns, one of them with an atom at 0, a category and a count."""
    rng = np.random.default_rng(seed)
    label = rng.choice(list("abc"), n, p=[0.5, 0.3, 0.2])
    a = rng.normal(size=n) + 2.0 * (label == "a")
    spike = np.where(rng.random(n) < 0.3, 0.0, rng.normal(3 + a, 0.5))
    return pd.DataFrame({
        "a": a, "spike": spike, "b": np.sin(a) + 0.3 * rng.normal(size=n), "label": label,
        "count": rng.poisson(2.0 + (label == "b") * 3.0),
    })  # fmt: skip


def small(**settings: object) -> pg.Flow:
    fast = {"hidden": (16, 16), "transforms": 2, "components": 3, "noise": 0.0, "max_epochs": 12,
            "learning_rate": 3e-3, "compile": False, "random_state": 0}  # fmt: skip
    return pg.Flow(**{**fast, **settings})


@pytest.fixture(scope="module")
def model() -> pg.Flow:
    return small().fit(mixed())


@pytest.mark.parametrize("spike", [0.0, 2.0])
def test_a_mixed_density_has_mass_one(model, spike):
    """The real columns integrated, the labels summed, of one pattern of atoms each."""
    t = np.linspace(-5, 5, 121)
    value, length = np.sinh(t), np.cosh(t) * (t[1] - t[0])
    point = {"spike": spike, "count": 2}
    grid = pd.DataFrame([
        {"a": a, "b": b, "label": label, **point} for label in "abc" for a in value for b in value
    ])  # fmt: skip
    joint = np.exp(model.score_samples(grid[list(model.schema_.names)]))
    total = (joint.reshape(3, -1) * np.outer(length, length).ravel()).sum()
    # the marginal of spike and count, by the companion
    found = model.log_prob(pd.DataFrame([point]), details=True).iloc[0]
    assert found["method"] == "importance"
    rare = 0.02  # mass of the reserved level
    assert abs(math.log(total) - found["log_prob"]) < 4 * found["se"] + rare


def test_the_pair_gives_the_same_density(model):
    [family] = model.members_
    batch = model._batch(_encoded(model, mixed(50)), torch.device("cpu"))
    with guarded(0), torch.no_grad():
        loss = lean_loss(family, batch)
    exact = family.exact_log_prob(batch, None)
    assert abs(float(loss) + float(exact.mean())) < 1e-12


def _encoded(model: pg.Flow, table: pd.DataFrame):
    from probgen.table import encode

    return encode(table, model.schema_)


def test_scores_do_not_depend_on_the_batch(model):
    table = mixed(3000)
    whole = model.score_samples(table)
    parts = np.concatenate([model.score_samples(table.iloc[i : i + 701])
                            for i in range(0, 3000, 701)])  # fmt: skip
    assert np.abs(whole - parts).max() < 1e-12 * np.abs(whole).max()


def test_training_starts_at_the_density_of_a_mixture():
    rng = np.random.default_rng(1)
    centre = rng.normal(size=(3, 4)) * 3
    table = pd.DataFrame(centre[rng.integers(3, size=500)] + rng.normal(size=(500, 4)))
    flow = small(max_epochs=1, learning_rate=1e-12).fit(table)
    mixture = pg.GaussianMixture(3, random_state=0, draws=0).fit(table)
    fresh = pd.DataFrame(centre[rng.integers(3, size=2000)] + rng.normal(size=(2000, 4)))
    gap = flow.score_samples(fresh) - mixture.score_samples(fresh)
    assert abs(gap.mean()) < 0.05


@pytest.mark.parametrize("base", ["student", "mixture"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_far_outside_have_a_finite_density_that_falls(kind, base):
    flow = small(kind=kind, base=base, max_epochs=3).fit(mixed()[["a", "b"]])
    far = 10.0 ** np.arange(1.5, 7.0, 0.5)
    for column in ("a", "b"):
        table = pd.DataFrame({"a": 0.0, "b": 0.0}, index=range(len(far))).assign(**{column: far})
        value = flow.score_samples(table)
        assert np.isfinite(value).all()
        assert (np.diff(value) < 0).all()
        assert value[-1] > -1000


def test_rows_with_holes_train_and_are_scored():
    table = mixed()
    holes = table.mask(np.random.default_rng(2).random(table.shape) < 0.15)
    flow = small(max_epochs=8).fit(holes)
    assert flow.result_.engine == "filled"
    assert flow.result_.losses[-1] < flow.result_.losses[0]
    assert np.isfinite(flow.log_prob(holes.head(20))).all()
    whole, part = small(max_epochs=8).fit(table), mixed(800, seed=3)
    assert flow.score(part) > whole.score(part) - 0.5
    assert flow.members_[0].holes == "latent"


def test_a_target_given_features():
    rng = np.random.default_rng(4)
    x = rng.uniform(-2, 2, 600)
    scale = 0.1 + 0.3 * (x > 0)
    table = pd.DataFrame({"y": np.sin(2 * x) + scale * rng.normal(size=600), "x": x})
    flow = small(max_epochs=80, learning_rate=5e-3, transforms=1).fit(table, given=["x"])
    test = np.linspace(-2, 2, 200)
    scale = 0.1 + 0.3 * (test > 0)
    y = np.sin(2 * test) + scale * rng.normal(size=200)
    found = flow.log_prob(pd.DataFrame({"y": y}), given=pd.DataFrame({"x": test})).to_numpy()
    truth = -0.5 * ((y - np.sin(2 * test)) / scale) ** 2 - np.log(scale) - 0.9189385
    gap = truth - found
    assert gap.mean() < 0.15 + 4 * gap.std() / math.sqrt(200)
    drawn = flow.sample(400, given={"x": 1.0}, random_state=0)["y"]
    assert abs(drawn.mean() - math.sin(2)) < 0.15
    with pytest.raises(pg.NotSupported):
        table_ = mixed().assign(y=1.0)
        two = small(max_epochs=1).fit(table_[["a", "b", "label"]], given=["label"])
        two.log_prob(table_[["a"]], given=table_[["label"]])


def test_rows_go_to_the_base_and_back(model):
    table = mixed(30)
    points = model.latent(table)
    assert list(points.columns) == ["z[0]", "z[1]", "z[2]"]
    assert points["z[1]"].isna().equals(table["spike"] == 0)
    again = model.reconstruct(table)
    pd.testing.assert_frame_equal(again, table, rtol=1e-8, check_dtype=False)
    moved = model.reconstruct(table, latent=points * 0.9)
    back = model.latent(moved)
    assert np.nanmax(np.abs(back.to_numpy() - 0.9 * points.to_numpy())) < 1e-6
    with pytest.raises(pg.NotSupported, match="holes"):
        model.latent(table.assign(a=np.nan))


def test_the_ends_of_a_way_between_rows_are_the_rows(model):
    table = mixed(6)[["a", "spike", "b", "label", "count"]].assign(spike=1.0, label="a", count=1)
    way = model.interpolate(table.iloc[:3], table.iloc[3:], steps=3)
    assert way.index.names == ["row", "share"] and len(way) == 9
    ends = way.xs(0.0, level="share"), way.xs(1.0, level="share")
    for found, wanted in zip(ends, (table.iloc[:3], table.iloc[3:]), strict=True):
        np.testing.assert_allclose(found[["a", "b"]], wanted[["a", "b"]], atol=1e-7)


def test_noise_and_dropout_are_for_training_only():
    schema = pg.Schema.infer(mixed()[["a", "b"]])
    with noise(0):
        family = RowFlow(schema, hidden=(8,), dropout=0.5).double()
    family.noise = 0.3
    for parameter in family.parameters():
        parameter.data += 0.1
    batch = Batch.of(torch.randn(20, 2, dtype=torch.float64, generator=generator()))
    with torch.no_grad():
        train = [family.train().exact_log_prob(batch, None) for _ in range(2)]
        score = [family.eval().exact_log_prob(batch, None) for _ in range(2)]
    assert bool((train[0] != train[1]).any()) and bool((score[0] == score[1]).all())


@pytest.mark.parametrize(
    "settings", [{"kind": "glow"}, {"base": "cauchy"}, {"hidden": ()}, {"bins": 1}, {"hidden": 8}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(pg.SchemaError):
        small(**settings).fit(mixed(50))

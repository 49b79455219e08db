"""The variational autoencoder against closed forms, Pyro's bound, and sums over all rows."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.distributions import MultivariateNormal

import probgen as pg
from probgen import compiled, queries
from probgen.batch import Batch
from probgen.families.autoencoder import Autoencoder
from probgen.fitting import fit
from probgen.nn.bounds import Bound
from probgen.queries import Predictive
from probgen.queries.latents import latent, reconstruct
from probgen.schema import Schema
from probgen.session import guarded
from probgen.table import encode
from probgen.testing.density import spread
from probgen.training import Training

F64 = torch.float64
GUIDES, PRIORS = ("diagonal", "full", "flow"), ("normal", "mixture", "flow")
#: what leaves chance out of training
STILL = {"masked": 0.0, "noise": 0.0, "validation": 0.0, "compile": False, "random_state": 0}


def at(family: Autoencoder) -> Predictive:
    return Predictive([family], [{}])


# --- a linear autoencoder is probabilistic principal component analysis -------------------------

D, L = 6, 2


def factors(n: int, seed: int) -> pd.DataFrame:
    line = np.random.default_rng(5).normal(size=(D, L))
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, L)) @ line.T + 0.5 * g.normal(size=(n, D)) + np.arange(D)
    return pd.DataFrame(x, columns=list("abcdef"))


def fit_linear(masked: float) -> tuple[Autoencoder, Tensor, Tensor]:
    """The fitted family, and encoded rows: those it was fitted on, and others."""
    table = factors(1000, 0)
    model = pg.VAE(latents=L, hidden=(), scale="table", learning_rate=1e-2, batch_size=256,
                   max_epochs=200, **STILL | {"masked": masked})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(table)
    rows = (torch.from_numpy(encode(t, model.schema_).x) for t in (table, factors(2000, 1)))
    return (model.members_[0].double(), *rows)


@pytest.fixture(scope="module")
def linear() -> tuple[Autoencoder, Tensor, Tensor]:
    return fit_linear(0.0)


def normal_of(family: Autoencoder) -> tuple[MultivariateNormal, Tensor]:
    """N(mu, W W' + s^2 I) of the decoder, and W (D, L)."""
    z = torch.cat([torch.zeros(1, L, dtype=F64), torch.eye(L, dtype=F64)])
    with torch.no_grad():
        out = family._outputs(z, None)
        head = family.heads.each()[0]
        cells = [head.normals(out[:, span], place) for _, place, span in family.heads.at.values()]
    mean = torch.cat([mean for _, mean, _ in cells], 1)
    scale = torch.cat([scale for _, _, scale in cells], 1)
    assert (scale == scale[0, 0]).all()  # one for the table
    w = (mean[1:] - mean[0]).T
    cover = w @ w.T + scale[0, 0] ** 2 * torch.eye(D, dtype=F64)
    return MultivariateNormal(mean[0], cover), w


def principal(x: Tensor) -> tuple[MultivariateNormal, Tensor]:
    """The maximum of the likelihood (Tipping and Bishop 1999), and its directions (D, L)."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise, top = values[: D - L].mean(), vectors[:, D - L :]
    cover = top @ torch.diag(values[D - L :] - noise) @ top.T + noise * torch.eye(D, dtype=F64)
    return MultivariateNormal(x.mean(0), cover), top


def test_the_density_is_the_closed_form_of_the_decoder(linear):
    family, _, held = linear
    rows = held[:300]
    truth, _ = normal_of(family)
    found = queries.log_prob(at(family), Batch.of(rows))
    z = (found.value - truth.log_prob(rows)) / found.se
    assert 0.8 < z.square().mean().sqrt() < 1.25 and z.abs().max() < 4.5
    assert found.se.max() < 0.05
    # rows with holes, for which this guide was never trained: annealed where it fails
    rows, seen = rows[:40], torch.rand(40, D, generator=torch.Generator().manual_seed(0)) < 0.6
    holed = Batch.of(torch.where(seen, rows, 0.0), seen)
    found = queries.log_prob(at(family), holed, error=0.1, annealing=60)
    assert (found.value[~seen.any(1)] == 0).all() and (found.se < 0.1).double().mean() > 0.7
    for row in seen.any(1).nonzero()[:, 0].tolist():
        on = seen[row]
        own = MultivariateNormal(truth.loc[on], truth.covariance_matrix[on][:, on])
        assert abs(found.value[row] - own.log_prob(rows[row, on])) < 5 * found.se[row] + 1e-9


def test_the_fit_is_that_of_principal_components(linear):
    family, fitted, held = linear
    (own, w), (best, top) = normal_of(family), principal(fitted)
    cosines = torch.linalg.svdvals(torch.linalg.qr(w)[0].T @ top)
    assert torch.rad2deg(cosines.clamp(max=1).acos()).max() < 1.0  # of 90 degrees
    loss = best.log_prob(held).mean() - own.log_prob(held).mean()
    assert abs(loss) < 0.005  # nats a row, of -6.1
    assert 0 <= best.log_prob(fitted).mean() - own.log_prob(fitted).mean() < 0.005


def test_conditionals_are_those_of_the_normal():
    family, _, held = fit_linear(0.5)
    truth, _ = normal_of(family)
    rows, seen = held[:20], torch.ones(20, D, dtype=torch.bool)
    seen[:, 0] = False
    found = family.conditionals(Batch.of(torch.where(seen, rows, 0.0), seen))
    cover = truth.covariance_matrix
    line = torch.linalg.solve(cover[1:, 1:], cover[1:, 0])
    mean = truth.loc[0] + (rows[:, 1:] - truth.loc[1:]) @ line
    sd = (cover[0, 0] - cover[0, 1:] @ line).sqrt()
    cell = found[0][1]
    own = (cell.weights * cell.mean).sum(1)
    variance = (cell.weights * (cell.scale**2 + cell.mean**2)).sum(1) - own**2
    # 128 latents: their mean is off by about a tenth of their spread, a part of sd
    assert ((own - mean).abs() < 0.4 * sd).all() and (own - mean).abs().mean() < 0.1 * sd
    assert ((variance.sqrt() / sd - 1).abs() < 0.2).all()


# --- the loss -----------------------------------------------------------------------------------


def mixed_table(n: int = 120) -> pd.DataFrame:
    g = np.random.default_rng(2)
    a = g.normal(size=n)
    return pd.DataFrame({
        "real": np.where(g.random(n) < 0.3, 0.0, a),
        "level": np.where(a + 0.5 * g.normal(size=n) > 0, "x", "y"),
        "count": g.poisson(np.exp(0.5 * a)),
    })  # fmt: skip


COLUMNS = {"count": "count"}


def made(
    guide="diagonal", prior="normal", seed=0, trained=True, **bound
) -> tuple[Autoencoder, Batch]:
    """A family after some steps, whose guide is not quite right yet, and its rows."""
    table = mixed_table()
    schema = Schema.infer(table, COLUMNS)
    encoded = encode(table, schema)
    with guarded(seed):
        settings = Bound(**{"masked": 0.0, **bound})
        family = Autoencoder(schema, 2, (8,), prior, guide, settings, components=3).double()
        batch = Batch.of(torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen))
        family.start(batch, torch.Generator().manual_seed(0))
    if trained:
        training = Training(max_epochs=30, learning_rate=1e-2, random_state=0, batch_size=120,
                            compile=False, precision="float64")  # fmt: skip
        fit(family, batch, training, warn=False)
        family.begin_epoch(0)
    return family.eval(), batch


@pytest.mark.parametrize(("guide", "prior"), itertools.product(GUIDES, PRIORS))
def test_the_loss_is_the_bound_of_pyro(guide, prior):
    family, batch = made(guide, prior)
    family.bound = replace(family.bound, particles=1)
    elbo = Trace_ELBO()

    def both(seed: int) -> tuple[float, float]:
        with torch.no_grad(), guarded(seed):
            theirs = elbo.loss(family.model, family.guide, batch) / batch.total
        with torch.no_grad(), guarded(seed + 1000):
            return float(family.loss(batch)), theirs

    found = np.array([both(seed) for seed in range(30)])
    gap = found[:, 0] - found[:, 1]
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(len(gap)) and gap.std() < 1.0


@pytest.mark.parametrize(("guide", "prior"), itertools.product(GUIDES, PRIORS))
def test_the_weighted_bound_is_the_log_of_the_mean_weight(guide, prior):
    family, batch = made(guide, prior, kind="iwae", particles=5)
    with torch.no_grad(), guarded(0):
        found = float(family.loss(batch))
    with torch.no_grad(), guarded(0):
        noise = torch.randn(5, len(batch), 2, dtype=F64)
    _, weights = family.importance(batch)
    with torch.no_grad():
        wanted = -(weights(noise).logsumexp(0) - math.log(5)).mean()
        # and the weights by Pyro's handlers, at the same latents
        z, log_q = family.at(batch).draw(noise)
        by_parts = family._rows(family._outputs(z, None), batch.x, batch.seen)
        log_p = family.prior.distribution(len(batch), batch.weight).log_prob(z)
    assert found == pytest.approx(float(wanted), rel=1e-12)
    torch.testing.assert_close(weights(noise).detach(), by_parts + log_p - log_q)


@pytest.mark.parametrize("guide", ["diagonal", "full"])
def test_doubly_reparametrised_gradients_have_the_same_mean_and_less_spread(guide):
    family, batch = made(guide, kind="iwae", particles=8)
    batch = batch.take(slice(0, 10))
    target = family.posterior.line.weight

    def plain() -> Tensor:
        _, weights = family.importance(batch)
        noise = torch.randn(8, len(batch), 2, dtype=F64)
        return -(weights(noise).logsumexp(0) * batch.scale).sum() / batch.total

    def gradients(loss) -> Tensor:
        with guarded(3):
            return torch.stack([torch.autograd.grad(loss(), target)[0] for _ in range(300)])

    one, two = gradients(lambda: family.loss(batch)), gradients(plain)
    se = ((one.var(0) + two.var(0)) / 300).sqrt()
    z = (one.mean(0) - two.mean(0)) / se.clamp_min(1e-12)
    assert z.square().mean() < 2.0 and z.abs().max() < 5
    assert one.var(0).sum() < 0.8 * two.var(0).sum()


def test_bounds_rise_to_the_density_as_particles_grow():
    family, batch = made("full")
    truth = queries.log_prob(at(family), batch, particles=2**12)
    found = []
    for kind, particles in (("elbo", 1), ("iwae", 1), ("iwae", 8), ("iwae", 64), ("iwae", 512)):
        family.bound = replace(family.bound, kind=kind, particles=particles)
        with torch.no_grad(), guarded(0):
            values = [-float(family.loss(batch)) for _ in range(20)]
        found.append((np.mean(values), np.std(values) / math.sqrt(20)))
    mean, se = zip(*found, strict=True)
    top = float(truth.value.mean())
    error = float(truth.se.square().sum().sqrt() / len(batch))
    assert abs(mean[0] - mean[1]) < 4 * math.hypot(se[0], se[1])
    assert mean[1] < mean[2] < mean[3] < mean[4] < top + 4 * math.hypot(se[4], error)
    assert top - mean[4] < 0.1 * (top - mean[1])


def test_free_bits_are_free_and_no_more():
    family, batch = made("diagonal")
    family.train()

    def loss(**settings) -> tuple[float, Tensor]:
        family.bound = replace(Bound(masked=0.0), **settings)
        with guarded(0):
            value = family.loss(batch)
            slope = torch.autograd.grad(value, family.posterior.line.weight)[0]
        return float(value), slope

    plain, own = loss()
    none, no_divergence = loss(beta=0.0)
    spent = plain - none
    assert spent > 0.05
    # far above what the guide spends: a constant, without gradient
    free, slope = loss(free_bits=50.0)
    assert free == pytest.approx(none + 2 * 50.0) and torch.allclose(slope, no_divergence)
    # far below: the bound itself
    free, slope = loss(free_bits=1e-6)
    assert free == pytest.approx(plain) and torch.allclose(slope, own)
    family.eval()  # held-out losses too: the state that is kept must be one that they allow
    assert loss(free_bits=50.0)[0] == pytest.approx(none + 2 * 50.0)


def test_the_divergence_warms_up():
    family, batch = made("diagonal", warmup=4)
    family.train()

    def loss(epoch: int) -> float:
        family.begin_epoch(epoch)
        with torch.no_grad(), guarded(0):
            return float(family.loss(batch))

    found = np.array([loss(epoch) for epoch in range(6)])
    np.testing.assert_allclose(np.diff(found)[:3], np.diff(found)[0])
    assert found[3] == found[4] == found[5] and found[0] < found[3]
    family.eval()
    assert loss(0) == loss(5)


@pytest.mark.parametrize("kind", ["elbo", "iwae"])
@pytest.mark.parametrize("guide", GUIDES)
def test_the_graph_of_a_step_is_the_eager_step(kind, guide, monkeypatch):
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)  # the graph is run as it is
    found = {}
    for how in (True, False):
        family, batch = made(guide, trained=False, kind=kind, particles=3, masked=0.5, warmup=2,
                             corruption=0.1)  # fmt: skip
        training = Training(max_epochs=3, random_state=0, batch_size=40, compile=how,
                            precision="float64")  # fmt: skip
        result = fit(family, batch, training, warn=False)
        assert result.engine == ("traced" if how else kind), result.engine_reason
        found[how] = torch.cat([v.detach().flatten() for v in family.parameters()])
    torch.testing.assert_close(found[True], found[False], rtol=1e-6, atol=1e-8)


def test_a_fit_that_warms_up_is_resumed_bit_for_bit(tmp_path):
    path = tmp_path / "run.ckpt"
    training = Training(max_epochs=2, random_state=0, batch_size=40, compile=False)
    family, batch = made(trained=False, warmup=5, free_bits=0.2)
    fit(family, batch, replace(training, checkpoint=path), warn=False)
    longer = replace(training, max_epochs=6)
    rest, whole = (made(trained=False, warmup=5, free_bits=0.2, seed=s)[0] for s in (1, 0))
    one = fit(rest, batch, longer, resume=path, warn=False)
    two = fit(whole, batch, longer, warn=False)
    assert one.losses == two.losses
    for a, b in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


# --- densities sum to one -----------------------------------------------------------------------

#: counts beyond have a mass below a thousandth
COUNTS = np.arange(26)


def fitted(guide: str, prior: str) -> pg.VAE:
    model = pg.VAE(latents=2, hidden=(12,), guide=guide, prior=prior, components=3,
                   learning_rate=1e-2, max_epochs=40, batch_size=128, columns=COLUMNS,
                   **STILL | {"masked": 0.5})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(mixed_table())


def scored(model: pg.VAE, table: pd.DataFrame, particles: int, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.log_prob(table, details=True, particles=particles, **how)
    return found["log_prob"].to_numpy(), found["se"].to_numpy()


@pytest.mark.parametrize(
    ("guide", "prior"), [("diagonal", "normal"), ("full", "mixture"), ("flow", "flow"),
                         ("flow", "mixture"), ("full", "flow")],
)  # fmt: skip
def test_densities_sum_and_integrate_to_one(guide, prior):
    model = fitted(guide, prior)
    assert model.schema_["real"].atoms == (0.0,)
    real, length = spread(model.schema_["real"], 61, 4.0)
    real, length = np.append(real[real != 0], 0.0), np.append(length[real != 0], 0.0)
    cells = list(itertools.product(range(len(real)), ("x", "y"), COUNTS))
    which = np.array([i for i, _, _ in cells])
    table = pd.DataFrame({"real": real[which], "level": [c[1] for c in cells],
                          "count": [c[2] for c in cells]})  # fmt: skip
    value, se = scored(model, table, 64)
    mass = np.exp(value + length[which])
    rare = np.exp(scored(model, pd.DataFrame({"level": ["?"]}), 512, unseen="rare")[0][0])
    room = 4 * np.sqrt(np.square(mass * se).sum())
    assert abs(mass.sum() + rare - 1) < room + 2e-3 and room < 0.08
    # a hole: the sum over what it hides
    for place, level in ((len(real) - 1, "x"), (30, "y")):
        on = (which == place) & (table["level"] == level).to_numpy()
        known = table[on].iloc[[0]][["real", "level"]]
        marginal, own = scored(model, known, 4096)
        total = np.log(np.exp(value[on]).sum())
        error = np.sqrt(np.square(np.exp(value[on]) * se[on]).sum()) / np.exp(total)
        assert abs(total - marginal[0]) < 4 * math.hypot(error, own[0]) + 2e-3
    # a conditional has mass one, and is the joint over the marginal
    given = table.loc[which == 30, ["real", "level"]]
    asked = table.loc[which == 30, ["count"]]
    conditional, error = scored(model, asked, 512, given=given)
    for level in ("x", "y"):
        on = (given["level"] == level).to_numpy()
        p = np.exp(conditional[on])
        assert abs(p.sum() - 1) < 4 * np.linalg.norm(p * error[on]) + 5e-3


# --- answers about hidden cells -----------------------------------------------------------------


@pytest.fixture(scope="module")
def levels() -> tuple[pg.VAE, pd.DataFrame, np.ndarray]:
    """A model of three columns of levels, all rows that there are, and their probabilities."""
    g = np.random.default_rng(3)
    a = g.normal(size=400)
    table = pd.DataFrame({
        name: pd.cut(a + 0.6 * g.normal(size=400), cut, labels=list(names)).astype(str)
        for name, cut, names in (("a", [-9, -0.5, 0.5, 9], "pqr"), ("b", [-9, 0, 9], "st"),
                                 ("c", [-9, -0.3, 0.8, 9], "uvw"))
    })  # fmt: skip
    model = pg.VAE(latents=2, hidden=(16,), learning_rate=1e-2, max_epochs=60, batch_size=128,
                   **STILL | {"masked": 0.5})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(table)
    every = pd.DataFrame(itertools.product("pqr", "st", "uvw"), columns=["a", "b", "c"])
    return model, every, np.exp(scored(model, every, 2**14)[0])


def test_conditionals_are_those_of_the_joint(levels):
    model, every, p = levels
    assert abs(p.sum() - 1) < 0.01 and p.max() > 0.12  # far from even
    known = every[["a"]].drop_duplicates().reset_index(drop=True)
    encoded = encode(known.reindex(columns=["a", "b", "c"]), model.schema_)
    family = model.members_[0].double()
    found = family.conditionals(
        Batch.of(torch.from_numpy(encoded.x), torch.from_numpy(encoded.seen))
    )
    for slot, name in ((1, "b"), (2, "c")):
        probs = found[slot][1].probs
        for row, value in enumerate(known["a"]):
            on = (every["a"] == value).to_numpy()
            wanted = pd.Series(p[on]).groupby(every[on][name].to_numpy()).sum()
            wanted = (wanted / wanted.sum())[list(model.schema_[name].levels)].to_numpy()
            np.testing.assert_allclose(probs[row, : len(wanted)], wanted, atol=0.03)


def test_samples_given_cells_follow_the_joint(levels):
    model, every, p = levels
    n, given = 4000, {"a": "p"}
    drawn = model.sample(n, given=given, random_state=0)
    assert (drawn["a"] == "p").all()
    on = (every["a"] == "p").to_numpy()
    wanted = p[on] / p[on].sum()
    count = drawn.groupby(["b", "c"]).size()
    found = np.array([count.get((b, c), 0) for b, c in every.loc[on, ["b", "c"]].to_numpy()]) / n
    assert (np.abs(found - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / n) + 0.01).all()


# --- the pair, through Pyro's handlers ----------------------------------------------------------


class ThroughPair(Autoencoder):
    """The same without a way of its own: every answer by the handlers."""

    def importance(self, batch):
        return None

    def conditionals(self, batch):
        return None


@pytest.mark.parametrize(("guide", "prior"), itertools.product(GUIDES, PRIORS))
def test_the_generic_answers_are_those_of_the_family(guide, prior):
    family, batch = made(guide, prior)
    generic = made(guide, prior)[0]
    generic.__class__ = ThroughPair
    rows = batch.take(slice(0, 15))
    one = queries.log_prob(at(family), rows, particles=2000)
    two = queries.log_prob(at(generic), rows, particles=2000)
    z = (one.value - two.value) / (one.se.square() + two.se.square()).sqrt()
    assert two.method == "importance" and z.square().mean() < 3 and z.abs().max() < 4.5
    again = queries.log_prob(at(generic), rows.take(slice(4, 5)), particles=2000)
    torch.testing.assert_close(again.value, two.value[4:5], rtol=1e-12, atol=1e-12)
    mean, sd = latent(at(generic), rows, particles=2000)["z"]
    with torch.no_grad(), guarded(0):
        z = family.at(rows).draw(torch.randn(4000, len(rows), 2, dtype=F64))[0]
    assert ((mean - z.mean(0)).abs() < 5 * (1 / 2000 + 1 / 4000) ** 0.5 * z.std(0)).all()
    assert (sd / z.std(0) - 1).abs().max() < 0.15
    back = reconstruct(at(generic), rows)
    assert back.shape == rows.x.shape and back.isfinite().all()

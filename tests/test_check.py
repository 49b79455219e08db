"""`check`: each fault is named with the right reason, and good fits are let through."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import zuko
from scipy.stats import kstest
from torch import nn

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics.checks.coverage import covered
from probgen.diagnostics.checks.statistics import holm
from probgen.diagnostics.fitted import fingerprint
from probgen.diagnostics.pit import pit
from probgen.family import Family
from probgen.table import encode
from tests import registry
from tests.pairs import fit as quick


def found(report, name):
    return next((f for f in report.findings if f.name == name), None)


def status(report, name):
    finding = found(report, name)
    return None if finding is None else finding.status


def linear(n: int, seed: int, columns: int = 4) -> pd.DataFrame:
    """Rows of two factors and noise."""
    rng = np.random.default_rng(seed)
    loads = np.random.default_rng(99).normal(size=(2, columns))
    x = rng.normal(size=(n, 2)) @ loads + 0.7 * rng.normal(size=(n, columns))
    return pd.DataFrame(x, columns=[f"c{i}" for i in range(columns)])


def mixture(**settings):
    return pg.GaussianMixture(**{"components": 3, "draws": 100, "random_state": 0, **settings})


# --- the correlated regression ----------------------------------------------------------------

PREDICTORS = ["x1", "x2", "x3", "x4", "x5"]


def regression(batch):
    """y ~ N(x b, s): b ~ N(0, 1) each, s ~ HalfNormal(2); the noise of the truth is 1."""
    b = pyro.sample("b", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(2.0))
    with batch.rows():
        x = torch.stack([batch[name] for name in PREDICTORS], -1)
        pyro.sample("y", dist.Normal(x @ b.to(x), s), obs=batch["y"])


def regression_table(n: int, seed: int) -> pd.DataFrame:
    """Five predictors with pairwise correlation 0.97."""
    rng = np.random.default_rng(seed)
    x = np.sqrt(0.97) * rng.normal(size=(n, 1)) + np.sqrt(0.03) * rng.normal(size=(n, 5))
    y = x @ np.array([1.0, -0.5, 0.5, 0.0, 0.3]) + rng.normal(size=n)
    return pd.DataFrame(x, columns=PREDICTORS).assign(y=y)


@pytest.mark.parametrize("guide, intervals", [("mean_field", "no"), ("multivariate", "yes")])
def test_a_correlated_posterior_needs_a_guide_with_correlations(guide, intervals):
    train, held = regression_table(100, 0), regression_table(200, 1)
    settings = {"guide": guide, "max_epochs": 400, "draws": 100}
    model = quick(train, regression, given=PREDICTORS, **settings)
    report = model.check(held, train=train)
    assert (report.density, report.intervals) == ("yes", intervals), str(report)
    assert status(report, "floor") == "ok"  # against y alone
    if intervals == "no":
        assert report.reasons("intervals") == ["k-hat of the guide"]
        assert 'guide="multivariate"' in found(report, "k-hat of the guide").do


# --- training that stopped --------------------------------------------------------------------


def test_a_mixture_that_calls_itself_converged_is_trained_on():
    table = penguins()
    early = mixture(components=5, tolerance=0.5, starts=1).fit(table)
    assert early.converged_  # by its own tolerance
    report = early.check(table)
    assert report.density == "no" and "convergence" in report.reasons("density")
    assert "trained on" in found(report, "convergence").text
    before = {k: v.clone() for k, v in early.members_[0].state_dict().items()}
    early.check(table)
    now = early.members_[0].state_dict()
    assert all(torch.equal(v, now[k]) for k, v in before.items())  # a copy was trained
    assert status(mixture(components=3).fit(table).check(table), "convergence") == "ok"


# --- latents ------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    """Two latents; the decoder reads as many of them as it is told."""

    def __init__(self, used: int, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)  # the tests before must not decide where it starts
        self.used = used
        self.decoder = nn.Linear(2, 4)
        self.log_sd = nn.Parameter(torch.zeros(4))
        self.encoder = nn.Linear(4, 4)

    def model(self, batch):
        pyro.module("decoder", self)
        with batch.rows():
            z = pyro.sample("z", dist.Normal(torch.zeros(len(batch), 2), 1.0).to_event(1))
            on = torch.arange(2) < self.used
            loc = self.decoder((z * on).to(self.log_sd))
            for i in range(4):
                fn = dist.Normal(loc[:, i], self.log_sd[i].exp())
                pyro.sample(f"c{i}", fn, obs=batch[f"c{i}"])

    def guide(self, batch):
        out = self.encoder(torch.stack([batch[f"c{i}"] for i in range(4)], -1))
        with batch.rows():
            pyro.sample("z", dist.Normal(out[:, :2], out[:, 2:].exp()).to_event(1))


@pytest.mark.parametrize("used, wanted", [(0, "fail"), (1, "note"), (2, "ok")])
def test_collapsed_latents_are_named(used, wanted):
    pair = Autoencoder(used)
    train, held = linear(300, 0), linear(300, 1)
    model = quick(train, pair.model, pair.guide, max_epochs=200, learning_rate=0.03, particles=1)
    report = model.check(held, train=train)
    assert status(report, "collapsed latents") == wanted, str(report)
    details = found(report, "collapsed latents").details
    assert sum(details["active"].values()) == used
    if used == 0:
        assert report.density == "no"
        assert {"collapsed latents", "pairs"} <= set(report.reasons("density"))
    elif used == 1:
        assert "collapsed: z[1]" in found(report, "collapsed latents").text


# --- a flow that learned its rows by heart ------------------------------------------------------


class Flow(nn.Module):
    """A spline flow of each column given those before it, from zuko's parts."""

    def __init__(self, bins: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bins = bins
        self.nets = nn.ModuleList(
            zuko.nn.MLP(1 + i, 3 * bins + 1, hidden_features=(64, 64)) for i in range(4)
        )

    def model(self, batch):
        pyro.module("nets", self.nets)
        before = [torch.ones(len(batch), dtype=torch.float64)]
        with batch.rows():
            for i, net in enumerate(self.nets):
                loc, log_scale, *_ = (out := net(torch.stack(before, -1))).unbind(-1)
                widths, heights, slopes = out[:, 2:].split(
                    [self.bins, self.bins, self.bins - 1], -1
                )
                spline = zuko.transforms.MonotonicRQSTransform(widths, heights, slopes, 5.0)
                shift = dist.transforms.AffineTransform(loc, log_scale.exp())
                base = dist.Normal(torch.zeros_like(loc), 1.0)
                fn = dist.TransformedDistribution(base, [spline, shift])
                before.append(pyro.sample(f"c{i}", fn, obs=batch[f"c{i}"]))


def test_an_overfitted_flow_fails_with_the_right_reason():
    train, held = linear(100, 0), linear(400, 1)
    model = quick(train, Flow().model, max_epochs=150, learning_rate=0.01)
    report = model.check(held, train=train)
    assert report.density == "no"
    assert {"floor", "train against table"} <= set(report.reasons("density")), str(report)
    assert "overfitted" in found(report, "train against table").text


# --- other units ------------------------------------------------------------------------------


def measured(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    return pd.DataFrame({
        "mass": np.exp(1 + 0.4 * size + 0.1 * rng.normal(size=n)),
        "warmth": 15 + 6 * rng.normal(size=n) + 3 * size,
        "height": 1.7 + 0.1 * size + 0.05 * rng.normal(size=n),
        "tail": rng.standard_t(2, size=n),
        "group": rng.choice(list("ab"), n),
    })  # fmt: skip


@pytest.fixture(scope="module")
def measurer():
    return mixture().fit(measured(600, 0))


CHANGES = {
    "grams": ("mass", lambda x: 1000 * x, "multiplied by 1000"),
    "tonnes": ("mass", lambda x: x / 1000, "multiplied by 0.001"),
    "centimetres": ("height", lambda x: 100 * x, "multiplied by 100"),
    "Fahrenheit": ("warmth", lambda x: 1.8 * x + 32, "Fahrenheit for Celsius"),
    "centred": ("tail", lambda x: 1000 * x, "as if multiplied by"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_units_are_named(measurer, change):
    name, convert, text = CHANGES[change]
    table = measured(200, 1)
    report = measurer.check(table.assign(**{name: convert(table[name])}))
    assert report.density == "no" and "units" in report.reasons("density")
    assert list(found(report, "units").details["columns"]) == [name]
    assert text in found(report, "units").text


def test_units_are_those_of_the_fit(measurer):
    """Held-out rows, heavy tails, and subgroups one or two standard deviations away."""
    table = measured(2000, 2)
    subgroups = [table[table.warmth > 20], table[table.mass < 2], table[table.height > 1.9]]
    for rows in (table, *subgroups, measured(25, 3)):
        assert status(measurer.check(rows), "units") == "ok"


# --- the fitted table itself --------------------------------------------------------------------


def test_the_fitted_table_is_known_again(tmp_path):
    table = penguins()
    model = mixture(restarts=2).fit(table)
    shuffled = table.sample(frac=1, random_state=1)[table.columns[::-1]]
    model.save(tmp_path / "model")
    for own in (model, pg.load(tmp_path / "model")):
        report = own.check(shuffled)
        assert "in sample" in found(report, "train against table").text
        assert "in sample" in found(report, "floor").text
        assert status(report, "floor") == "note"
    other = model.check(table.iloc[:-1])
    assert "not passed" in found(other, "train against table").text


def test_a_fingerprint_is_of_the_content():
    table = penguins()
    schema = pg.Schema.infer(table)
    plain = fingerprint(encode(table, schema), schema)
    jitter = np.random.default_rng(0)
    assert fingerprint(encode(table, schema, jitter=jitter), schema) == plain
    changed = table.copy()
    changed.loc[3, "body_mass_g"] = 4000.0
    assert fingerprint(encode(changed, schema), schema) != plain
    doubled = pd.concat([table, table])  # not cancelled, as by exclusive or
    assert fingerprint(encode(doubled, schema), schema).rows == 688


# --- good fits, and misfits of columns and pairs -------------------------------------------------


def split(table: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    mixed = table.sample(frac=1, random_state=seed)
    return mixed[: len(table) * 2 // 3], mixed[len(table) * 2 // 3 :]


def test_good_fits_are_let_through():
    kinds = {"flipper_length_mm": "real", "year": "ordered"}
    birds, others = split(penguins())
    rng = np.random.default_rng(0)
    apart = pd.DataFrame({"a": rng.gamma(2.0, size=600), "b": rng.integers(0, 4, 600)})
    heavy = pd.DataFrame(rng.standard_t(4, size=(600, 3)), columns=list("xyz"))
    cases = {
        "mixture": (mixture(columns=kinds, components=8), birds, others),
        "independent": (pg.Independent(random_state=0), *split(apart)),
        "student": (pg.StudentT(random_state=0), *split(heavy)),
    }
    for name, (model, train, held) in cases.items():
        report = model.fit(train).check(held, train=train)
        assert report.density == "yes", f"{name}\n{report}"
        assert len(report.findings) <= 15 and max(map(len, str(report).splitlines())) < 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_well_specified_fits_are_let_through(seed):
    report = (
        mixture(random_state=seed)
        .fit(linear(400, seed))
        .check(linear(400, 1000 + seed), train=linear(400, seed))
    )
    assert report.density == "yes", str(report)


def test_a_column_and_a_pair_that_are_wrong_are_named():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=2000)
    table = pd.DataFrame(
        {"x": x, "y": x + 0.3 * rng.normal(size=2000), "z": rng.normal(size=2000)}
    )
    train, held = split(table)
    one = mixture(components=1, columns=dict.fromkeys("xyz", "real")).fit(train)
    report = one.check(held, train=train)
    assert status(report, "columns") == "fail" and "x (" in found(report, "columns").text
    assert status(report, "PIT") == "note" or "x" in found(report, "PIT").text
    apart = pg.Independent(random_state=0).fit(train).check(held, train=train)
    assert status(apart, "pairs") == "fail" and "x and y" in found(apart, "pairs").text
    assert status(apart, "columns") == "ok"
    details = apart.to_dict()["findings"]
    [pairs] = [f["details"]["checks"] for f in details if f["name"] == "pairs"]
    assert len(pairs) == 12  # scores and distances from the middle of three pairs


def test_negligible_effects_of_many_rows_do_not_fail():
    train, held = linear(4000, 0), linear(10_000, 1) + 0.05
    report = mixture(components=1, posterior="gibbs").fit(train).check(held, train=train)
    assert report.density == "yes", str(report)


# --- families without a density ------------------------------------------------------------------


class Generator(Family):
    """Draws rows around some centres; has no density."""

    density = "none"
    normalised = False

    def __init__(self, schema, centres) -> None:
        super().__init__(schema)
        self.centres = torch.tensor(centres, dtype=torch.float64)
        self.unused = nn.Parameter(torch.zeros(()))

    def model(self, batch):
        pick = torch.randint(len(self.centres), (len(batch),))
        return self.centres[pick, None] + 0.3 * torch.randn(len(batch), 2, dtype=torch.float64)


@dataclass(eq=False, repr=False)
class Implicit(pg.Density):
    centres: tuple = (-1.0, 1.0)
    family: ClassVar = Generator

    def _make(self, schema):
        return Generator(schema, self.centres)


def generator(table, centres):
    model = Implicit(centres=centres)
    schema = pg.Schema.infer(table)
    from probgen.training import FitResult

    result = FitResult(converged=True, reason="nothing to train", seed=1)
    model._install(schema, [(Generator(schema, centres), result)])
    return model


def two_modes(n, seed):
    rng = np.random.default_rng(seed)
    centre = rng.choice([-1.0, 1.0], n)[:, None]
    return pd.DataFrame(centre + 0.3 * rng.normal(size=(n, 2)), columns=["a", "b"])


@pytest.mark.parametrize("centres, wanted", [
    ((-1.0, 1.0), "ok"), ((1.0,), "fail"), ((-1.0, 0.0, 1.0), "fail"),
])  # fmt: skip
def test_modes_of_an_implicit_family(centres, wanted):
    table = two_modes(400, 0)
    schema = pg.Schema.infer(table)
    scaled = tuple((c - 0.0) / schema.columns[0].scale for c in centres)
    model = generator(table, scaled)
    report = model.check(two_modes(400, 1))
    assert status(report, "mode coverage") == wanted, str(report)
    if wanted == "fail":
        dropped = "never drawn" in found(report, "mode coverage").text
        assert dropped == (len(centres) == 1)


# --- parts --------------------------------------------------------------------------------------


def test_pit_is_uniform_under_the_model_and_repeats():
    rows = linear(1500, 0)
    model = mixture(components=1).fit(rows)
    drawn = model.sample(1000, random_state=5)
    drawn.loc[::10, "c0"] = np.nan
    values = pit(model, drawn)
    assert values["c0"].isna().sum() == 100 and values.index.equals(drawn.index)
    assert min(kstest(values[name].dropna(), "uniform").pvalue for name in values) > 1e-4
    pd.testing.assert_frame_equal(values, pit(model, drawn))
    assert values.attrs == {"draws": 10_000, "error": 0.005}


def test_pit_in_context_is_conditional():
    train = regression_table(200, 0)
    model = quick(train, regression, given=PREDICTORS, max_epochs=200)
    values = pit(model, regression_table(500, 3))
    assert list(values) == ["y"] and kstest(values["y"], "uniform").pvalue > 1e-4
    far = train.assign(y=train["y"] + 100)
    assert pit(model, far)["y"].min() > 0.99


def test_holm_is_the_stepwise_rule():
    p = np.array([0.04, 0.001, 0.02])
    np.testing.assert_allclose(holm(p), [0.04, 0.003, 0.04])


def test_covered_counts_balls():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 2))
    assert covered(a, b) > 0.9
    assert covered(np.vstack([a, a + 20]), b) == pytest.approx(0.5, abs=0.05)


# --- every family -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.REGISTRY)
def test_every_family_is_checked_quickly(name):
    subject = registry.subject(name)
    model, table = subject.fitted(), subject.table()
    clock = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reports = [model.check(), model.check(table), model.check(table[::2], train=table)]
    assert time.process_time() - clock < 20
    for report in reports:
        text = str(report)
        assert report.density in ("yes", "no", "unknown") and len(report.findings) <= 15
        assert max(map(len, text.splitlines())) < 100
        assert " nan" not in text.lower() and "none of none" not in text.lower()
        assert report._repr_html_() and report.to_dict()["findings"]
        assert all(f.do for f in report.findings if f.status == "fail"), text
    assert "in sample" in str(reports[1])
    assert str(reports[1]) == str(model.check(table))  # seeded

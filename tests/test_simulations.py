"""Simulation-based calibration: right posteriors pass, wrong ones are called by their name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import probgen as pg
from probgen.batch import Batch
from probgen.diagnostics.checks.statistics import holm
from probgen.evaluation import Simulations
from probgen.evaluation.ranks import ecdf_band, judge, needed, seen_with
from probgen.evaluation.simulating import _rank
from probgen.evaluation.truths import Tables, simulated_schema
from probgen.family import Draws, Family
from probgen.queries.intervals import quantiles
from tests.registry import REGISTRY, subject

# --- a family whose posterior is known, and can be made wrong -----------------------------------


class Mean(Family):
    """The mean of a normal of variance 1, with a guide that is right but for what it is told."""

    updates = True
    holes = "masked"
    centre: Tensor
    width: Tensor

    def __init__(self, schema: pg.Schema, shift: float, factor: float, prior: float) -> None:
        super().__init__(schema)
        self.shift, self.factor, self.prior = shift, factor, prior
        self.register_buffer("centre", torch.zeros((), dtype=torch.float64))
        self.register_buffer("width", torch.ones((), dtype=torch.float64))

    def model(self, batch: Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(self.centre.new_zeros(()), self.prior))
        with batch.rows():
            batch.observe("y", dist.Normal(mu.expand(len(batch)), 1.0), [0])

    def guide(self, batch: Batch) -> None:
        pyro.sample("mu", dist.Normal(self.centre, self.width))

    def update(self, batch: Batch, rate: float) -> float:
        precision = len(batch) + self.prior**-2
        self.width = self.factor * self.width.new_tensor(precision**-0.5)
        self.centre = batch.x.sum() / precision + self.shift * precision**-0.5
        return float(batch.x.var())

    def exact_log_prob(self, batch: Batch, draws: Draws | None) -> Tensor | None:
        if draws is None:
            return None
        return dist.Normal(draws["mu"][:, None], 1.0).log_prob(batch.x[:, 0])


@dataclass(eq=False, repr=False)
class Normal(pg.Density):
    """The estimator of `Mean`; refuses tables with a mean above `most`."""

    shift: float = 0.0
    factor: float = 1.0
    most: float = np.inf
    prior: float = 3.0

    family: ClassVar[type[Family]] = Mean

    def _make(self, schema: pg.Schema) -> Family:
        return Mean(schema, self.shift, self.factor, self.prior)

    def _check(self, encoded) -> None:
        if encoded.x.mean() > self.most:
            raise pg.FitError("a mean that is too large")


PLAIN = pg.Schema((pg.Column("y", "real", "float64"),))
TABLE = pd.DataFrame({"y": np.linspace(-1, 1, 20)})


def normal(**settings: float) -> Normal:
    return Normal(schema=PLAIN, draws=49, random_state=0, **settings).fit(TABLE)


@pytest.fixture(scope="module")
def right() -> Simulations:
    return normal().calibrate(80)


def test_a_right_posterior_passes(right):
    assert right.ok and len(right) == 80 and right.rows == 20 and right.draws == 49
    assert list(right.ranks) == [
        "log likelihood", "log p(row 0)", "log p(row 1)", "log p(point 0)", "log p(point 1)", "mu"
    ]  # fmt: skip
    assert right.ranks.to_numpy().min() >= 0 and right.ranks.to_numpy().max() <= 49
    for level in (0.5, 0.8, 0.95):
        rates = right.summary[f"coverage_{round(100 * level)}"]
        assert (abs(rates - level) < 3 * right.coverage_error(level)).all()


@pytest.mark.parametrize(
    ("settings", "verdict", "effect"),
    [
        ({"factor": 0.5}, "under-dispersed", ("spread", 0.3, 0.75)),
        ({"factor": 2.0}, "over-dispersed", ("spread", 1.4, 3.0)),
        ({"shift": 0.8}, "biased", ("bias", 0.4, 1.2)),
        ({"shift": -0.8}, "biased", ("bias", -1.2, -0.4)),
    ],
)
def test_wrong_posteriors_are_called_by_their_name(settings, verdict, effect):
    found = normal(**settings).calibrate(80)
    row = found.summary.loc["mu"]
    name, low, high = effect
    assert not found.ok and row["verdict"] == verdict
    assert low < row[name] < high
    assert f" {verdict}" in str(found).splitlines()[0]
    if verdict == "under-dispersed":
        assert row["coverage_80"] < 0.8 - 3 * found.coverage_error(0.8)


def test_a_simulation_depends_on_its_seed_and_number_only(right):
    before = torch.get_rng_state()
    few = normal().calibrate(5)
    pd.testing.assert_frame_equal(few.ranks, right.ranks.head(5))
    assert torch.equal(before, torch.get_rng_state())
    other = normal().calibrate(5, random_state=1)
    assert not few.ranks.equals(other.ranks)


def test_own_quantities_are_ranked():
    found = normal().calibrate(5, rows=7, quantities={"square": lambda t: float(t["mu"] ** 2)})
    assert "square" in found.ranks and found.rows == 7


def test_the_result_shows_itself(right):
    text = str(right)
    assert text.startswith("calibrated: nothing speaks against it")
    assert "80 simulations of 20 rows, 49 posterior draws each" in text
    assert "4 times in 5" in text
    assert "<table" in right._repr_html_() and "calibrated" in right._repr_html_()
    plain = json.loads(json.dumps(right.to_dict()))
    assert plain["calibrated"] and plain["summary"]["mu"]["verdict"] == "ok"
    place, lower, upper = right.band()
    assert (lower <= place).all() and (place <= upper).all()


def test_failed_fits_are_counted_and_leave_the_ranks_right():
    model = normal().set_params(most=1.0)
    found = model.calibrate(60)
    assert 5 < len(found.failed) < 40 and len(found) + len(found.failed) == 60
    assert "FitError: a mean that is too large" in str(found)
    assert found.ok  # a fit fails by its table alone, which tells nothing more of the truth


def test_hardly_any_fit_is_an_error():
    model = normal().set_params(most=-1e9)
    with pytest.raises(pg.FitError, match="a mean that is too large"):
        model.calibrate(4)


def test_without_a_posterior_there_is_nothing_to_rank():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)))
    with pytest.raises(pg.NotSupported, match="posterior"):
        pg.StudentT(random_state=0).fit(table).calibrate(3)


@pytest.mark.parametrize("wrong", [{"simulations": 1}, {"rows": 0}, {"simulations": 2.5}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(pg.SchemaError, match="whole number"):
        normal().calibrate(**wrong)


# --- tables -------------------------------------------------------------------------------------


def test_an_absurd_prior_is_named():
    with pytest.raises(pg.FitError, match=r"(?s)'y' cannot hold.*'mu'.*give site 'mu' a narrower"):
        normal(prior=1e150).calibrate(3)


def test_simulated_tables_hold_what_the_model_drew():
    table = pd.DataFrame({
        "tenths": np.round(np.random.default_rng(0).normal(size=60), 1),
        "whole": np.random.default_rng(1).integers(1, 400, 60) * 10,
        "level": pd.Categorical(np.random.default_rng(2).choice(list("ab"), 60)),
    })  # fmt: skip
    fitted = pg.GaussianMixture(2, random_state=0).fit(table)
    schema = simulated_schema(fitted.schema_, True)
    assert all(column.grid is None for column in schema.columns)
    assert schema["level"].levels == ("a", "b", "(another level)")
    assert [s.size for s in schema.slots] == [s.size for s in fitted.schema_.slots]
    found = fitted.calibrate(2)
    assert len(found) == 2


def test_holes_of_the_table_are_cut_into_the_simulated_ones():
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"])
    table.loc[::3, "a"] = np.nan
    fitted = pg.GaussianMixture(1, random_state=0).fit(table)
    blank = Batch.empty(30, 2, torch.float64, "cpu")
    drawn = Tables(
        fitted.members_[0], fitted.schema_, blank, pd.DataFrame(index=table.index), table.isna()
    ).draw(0)
    pd.testing.assert_frame_equal(drawn.table.isna(), table.isna())
    assert len(fitted.calibrate(2, table)) == 2


def test_a_loaded_model_remembers_how_many_rows_it_was_fitted_to(tmp_path):
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"])
    pg.GaussianMixture(1, random_state=0).fit(table).save(tmp_path / "model")
    loaded = pg.load(tmp_path / "model")
    assert loaded.calibrate(2).rows == 30
    assert loaded.calibrate(2, rows=15).rows == 15
    loaded.fitted_rows_ = None  # as in files of earlier versions
    with pytest.raises(pg.SchemaError, match="rows="):
        loaded.calibrate(2)


# --- families -----------------------------------------------------------------------------------


def plain(d: int) -> pg.Schema:
    return pg.Schema(tuple(pg.Column(f"x{i}", "real", "float64") for i in range(d)))


def mixture(n: int, **settings: object) -> pg.GaussianMixture:
    own = {"components": 2, "schema": plain(2), "random_state": 0, "starts": 2} | settings
    table = np.random.default_rng(0).normal(size=(n, 2))
    return pg.GaussianMixture(**own).fit(pd.DataFrame(table, columns=["x0", "x1"]))


def test_components_have_no_identity():
    found = mixture(30, draws=20).calibrate(4)
    assert {"sorted weights[0]", "log likelihood"} < set(found.ranks)
    assert not [name for name in found.ranks if "mean" in name or "precision" in name]
    one = mixture(30, draws=20, components=1).calibrate(3)
    # a symmetric matrix is ranked once
    assert [name for name in one.ranks if "precision" in name] == [
        "precision[0, 0, 0]", "precision[0, 0, 1]", "precision[0, 1, 1]"
    ]  # fmt: skip
    tied = mixture(30, draws=20, covariance="tied").members_[0]
    assert tied.interchangeable() == {"weights", "mean"}


def test_one_component_is_calibrated():
    found = mixture(30, components=1, draws=29, posterior="mean_field", starts=1).calibrate(50)
    assert found.ok  # conjugate: the guide is the posterior


def test_levels_that_the_fit_did_not_see_belong_to_the_model():
    """The reserved level has prior mass; a table without it would be no draw of the model."""
    table = pd.DataFrame({"a": np.random.default_rng(0).choice(list("xyz"), 25)})
    found = pg.Independent(random_state=0, draws=29).fit(table).calibrate(50)
    assert found.ok
    assert [name for name in found.ranks if str(name).startswith("probs")] == [
        f"probs_0[0, {i}]" for i in range(4)
    ]


def test_a_prior_that_follows_the_table_is_noticed():
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=25)})
    found = pg.Independent(random_state=0, draws=20).fit(table).calibrate(4)
    assert not [name for name in found.ranks if str(name).startswith("probs")]
    assert any("probs_0 follows the table" in note for note in found.notes)


def line(batch):
    """A regression whose posterior is normal."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with batch.rows():
        pyro.sample("y", dist.Normal(a + b * batch["x"], 1.0), obs=batch["y"])


def test_a_pair_is_calibrated_in_its_contexts():
    x = np.linspace(-1.0, 1.0, 20)  # orthogonal to the intercept: mean field is exact
    table = pd.DataFrame({"x": x, "y": 1 + x + np.random.default_rng(0).normal(size=20)})
    model = pg.Pair(line, draws=29, random_state=0, max_epochs=100).fit(table, given=["x"])
    with pytest.raises(pg.SchemaError, match="context"):
        model.calibrate(2)
    found = model.calibrate(12, table)
    assert found.ok and {"a", "b"} < set(found.ranks)


@pytest.mark.slow
def test_intervals_of_a_mixture_cover():
    """Stated beforehand: nominal plus or minus 3 binomial standard errors of 60 simulations."""
    found = mixture(40, draws=100).calibrate(60)
    assert len(found) == 60
    for level in (0.5, 0.8, 0.95):
        for what in ("row", "point"):
            names = [name for name in found.ranks if str(name).startswith(f"log p({what}")]
            rate = found.covered[level][names].to_numpy().mean()
            assert abs(rate - level) < 3 * found.coverage_error(level)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_family_is_ranked_or_says_why_not(name):
    own = subject(name)
    model = own.fitted()
    try:
        found = model.calibrate(2, own.table() if own.given else None)
    except pg.NotSupported as error:
        assert "posterior" in str(error)
    else:
        assert len(found) + len(found.failed) == 2 and "log likelihood" in found.ranks


# --- ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "scale", "kind"),
    [(0.6, 1, "biased"), (0, 0.6, "under-dispersed"), (0, 1.7, "over-dispersed"),
     (4, 1, "biased"), (0, 0.01, "under-dispersed")],
)  # fmt: skip
def test_ranks_of_normals(shift, scale, kind):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=150)
    draws = shift + scale * rng.normal(size=(150, 99))
    found = judge((draws < truth[:, None]).sum(1), 99)
    assert found.p < 0.01 and found.kind == kind


def test_uniform_ranks_are_rarely_called_wrong():
    rng = np.random.default_rng(0)
    p = np.array([judge(rng.integers(0, 51, 60), 50).p for _ in range(400)])
    assert (p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_what_neither_mean_nor_variance_shows_is_seen():
    ranks = np.tile([10, 11, 12, 37, 38, 39], 30)  # two heaps, mean and variance of a uniform
    lonely = (ranks - 24.5) / 1.0 + 24.5
    assert judge(lonely.astype(int), 49).p < 0.001


def test_ranks_among_fewer_draws_stay_uniform():
    rng = np.random.default_rng(0)
    found = [_rank(rng.normal(), rng.normal(size=7), 100, rng) for _ in range(2000)]
    assert 0 <= min(found) and max(found) <= 100
    assert judge(np.array(found), 100).p > 0.01


def test_ties_are_broken_at_random():
    rng = np.random.default_rng(0)
    found = [_rank(0.0, np.zeros(10), 10, rng) for _ in range(500)]
    assert judge(np.array(found), 10).p > 0.01


def test_the_number_of_simulations_that_is_needed():
    assert needed(5, bias=0.2) > needed(5, bias=0.4) > needed(1, bias=0.4) > 10
    bias, narrow, wide = seen_with(needed(5, bias=0.4), 5)
    assert bias == pytest.approx(0.4, abs=0.01) and narrow < 1 < wide
    rng = np.random.default_rng(0)
    n = needed(1, spread=0.7)
    truth = rng.normal(size=(200, n, 1))
    ranks = (0.7 * rng.normal(size=(200, n, 99)) < truth).sum(2)
    seen = np.mean([judge(row, 99).p < 0.05 for row in ranks])
    assert seen > 0.8 - 3 * np.sqrt(0.16 / 200)


def test_the_band_holds_uniform_ranks():
    place, lower, upper = ecdf_band(80, 30, 0.9)
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 31, (1000, 80))
    share = (ranks[:, :, None] < np.rint(place * 31)).mean(1)
    inside = ((share >= lower) & (share <= upper)).all(1).mean()
    assert 0.9 - 3 * np.sqrt(0.09 / 1000) < inside < 0.96


def test_holm_is_never_below_the_single_p():
    p = np.random.default_rng(0).random(20)
    assert (holm(p) >= p).all() and holm(p).max() <= 1


def test_intervals_of_independent_draws_cover_at_their_rate():
    rng = np.random.default_rng(0)
    draws = torch.from_numpy(np.sort(rng.normal(size=(100, 20_000)), 0))
    truth = rng.normal(size=20_000)
    for level in (0.5, 0.8, 0.95):
        lower, upper = (end.numpy() for end in quantiles(draws, level))
        rate = ((truth >= lower) & (truth <= upper)).mean()
        assert abs(rate - level) < 3 * np.sqrt(level * (1 - level) / 20_000) + 0.002

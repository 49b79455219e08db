"""Chain diagnostics, and the verdicts of `check`."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import probgen as pg
from probgen.datasets import penguins
from probgen.diagnostics import Finding, Report
from probgen.diagnostics.chains import effective_size, split_rhat
from tests.trusted import KINDS, line, mixture, quietly

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az


@pytest.fixture(scope="module")
def birds():
    return mixture(restarts=2, columns=KINDS).fit(penguins())


# --- chains -----------------------------------------------------------------------------------


def chains(rho: float, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 500, 3))
    for s in range(1, 500):
        draws[:, s] = rho * draws[:, s - 1] + np.sqrt(1 - rho**2) * draws[:, s]
    draws[0] += shift
    return draws


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_effective_size_agrees_with_arviz(rho):
    draws = chains(rho)
    expected = [float(az.ess(draws[:, :, i], method="mean")) for i in range(3)]
    np.testing.assert_allclose(effective_size(draws), expected, rtol=0.08)


def test_rhat_agrees_with_arviz_and_sees_a_shift():
    assert split_rhat(chains(0.0)).max() < 1.01
    shifted = chains(0.0, shift=2.0)
    expected = [float(az.rhat(shifted[:, :, i], method="split")) for i in range(3)]
    np.testing.assert_allclose(split_rhat(shifted), expected, rtol=1e-6)
    assert min(expected) > 1.1
    assert split_rhat(np.zeros((2, 8, 1))) == 1.0


# --- verdicts ---------------------------------------------------------------------------------


def status(report: Report, name: str) -> str:
    return next(finding.status for finding in report.findings if finding.name == name)


def test_a_good_fit_gets_both():
    model = mixture(restarts=2, components=1, draws=100).fit(line(300))
    report = model.check(line(200, seed=1), train=line(300))
    assert (report.density, report.intervals) == ("yes", "yes")
    assert status(report, "floor") == status(report, "restarts") == "ok"
    assert status(report, "train against table") == "ok"


def test_without_rows_nothing_is_promised(birds):
    report = birds.check()
    assert (report.density, report.intervals) == ("unknown", "unknown")
    assert report.reasons("density") == ["floor"]


def test_a_fit_that_was_stopped_is_fit_for_nothing():
    model = quietly(mixture(max_epochs=1, starts=1, draws=4).fit, penguins())
    report = model.check(penguins())
    assert not model.converged_
    assert (report.density, report.intervals) == ("no", "no")
    assert "convergence" in report.reasons("density")


def test_rows_from_elsewhere_fall_below_the_floor():
    turned = line(100, seed=1).assign(y=lambda rows: -rows["y"])
    report = mixture(components=1).fit(line(100)).check(turned)
    assert report.density == "no" and status(report, "floor") == "fail"


def test_impossible_rows_are_seen():
    rng = np.random.default_rng(0)
    table = line(100).assign(t=rng.exponential(size=100))
    model = mixture(columns={"t": "positive"}).fit(table)
    table.loc[5, "t"] = -1.0
    with pytest.warns(pg.DataWarning):
        report = model.check(table)
    assert status(report, "support") == "fail" and report.density == "no"


def test_levels_never_seen_do_not_stop_the_check(birds):
    table = penguins().head(60).astype({"species": object})
    table.loc[3, "species"] = "Macaroni"
    assert birds.check(table).findings


def test_overfitting_is_noticed():
    train, held = line(40), line(400, seed=1)
    model = mixture(components=12, spread=0.001, posterior="mean_field").fit(train)
    assert status(model.check(held, train=train), "train against table") == "fail"


def test_mean_field_of_overlapping_components_has_no_intervals():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=400) + 3.0 * rng.integers(2, size=400)})
    table["y"] = table["x"] + 0.5 * rng.normal(size=400)
    model = mixture(components=2, posterior="mean_field", draws=100).fit(table)
    report = model.check(table, train=table)
    assert report.intervals == "no" and report.density == "unknown"  # in sample
    assert "too narrow" in str(report) and "gibbs" in str(report)


@pytest.mark.parametrize("apart, verdict", [(1.5, "no"), (8.0, "yes")])
def test_a_chain_over_components_that_share_rows_has_no_intervals(apart, verdict):
    def rows(n, seed):
        rng = np.random.default_rng(seed)
        return pd.DataFrame({"x": rng.normal(size=n) + apart * rng.integers(2, size=n)})

    train, held = rows(200, 0), rows(200, 1)
    model = mixture(components=2, posterior="gibbs", draws=400).fit(train)
    report = model.check(held, train=train)
    assert report.density == "yes" and report.intervals == verdict, str(report)
    assert (status(report, "overlap of components") == "ok") == (verdict == "yes")


def test_mean_field_without_the_fitted_rows_is_unknown():
    model = mixture(components=1, posterior="mean_field").fit(line(100))
    report = model.check(line(100, seed=1))
    assert report.intervals == "unknown"
    assert report.reasons("intervals") == ["k-hat of the guide"]


def test_too_few_draws_give_no_intervals(birds):
    report = birds.check(penguins())
    assert status(report, "mixing of the chain") == "fail"  # 20 draws a restart
    assert report.intervals == "no" and "mixing of the chain" in report.reasons("intervals")


def test_empty_components_are_counted():
    table = line(200)
    model = mixture(components=10, draws=4).fit(table)
    held = model.latent(table).sum()
    report = model.check(table)
    expected = "note" if (held < 1).any() else "ok"
    assert status(report, "empty components") == expected


def test_independent_columns_are_no_worse_than_themselves():
    report = pg.Independent(random_state=0, draws=4).fit(penguins()).check(penguins())
    assert status(report, "floor") in ("ok", "note")
    assert report.reasons("density") == ["pairs"]  # they miss what links the columns


def test_report_forms():
    found = Finding("floor", "fail", ("density",), "1 < 2 nats", "fit <more>")
    report = Report((found, Finding("posterior", "ok", ("intervals",), "draws")))
    assert (report.density, report.intervals) == ("no", "no")
    text = str(report)
    assert "fit for density" in text and "do: fit <more>" in text and repr(report) == text
    assert max(map(len, text.splitlines())) < 100
    as_dict = report.to_dict()
    assert as_dict["density"] == "no" and as_dict["findings"][0]["text"] == "1 < 2 nats"
    assert as_dict["reasons"] == {"density": ["floor"], "intervals": ["floor"]}
    html = report._repr_html_()
    assert "1 &lt; 2 nats" in html and "<more>" not in html


def test_checking_changes_nothing(birds):
    table = penguins()
    before, state = table.copy(), torch.get_rng_state()
    one, two = birds.check(table), birds.check(table)
    assert one == two
    pd.testing.assert_frame_equal(table, before)
    assert torch.equal(state, torch.get_rng_state())

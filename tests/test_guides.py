"""Guides of the globals by name: what they represent, and what k-hat says of them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import probgen as pg
from benchmarks.guides import NAMES, correlated, exact, khat, regression
from probgen.pairs import bending
from probgen.pairs.flow import Bend, Joint
from probgen.pairs.guides import FEW, chosen
from tests import pairs
from tests.pairs import fit


def two(batch):
    """Two globals, one of them positive."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with batch.rows():
        pyro.sample("y", dist.Normal(a, s), obs=batch["y"])


def numbers(n: int = 30) -> pd.DataFrame:
    return pd.DataFrame({"y": np.random.default_rng(0).normal(0.5, 1.0, n)})


def guide_of(model):
    return model.members_[0].global_guide


# --- names --------------------------------------------------------------------------------------


def test_auto_goes_by_the_number_of_globals():
    assert chosen("auto", FEW) == "multivariate" and chosen("auto", FEW + 1) == "mean_field"
    assert chosen("mean_field", 3) == "mean_field"
    assert guide_of(fit(numbers(), two, max_epochs=1)).kind == "multivariate"
    assert guide_of(fit(numbers(), two, "mean_field", max_epochs=1)).kind == "mean_field"


def test_a_function_and_the_name_of_what_it_lacks():
    def guide(batch):
        pyro.sample("a", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))

    model = fit(numbers(), two, guide, globals_guide="mean_field", max_epochs=1)
    assert guide_of(model).names == ["s"] and guide_of(model).kind == "mean_field"


def test_names_that_are_wrong():
    for settings, text in (
        ({"guide": "normal"}, "guide='normal'; needed a Pyro function.*'multivariate'"),
        ({"globals_guide": "normal"}, "globals_guide='normal'"),
        ({"guide": "flow", "globals_guide": "mean_field"}, "pass guide='flow' alone"),
    ):
        with pytest.raises(pg.SchemaError, match=text):
            pg.Pair(two, **settings).fit(numbers())


# --- the flow -----------------------------------------------------------------------------------


def bent(size: int, layers: int = 1) -> Bend:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Bend(size, layers)
        for weight in flow.parameters():
            weight.data += 10 * torch.randn_like(weight)
    return flow


@pytest.mark.parametrize(("size", "layers"), [(1, 1), (3, 1), (4, 2)])
def test_a_bend_is_triangular_and_can_be_undone(size, layers):
    flow, noise = bent(size, layers), torch.linspace(-1.5, 1.0, size).double()
    image, slope = flow(noise)
    assert not torch.allclose(image, noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e)[0], noise)
    assert jacobian.triu(1).abs().max() == 0
    assert torch.allclose(jacobian.diagonal().log(), slope)
    back, again = flow.solve(noise[:0], image)
    assert torch.allclose(back, noise, atol=1e-9) and torch.allclose(again, slope, atol=1e-9)


def test_a_bend_starts_as_the_identity():
    noise = torch.linspace(-7, 7, 12, dtype=torch.float64).reshape(4, 3)
    image, slope = Bend(3)(noise)
    assert torch.allclose(image, noise) and slope.abs().max() < 1e-12


def test_the_still_gradient_is_that_in_the_value_alone():
    flow, root = bent(3), torch.tensor([[1.0, 0, 0], [0.5, 2, 0], [-1, 0.3, 0.7]]).double()
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng():
        joint = Joint(flow, shift, root)
    value, log_q, still = joint.drawn()

    def density(at):
        image = torch.linalg.solve_triangular(root, at[:, None], upper=False)[:, 0]
        noise, slope = flow.solve(at[:0], image)
        base = dist.StudentT(torch.tensor(10.0).double()).log_prob(noise)
        return (base - slope - root.diagonal().log()).sum()

    at = value.detach().clone().requires_grad_()
    wanted = density(at)
    assert torch.allclose(wanted, log_q.sum()) and torch.allclose(wanted, still.sum())
    [slope] = torch.autograd.grad(wanted, at)
    [found] = torch.autograd.grad(still.sum(), shift)
    assert torch.allclose(found, slope, atol=1e-8)


def short_flow():
    """A flow that is bent by a part of its schedule."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bending, "STEPS", 60)
        return fit(numbers(), two, "flow", max_epochs=3)


@pytest.fixture(scope="module")
def flow_fit():
    return short_flow()


def test_densities_of_the_sites_multiply_to_one_that_integrates_to_one(flow_fit):
    from probgen.diagnostics.posterior import log_globals
    from probgen.queries.draws import one_row
    from probgen.session import guarded

    member = flow_fit.members_[0]
    found = flow_fit.parameters(0.9)
    assert (found["sd"] > 0).all()
    side = torch.linspace(-6, 6, 25, dtype=torch.float64)
    loc, sd = found["mean"].to_numpy(), found["sd"].to_numpy()
    total, one = 0.0, one_row(member)
    with torch.no_grad(), guarded(0):
        for x in loc[0] + sd[0] * side:
            for y in loc[1] + sd[1] * side:
                if y > 0:
                    total += float(log_globals(member.guide, one, {"a": x, "s": y}).exp())
    area = float((side[1] - side[0]) ** 2) * sd[0] * sd[1]
    assert abs(total * area - 1) < 0.01


def test_a_flow_is_saved_and_loaded(flow_fit, tmp_path):
    flow_fit.save(tmp_path / "model")
    again = pg.load(tmp_path / "model", model=two)
    assert again.guide == "flow"
    assert (again.log_prob(numbers()) == flow_fit.log_prob(numbers())).all()


def test_the_same_seed_gives_the_same_flow(flow_fit):
    again = short_flow()
    assert all(torch.equal(v, again.members_[0].tensors()[k])
               for k, v in flow_fit.members_[0].tensors().items())  # fmt: skip


def test_a_function_that_cannot_be_vectorised(monkeypatch):
    def model(batch):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        loc = a if float(a) > -100 else -a
        with batch.rows():
            pyro.sample("y", dist.Normal(loc, 1.0), obs=batch["y"])

    monkeypatch.setattr(bending, "STEPS", 5)
    found = fit(numbers(), model, "flow", max_epochs=2).parameters()
    exact_mean = numbers()["y"].sum() / 31
    assert abs(found.loc["a", "mean"] - exact_mean) < 0.2


# --- the correlated regression ----------------------------------------------------------------


def test_correlated_predictors():
    """Mean field is rejected and too narrow, multivariate is not."""
    table, _ = correlated(0)
    sd = exact(table)[1][0, 0] ** 0.5
    found = {}
    for guide in ("mean_field", "multivariate"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = pg.Pair(regression, guide=guide, draws=300, random_state=0)
            model.fit(table, given=NAMES)
        found[guide] = model.parameters().loc["b[0]", "sd"] / sd, khat(model, table)
        if guide == "mean_field":
            assert model.check(table, train=table).intervals == "no"
        else:
            assert model.check(table, train=table).intervals != "no"
    narrow, right = found["mean_field"], found["multivariate"]
    assert narrow[0] < 0.4 and narrow[1] > 0.7
    assert abs(right[0] - 1) < 4 / (2 * 300) ** 0.5 + 0.05 and right[1] < 0.7


# --- the verb ---------------------------------------------------------------------------------


def test_parameters_are_read_from_the_draws():
    table = pairs.hierarchical_table()
    model = fit(table, pairs.hierarchical, given=pairs.HIERARCHICAL_GIVEN, max_epochs=2)
    found, draws = model.parameters(interval=0.5), model._with_draws.draws[0]
    assert list(found.columns) == ["site", "index", "mean", "sd", "lower", "upper", "units"]
    assert found.index.tolist() == [
        "mean", "spread", "slope", "sigma", "offset[0]", "offset[1]", "offset[2]",
    ]  # fmt: skip
    offset = draws["offset"][:, 1].numpy()
    row = found.loc["offset[1]"]
    assert row["mean"] == pytest.approx(offset.mean())
    assert row["lower"] == pytest.approx(np.quantile(offset, 0.25, method="weibull"))
    assert (found["units"] == "table").all() and row["index"] == "1"


def test_parameters_of_other_families():
    from probgen.datasets import penguins

    table = penguins()[["bill_length_mm", "species"]]
    model = pg.GaussianMixture(components=2, draws=20, random_state=0).fit(table)
    found = model.parameters()
    assert {"weights[0]", "weights[1]"} <= set(found.index)
    assert (found["units"] == "encoded").all() and (found["lower"] <= found["upper"]).all()
    with pytest.raises(pg.NotSupported, match="point estimate"):
        pg.StudentT(random_state=0).fit(table[["bill_length_mm"]]).parameters()
    with pytest.raises(pg.SchemaError, match="interval=1.5"):
        model.parameters(1.5)


def test_a_flow_that_cannot_be_bent_says_so():
    def branching(batch):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        loc = a if a > 0 else 2 * a
        with batch.rows():
            pyro.sample("y", dist.Normal(loc, 1.0), obs=batch["y"])

    table = pd.DataFrame({"y": np.random.default_rng(0).normal(1.0, 1.0, 30)})
    model = pg.Pair(branching, guide="flow", max_epochs=3, draws=10, random_state=0)
    with pytest.warns(pg.ApproximationWarning, match="guide='multivariate'"):
        model.fit(table)

"""Conditionals and marginals of families without closed forms, against exact answers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats as st
import torch

import probgen as pg
from probgen import queries
from probgen.batch import Batch
from probgen.datasets import penguins
from probgen.errors import NotSupported, SchemaError
from probgen.queries import Companion, Predictive
from probgen.queries.pareto import pareto_k
from probgen.queries.resampling import _shapes
from tests.query_toys import Factor, Labelled, Mixed
from tests.whole import WholeMixture, whole

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def exact():
    return pg.GaussianMixture(6, random_state=0, draws=2).fit(penguins())


@pytest.fixture(scope="module")
def generic():
    return WholeMixture(6, random_state=0, draws=2).fit(penguins())


@pytest.fixture(scope="module")
def holed(exact):
    rows = exact.sample(220, random_state=1)
    hide = np.random.default_rng(0).random(rows.shape) < 0.5
    return rows.mask(hide).loc[lambda t: t.notna().any(axis=1) & t.isna().any(axis=1)]


# --- log densities -------------------------------------------------------------------------


def test_marginals_agree_with_the_exact_ones(exact, generic, holed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.ApproximationWarning)
        found = generic.log_prob(holed, details=True)
    assert (found["method"] == "importance").all() and (found["se"] > 0).mean() > 0.9
    sound = found["khat"] <= 0.7
    assert sound.mean() > 0.8
    z = (found["log_prob"] - exact.log_prob(holed)) / found["se"].clip(lower=1e-9)
    assert (z[sound].abs() < 3).mean() >= 0.99
    assert 0.5 < z[sound].std() < 1.5


@pytest.mark.parametrize("other", ["few", "diagonal"])
def test_a_different_companion_gives_the_same_answers(exact, generic, holed, other):
    """Marginals and conditionals within three stated errors in 99 % of the trusted cases."""
    kinds = {"few": {"components": 2}, "diagonal": {"components": 3, "covariance": "diag"}}
    far = pg.GaussianMixture(random_state=9, draws=0, schema=exact.schema_, **kinds[other])
    rows = exact.sample(3000, random_state=4)
    parts = [far.fit(rows).members_[0]]
    model = generic.with_companion(Companion(parts))
    names = list(holed.columns)
    known = holed[names[::2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.ApproximationWarning)
        pairs = [
            (model.log_prob(holed, details=True), exact.log_prob(holed)),
            (model.log_prob(holed[names[1::2]], given=known, details=True),
             exact.log_prob(holed[names[1::2]], given=known)),
        ]  # fmt: skip
    z = pd.concat([
        ((f["log_prob"] - wanted) / f["se"].clip(lower=1e-9))[~(f["khat"] > 0.7)]
        for f, wanted in pairs
    ])  # fmt: skip
    assert len(z) > 250 and (z.abs() < 3).mean() >= 0.99


def test_whole_rows_stay_exact(exact, generic):
    rows = exact.sample(20, random_state=2)
    found = generic.log_prob(rows, details=True)
    np.testing.assert_allclose(found["log_prob"], exact.log_prob(rows), atol=1e-9)
    assert (found["se"] == 0).all() and (found["method"] == "exact").all()


def test_estimates_ignore_the_other_rows(generic, holed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.ApproximationWarning)
        together = generic.log_prob(holed.head(12))
        alone = pd.concat([generic.log_prob(holed.iloc[[i]]) for i in range(12)])
        turned = generic.log_prob(holed.head(12).iloc[::-1]).iloc[::-1]
        doubled = generic.log_prob(pd.concat([holed.head(12)] * 2))
    np.testing.assert_allclose(alone, together, rtol=1e-12)
    np.testing.assert_allclose(turned, together, rtol=1e-12)
    np.testing.assert_allclose(doubled, np.tile(together, 2), rtol=1e-12)


def test_rows_of_holes_have_density_one(generic):
    empty = penguins().head(2).assign(**dict.fromkeys(penguins().columns))
    assert (generic.log_prob(empty) == 0).all()


def test_intervals_of_rows_with_holes(generic, holed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.ApproximationWarning)
        found = generic.log_prob(holed.head(8), interval=0.8)
    assert (found["lower"] <= found["upper"]).all() and found.notna().all(axis=None)


def test_poor_weights_are_said_and_strict_is_an_error(exact, generic, holed):
    point = pg.GaussianMixture(1, covariance="diag", random_state=0, schema=exact.schema_)
    narrow = exact.sample(400, random_state=0).query("species == 'Gentoo'")
    poor = generic.with_companion(Companion([point.fit(narrow).members_[0]]))
    with pytest.warns(pg.ApproximationWarning, match=r"found .*k-hat.*; needed .*; do: "):
        poor.log_prob(holed)
    with pytest.raises(pg.ApproximationError, match="k-hat"):
        poor.log_prob(holed, strict=True)
    with pytest.raises(pg.ApproximationError, match="conditional draws"):
        poor.sample(1, given=holed, strict=True)
    with pytest.raises(pg.ApproximationError, match="imputed"):
        poor.impute(holed, draws=1, strict=True)


def test_without_a_companion_holes_are_refused(exact):
    family = whole(exact.members_[0])
    batch = Batch.of(torch.zeros(2, len(exact.schema_.slots), dtype=F64))
    batch.seen[:, 0] = False
    batch.complete = False
    for ask in (
        lambda p: queries.log_prob(p, batch), lambda p: queries.sample(p, batch, generator())
    ):  # fmt: skip
        with pytest.raises(NotSupported, match=r"found rows with holes.*; needed .*; do: "):
            ask(Predictive([family], [{}]))


def test_shares_of_a_companion_are_checked(exact):
    with pytest.raises(SchemaError, match="shares"):
        Companion([exact.members_[0]], [0.5])


# --- draws ---------------------------------------------------------------------------------


def test_conditional_rows_of_a_family_that_scores_whole_rows(exact, generic):
    given = {"species": "Adelie", "body_mass_g": 3700}
    found = generic.sample(500, given=given, random_state=0)
    assert len(found) == 500 and (found[list(given)] == pd.Series(given)).all(axis=None)
    assert found.attrs["method"] == "resampling" and found.attrs["ess"] > 1
    assert exact.sample(5, given=given).attrs == {}
    wanted = exact.sample(500, given=given, random_state=1)
    assert list(found.dtypes) == list(wanted.dtypes)
    for name in ("bill_length_mm", "bill_depth_mm"):
        assert st.ks_2samp(found[name], wanted[name]).pvalue > 1e-3
    for rows in (found, wanted):
        rows["score"] = exact.log_prob(rows)
    se = math.hypot(found["score"].std(), wanted["score"].std()) / math.sqrt(500)
    assert abs(found["score"].mean() - wanted["score"].mean()) < 4 * se


def test_row_by_row_and_seeds(generic):
    known = penguins()[["species", "sex"]].iloc[[0, 200]]
    one, two = (generic.sample(3, given=known, random_state=5) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 6 and one["species"].tolist() == np.repeat(known["species"], 3).tolist()
    assert one["body_mass_g"].nunique() > 2


def test_latents_complete_rows():
    """A linear-Gaussian pair: draws of two hidden columns against their exact conditional."""
    family = Factor(widen=1.3)
    n = 2000
    x = torch.tensor([[0.7, 0.0, -1.0, 0.0]], dtype=F64).expand(n, 4)
    seen = torch.tensor([True, False, True, False]).expand(n, 4)
    drawn = queries.draw(Predictive([family], [{}]), Batch.of(x, seen), generator())
    cov = (family.weight @ family.weight.T + 0.64 * torch.eye(4, dtype=F64)).detach()
    a, b = [1, 3], [0, 2]
    gain = cov[a][:, b] @ torch.linalg.inv(cov[b][:, b])
    mean = family.bias.detach()[a] + gain @ (x[0, b] - family.bias.detach()[b])
    spread = cov[a][:, a] - gain @ cov[b][:, a]
    root = torch.linalg.cholesky(spread)
    white = torch.linalg.solve_triangular(root, (drawn.x[:, a] - mean).T, upper=False).T
    for column in white.T.numpy():
        assert st.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(white.T.numpy())[0, 1]) < 4 / math.sqrt(n)
    assert drawn.method == "resampling" and (drawn.ess > 10).all()
    assert torch.equal(drawn.x[seen], x[seen])


class TwoLabels(Labelled):
    """Two independent labels of a row, both enumerated, decide its columns together."""

    def model(self, batch):
        infer = {"enumerate": "parallel"}
        with batch.rows():
            a = pyro.sample("a", dist.Categorical(logits=self.logits), infer=infer)
            b = pyro.sample("b", dist.Categorical(logits=self.logits[:2]), infer=infer)
            for j in range(self.m):
                batch.observe(f"x{j}", dist.Normal(self.loc[a, j] + 2.0 * b, 1.0), [j])

    def joint(self, x, seen):
        """Log joint (n, labels of a, labels of b) of the seen cells."""
        loc = self.loc[:, None] + 2.0 * torch.arange(2.0, dtype=F64)[None, :, None]
        cell = dist.Normal(loc, 1.0).log_prob(x[:, None, None]) * seen[:, None, None]
        weights = self.logits.log_softmax(0)[:, None] + self.logits[:2].log_softmax(0)
        return cell.sum(-1) + weights


@pytest.mark.parametrize("make", [Labelled, TwoLabels])
def test_enumerated_labels_complete_rows(make):
    family, n = make(m=3), 2000
    x = torch.tensor([[0.4, 0.0, 1.0]], dtype=F64).expand(n, 3)
    seen = torch.tensor([True, False, True]).expand(n, 3)
    drawn = queries.sample(Predictive([family], [{}]), Batch.of(x, seen), generator(3))[:, 1]
    if make is Labelled:
        cell = dist.Normal(family.loc, family.scale).log_prob(x[:1, None]) * seen[:1, None]
        share = (cell.sum(-1) + family.logits.log_softmax(-1)).softmax(-1)[0]
        parts = list(zip(share, family.loc[:, 1], family.scale[:, 1], strict=True))
    else:
        share = family.joint(x[:1], seen[:1])[0]
        share = share.flatten().softmax(0).reshape(share.shape)
        parts = [(share[a, b], family.loc[a, 1] + 2.0 * b, 1.0)
                 for a in range(share.shape[0]) for b in range(2)]  # fmt: skip

    parts = [tuple(float(torch.as_tensor(number).detach()) for number in part) for part in parts]

    def cdf(value):
        return sum(w * st.norm.cdf(value, m, s) for w, m, s in parts)

    assert st.kstest(drawn.detach().numpy(), cdf).pvalue > 1e-3


def test_draws_of_the_globals_are_picked_by_the_seen_cells():
    class Level(Factor):
        """Two columns around an unknown level; the draws of the level are far apart."""

        def model(self, batch):
            level = pyro.sample("level", dist.Normal(self.bias.sum() * 0, 10.0))
            with batch.rows():
                z = pyro.sample("z", dist.Normal(level.expand(len(batch)), 0.1))
                for j in range(2):
                    batch.observe(f"x{j}", dist.Normal(z, 0.5), [j])

        def guide(self, batch):
            pyro.sample("level", dist.Normal(self.bias.sum() * 0, 10.0))

    levels = torch.linspace(-20, 20, 9, dtype=F64)
    x = torch.tensor([[10.3, 0.0]], dtype=F64).expand(600, 2)
    seen = torch.tensor([True, False]).expand(600, 2)
    predictive = Predictive([Level(m=2)], [{"level": levels}])
    drawn = queries.draw(predictive, Batch.of(x, seen), generator())
    assert (drawn.x[:, 1] - 10.0).abs().max() < 3.0


def test_context_is_kept_while_cells_are_drawn():
    n = 800
    batch = Batch.of(
        torch.tensor([[3.0, 0.0]], dtype=F64).expand(n, 2),
        torch.tensor([True, False]).expand(n, 2),
        context=torch.full((n, 1), 2.0, dtype=F64),
    )
    label = queries.sample(Predictive([Mixed()], [{}]), batch, generator())[:, 1]
    assert (label == 2).double().mean() > 0.95  # z is near 1, and the logits are (-8, 0, 8) z


def test_a_number_beside_an_atom_slot_that_says_so_is_a_hole():
    """Known to hold no atom, but not which number: a row that is not seen in whole."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    table = pd.DataFrame(
        {"a": z + 0.3 * rng.normal(size=300), "s": np.where(rng.random(300) < 0.5, 0.0, np.exp(z))}
    )
    exact = pg.GaussianMixture(2, random_state=0, draws=0).fit(table)
    member = whole(exact.members_[0])
    assert [slot.name for slot in exact.schema_.slots] == ["a", "s[atom]", "s"]
    x = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=F64)
    seen = torch.tensor([[True, True, False]] * 3)
    batch = Batch.of(x, seen)
    predictive = Predictive([member], [{}], companion=lambda: Companion([exact.members_[0]]))
    found = queries.log_prob(predictive, batch).value
    own = exact.members_[0].exact_log_prob(batch, None)
    assert torch.allclose(found, own, atol=1e-6)  # a companion that is the model itself
    many = batch.take(torch.tensor([0, 1, 2]).repeat_interleave(200))
    drawn = queries.sample(predictive, many, generator())[:, 2].view(3, 200)
    assert drawn[0].mean() > 0.3 and drawn[1].mean() < -0.3 and (drawn[2] == 0).all()


def test_the_shape_of_weights_is_pooled_within_one_context_only():
    x = torch.zeros(4, 1, dtype=F64)
    context = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=F64)
    batch = Batch.of(x, context=context)
    steps = torch.linspace(0, 1, 64, dtype=F64)[:, None]
    weights = steps * torch.tensor([1.0, 20.0, 5.0, 0.1], dtype=F64)
    assert torch.equal(_shapes(batch, weights), pareto_k(weights))
    alike = Batch.of(x, context=torch.zeros_like(context))
    assert len(_shapes(alike, weights).unique()) == 1


def test_imputing_says_where_its_draws_cannot_be_trusted():
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    table = pd.DataFrame({"a": z, "b": z + 0.1 * rng.normal(size=300)})
    model = WholeMixture(2, random_state=0, draws=0).fit(table)
    near = pg.GaussianMixture(1, random_state=0, draws=0, schema=model.schema_).fit(0.02 * table)
    doubtful = model.with_companion(Companion(near.members_))
    holed = pd.DataFrame({"a": [2.0, 1.0], "b": np.nan})
    with pytest.warns(pg.ApproximationWarning, match="imputed values"):
        doubtful.impute(holed)
    with pytest.warns(pg.ApproximationWarning, match="imputed draws"):
        doubtful.impute(holed, draws=1, random_state=0)

"""What `Schema.infer` decides, what the schema stores, and its log-determinants."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from probgen.columns import Column
from probgen.errors import DataWarning, SchemaError
from probgen.schema import Schema
from probgen.table import decode, encode

N = 400


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def infer_one(values: object, override: object = None, **kwargs: object) -> Column:
    frame = pd.DataFrame({"a": values})
    return Schema.infer(frame, {} if override is None else {"a": override}, **kwargs).columns[0]


def quiet(values: object, override: object = None, **kwargs: object) -> Column:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return infer_one(values, override, **kwargs)


DRAWS = {
    "normal": (lambda r: r.normal(size=N), "real"),
    "normal far from 0": (lambda r: r.normal(50, 5, N), "real"),
    "uniform stays unbounded": (lambda r: r.random(N), "real"),
    "log-normal": (lambda r: r.lognormal(size=N), "positive"),
    "exponential": (lambda r: r.exponential(size=N), "positive"),
    "Poisson": (lambda r: r.poisson(4, N), "count"),
    "whole floats with holes": (lambda r: [np.nan, *r.poisson(4, N).astype(float)], "count"),
    "whole with negatives": (lambda r: r.integers(-5, 6, N), "real"),
    "whole with a step": (lambda r: 25 * r.integers(108, 250, N), "real"),
    "texts": (lambda r: r.choice(list("xyz"), N), "category"),
    "booleans": (lambda r: r.random(N) < 0.4, "boolean"),
    "object booleans": (lambda r: pd.Series([True, None, False] * N, dtype=object), "boolean"),
    "dates": (lambda r: pd.date_range("2020", periods=N), "date"),
    "durations": (lambda r: pd.to_timedelta(r.normal(9, 1, N), unit="h"), "real"),
    "category": (lambda r: pd.Categorical(r.choice(list("xy"), N)), "category"),
    "ordered": (lambda r: pd.Categorical(r.choice(list("xy"), N), ordered=True), "ordered"),
}


@pytest.mark.parametrize("case", DRAWS)
def test_kind_is_inferred(case: str, rng: np.random.Generator) -> None:
    draw, kind = DRAWS[case]
    column = infer_one(draw(rng))
    assert column.kind == kind
    assert column.why


@pytest.mark.parametrize("case", ["normal", "normal far from 0", "log-normal", "exponential"])
@pytest.mark.parametrize("c", [2.54, 1e-12, 2.0**40])
def test_kind_and_scale_follow_a_change_of_unit(
    case: str, c: float, rng: np.random.Generator
) -> None:
    values = DRAWS[case][0](rng)
    one, other = infer_one(values), infer_one(values * c)
    assert one.kind == other.kind
    x = [(column.forward(v) - column.loc) / column.scale
         for column, v in ((one, values), (other, values * c))]  # fmt: skip
    np.testing.assert_allclose(x[0], x[1], rtol=0, atol=1e-12)
    if one.kind == "real" and c == 2.0**40:
        assert np.array_equal(x[0], x[1])


def test_atom_at_zero_leaves_a_positive_rest(rng: np.random.Generator) -> None:
    values = np.where(rng.random(N) < 0.3, 0.0, rng.lognormal(size=N))
    column = infer_one(values)
    assert (column.kind, column.atoms) == ("positive", (0.0,))
    schema = Schema((column,))
    assert [(s.name, s.kind, s.size) for s in schema.slots] == [
        ("a[atom]", "category", 2), ("a", "real", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_bootstrapped_and_repeated_rows_are_no_atoms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=50)
    assert infer_one(rng.choice(values, 500)).atoms == ()
    assert infer_one(np.repeat(values, 100)).atoms == ()


def test_a_peak_of_a_rounded_column_is_no_atom(rng: np.random.Generator) -> None:
    assert quiet(np.round(rng.standard_cauchy(5000) / 4, 1)).atoms == ()
    values = np.round(rng.normal(5, 2, 2000), 1)
    values[:600] = 3.0
    assert infer_one(values).atoms == (3.0,)


@pytest.mark.parametrize("step", [0.1, 0.01, 0.25, 0.05, 2.5])
@pytest.mark.parametrize("c", [1.0, 2.54, 1e-9])
def test_rounding_is_noticed_in_any_unit(step: float, c: float, rng: np.random.Generator) -> None:
    values = np.rint(rng.normal(40, 50 * step, 2000) / step) * step * c
    assert infer_one(values).grid == pytest.approx(step * c, rel=1e-9)
    assert infer_one(values, dequantise=False).grid is None


def test_full_precision_has_no_grid(rng: np.random.Generator) -> None:
    values = rng.normal(size=N)
    assert infer_one(values).grid is None
    assert infer_one(rng.choice(values, 2 * N)).grid is None
    assert infer_one(np.round(rng.normal(size=N), 1).astype(np.float32)).grid == 0.1


def test_a_handful_of_numbers_without_a_step_are_levels(rng: np.random.Generator) -> None:
    column = infer_one(rng.choice([np.pi, np.e, 1.1], 100))
    assert (column.kind, column.levels) == ("ordered", (1.1, np.e, np.pi))
    assert infer_one([0.0] * 99 + [5.5]).kind == "ordered"
    assert infer_one([1.5, 1.5, 2.7]).kind == "real"


def test_whole_numbers_with_a_step_are_gridded() -> None:
    values = [3750, 3800, 3250, 3450, 3650, 3625, 4675, 3475, 4250, 3300] * 3
    assert (infer_one(values).kind, infer_one(values).grid) == ("real", 25.0)
    assert infer_one([0, 10, 20] * 9).kind == "count"  # three values prove no step


def test_bounds_come_only_from_the_override(rng: np.random.Generator) -> None:
    values = rng.uniform(2, 8, N)
    assert infer_one(values).support() == (-np.inf, np.inf)
    spec = {"kind": "bounded", "lower": 0, "upper": 10}
    assert infer_one(values, spec).support() == (0.0, 10.0)
    with pytest.raises(SchemaError, match="outside the support of column 'a'"):
        infer_one(values, "unit")
    with pytest.raises(SchemaError, match="lower < upper"):
        infer_one(values, {"kind": "bounded", "lower": 3})


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("colour", "kind 'colour'"),
        ({"kinds": "real"}, "keys among"),
        ({"kind": "real", "lower": 0}, "'lower'"),
        ({"levels": [1, 2]}, "leaves out"),
        ("date", "kind 'date'"),
    ],
)
def test_a_wrong_override_is_an_error(override: object, match: str) -> None:
    with pytest.raises(SchemaError, match=match):
        infer_one([1.5, 2.5, 3.25], override)
    with pytest.raises(SchemaError, match="unknown column"):
        Schema.infer(pd.DataFrame({"a": [1, 2]}), {"b": "real"})


def test_unused_levels_are_kept() -> None:
    levels = ["low", "mid", "high"]
    column = infer_one(pd.Categorical(["low", "high"] * 5, levels, ordered=True))
    assert column.levels == tuple(levels)
    assert Schema((column,)).slots[0].size == 4


def test_identifiers_are_noticed() -> None:
    names = [f"u{i}" for i in range(30)]
    with pytest.raises(SchemaError, match="column 'a' looks like an identifier"):
        infer_one(names)
    assert infer_one(names, "category").kind == "category"
    with pytest.warns(DataWarning, match="row number"):
        infer_one(np.random.default_rng(0).permutation(30))
    with pytest.warns(DataWarning, match="1500 levels"):
        infer_one([f"u{i % 1500}" for i in range(3000)])


@pytest.mark.parametrize("value", [7.5, 7, "x", True, pd.Timestamp("2020-05-01")])
def test_a_constant_column_is_a_certainty(value: object) -> None:
    with pytest.warns(DataWarning, match="column 'a' is constant"):
        schema = Schema.infer(pd.DataFrame({"a": [value] * 5}))
    assert schema.columns[0].role == "constant"
    assert schema.slots == ()
    back = decode(np.zeros((2, 0)), schema)
    assert back["a"].tolist() == [value, value]
    encoded = encode(pd.DataFrame({"a": [value, None]}), schema)
    assert encoded.illegal.tolist() == [False, False]


def test_an_empty_column_is_left_out() -> None:
    frame = pd.DataFrame({"a": [np.nan] * 3, "b": pd.Series([None] * 3, dtype="str")})
    frame["c"] = pd.Categorical([None] * 3, categories=["x"])
    with pytest.warns(DataWarning, match="all missing"):
        schema = Schema.infer(frame)
    assert {c.role for c in schema.columns} == {"empty"}
    pd.testing.assert_frame_equal(decode(np.zeros((3, 0)), schema), frame)
    with pytest.warns(DataWarning, match="all missing at fit"):
        assert not encode(pd.DataFrame({"a": [1.0]}), schema).illegal.any()


def test_one_extreme_value_leaves_a_finite_scale(rng: np.random.Generator) -> None:
    for far in (1e300, -1e300, 1.7e308):
        values = np.append(rng.normal(5, 2, N), far)
        with pytest.warns(DataWarning, match="extreme value in column 'a'"):
            column = infer_one(values)
        assert column.scale == pytest.approx(2, rel=0.2)
        assert column.loc == pytest.approx(5, abs=0.5)
    with pytest.warns(DataWarning, match="heavy tails"):
        assert np.isfinite(infer_one(rng.standard_cauchy(N) ** 3).scale)


def test_context_columns_have_slots_of_their_own(rng: np.random.Generator) -> None:
    frame = pd.DataFrame({"a": rng.normal(size=20), "b": list("xy") * 10})
    schema = Schema.infer(frame, context=["b"])
    assert [s.name for s in schema.slots] == ["a"]
    assert [s.name for s in schema.context_slots] == ["b"]
    encoded = encode(frame, schema)
    assert encoded.x.shape == (20, 1)
    assert encoded.context[:, 0].tolist() == [0, 1] * 10
    assert schema.slots_of(["a", "b"]) == [0]


@pytest.mark.parametrize("shape", [(0, 2), (5, 0), (1, 2)])
def test_too_small_a_table(shape: tuple[int, int]) -> None:
    words = {(0, 2): r"0 sample\(s\)", (5, 0): r"0 feature\(s\) \(shape=\(5, 0\)\)",
             (1, 2): "1 sample"}  # fmt: skip
    with pytest.raises(SchemaError, match=words[shape]):
        Schema.infer(np.ones(shape))


def mixed(rng: np.random.Generator) -> tuple[pd.DataFrame, dict[str, object]]:
    frame = pd.DataFrame(
        {
            "real": rng.normal(100, 3, N),
            "positive": rng.lognormal(3, 1, N),
            "unit": rng.beta(0.5, 0.5, N),
            "bounded": rng.uniform(-3, 7, N),
            "atom": np.where(rng.random(N) < 0.4, 0.0, rng.lognormal(size=N)),
            "count": rng.poisson(3, N),
            "job": rng.choice(["cook", "nurse"], N),
            "grade": pd.Categorical(rng.choice(list("abc"), N), list("cba"), ordered=True),
            "flag": rng.random(N) < 0.5,
            "day": pd.date_range("2020-03-01", periods=N, freq="h", tz="Europe/Paris"),
            "when": pd.Categorical(rng.choice(pd.to_datetime(["2020", "2021"], utc=True), N)),
            "level": rng.integers(0, 3, N),
        }
    )
    return frame, {
        "unit": "unit",
        "bounded": {"kind": "bounded", "lower": -3, "upper": 7.5},
        "level": {"kind": "ordered", "levels": [0, 1, 2, 3]},
    }


def test_json_round_trip(rng: np.random.Generator) -> None:
    frame, override = mixed(rng)
    schema = Schema.infer(frame, override)
    text = schema.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    again = Schema.from_json(text)
    assert again == schema
    assert [type(v) for c in again.columns for v in c.levels or ()] == [
        type(v) for c in schema.columns for v in c.levels or ()
    ]
    for bad in ("", "[]", '{"format": 1}', '{"format": 99, "columns": []}', '{"a": 1}'):
        with pytest.raises(SchemaError):
            Schema.from_json(bad)


@pytest.mark.parametrize("name", ["real", "positive", "unit", "bounded", "day"])
def test_log_det_is_the_derivative(name: str, rng: np.random.Generator) -> None:
    frame, override = mixed(rng)
    column = Schema.infer(frame, override)[name]
    schema = Schema((column,))
    x = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    u = x * column.scale + column.loc
    lower, upper = column.support()
    value = {"positive": torch.exp(u)}.get(name, u)
    if name in ("unit", "bounded"):
        value = lower + (upper - lower) * torch.sigmoid(u)
    (slope,) = torch.autograd.grad(value.sum(), x)
    log_det = schema.log_det(x.detach()[:, None], torch.ones(41, 1, dtype=torch.bool))
    torch.testing.assert_close(log_det, -torch.log(slope), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(column.backward(u.detach().numpy()), value.detach().numpy())
    unseen = schema.log_det(x.detach()[:, None], torch.zeros(41, 1, dtype=torch.bool))
    assert unseen.tolist() == [0.0] * 41
    single = schema.log_det(x.detach().float()[:, None], torch.ones(41, 1, dtype=torch.bool))
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, log_det, rtol=1e-5, atol=1e-5)


def test_log_det_is_stable_in_the_tails() -> None:
    column = Column("a", "bounded", "float64", lower=-3.0, upper=7.0, scale=2.0)
    x = torch.tensor([[-400.0], [400.0]], dtype=torch.float64)
    log_det = Schema((column,)).log_det(x, torch.ones(2, 1, dtype=torch.bool))
    expected = 800 - np.log(2.0) - np.log(10.0)
    np.testing.assert_allclose(log_det.numpy(), [expected, expected])


def test_log_det_sums_over_seen_real_slots(rng: np.random.Generator) -> None:
    frame, override = mixed(rng)
    schema = Schema.infer(frame, override)
    encoded = encode(frame, schema)
    x, seen = torch.tensor(encoded.x), torch.tensor(encoded.seen)
    parts = torch.zeros(N, dtype=torch.float64)
    for name in ("real", "positive", "unit", "bounded", "atom", "day"):
        places = schema.slots_of([name])
        one = Schema((schema[name],))
        parts += one.log_det(x[:, places], seen[:, places])
    torch.testing.assert_close(schema.log_det(x, seen), parts)
    scaled = Schema.infer(frame.assign(real=frame["real"] * 4), override)
    change = scaled.log_det(x, seen) - schema.log_det(x, seen)
    np.testing.assert_allclose(change.numpy(), -np.log(4), rtol=1e-9)


def test_measure_and_describe(rng: np.random.Generator) -> None:
    frame, override = mixed(rng)
    schema = Schema.infer(frame, override)
    measure = schema.measure()
    assert measure["bounded"]["upper"] == 7.5
    assert measure["atom"]["atoms"] == [0.0]
    other = Schema.infer(frame.assign(real=frame["real"] * 2), override)
    assert other.measure() == measure
    table = schema.describe()
    assert table.index.tolist() == list(frame.columns)
    assert table.loc["grade", "kind"] == "ordered"
    assert table.loc["bounded", "why"] == "override: bounded"


def test_lookup_by_name(rng: np.random.Generator) -> None:
    frame, override = mixed(rng)
    schema = Schema.infer(frame, override)
    assert schema.slots_of(["count", "atom"]) == [6, 4, 5]
    with pytest.raises(SchemaError, match="no column 'nope'"):
        schema.slots_of(["nope"])
    assert replace(schema["count"], upper=9.0).support() == (0.0, 9.0)

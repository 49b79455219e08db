"""Events of any shape: the meaning of `DataFrame.query`, and no code that runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probgen.errors import SchemaError
from probgen.events import Event
from probgen.probability.quadrature import GAUSS, KRONROD, NODES, Lattice
from probgen.schema import Schema

FEW = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def _table() -> pd.DataFrame:
    g = np.random.default_rng(0)
    n = 60
    return pd.DataFrame({
        "a": g.normal(0, 2, n).round(3), "b": g.normal(0, 2, n), "n": g.poisson(3, n),
        "job": g.choice(["cook", "nurse", "or and"], n), "flag": g.random(n) < 0.5,
        "a b": g.normal(0, 2, n),
    })  # fmt: skip


TABLE = _table()
SCHEMA = Schema.infer(TABLE)

NUMBERS = st.sampled_from(["0", "1", "-1", "2.5", "1_0", "-0.25", "(1 + 1)", "+3", "1e-1"])
COLUMNS = st.sampled_from(["a", "b", "n", "`a b`"])


@st.composite
def terms(draw: st.DrawFn) -> str:
    column = draw(COLUMNS)
    shape = draw(st.sampled_from(["{c}", "{c}", "{c}", "-{c}", "{c} {o} {v}", "({c} {o} {d})"]))
    sign = draw(st.sampled_from(["+", "-", "*", "/", "%"]))
    divisor = draw(st.sampled_from(["2", "0.5", "3"]))
    value = divisor if sign in "/%" else draw(NUMBERS)
    other = value if sign in "/%" else draw(COLUMNS)
    return shape.format(c=column, o=sign, v=value, d=other)


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    sign = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    kind = draw(st.sampled_from(["number", "number", "chain", "level", "list", "flag", "columns"]))
    if kind == "number":
        return f"{draw(terms())} {draw(sign)} {draw(NUMBERS)}"
    if kind == "columns":
        return f"{draw(terms())} {draw(sign)} {draw(terms())}"
    if kind == "chain":
        return f"{draw(NUMBERS)} {draw(sign)} {draw(COLUMNS)} {draw(sign)} {draw(NUMBERS)}"
    if kind == "level":
        job = draw(st.sampled_from(["'cook'", '"nurse"', "'or and'"]))
        return draw(st.sampled_from([f"job == {job}", f"{job} != job", f"job != {job}"]))
    if kind == "list":
        word = draw(st.sampled_from(["in", "not in", "=="]))
        jobs = draw(st.lists(st.sampled_from(["'cook'", "'or and'"]), min_size=1, max_size=2))
        return f"job {word} [{', '.join(jobs)}]"
    return draw(st.sampled_from(["flag", "~flag", "not flag", "flag == True"]))


@st.composite
def queries(draw: st.DrawFn, depth: int = 2) -> str:
    if depth == 0 or draw(st.booleans()):
        return draw(comparisons())
    left, right = draw(queries(depth - 1)), draw(queries(depth - 1))
    joined = f"{left} {draw(st.sampled_from(['and', 'or', '&', '|']))} {right}"
    wrap = st.sampled_from(["{}", "{}", "({})", "~({})", "not ({})"])
    return draw(wrap).format(joined)


@FEW
@given(queries())
def test_an_event_means_what_query_means(query: str) -> None:
    # the interpreter of pandas in Python: numexpr has rules of its own
    wanted = TABLE.eval(query, engine="python")
    event = Event(query, SCHEMA)
    assert (event.evaluate(TABLE) == np.asarray(wanted, bool)).all(), query
    parts = [part.evaluate(TABLE) for part in event.conjuncts]
    assert (np.logical_and.reduce(parts) == event.evaluate(TABLE)).all()
    # without holes the opposite of an event is where it does not hold
    assert (Event(f"not ({query})", SCHEMA).evaluate(TABLE) == ~event.evaluate(TABLE)).all()


@FEW
@given(queries(), st.integers(0, 2**30))
def test_holes_leave_known_truths_alone(query: str, seed: int) -> None:
    """What an event says of a row with holes is what it says of every way to fill them."""
    holes = np.random.default_rng(seed).random(TABLE.shape) < 0.3
    holed = TABLE.astype(object).mask(holes).astype({"n": "Int64", "flag": "boolean"})
    holed = holed.astype({name: "float64" for name in ("a", "b", "a b")})
    event, opposite = Event(query, SCHEMA), Event(f"~({query})", SCHEMA)
    yes, no = event.evaluate(holed), opposite.evaluate(holed)
    whole = event.evaluate(TABLE)
    assert not (yes & ~whole).any() and not (no & whole).any() and not (yes & no).any()


@FEW
@given(queries(), st.sampled_from(["a", "b", "n", "a b"]))
def test_an_event_only_changes_at_its_turns(query: str, name: str) -> None:
    """Between the turns of its comparisons along one column an event is constant."""
    event = Event(query, SCHEMA)
    rows = {c: np.array([[v]]) for c, v in zip("abn", (0.3, -0.7, 2.0), strict=True)}
    rows |= {"a b": np.array([[1.1]]), "job": np.array([[1.0]]), "flag": np.array([[0.0]])}
    turns = [part.turns(name, rows) for part in event.comparisons if name in part.columns]
    if any(found is None for found in turns):
        return
    flat = np.concatenate([[-50.0, 50.0], *(np.ravel(t) for t in turns if t is not None)])
    ends = np.unique(flat[np.isfinite(flat) & (np.abs(flat) <= 50)])
    for low, high in zip(ends, ends[1:], strict=False):
        inside = np.linspace(low, high, 9)[1:-1]
        truth = np.broadcast_to(event.holds({**rows, name: inside[None, :]})[0], (1, 7))
        if high - low > 1e-9:
            assert truth.all() or not truth.any(), (query, low, high)


@FEW
@given(st.text(alphabet="ab n'\"`@.()[]{}<>=!&|~+-*/%_0123456789,:;#\\\nlambdaif", max_size=60))
def test_any_text_is_an_event_or_a_clear_error(text: str) -> None:
    try:
        event = Event(text, SCHEMA)
    except SchemaError as error:
        assert all(part in str(error) for part in ("found ", "; needed ", "; do: "))
    else:
        assert event.evaluate(TABLE).dtype == bool


@FEW
@given(st.integers(0, 5000), st.integers(1, 3000), st.integers(0, 14))
def test_lattice_rules_sum_polynomials_exactly(start: int, width: int, degree: int) -> None:
    axis = Lattice(np.inf)
    low, high = np.array([start - 0.5]), np.array([start + width - 0.5])
    if axis.coarse(low, high)[0]:
        return
    nodes, weights, _ = axis.rules(low, high)

    def scaled(v: np.ndarray) -> np.ndarray:
        return ((v - start - width / 2) / width) ** degree

    whole = np.arange(start, start + width)
    assert np.isin(nodes, whole).all()
    found, wanted = (weights * scaled(nodes)).sum(), scaled(whole).sum()
    assert abs(found - wanted) <= 1e-9 * max(1.0, np.abs(scaled(whole)).sum())


def test_gauss_and_kronrod_integrate_polynomials() -> None:
    for degree in range(23):
        wanted = (1 - (-1) ** (degree + 1)) / (degree + 1)
        assert abs(KRONROD @ NODES**degree - wanted) < 1e-14
        assert degree > 13 or abs(GAUSS @ NODES**degree - wanted) < 1e-14

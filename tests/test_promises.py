"""Promises to the user beyond one family: nothing global, threads, forks, memory, mutation."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import probgen as pg
from probgen.testing.subject import holed

FAST = {"draws": 10, "max_epochs": 15, "random_state": 0}
MAKERS = {
    "independent": lambda: pg.Independent(**FAST),
    "mixture": lambda: pg.GaussianMixture(3, starts=2, **FAST),
    "minibatch": lambda: pg.GaussianMixture(3, starts=1, batch_size=32, **FAST),
}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make_table(n: int = 120, seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    a = np.where(g.random(n) < 0.5, -2.0, 2.0) + g.normal(0, 1, n)
    table = pd.DataFrame({"a": a, "b": g.normal(a, 1), "job": g.choice(list("xyz"), n)})
    return holed(table).assign(n=g.poisson(3, n))


def use_every_verb(model: pg.Density, table: pd.DataFrame) -> None:
    model.log_prob(table)
    model.log_prob(table[["a"]], given=table[["b"]])
    model.log_prob(table.iloc[:5], interval=0.9, details=True)
    model.log_prob(table.iloc[:5], posterior=False)
    model.sample(5)
    model.sample(2, given=table[["job"]].iloc[:3], random_state=1)
    model.impute(table)
    model.impute(table, draws=2)
    model.latent(table)
    model.reconstruct(table)


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_global_is_left_behind(name):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    pyro.get_param_store()["mine"] = torch.tensor(3.0)
    flags = pyro.settings.get()
    style, threads = dict(mpl.rcParams), torch.get_num_threads()
    validate = torch.distributions.Distribution._validate_args
    states = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
    filters = list(warnings.filters)
    try:
        table = make_table()
        use_every_verb(MAKERS[name]().fit(table), table)
        assert random.getstate() == states[0]
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1],
                                                        strict=True))  # fmt: skip
        assert torch.equal(torch.get_rng_state(), states[2])
        assert torch.get_default_dtype() == torch.float64
        assert list(pyro.get_param_store().keys()) == ["mine"]
        assert pyro.settings.get() == flags
        assert torch.distributions.Distribution._validate_args == validate
        assert torch.get_num_threads() == threads
        assert dict(mpl.rcParams) == style
        assert warnings.filters == filters
        assert torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        del pyro.get_param_store()["mine"]


def test_default_dtype_and_flags_do_not_change_the_answer():
    table = make_table()
    plain = MAKERS["mixture"]().fit(table).log_prob(table)
    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    try:
        assert (MAKERS["mixture"]().fit(table).log_prob(table) == plain).all()
    finally:
        torch.set_default_dtype(torch.float32)
        pyro.enable_validation(True)


def test_the_callers_stream_does_not_change_the_answer():
    table = make_table()
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        model = MAKERS["mixture"]().fit(table)
        found.append((model.log_prob(table), model.sample(5, random_state=3)))
    assert (found[0][0] == found[1][0]).all()
    pd.testing.assert_frame_equal(found[0][1], found[1][1])


def test_unseeded_fits_differ_and_record_their_seed():
    table = make_table()
    one, two = (pg.GaussianMixture(3, starts=1, max_epochs=5).fit(table) for _ in range(2))
    assert one.result_.seed != two.result_.seed


def test_a_random_state_object_is_accepted_and_advanced():
    table, state = make_table(), np.random.RandomState(0)
    first = pg.GaussianMixture(2, starts=1, max_epochs=3, random_state=state).fit(table)
    again = pg.GaussianMixture(
        2, starts=1, max_epochs=3, random_state=np.random.RandomState(0)
    ).fit(table)
    assert (first.log_prob(table) == again.log_prob(table)).all()


@pytest.mark.parametrize("name", MAKERS)
def test_threads_score_one_model_together(name):
    table = make_table(400)
    model = MAKERS[name]().fit(table)
    whole = model.log_prob(table)
    lone = MAKERS[name]().fit(table)
    with ThreadPoolExecutor(8) as pool:
        # `_with_draws` is made by whoever comes first
        jobs = [pool.submit(lone.log_prob, table, interval=0.9) for _ in range(8)]
        jobs += [pool.submit(lone.log_prob, table) for _ in range(8)]
        found = [job.result() for job in jobs]
    wanted = model.log_prob(table, interval=0.9)
    assert all(frame.equals(wanted) for frame in found[:8])
    assert all(value.equals(whole) for value in found[8:])


def test_threads_fit_as_in_series():
    tables = [make_table(90, seed) for seed in range(4)]
    serial = [MAKERS["mixture"]().fit(t).log_prob(t) for t in tables]
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda t: MAKERS["mixture"]().fit(t), tables))
    for table, model, wanted in zip(tables, models, serial, strict=True):
        assert (model.log_prob(table) == wanted).all()


def test_scoring_takes_no_lock_of_a_fit_that_runs():
    """A closed form answers while another thread holds Pyro."""
    from probgen.session import guarded

    table = make_table()
    model = MAKERS["mixture"]().fit(table)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with guarded(0):
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(20)
        with ThreadPoolExecutor(1) as pool:
            assert len(pool.submit(model.log_prob, table).result(timeout=10)) == len(table)
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("name", MAKERS)
def test_scores_do_not_depend_on_how_rows_come(name):
    table = make_table(300)
    model = MAKERS[name]().fit(table)
    big = pd.concat([table] * 30, ignore_index=True)
    whole = model.log_prob(big).to_numpy()
    order = np.random.default_rng(0).permutation(len(big))
    np.testing.assert_allclose(model.log_prob(big.iloc[order]), whole[order], rtol=1e-12)
    for size in (1, 7, 1000):
        parts = [model.log_prob(big.iloc[i : i + size]) for i in range(0, min(len(big), 40 * size),
                                                                        size)]  # fmt: skip
        found = np.concatenate(parts)
        np.testing.assert_allclose(found, whole[: len(found)], rtol=1e-12)


def test_a_row_of_the_table_in_other_data_types():
    table = make_table().dropna()
    model = MAKERS["mixture"]().fit(table)
    other = table.astype({"a": "Float64", "n": "int8", "job": "category"})
    np.testing.assert_allclose(model.log_prob(other), model.log_prob(table), rtol=1e-12)
    arrow = pytest.importorskip("pyarrow").Table.from_pandas(table, preserve_index=False)
    np.testing.assert_allclose(model.log_prob(arrow), model.log_prob(table), rtol=1e-12)
    polars = pytest.importorskip("polars").from_pandas(table)
    np.testing.assert_allclose(model.log_prob(polars), model.log_prob(table), rtol=1e-12)


def test_a_read_only_table_is_enough():
    values = make_table()[["a", "b"]].to_numpy()
    values.setflags(write=False)
    model = pg.Independent(**FAST).fit(values)
    assert np.isfinite(model.score_samples(values)).all()


def test_validation_of_the_caller_stays_on():
    MAKERS["mixture"]().fit(make_table())
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, -1.0)


def test_what_is_kept_of_a_minibatch_cannot_be_taken_for_another():
    """Rows whose pieces are kept stay alive, so that no other rows come to lie at their place."""
    model = MAKERS["minibatch"]().fit(make_table())
    rows = model.members_[0].rows
    assert rows._kept is None  # nothing of the training rows stays in a fitted model
    x, seen = torch.zeros(30, rows.m, dtype=torch.float64), torch.ones(30, rows.m).bool()
    components = model.members_[0].expected()
    rows.sweep(x, seen, torch.ones(30).double(), components)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert rows._kept is None or alive() is not None
    one = torch.full((30, rows.m), 1.0).double()
    found, _ = rows.sweep(one, seen, torch.ones(30).double(), components)
    one.add_(1.0)  # in place: the same memory, other rows
    again, _ = rows.sweep(one, seen, torch.ones(30).double(), components)
    assert not torch.equal(found.moments.first, again.moments.first)
    rows.forget()
    assert alive() is None


MEMORY = """
import resource, sys
import numpy as np, pandas as pd, probgen as pg
g = np.random.default_rng(0)
n = 200_000
table = pd.DataFrame(g.normal(size=(n, 8)), columns=list("abcdefgh"))
table["job"] = pd.Categorical(g.choice(list("xyz"), n))
table["n"] = g.poisson(4, n)
model = pg.GaussianMixture(10, starts=1, draws=5, max_epochs=2, random_state=0)
model.fit(table.iloc[:2000])
model.log_prob(table.iloc[:5000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
score = model.log_prob(table)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert np.isfinite(score).all()
print((after - before) / 1024, n * 10 * 9 / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux")
def test_memory_of_scoring_is_bounded():
    """Scoring 200,000 rows takes little more than the encoded table, however many components."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=True
    )
    grown, encoded = map(float, run.stdout.split())
    assert grown < 2 * encoded + 60, f"{grown:.0f} MB for {encoded:.0f} MB of encoded rows"


FORK = """
import multiprocessing, warnings
import numpy as np, pandas as pd, probgen as pg
warnings.simplefilter("ignore")
table = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 2)), columns=["a", "b"])
model = pg.GaussianMixture(2, starts=1, draws=5, max_epochs=3, random_state=0).fit(table)
wanted = model.log_prob(table)
def score(_):
    return model.log_prob(table)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(score, range(2)).get(timeout=60)
assert all((f == wanted).all() for f in found)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_forked_processes_score_as_their_parent():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)

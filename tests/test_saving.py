"""Saved models: what comes back is what was saved, and writing never harms what is there."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import probgen as pg
from probgen import storage
from probgen.density import Density
from tests.saved import edit, fitted, frame, score

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return frame()


@pytest.fixture(scope="module")
def model(table) -> pg.GaussianMixture:
    return fitted(table)


def assert_same(a: Density, b: Density, table: pd.DataFrame) -> None:
    """Every answer equal to the last bit."""
    assert type(a) is type(b)
    for verb in (
        lambda m: m.log_prob(table).to_frame(),
        lambda m: m.log_prob(table, interval=0.9),
        lambda m: m.log_prob(table, posterior=False).to_frame(),
        lambda m: m.sample(20, random_state=1),
        lambda m: m.impute(table),
    ):
        pd.testing.assert_frame_equal(verb(a), verb(b), check_exact=True)
    assert a.schema_ == b.schema_
    assert a.results_ == b.results_
    assert a.converged_ == b.converged_


# --- what comes back ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "model.zip"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"posterior": "mean_field"},
        {"covariance": "tied", "weights": "dp"},
        {"covariance": "diag", "restarts": 2},
        {"covariance": "spherical", "components": 1},
        {"covariance": "flexible", "restarts": 2, "posterior": "mean_field"},
    ],
    ids=str,
)
def test_a_loaded_model_answers_bit_for_bit(settings, name, table, tmp_path):
    model = fitted(table, **settings)
    model.save(tmp_path / name)
    again = pg.load(tmp_path / name)
    assert_same(model, again, table)
    assert again.get_params() == model.get_params()
    assert not any(member.training for member in again.members_)


def test_independent_columns_and_arrays_without_names(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 2))
    x[0, 1] = np.nan
    model = pg.Independent(random_state=0, draws=4).fit(x)
    model.save(tmp_path / "m")
    again = pg.load(tmp_path / "m")
    assert np.array_equal(again.score_samples(x), model.score_samples(x))
    assert again.n_features_in_ == 2 and not hasattr(again, "feature_names_in_")


def test_column_names_that_are_no_text_and_columns_without_slots(tmp_path):
    table = pd.DataFrame({0: [1.5, 2.5, 3.7, 9.1], 7: [2, 2, 2, 2], 9: [None] * 4})
    model = fitted(table, components=1)
    model.save(tmp_path / "m")
    assert_same(model, pg.load(tmp_path / "m"), table[[0, 7]])


def test_a_table_of_constants_only(tmp_path):
    table = pd.DataFrame({"a": ["x"] * 4})
    with pytest.warns(pg.DataWarning):
        model = pg.Independent(random_state=0, draws=4).fit(table)
    model.save(tmp_path / "m")
    assert pg.load(tmp_path / "m").log_prob(table).tolist() == [0.0] * 4


def test_feature_names_clone_and_refit(model, table, tmp_path):
    model.save(tmp_path / "m")
    again = pg.load(tmp_path / "m")
    assert list(again.feature_names_in_) == list(table.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refit = clone(again).fit(table)
    assert (refit.log_prob(table) == model.log_prob(table)).all()


def test_parameters_that_json_lacks(table, tmp_path):
    model = fitted(table)
    given = {
        "schema": model.schema_,
        "columns": {"count": "count", 3: {"kind": "bounded", "lower": 0, "levels": ("a", "b")}},
        "components": np.int64(2),
        "tolerance": float("inf"),
        "random_state": np.random.RandomState(3),
        "spread": np.float64(0.25),
    }
    model.set_params(**given)
    expected = np.random.RandomState(3).rand(3)
    model.save(tmp_path / "m")
    found = pg.load(tmp_path / "m").get_params()
    assert np.array_equal(found.pop("random_state").rand(3), expected)
    own = model.get_params()
    assert found == {k: v for k, v in own.items() if k != "random_state"}
    assert isinstance(found["columns"][3]["levels"], tuple)


def test_parameters_changed_since_the_fit(table, tmp_path):
    model = fitted(table)
    model.save(tmp_path / "m")
    before = listing(tmp_path)
    with pytest.raises(pg.ModelFileError, match=r"(?s)would not come back.*fit again"):
        model.set_params(components=3).save(tmp_path / "m")
    with pytest.raises(pg.ModelFileError, match=r"(?s)scores differ.*set_params back"):
        model.set_params(components=2, mean_strength=3.0).save(tmp_path / "m")
    assert listing(tmp_path) == before


def test_what_cannot_be_saved_is_refused(model, table, tmp_path):
    class Mine(pg.GaussianMixture):
        pass

    mine = Mine(components=1, random_state=0, draws=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine.fit(table)
    with pytest.raises(pg.NotSupported, match="Mine"):
        mine.save(tmp_path / "m")
    odd = fitted(table).set_params(columns={"real": object()})
    with pytest.raises(pg.NotSupported, match=r"columns of type object.*set_params"):
        odd.save(tmp_path / "m")
    broken = fitted(table)
    broken.members_[0].weight_counts[0] = float("nan")
    with pytest.raises(pg.ModelFileError, match=r"weight_counts.*member 0"):
        broken.save(tmp_path / "m")
    with pytest.raises(NotFittedError):
        pg.GaussianMixture().save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_nothing_global_is_left_behind(model, tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    model.save(tmp_path / "m")
    pg.load(tmp_path / "m")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_the_same_model_gives_the_same_bytes(model, tmp_path):
    for name in ("a.zip", "b.zip"):
        model.save(tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_saved_elsewhere_loads_on_the_cpu(table, tmp_path):
    """As if fitted on a GPU that this machine lacks."""
    model = fitted(table)
    model.result_.device = "cuda:3"
    model.set_params(device="cuda:3").save(tmp_path / "m")
    again = pg.load(tmp_path / "m", device="cpu")
    assert again._device.type == "cpu" and again.result_.device == "cuda:3"
    assert (again.log_prob(table) == model.log_prob(table)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_to_the_gpu_and_back(table, tmp_path):
    model = fitted(table, device="cuda")
    model.save(tmp_path / "m")
    near, far = pg.load(tmp_path / "m", device="cpu"), pg.load(tmp_path / "m", device="cuda")
    assert far._device.type == "cuda" and near._device.type == "cpu"
    ends = [m.log_prob(table, interval=0.9) for m in (far, near)]
    assert np.allclose(ends[0], ends[1], rtol=1e-9)
    assert np.allclose(far.log_prob(table), model.log_prob(table), rtol=1e-9)


# --- writing is atomic ----------------------------------------------------------------------


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("step", range(1, 4))
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("name", ["model", "model.zip"])
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_model_intact(
    name, call, step, old, model, table, tmp_path, monkeypatch
):
    if old:
        fitted(table, components=1).save(tmp_path / name)
    before, count, true = listing(tmp_path), [0], getattr(os, call)

    def full(*args: object) -> object:
        count[0] += 1
        if count[0] == step:
            raise OSError(errno.ENOSPC, "No space left on device")
        return true(*args)

    monkeypatch.setattr(storage.os, call, full)
    try:
        model.save(tmp_path / name)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        assert listing(tmp_path) == before
        assert old or list(tmp_path.iterdir()) == []
    else:  # fewer steps than that: it was never full
        assert count[0] < step
        assert pg.load(tmp_path / name).components == 2


@pytest.mark.parametrize("name", ["model", "model.zip"])
def test_a_newer_model_replaces_the_older_one(name, model, table, tmp_path):
    fitted(table, components=1, restarts=2).save(tmp_path / name)
    (tmp_path / "model").mkdir(exist_ok=True)
    if name == "model":
        (tmp_path / name / "notes.txt").write_text("mine")
    model.save(tmp_path / name)
    assert_same(model, pg.load(tmp_path / name), table)
    if name == "model":  # the user's file stays, the old members go
        assert len(list((tmp_path / name).iterdir())) == 3


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_holds_something_else_is_not_touched(name, model, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_text('{"name": "a web page"}')
    with pytest.raises(FileExistsError, match="something else"):
        model.save(tmp_path / "m")
    (tmp_path / "file").write_text("text")
    with pytest.raises(FileExistsError, match="something else"):
        model.save(tmp_path / "file")
    assert [*listing(tmp_path)] == [f"m/{name}", "file"] or len(listing(tmp_path)) == 2


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


# --- versions -------------------------------------------------------------------------------


def test_another_release_warns_and_a_patch_does_not(folder, table, model):
    edit(folder, lambda m: m["versions"].update(torch="1.0.0", pandas="0.1"))
    with pytest.warns(pg.DataWarning, match=r"torch 1\.0\.0.*pandas 0\.1.*score the same"):
        again = pg.load(folder)
    assert_same(model, again, table)
    near = ".".join([*torch.__version__.split(".")[:2], "999"])
    edit(folder, lambda m: m["versions"].update(torch=near, pandas=pd.__version__))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pg.load(folder)


def test_scores_that_another_release_rounds_otherwise_pass(folder):
    score(1e-9)(folder)
    pg.load(folder)
    score(1e-3)(folder)
    edit(folder, lambda m: m["versions"].update(torch="1.0.0"))
    with pytest.raises(pg.ModelFileError, match=r"do: load it with torch 1\.0\.0"):
        pg.load(folder)


def archive_model(folder: Path = DATA / "model_v1") -> None:
    """Made once, by format 1: run only if format 1 has never been released."""
    model = fitted(frame(), draws=3)
    model.save(folder)
    answers = {
        "log_prob": model.log_prob(frame()).tolist(),
        "lower": model.log_prob(frame(), interval=0.5)["lower"].tolist(),
    }
    (folder / "answers.json").write_text(json.dumps(answers))


def test_a_model_of_format_1_loads_for_ever():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pg.DataWarning)  # other releases, by now
        model = pg.load(DATA / "model_v1", device="cpu")
    answers = json.loads((DATA / "model_v1" / "answers.json").read_text())
    table = frame()
    assert np.allclose(model.log_prob(table), answers["log_prob"], rtol=1e-9)
    draws = model.to_arviz(table)["log_likelihood"]["log_prob"].values.reshape(-1, len(table))
    # the quantile by which intervals were cut when the file was written
    assert np.allclose(np.quantile(draws, 0.25, axis=0), answers["lower"], rtol=1e-9)
    sample = model.sample(5, random_state=0)
    assert sample.dtypes.to_dict() == model.impute(table)[list(table)].dtypes.to_dict()
    assert (model.components, model.random_state, model.converged_) == (2, 0, False)
    assert sum(p.stat().st_size for p in (DATA / "model_v1").iterdir()) < 50_000

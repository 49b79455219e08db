"""Saved models: what comes back is what was saved, and whatever is damaged is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import probgen as pg
from probgen import saving, storage
from probgen.estimators import Density

DATA = Path(__file__).parent / "data"


def frame(n: int = 40) -> pd.DataFrame:
    """Every kind of column, with holes."""
    r = np.random.default_rng(0)
    table = pd.DataFrame({
        "real": r.normal(size=n),
        "income": r.lognormal(size=n),
        "count": pd.array(r.poisson(3, n), dtype="Int64"),
        "job": pd.Categorical(r.choice(["nurse", "cook", "é"], n)),
        "flag": r.random(n) < 0.4,
        "day": pd.date_range("2024-01-01", periods=n, tz="Europe/Paris", unit="s"),
    })  # fmt: skip
    table.loc[3, ["real", "job"]] = None
    table.loc[5, "day"] = pd.NaT
    return table


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return frame()


def fitted(table: pd.DataFrame, **settings: object) -> pg.GaussianMixture:
    given = {"components": 2, "random_state": 0, "starts": 1, "draws": 4, "max_epochs": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pg.GaussianMixture(**given | settings).fit(table)


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
    with pytest.warns(pg.DataWarning):
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
        "spread": np.float64(0.1),
    }
    model.set_params(**given)
    expected = np.random.RandomState(3).rand(3)
    model.save(tmp_path / "m")
    found = pg.load(tmp_path / "m").get_params()
    assert np.array_equal(found.pop("random_state").rand(3), expected)
    own = model.get_params()
    assert found == {k: v for k, v in own.items() if k != "random_state"}
    assert isinstance(found["columns"][3]["levels"], tuple)


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
    for frames in zip(far.log_prob(table, interval=0.9), near.log_prob(table, interval=0.9)):
        assert frames[0] == frames[1]
    assert np.allclose(far.log_prob(table), near.log_prob(table), rtol=1e-9)
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


# --- whatever is damaged is refused ---------------------------------------------------------


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def member_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a manifest and put its hash right again, as an attacker would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["sha256"] = saving._digest(manifest)
    path.write_text(json.dumps(manifest))


def put_member(folder: Path, data: bytes) -> None:
    """Another member file, its hash and size right."""
    member_of(folder).unlink()
    digest = hashlib.sha256(data).hexdigest()
    name = f"member_0-{digest[:16]}.safetensors"
    (folder / name).write_bytes(data)
    entry = {"file": name, "bytes": len(data), "sha256": digest}
    edit(folder, lambda m: m.update(members=[entry]))


def put_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(member_of(folder))
    change(tensors)
    buffer = folder / "buffer"
    save_file(tensors, buffer)
    data = buffer.read_bytes()
    buffer.unlink()
    put_member(folder, data)


def header(entries: dict, body: int = 0) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)


def nan(tensors: dict) -> None:
    tensors["weight_counts"][0] = float("nan")


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


class Bomb:
    """Pickled, it would create a file on loading."""

    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def link(folder: Path) -> None:
    member = member_of(folder)
    shutil.move(member, folder.parent / "elsewhere")
    member.symlink_to(folder.parent / "elsewhere")


def huge(folder: Path) -> None:
    with open(folder / "manifest.json", "wb") as file:
        file.truncate(2**40)  # sparse: takes no room


def param(name: str, value: object) -> Callable[[Path], None]:
    return lambda f: edit(f, lambda m: m["parameters"].update({name: value}))


def column(**changes: object) -> Callable[[Path], None]:
    return lambda f: edit(f, lambda m: m["schema"]["columns"][0].update(changes))


def score(value: float) -> Callable[[Path], None]:
    def change(manifest: dict) -> None:
        manifest["self_test"]["scores"]["predictive"][0] += value

    return lambda f: edit(f, change)


#: what is done to the folder, and what the message must name
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda f: [p.unlink() for p in f.iterdir()], "no 'manifest.json'"),
    "no member": (lambda f: member_of(f).unlink(), "no 'member_0-"),
    "empty manifest": (lambda f: cut(f / "manifest.json", 0), "manifest.json"),
    "truncated manifest": (lambda f: cut(f / "manifest.json", 900), "manifest.json"),
    "truncated member": (lambda f: cut(member_of(f), 500), "member_0.*cut short"),
    "empty member": (lambda f: cut(member_of(f), 0), "member_0.*cut short"),
    "longer member": (lambda f: member_of(f).open("ab").write(b"x"), "member_0.*at most"),
    "flipped bit in a member": (lambda f: flip(member_of(f), 3000), "member_0.*sha256"),
    "flipped bit in its header": (lambda f: flip(member_of(f), 2), "member_0.*sha256"),
    "flipped bit in the manifest": (lambda f: flip(f / "manifest.json", 1200), "manifest.json"),
    "foreign manifest": (
        lambda f: (f / "manifest.json").write_text('{"name": "page"}'), "foreign manifest"
    ),
    "a list for a manifest": (lambda f: (f / "manifest.json").write_text("[1]"), "foreign"),
    "nested too deep": (lambda f: (f / "manifest.json").write_text("[" * 10**5), "manifest.json"),
    "newer format": (
        lambda f: edit(f, lambda m: m.update(version=99, needs="7.3")),
        r"format 99; needed probgen 7\.3 or later.*update",
    ),
    "no format": (lambda f: edit(f, lambda m: m.update(version=None)), "format None"),
    "unknown class": (
        lambda f: edit(f, lambda m: m.update(estimator="os.system")), "'os.system'.*GaussianMixt"
    ),
    "base class": (lambda f: edit(f, lambda m: m.update(estimator="Density")), "'Density'"),
    "class of no name": (lambda f: edit(f, lambda m: m.update(estimator=[1])), "estimator"),
    "unknown parameter": (param("evil", 1), "'evil'"),
    "parameter of wrong type": (param("components", "two"), "member_0"),
    "absurd parameter": (param("components", 10**13), "member_0.*more memory"),
    "more components than saved": (param("components", 3), "member_0.*shape"),
    "other covariance": (param("covariance", "diag"), "member_0.*(shape|tensor)"),
    "missing part": (lambda f: edit(f, lambda m: m.pop("results")), "results"),
    "no results": (lambda f: edit(f, lambda m: m.update(results=[])), "results"),
    "foreign seed": (
        lambda f: edit(f, lambda m: m["results"][0].update(seed="x")), "seed"
    ),
    "no members": (lambda f: edit(f, lambda m: m.update(members=[])), "members"),
    "unknown kind": (column(kind="evil"), "wrong columns"),
    "unknown dtype entry": (column(dtype=3), "wrong columns"),
    "scale of zero": (column(scale=0.0), "wrong columns"),
    "column twice": (column(name="job"), "columns"),
    "no schema": (lambda f: edit(f, lambda m: m.update(schema=None)), "estimator"),
    "column lost": (lambda f: edit(f, lambda m: m["schema"]["columns"].pop()), "member_0"),
    "path traversal": (
        lambda f: edit(f, lambda m: m["members"][0].update(file="../../etc/passwd")), r"\.\./"
    ),
    "absolute path": (
        lambda f: edit(f, lambda m: m["members"][0].update(file="/etc/passwd")), "passwd"
    ),
    "absurd size": (lambda f: edit(f, lambda m: m["members"][0].update(bytes=2**60)), "bytes"),
    "negative size": (lambda f: edit(f, lambda m: m["members"][0].update(bytes=-1)), "-1 bytes"),
    "huge manifest": (huge, "manifest.json.*at most"),
    "link": (link, "member_0.*link"),
    "folder for a member": (lambda f: [(p := member_of(f)).unlink(), p.mkdir()], "member_0.*link"),
    "pickle for a member": (lambda f: put_member(f, pickle.dumps(Bomb())), "member_0.*header"),
    "pickle for the manifest": (
        lambda f: (f / "manifest.json").write_bytes(pickle.dumps(Bomb())), "manifest.json"
    ),
    "absurd header": (lambda f: put_member(f, struct.pack("<Q", 2**62) + bytes(99)), "header"),
    "header that is no JSON": (lambda f: put_member(f, struct.pack("<Q", 8) + bytes(8)), "member"),
    "absurd shape": (
        lambda f: put_member(f, header({"weight_counts": {
            "dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}, 16)),
        "shape",
    ),
    "negative shape": (
        lambda f: put_member(f, header({"weight_counts": {
            "dtype": "F64", "shape": [-1, -2], "data_offsets": [0, 16]}}, 16)),
        "shape",
    ),
    "overlapping tensors": (
        lambda f: put_member(f, header({n: {
            "dtype": "F64", "shape": [2], "data_offsets": [0, 16]} for n in "ab"}, 16)),
        "shape",
    ),
    "unknown number type": (
        lambda f: put_member(f, header({"a": {
            "dtype": "F999", "shape": [2], "data_offsets": [0, 16]}}, 16)),
        "F999",
    ),
    "bytes left over": (lambda f: put_member(f, header({}, 16)), "tensors of 0 bytes"),
    "no tensors": (lambda f: put_member(f, header({})), "no tensor"),
    "NaN weights": (lambda f: put_tensors(f, nan), "NaN.*weight_counts"),
    "infinite weights": (
        lambda f: put_tensors(f, lambda t: t["weight_counts"].fill_(float("inf"))), "inf in tensor"
    ),
    "wrong shape": (
        lambda f: put_tensors(f, lambda t: t.update(weight_counts=torch.ones(3).double())),
        r"weight_counts.*\(3,\)",
    ),
    "wrong shape laid out by the data": (
        lambda f: put_tensors(f, lambda t: t.update(
            {k: v[:, :-1].contiguous() for k, v in t.items() if k == "rows.leaves.2.counts"})),
        "self-test",
    ),
    "wrong shape of draws": (
        lambda f: put_tensors(f, lambda t: t.update({"refined.mean": torch.ones(4, 5).double()})),
        "self-test",
    ),
    "whole numbers for weights": (
        lambda f: put_tensors(f, lambda t: t.update(weight_counts=torch.ones(2).long())), "int64"
    ),
    "unknown tensor": (
        lambda f: put_tensors(f, lambda t: t.update({"rows.evil": torch.ones(1)})), "rows.evil"
    ),
    "unknown module": (
        lambda f: put_tensors(f, lambda t: t.update({"evil.x": torch.ones(1)})), "evil"
    ),
    "other weights": (
        lambda f: put_tensors(f, lambda t: t["weight_counts"].mul_(torch.tensor([1.0, 1.1]))),
        "scores differ",
    ),
    "other draws": (
        lambda f: put_tensors(f, lambda t: t["refined.mean"].add_(0.01)), "scores differ"
    ),
    "scores far off": (score(1e-3), r"scores differ.*1e-06"),
    "no self-test": (lambda f: edit(f, lambda m: m.update(self_test=None)), "self-test"),
    "self-test of another width": (
        lambda f: edit(f, lambda m: m["self_test"]["x"][0].append(1.0)), "self-test"
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_model_is_refused(damage, zipped, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act, names = DAMAGE[damage]
    act(folder)
    path = folder
    if zipped:
        if damage in ("huge manifest", "folder for a member", "link", "longer member"):
            pytest.skip("a state of a folder")
        path = tmp_path / "model.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for item in folder.iterdir():
                archive.write(item, item.name)
    with pytest.raises(pg.ModelFileError, match=f"(?s){names}") as caught:
        pg.load(path)
    assert all(part in str(caught.value) for part in ("found ", "; needed ", "; do: ", str(path)))
    assert not (tmp_path / "bomb-went-off").exists()


def archive_of(folder: Path, **changes: object) -> bytes:
    """The zip of a model; `changes` are attributes of the entry of its member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for item in folder.iterdir():
            entry = zipfile.ZipInfo(item.name)
            if item.suffix == ".safetensors":
                for key, value in changes.items():
                    setattr(entry, key, value)
            archive.writestr(entry, item.read_bytes())
    return buffer.getvalue()


def with_extra(folder: Path, name: str) -> bytes:
    buffer = io.BytesIO(archive_of(folder))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, "{}")
    return buffer.getvalue()


def claimed(folder: Path) -> bytes:
    """A directory that claims 4 GB for a member that is stored in a few."""
    data = archive_of(folder)
    place = data.index(b"PK\x01\x02")
    return data[: place + 20] + struct.pack("<II", 2**32 - 2, 2**32 - 2) + data[place + 28 :]


ARCHIVES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty file": (lambda f: b"", "no readable zip"),
    "text": (lambda f: b"hello", "no readable zip"),
    "pickle": (lambda f: pickle.dumps(Bomb()), "no readable zip"),
    "empty zip": (lambda f: b"PK\x05\x06" + bytes(18), "no 'manifest.json'"),
    "truncated": (lambda f: archive_of(f)[:-30], "no readable zip"),
    "head cut off": (lambda f: archive_of(f)[1000:], "zip"),
    "path traversal": (lambda f: with_extra(f, "../evil.json"), r"\.\./evil"),
    "absolute path": (lambda f: with_extra(f, "/tmp-evil"), "tmp-evil"),
    "foreign member": (lambda f: with_extra(f, "data.pkl"), "data.pkl"),
    "member twice": (lambda f: with_extra(f, "manifest.json"), "manifest.json"),
    "zip bomb": (
        lambda f: archive_of(f, compress_type=zipfile.ZIP_DEFLATED), "member_0.*compressed"
    ),
    "absurd size": (claimed, "a size that fits"),
    "link": (lambda f: archive_of(f, external_attr=(stat.S_IFLNK | 0o777) << 16), "member_0.*link"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_damaged_archive_is_refused(case, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, names = ARCHIVES[case]
    path = tmp_path / "model.zip"
    path.write_bytes(make(folder))
    with pytest.raises(pg.ModelFileError, match=names):
        pg.load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "model.zip"]


def test_flipped_bits_anywhere_in_an_archive(table, tmp_path):
    """Each is refused, or (a date in the zip, say) changes nothing."""
    model = fitted(table[["real", "flag"]], posterior="mean_field")
    model.save(tmp_path / "m.zip")
    data, scores = (tmp_path / "m.zip").read_bytes(), model.score_samples(table[["real", "flag"]])
    refused = 0
    for place in np.random.default_rng(0).choice(len(data) * 8, 150, replace=False):
        broken = bytearray(data)
        broken[place // 8] ^= 1 << place % 8
        (tmp_path / "m.zip").write_bytes(bytes(broken))
        try:
            again = pg.load(tmp_path / "m.zip")
        except pg.ModelFileError:
            refused += 1
        else:
            assert np.array_equal(again.score_samples(table[["real", "flag"]]), scores)
    assert refused > 120


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        pg.load(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(folder, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(pg.ModelFileError, match="no plain file"):
        pg.load(tmp_path / "pipe")
    member = member_of(folder)
    member.unlink()
    os.mkfifo(member)
    with pytest.raises(pg.ModelFileError, match="no plain file"):
        pg.load(folder)


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
    assert np.allclose(model.log_prob(table, interval=0.5)["lower"], answers["lower"], rtol=1e-9)
    sample = model.sample(5, random_state=0)
    assert sample.dtypes.to_dict() == model.impute(table)[list(table)].dtypes.to_dict()
    assert (model.components, model.random_state, model.converged_) == (2, 0, False)
    assert sum(p.stat().st_size for p in (DATA / "model_v1").iterdir()) < 50_000

"""Saved models that are damaged, foreign or hostile: each is refused, and the message says why."""

from __future__ import annotations

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

import probgen as pg
from tests.saved import edit, fitted, frame, score


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return frame()


@pytest.fixture(scope="module")
def model(table) -> pg.GaussianMixture:
    return fitted(table)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


def member_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


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
        lambda f: put_tensors(f, lambda t: t["weight_counts"].add_(torch.tensor([0.0, 20.0]))),
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
    "link": (lambda f: archive_of(f, external_attr=stat.S_IFLNK << 16), "member_0.*link"),
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

"""A fitted model on disk: a JSON manifest and one safetensors file a member; no code in it.

A model is a folder, or a .zip that stores the same files without compression::

    manifest.json                    format, estimator, parameters, schema, results, versions,
                                     sha256 of everything, three rows with their scores
    member_0-<sha256>.safetensors    what the first member learned; one file a restart
    calibration-<sha256>.safetensors the rows that the fit held apart, if it did

An `OutlierDetector` is saved as its density, with its own settings beside it in the manifest.
Everything in a file is treated as hostile until checked: sizes before they are read, hashes
before content, shapes before memory is taken, and in the end the scores of the three rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from probgen import estimators, weights
from probgen.calibration import Calibration
from probgen.density import Density
from probgen.diagnostics.fitted import FittedRows
from probgen.errors import ModelFileError, NotSupported, message, warn
from probgen.evaluation.stack import Stack
from probgen.family import Family
from probgen.outliers.detector import OutlierDetector
from probgen.plain import checked, decode, encode
from probgen.schema import Schema
from probgen.selftest import difference, self_test
from probgen.storage import MAGIC, MANIFEST, MEMBER, Reader, checking, damaged, reader, write_files
from probgen.training import FitResult, resolve_device

__all__ = ["load", "save"]

#: of the files written here, and the first version of probgen that reads it
FORMAT, NEEDS = 1, "0.1.0"
#: bytes that are read at most: of the manifest, of a member
MAX_MANIFEST, MAX_MEMBER = 2**26, 2**33
#: relative difference of the scores of the three rows, by the precision of the members
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
#: the key under which the densities inside a parameter are written
PARTS = "$densities"
#: what scores depend on; another release of these is worth a warning
LIBRARIES = ("probgen", "torch", "pyro-ppl", "numpy", "pandas")


def save(estimator: Density | OutlierDetector, path: str | os.PathLike[str]) -> None:
    """Write a fitted model to a folder, or to one file if `path` ends in .zip.

    A model that is already there is replaced in one step: a crash at any moment leaves the
    old model or the new one, whole. Saving twice writes the same bytes.

    Parameters
    ----------
    estimator : Density or OutlierDetector
        Fitted.
    path : path
        Its parent must exist.

    Raises
    ------
    OSError
        If the disk is full or the place cannot be written (a model there before is intact);
        `FileExistsError` if `path` holds something else than a saved model.
    NotSupported
        If the estimator is not one of probgen's own, or a parameter cannot be written down.
    ModelFileError
        If what was learned is not finite, or does not come back since parameters were
        changed after the fit: each file is read back in memory before it is written.

    Examples
    --------
    >>> import tempfile, probgen as pg
    >>> model = pg.Independent(random_state=0).fit({"x": [1.5, 2.25, 4.1, 5.3]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/model.zip")
    ...     again = pg.load(f"{folder}/model.zip")
    >>> bool((again.log_prob({"x": [3.0]}) == model.log_prob({"x": [3.0]})).all())
    True
    """
    check_is_fitted(estimator)
    path = Path(path)
    detector = isinstance(estimator, OutlierDetector)
    files = _pack_detector(estimator) if detector else _pack(estimator)
    try:
        _restore(lambda name, most: files[name], path, _functions_of(estimator))
    except ModelFileError as error:
        raise ModelFileError(message(
            f"a model that would not come back from its file ({error})",
            "the parameters that it was fitted with",
            "set_params back to those of the fit, or fit again, then save",
        )) from error  # fmt: skip
    write_files(path, files)


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    *,
    model: Callable[[Any], Any] | None = None,
    guide: Callable[[Any], Any] | None = None,
) -> Density | OutlierDetector:
    """Read what `Density.save` or `OutlierDetector.save` wrote; runs no code from the file.

    Parameters
    ----------
    path : path
        A folder, or a .zip file.
    device : str
        Where the model is put, wherever it was fitted; "auto" uses a GPU where there is one.
        The parameter `device` of the estimator stays as it was saved.
    model, guide : callable, optional
        The functions of a `Pair`: a file holds its parameters and no code. Rows that are
        stored with their scores tell whether they are the functions that were saved.

    Returns
    -------
    Density or OutlierDetector
        Scores, samples, intervals and p-values equal those of the saved model.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ModelFileError
        If the file is damaged, foreign, of a newer format, or scores its three stored rows
        differently; the message names the member and the check that failed. If it holds a
        `Pair` and its functions are not passed.

    Warns
    -----
    DataWarning
        If the model was saved with another release of a library that scores depend on.
    """
    target = resolve_device(device)
    path = Path(path)
    passed = {"model": model, "guide": guide}
    functions = {name: value for name, value in passed.items() if value is not None}
    estimator, detector, other = _restore(reader(path), path, functions)
    if other:
        warn(
            f"the model in {os.fspath(path)!r} was saved with {other}; its self-test rows score "
            "the same here",
        )  # fmt: skip
    if target.type != "cpu":
        for member in estimator.members_:
            member.load_tensors({k: v.to(target) for k, v in member.tensors().items()})
            member.to(target)
    return estimator if detector is None else detector


def _functions_of(estimator: Density | OutlierDetector) -> dict[str, Any]:
    """The user's functions that an estimator holds, by field."""
    density = estimator.density_ if isinstance(estimator, OutlierDetector) else estimator
    found = {name: getattr(density, name) for name in density.functions}
    return {name: value for name, value in found.items() if callable(value)}


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _restore(
    read: Reader, path: Path, functions: dict[str, Any]
) -> tuple[Density, OutlierDetector | None, str]:
    """The density on the CPU, all checks passed, its detector, and libraries that differ now."""
    manifest = _manifest(read, path)
    with checking(path, "the estimator in manifest.json"):
        estimator = _estimator(manifest, path, functions)
        _learned(estimator, manifest)
        other = _other_releases(manifest["versions"])
    estimator.members_ = [_member(estimator, entry, read, path) for entry in manifest["members"]]
    estimator.calibration_ = _calibration(estimator, manifest.get("calibration"), read, path)
    with checking(path, "the detector in manifest.json"):
        saved = manifest.get("detector")
        detector = None if saved is None else OutlierDetector.restored(decode(saved), estimator)
    with checking(path, "the self-test"):
        worst = difference(estimator, manifest["self_test"])
    kinds = {t.dtype for m in estimator.members_ for t in m.tensors().values()}
    tolerance = TOLERANCE[torch.float32 if torch.float32 in kinds else torch.float64]
    if worst > tolerance:
        raise damaged(
            path, f"self-test rows whose scores differ from the saved ones by {worst:.1e}",
            f"a relative difference of at most {tolerance:.0e}",
            f"load it with {other}" if other else "save the model again",
        )  # fmt: skip
    return estimator, detector, other


def _registry() -> dict[str, type[Density]]:
    """The estimators that a file may name: those that probgen itself exports."""
    found: dict[str, Any] = {name: getattr(estimators, name) for name in estimators.__all__}
    found["Stack"] = Stack
    return {
        name: value for name, value in found.items()
        if isinstance(value, type) and issubclass(value, Density) and hasattr(value, "family")
    }  # fmt: skip


# --- what is written ------------------------------------------------------------------------


def _written(value: Any, name: str) -> Any:
    """A parameter as JSON; densities inside a dict by their class and parameters."""
    if not (isinstance(value, Mapping) and any(isinstance(v, Density) for v in value.values())):
        return encode(value, name)
    for own, part in value.items():
        kind = type(part)
        if _registry().get(kind.__name__) is not kind or kind.functions:
            raise NotSupported(message(
                f"part {own!r} of type {kind.__name__}", "parts of probgen without code of yours",
                "keep the code that fits the stack: a file holds no code",
            ))  # fmt: skip
    return {PARTS: {str(own): _described(part) for own, part in value.items()}}


def _described(part: Density) -> list[Any]:
    own = {f.name: _written(getattr(part, f.name), f.name) for f in fields(part) if f.init}
    return [type(part).__name__, own]


def _read(value: Any) -> Any:
    """The inverse of `_written`."""
    if not (isinstance(value, dict) and list(value) == [PARTS]):
        return decode(value)
    return {
        name: _registry()[kind](**{key: _read(v) for key, v in own.items()})
        for name, (kind, own) in value[PARTS].items()
    }


def _pack(estimator: Density) -> dict[str, bytes]:
    """Files of a model by name; the manifest last, since it names the others."""
    kind = type(estimator)
    if _registry().get(kind.__name__) is not kind:
        raise NotSupported(message(
            f"the estimator {kind.__name__}", f"one of {sorted(_registry())}",
            "keep the code that fits it: only probgen's own estimators can be saved",
        ))  # fmt: skip
    files: dict[str, bytes] = {}
    members = []
    for i, member in enumerate(estimator.members_):
        try:
            data = weights.pack(member)
        except ValueError as error:
            raise ModelFileError(message(
                f"{error} of member {i}", "finite numbers", "fit again"
            )) from error  # fmt: skip
        members.append(_entry(f"member_{i}", data, files))
    apart, remembered = estimator.calibration_, estimator.fitted_rows_
    names = getattr(estimator, "feature_names_in_", None)
    manifest: dict[str, Any] = {
        "format": MAGIC, "version": FORMAT, "needs": NEEDS, "sha256": "",
        "estimator": kind.__name__,
        "parameters": {
            f.name: _written(getattr(estimator, f.name), f.name) for f in fields(estimator)
            if f.init and f.name not in _functions_of(estimator)
        },
        "functions": {name: _name_of(f) for name, f in _functions_of(estimator).items()},
        "features": int(estimator.n_features_in_),
        "feature_names": None if names is None else [str(name) for name in names],
        "schema": json.loads(estimator.schema_.to_json()),
        "results": [encode(result.to_dict(), "results_") for result in estimator.results_],
        "versions": _versions(),
        "self_test": self_test(estimator),
        "members": members,
        "fitted_rows": None if remembered is None else remembered.to_dict(),
    }  # fmt: skip
    if apart is not None:
        entry = _entry("calibration", weights.pack_tensors(apart.tensors()), files)
        manifest["calibration"] = entry | {"share": apart.share}
    manifest["sha256"] = _digest(manifest)
    files[MANIFEST] = _text(manifest)
    return files


def _pack_detector(detector: OutlierDetector) -> dict[str, bytes]:
    """Files of the density of a detector, with the detector's settings in the manifest."""
    check_is_fitted(detector)
    files = _pack(detector.density_)
    manifest = json.loads(files[MANIFEST])
    manifest["detector"] = encode(detector.saved(), "detector")
    manifest["sha256"] = _digest(manifest)
    files[MANIFEST] = _text(manifest)
    return files


def _text(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode()


def _entry(name: str, data: bytes, files: dict[str, bytes]) -> dict[str, Any]:
    """Add a file of tensors, and say so as the manifest does."""
    digest = hashlib.sha256(data).hexdigest()
    own = f"{name}-{digest[:16]}.safetensors"
    files[own] = data
    return {"file": own, "bytes": len(data), "sha256": digest}


def _digest(manifest: dict[str, Any]) -> str:
    """sha256 of the content of a manifest, however it is laid out."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    """Versions of the libraries that made a model."""
    names = ("torch", "pyro-ppl", "numpy", "pandas", "safetensors")
    own = {"probgen": str(sys.modules["probgen"].__version__)}
    return own | {name: metadata.version(name) for name in names}


def _other_releases(saved: dict[str, str]) -> str:
    """Libraries of another release than when the model was saved; patches do not count."""
    now = _versions()
    return ", ".join(
        f"{name} {saved.get(name)} (here {now[name]})" for name in LIBRARIES
        if str(saved.get(name)).split(".")[:2] != now[name].split(".")[:2]
    )  # fmt: skip


# --- what is read ---------------------------------------------------------------------------


def _manifest(read: Reader, path: Path) -> dict[str, Any]:
    """The manifest, its format and hash checked."""
    data = read(MANIFEST, MAX_MANIFEST)
    with checking(path, MANIFEST):
        manifest = json.loads(data.decode("utf-8"))
    if not isinstance(manifest, dict) or manifest.get("format") != MAGIC:
        raise damaged(path, "a foreign manifest.json", f"format {MAGIC!r}", "check the path")
    version = manifest.get("version")
    if isinstance(version, int) and version > FORMAT:
        raise damaged(
            path, f"format {version}", f"probgen {str(manifest.get('needs'))[:40]} or later "
            f"(this version reads up to format {FORMAT})", "update probgen",
        )  # fmt: skip
    # a migration of older formats belongs here, one function a version
    if version != FORMAT or isinstance(version, bool):
        raise damaged(path, f"format {version!r:.40}", f"format 1 to {FORMAT}")
    with checking(path, MANIFEST):
        if manifest.get("sha256") != _digest(manifest):
            raise damaged(path, "a manifest.json whose sha256 differs", "the sha256 inside it")
        for name in ("parameters", "schema", "results", "members", "versions"):
            manifest[name]
    return manifest


def _estimator(manifest: dict[str, Any], path: Path, functions: dict[str, Any]) -> Density:
    """An unfitted estimator with the saved parameters, and the functions that were passed."""
    name, known = manifest["estimator"], _registry()
    if name not in known:
        raise damaged(
            path, f"estimator {name!r:.80}", f"one of {sorted(known)}",
            f"update probgen: the model was saved by {str(manifest['versions'])[:120]}",
        )  # fmt: skip
    values = {key: _read(value) for key, value in manifest["parameters"].items()}
    unknown = sorted(set(values) - {f.name for f in fields(known[name])})
    if unknown:
        raise damaged(path, f"parameter(s) {unknown}", f"those of {name}", "update probgen")
    wanted = {str(k): str(v)[:80] for k, v in manifest.get("functions", {}).items()}
    if set(wanted) != set(functions):
        shown = ", ".join(f"{key}={value}" for key, value in wanted.items()) or "no functions"
        raise ModelFileError(message(
            f"a {name} saved with {shown} in {os.fspath(path)!r}, and {sorted(functions)} passed",
            "the functions that it was saved with: a file holds no code",
            f"pg.load(path, {shown})" if wanted else "pg.load(path)",
        ))  # fmt: skip
    return known[name](**values, **functions)


def _learned(estimator: Density, manifest: dict[str, Any]) -> None:
    """What the estimator knows apart from its members."""
    schema = checked(Schema.from_json(json.dumps(manifest["schema"])))
    results = [FitResult.from_dict(decode(result)) for result in manifest["results"]]
    if not results or len(results) != len(manifest["members"]):
        raise ValueError(f"{len(results)} results of {len(manifest['members'])} members")
    if not all(isinstance(result.seed, int) for result in results):
        raise TypeError("a seed that is no whole number")
    estimator.schema_, estimator.results_, estimator.result_ = schema, results, results[0]
    estimator.converged_ = all(bool(result.converged) for result in results)
    estimator.n_features_in_ = int(manifest["features"])
    remembered = manifest.get("fitted_rows")
    estimator.fitted_rows_ = None if remembered is None else FittedRows.from_dict(remembered)
    if manifest["feature_names"] is not None:
        estimator.feature_names_in_ = np.array(manifest["feature_names"], dtype=object)


def _member(estimator: Density, entry: Any, read: Reader, path: Path) -> Family:
    """One member: its file checked from the outside in, then taken into a new family."""
    name, data = _checked_file(entry, read, path)
    with checking(path, repr(name)):
        return weights.unpack(data, lambda: estimator._make(estimator.schema_))


def _calibration(estimator: Density, entry: Any, read: Reader, path: Path) -> Calibration | None:
    """The rows that the fit held apart."""
    if entry is None:
        return None
    name, data = _checked_file(entry, read, path)
    with checking(path, repr(name)):
        tensors = weights.unpack_tensors(data)
        return Calibration.from_tensors(float(entry["share"]), tensors, estimator.schema_)


def _checked_file(entry: Any, read: Reader, path: Path) -> tuple[str, bytes]:
    """Name and content of a file that the manifest lists, size and hash checked."""
    with checking(path, "the list of members"):
        name, size = str(entry["file"]), int(entry["bytes"])
        if not MEMBER.fullmatch(name) or not 8 <= size <= MAX_MEMBER:
            raise ValueError(f"{name!r:.80} of {size} bytes")
        digest = entry["sha256"]
    data = read(name, size)
    if len(data) != size:
        raise damaged(path, f"{name!r} cut short to {len(data)} bytes", f"{size} bytes")
    if hashlib.sha256(data).hexdigest() != digest:
        raise damaged(path, f"{name!r} whose sha256 differs", "the sha256 in manifest.json")
    return name, data

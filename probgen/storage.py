"""Files of a saved model as bytes by name: a folder or a zip, written atomically, read warily.

Knows nothing of models. What is read was written by anyone: sizes are checked before content
is read, nothing is extracted to disk, and links are not followed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from probgen.errors import ModelFileError, message

__all__ = ["MANIFEST", "MEMBER", "Reader", "checking", "damaged", "reader", "write_files"]

#: the file that names all others, and how these are called
MANIFEST = "manifest.json"
MEMBER = re.compile(r"(member_\d{1,4}|calibration)-[0-9a-f]{16}\.safetensors")
#: what a manifest of ours has near its start
MAGIC = "probgen-model"

#: (file name, most bytes) -> content
Reader = Callable[[str, int], bytes]

#: what reading damaged content can raise
BROKEN = (ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError,
          TypeError, ValueError)  # fmt: skip


def damaged(path: Path, found: str, needed: str, do: str = "") -> ModelFileError:
    """The error for a file that fails a check, in its three parts."""
    do = do or "use an undamaged copy, or fit and save the model again"
    return ModelFileError(message(f"{os.fspath(path)!r} with {found}", needed, do))


@contextmanager
def checking(path: Path, what: str) -> Iterator[None]:
    """Turn whatever damaged content raises into the error that says what could not be read."""
    try:
        yield
    except (ModelFileError, torch.OutOfMemoryError):
        raise
    except BROKEN as error:
        found = f"{what} that cannot be read ({type(error).__name__}: {str(error)[:300]})"
        raise damaged(path, found, "what Density.save wrote") from error


# --- writing --------------------------------------------------------------------------------


def write_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a folder, or to one zip if `path` ends in .zip; the manifest comes last.

    What is there before stays whole until, in one step, the new files take its place.

    Raises
    ------
    OSError
        If they cannot be written; `FileExistsError` if something else is at `path`.
    """
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(message(
            f"no folder {os.fspath(path.parent)!r}", "a folder to save the model in",
            "create it, or correct the path",
        ))  # fmt: skip
    if path.suffix == ".zip":
        # a link stays, and what it points to is replaced
        _replace(Path(os.path.realpath(path)), _zipped(files))
    elif path.exists():
        _write_into(path, files)
    else:
        _write_new(path, files)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # of a fixed date: same model, same bytes
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _beside(path: Path) -> Path:
    """A new name in the same folder; not by tempfile, whose files are private to the user."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _replace(path: Path, data: bytes) -> None:
    fresh = _beside(path)
    try:
        with open(fresh, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _write_new(folder: Path, files: Mapping[str, bytes]) -> None:
    fresh = _beside(folder)
    fresh.mkdir()
    try:
        for name, data in files.items():
            _replace(fresh / name, data)
        os.replace(fresh, folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _write_into(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the model in a folder: the switch is the replacement of its manifest.

    Names of members hold their hash, so those of the old model and of the new one lie side
    by side until the manifest names the new ones.
    """
    before = {item.name for item in folder.iterdir()} if folder.is_dir() else {""}
    if before and not _ours(folder / MANIFEST):
        raise FileExistsError(message(
            f"something else than a saved model at {os.fspath(folder)!r}",
            "a new name, an empty folder or a saved model", "choose another path",
        ))  # fmt: skip
    try:
        for name, data in files.items():
            _replace(folder / name, data)
    except BaseException:
        for name in files.keys() - before:
            (folder / name).unlink(missing_ok=True)
        raise
    for name in before - files.keys():
        if MEMBER.fullmatch(name):
            with suppress(OSError):  # a reader may hold it open; the new model is in place
                (folder / name).unlink()


def _ours(manifest: Path) -> bool:
    if not manifest.is_file():
        return False
    with open(manifest, "rb") as file:
        return MAGIC.encode() in file.read(200)


# --- reading --------------------------------------------------------------------------------


def reader(path: Path) -> Reader:
    """How to read the files of the model at `path`.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ModelFileError
        If it is no folder and no zip of such files.
    """
    if path.is_dir():
        return partial(_from_folder, path)
    if not path.exists():
        raise FileNotFoundError(message(
            f"nothing at {os.fspath(path)!r}", "a saved model", "check the path"
        ))  # fmt: skip
    return partial(_from_members, path, _unzip(path))


def _from_folder(path: Path, name: str, most: int) -> bytes:
    try:
        info = os.lstat(path / name)
    except FileNotFoundError as error:
        raise damaged(path, f"no {name!r}", "all files of a saved model") from error
    if not stat.S_ISREG(info.st_mode):
        raise damaged(path, f"{name!r}, a link or no plain file", "a plain file")
    if info.st_size > most:
        raise damaged(path, f"{name!r} of {info.st_size} bytes", f"at most {most}")
    with open(path / name, "rb") as file:
        return file.read(most)


def _from_members(path: Path, members: dict[str, bytes], name: str, most: int) -> bytes:
    if name not in members:
        raise damaged(path, f"no {name!r}", "all files of a saved model")
    if len(members[name]) > most:
        raise damaged(path, f"{name!r} of {len(members[name])} bytes", f"at most {most}")
    return members[name]


def _unzip(path: Path) -> dict[str, bytes]:
    """Members of an archive, in memory."""
    if not path.is_file():
        raise damaged(path, "no plain file or folder", "a saved model", "check the path")
    found: dict[str, bytes] = {}
    room = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                # stored members cannot be larger than the file that holds them
                room -= entry.file_size
                _check_entry(path, entry, room, entry.filename in found)
                found[entry.filename] = archive.read(entry)
    except ModelFileError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the start of the file
            raise
        raise damaged(path, "a damaged zip directory", "a whole zip file") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, *BROKEN) as error:
        found_text = f"content that is no readable zip ({error})"
        raise damaged(path, found_text, "a folder or zip by Density.save") from error
    return found


def _check_entry(path: Path, entry: zipfile.ZipInfo, room: int, twice: bool) -> None:
    name = entry.filename
    if twice or (name != MANIFEST and not MEMBER.fullmatch(name)):
        raise damaged(path, f"the member {name!r:.80}", f"{MANIFEST} and {MEMBER.pattern}, once")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise damaged(path, f"{name!r}, a link or no plain file", "a plain file")
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise damaged(
            path, f"{name!r}, compressed or encrypted", "members stored as they are",
            "unpack the archive and load the folder",
        )  # fmt: skip
    if room < 0 or entry.file_size != entry.compress_size:
        raise damaged(path, f"{name!r} of {entry.file_size} bytes", "a size that fits the file")

"""Text files, plain or compressed."""

from __future__ import annotations

import gzip
from os import PathLike
from pathlib import Path

from probgen.errors import SchemaError, message

__all__ = ["read_bytes", "read_text", "write_text"]


def read_bytes(path: str | PathLike[str]) -> bytes:
    """The content of a file, decompressed if its name ends in ``.gz``."""
    raw = Path(path).read_bytes()
    if Path(path).suffix != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError) as error:
        raise SchemaError(message(
            f"{path}, which is not compressed or cut off ({error})", "a whole gzip file",
            "check the file, or its suffix .gz",
        )) from error  # fmt: skip


def read_text(path: str | PathLike[str]) -> str:
    """The text of a file in UTF-8, decompressed if its name ends in ``.gz``."""
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise SchemaError(message(
            f"{path}, which is no text in UTF-8 ({error})", "a text file",
            "convert it to UTF-8 first",
        )) from error  # fmt: skip


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a text in UTF-8, compressed if the name ends in ``.gz``."""
    raw = text.encode("utf-8")
    # without a time stamp: the same network gives the same file
    Path(path).write_bytes(gzip.compress(raw, mtime=0) if Path(path).suffix == ".gz" else raw)

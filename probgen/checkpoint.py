"""A running fit on disk: one safetensors file, written so that a crash cannot damage it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probgen.errors import ModelFileError, message

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "probgen-checkpoint-1"


def save_checkpoint(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: Any) -> None:
    """Write tensors and JSON-able `meta` to one file; the file before stays until replaced.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written; the old file is then intact.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        # contiguous copies: safetensors refuses tensors that share memory
        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(plain, name, metadata={"format": FORMAT, "meta": json.dumps(meta)})
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Any]:
    """What `save_checkpoint` wrote: tensors on the CPU, and the metadata.

    Raises
    ------
    FileNotFoundError
        If there is no file at `path`.
    ModelFileError
        If the file is damaged or is no checkpoint of a fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            message(f"no file at {os.fspath(path)!r}", "a checkpoint of a fit", "check the path")
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}
        if header.get("format") != FORMAT:
            raise ValueError(f"format {header.get('format')!r}")
        return tensors, json.loads(header["meta"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(
            message(
                f"{os.fspath(path)!r}, which cannot be read as a checkpoint ({error})",
                f"a file of format {FORMAT!r}",
                "fit again without resume",
            )
        ) from error


def pack(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prefix the names of a state.

    >>> import torch
    >>> list(pack("best", {"loc": torch.zeros(1)}))
    ['best/loc']
    """
    return {f"{prefix}/{key}": value for key, value in state.items()}


def unpack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, by their own names."""
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

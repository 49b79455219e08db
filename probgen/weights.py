"""What a family learned as one safetensors file in memory, and back, checked on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.overrides import TorchFunctionMode

from probgen.family import Family
from probgen.session import guarded

__all__ = ["pack", "pack_tensors", "unpack", "unpack_tensors"]

#: bytes of a safetensors header at most
MAX_HEADER = 2**24
#: bytes that an unfitted family may take beyond the size of its saved tensors
SLACK = 2**24
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
         "U8": 1, "BOOL": 1}  # fmt: skip


def pack(family: Family) -> bytes:
    """The tensors of a family as a safetensors file; ValueError if one is NaN or inf."""
    return pack_tensors(family.tensors())


def pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Tensors by name as a safetensors file; ValueError if one is NaN or inf."""
    # copies: safetensors refuses tensors that share memory
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    _require_finite(tensors)
    return save_safetensors(tensors)


def unpack_tensors(data: bytes) -> dict[str, Tensor]:
    """The inverse of `pack_tensors`; damaged content raises ValueError, or what torch raises."""
    _check_header(data)
    # copies: tensors of a file lie anywhere, and kernels may round by alignment
    tensors = {key: value.clone() for key, value in load_safetensors(data).items()}
    _require_finite(tensors)
    return tensors


def unpack(data: bytes, make_family: Callable[[], Family]) -> Family:
    """A family with the tensors of a safetensors file, on the CPU.

    Sizes are checked before tensors are made, and shapes against those of an unfitted
    family. Damaged content raises ValueError, or what torch raises for it.
    """
    tensors = unpack_tensors(data)
    with guarded(0), _Budget(2 * len(data) + SLACK):
        family = make_family()
    _check_shapes(family, tensors)
    family.load_tensors(tensors)
    if family.tensors().keys() != tensors.keys():
        raise ValueError(f"tensors that {type(family).__name__} does not know")
    return family.eval()


def _check_header(data: bytes) -> None:
    """The header of a safetensors file: sizes add up, before any tensor is made."""
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes in {len(data)}")
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    end = 0
    entries = [value for key, value in header.items() if key != "__metadata__"]
    for entry in sorted(entries, key=lambda item: item["data_offsets"]):
        shape, (first, last) = entry["shape"], entry["data_offsets"]
        if not all(isinstance(s, int) and s >= 0 for s in shape) or len(shape) > 16:
            raise ValueError(f"shape {shape!r:.80}")
        if first != end or last - first != math.prod(shape) * BYTES[entry["dtype"]]:
            raise ValueError(f"shape {shape} in bytes {first} to {last}")
        end = last
    if 8 + length + end != len(data):
        raise ValueError(f"tensors of {end} bytes in {len(data) - 8 - length}")


def _require_finite(tensors: dict[str, Tensor]) -> None:
    """No NaN and no +inf; -inf is the logarithm of 0, which may be learned."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool((value < math.inf).all()):
            raise ValueError(f"NaN or inf in tensor {name!r}")


def _check_shapes(family: Family, tensors: dict[str, Tensor]) -> None:
    """Shapes as in an unfitted family; a dimension of 0 there is laid out by the data."""
    fresh, inside = family.tensors(), dict(family.named_modules())
    for name, value in fresh.items():
        if name not in tensors:
            raise ValueError(f"no tensor {name!r}")
        shape = tensors[name].shape
        same = all(a in (0, b) for a, b in zip(value.shape, shape, strict=False))
        if len(shape) != value.dim() or not same:
            raise ValueError(f"{name!r} of shape {tuple(shape)}, not {tuple(value.shape)}")
        if tensors[name].is_floating_point() != value.is_floating_point():
            raise ValueError(f"{name!r} of type {tensors[name].dtype}, not {value.dtype}")
    # names below no module are the family's own business, e.g. refined draws
    strange = [n for n in tensors.keys() - fresh.keys() if n.rpartition(".")[0] in inside]
    if strange:
        raise ValueError(f"unknown tensor {min(strange)!r}")


class _Budget(TorchFunctionMode):
    """Refuses to allocate more than so many bytes: sizes in a file may be absurd."""

    MAKERS = frozenset({
        torch.zeros, torch.ones, torch.empty, torch.full, torch.eye, torch.arange, torch.rand,
        torch.randn, torch.linspace, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full,
        Tensor.new_empty,
    })  # fmt: skip

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.MAKERS:
            # on the meta device a tensor has a size and no memory
            shape_only = {k: v for k, v in kwargs.items() if k not in ("generator", "out")}
            self.left -= func(*args, **shape_only | {"device": "meta"}).nbytes
            if self.left < 0:
                raise ValueError("parameters that ask for more memory than the file's tensors")
        return func(*args, **kwargs)

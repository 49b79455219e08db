"""A function of tensors as one graph of plain torch operations, Pyro's handlers run once.

`trace` runs the function on tensors that have shapes and no values, and records what torch was
asked to do. Code that would look at a value raises there, so no number of the data can be
frozen into the graph. Pyro and torch's distributions guard some places by such looks; they are
passed over while the trace is made, and only there. What touches these private parts, and
those of torch's tracer and compiler, lives in this module.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Work", "compile_graph", "has_compiler", "signature", "trace"]

Run = Callable[..., Tensor]
#: what Pyro calls to look at a number, in whatever module it was imported by name
LOOKS = {
    "warn_if_nan": lambda value, *args, **kwargs: value,
    "warn_if_inf": lambda value, *args, **kwargs: value,
    "torch_item": lambda value: value.detach() if isinstance(value, Tensor) else value,
}


def trace(function: Run, inputs: Sequence[Tensor]) -> GraphModule:
    """The operations of ``function(*inputs)``, changes of its inputs included.

    Sizes, numbers that are no tensors and the way taken at every `if` are frozen. Random
    numbers stay draws from torch's state. Enter `guarded` first.

    Raises
    ------
    Exception
        Of whatever kind, where the function looks at the value of a tensor.
    """
    with _passed_over(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that a trace may not be general
        graph = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    assert isinstance(graph, GraphModule)  # noqa: S101 - what make_fx returns
    return graph


@contextmanager
def _passed_over() -> Iterator[None]:
    """Guards of Pyro and of torch's distributions that look at values, switched off.

    Both leave most of them out while torch's own tracer is at work: this thread, and no
    other, is told that it is.
    """
    own, before = threading.get_ident(), torch._C._get_tracing_state

    def state() -> object:
        return True if threading.get_ident() == own else before()

    found = [
        (module, name, passing)
        for key, module in list(sys.modules.items())
        if key.partition(".")[0] == "pyro"
        for name, passing in LOOKS.items()
        if name in vars(module)
    ]
    patches = [patch.object(module, name, passing) for module, name, passing in found]
    patches.append(patch.object(torch._C, "_get_tracing_state", state))
    with _all(patches):
        yield


@contextmanager
def _all(patches: Sequence[Any]) -> Iterator[None]:
    if not patches:
        yield
        return
    with patches[0], _all(patches[1:]):
        yield


def signature(inputs: Sequence[Tensor]) -> tuple[object, ...]:
    """What a graph has frozen of its inputs: shapes, strides, dtypes and devices."""
    return tuple((v.shape, v.stride(), v.dtype, v.device) for v in inputs)


def has_compiler() -> bool:
    """Whether there is a C++ compiler that torch can use."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return bool(get_cpp_compiler())
    except Exception:  # noqa: BLE001 - whatever the search for one trips over
        return False


def compile_graph(graph: GraphModule) -> Run:
    """Machine code for a graph, by torch's inductor.

    A process that was killed while it compiled may have left a damaged file in the cache that
    all share; so a failure is tried again with a cache of its own. Random numbers are those of
    eager torch, bit for bit. On the CPU everything goes into one C++ file: it compiles in half
    of the time and runs faster (`benchmarks/compiled.py`).
    """
    try:
        return _inductor(graph)
    except Exception:  # noqa: BLE001 - a damaged cache raises anything
        from torch._inductor.utils import fresh_cache

        with fresh_cache():
            return _inductor(graph, cpp_cache_precompile_headers=False)


def _inductor(graph: GraphModule, **more: Any) -> Run:
    # a place to write to is decided at import, where there may be none
    from torch import _inductor

    examples = [n.meta["val"] for n in graph.graph.nodes if n.op == "placeholder"]
    single = all(v.device.type == "cpu" for v in examples)
    options = {"fallback_random": True, "compile_threads": 1, "cpp_wrapper": single, **more}
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    log = logging.getLogger("torch._inductor")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what fails is said once, by the caller
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            run = _inductor.compile(graph, examples, options=options)
    finally:
        log.setLevel(level)
        if before is None:  # torch writes its choice into the environment
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    return run  # type: ignore[return-value]


class Work(TorchDispatchMode):
    """Inside, what torch is asked to do is counted: operations, and numbers they write.

    Two runs of one code on tensors of equal sizes count alike, on every machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            parts = out if isinstance(out, tuple | list) else (out,)
            self.numbers += sum(v.numel() for v in parts if isinstance(v, Tensor))
        return out

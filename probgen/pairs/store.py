"""Where the parameters of a user's functions live: in the pair, never in Pyro's store.

`pyro.param` and `pyro.module` send messages; `Collect` answers them from a `Store`. The
modules that a user's functions close over stay untouched: while a function runs, its modules
hold the parameters of the store.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from probgen.errors import NotSupported, SchemaError, message

__all__ = ["Collect", "Store", "own_copy", "strangers"]

#: between the name of a module and that of its parameter in Pyro's messages
DIVIDER = "$$$"


def _key(name: str) -> str:
    """A name that torch takes for a parameter."""
    return name.replace("%", "%25").replace(".", "%2E")


class _Units(nn.Module):
    """Where each parameter is measured from, and in which unit: buffers by key."""


class Store(nn.Module):
    """Parameters by name.

    The unconstrained value of a parameter is ``shift + unit * raw``, of which `raw` is
    learned. A unit near the error of one row makes the steps of Adam mean the same for every
    parameter, in whatever units the table is written (see `probgen.pairs.warm`).
    """

    def __init__(self, reset: bool = False) -> None:
        super().__init__()
        self.raw = nn.ParameterDict()
        self.shift, self.unit = _Units(), _Units()
        self.modules_ = nn.ModuleDict()
        self.constraints: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.reset = reset
        #: whether names that are not known yet are taken in, and values set anew
        self.open, self.afresh = True, False
        self._set: set[str] = set()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Inside, the initial value that a function states replaces the present one."""
        self.afresh, self._set = True, set()
        try:
            yield
        finally:
            self.afresh = False

    def value(self, name: str) -> Tensor:
        """The constrained value of a parameter."""
        key = _key(name)
        free = getattr(self.shift, key) + getattr(self.unit, key) * self.raw[key]
        return transform_to(self.constraints[key])(free)

    def free(self, key: str) -> Tensor:
        """The unconstrained value of a parameter, detached."""
        return (getattr(self.shift, key) + getattr(self.unit, key) * self.raw[key]).detach()

    def rescale(self, key: str, unit: Tensor) -> None:
        """Measure a parameter from its present value in another unit."""
        setattr(self.shift, key, self.free(key).clone())
        setattr(self.unit, key, unit.to(self.raw[key]))
        with torch.no_grad():
            self.raw[key].zero_()

    def read(self, name: str, init: Any, constraint: Any) -> Tensor:
        """The answer to ``pyro.param(name, init, constraint)``."""
        key = _key(name)
        fresh = key not in self.raw
        if fresh and not self.open:
            raise NotSupported(message(
                f"pyro.param({name!r}), which earlier runs of the functions did not have",
                "the same parameters in every run", "make them outside of any condition",
            ))  # fmt: skip
        if (fresh or (self.afresh and key not in self._set)) and init is not None:
            self._take(key, name, init() if callable(init) else init, constraint)
        elif fresh:
            raise SchemaError(message(
                f"pyro.param({name!r}) without a value", "a value where it is first named",
                f"write pyro.param({name!r}, torch.tensor(...))",
            ))  # fmt: skip
        return self.value(name)

    def _take(self, key: str, name: str, init: Any, constraint: Any) -> None:
        with torch.no_grad():
            value = torch.as_tensor(init).detach()
            value = value.to(torch.float64) if not value.is_floating_point() else value.double()
            try:
                legal = bool(constraint.check(value).all()) and bool(value.isfinite().all())
            except NotImplementedError:
                legal = bool(value.isfinite().all())
            if not legal:
                raise SchemaError(message(
                    f"an initial value of pyro.param({name!r}) outside its constraint",
                    f"finite values that satisfy {constraint}", "correct the initial value",
                ))  # fmt: skip
            free = transform_to(constraint).inv(value).clone()
        if key in self.raw:
            old = self.raw[key]
            old.data = torch.zeros_like(free).to(old)
            free = free.to(old)
        else:
            self.raw[key] = nn.Parameter(torch.zeros_like(free))
        for owner, held in ((self.shift, free), (self.unit, torch.ones_like(free))):
            if hasattr(owner, key):
                setattr(owner, key, held)
            else:
                owner.register_buffer(key, held)
        self.constraints[key], self.names[name] = constraint, key
        self._set.add(key)

    def adopt(self, name: str, module: nn.Module) -> nn.Module:
        """Our copy of a module that a function registers as `name`."""
        key = _key(name)
        if key not in self.modules_:
            if not self.open:
                raise NotSupported(message(
                    f"pyro.module({name!r}, ...), which earlier runs did not have",
                    "the same modules in every run", "register them outside of any condition",
                ))  # fmt: skip
            if hasattr(module, "_pyro_context"):
                raise NotSupported(message(
                    f"pyro.module({name!r}, ...) of a PyroModule", "a plain nn.Module there",
                    "pass the PyroModule itself as model, or make it a part of the one passed",
                ))  # fmt: skip
            self.modules_[key] = own_copy(module, self.reset)
        return self.modules_[key]


def own_copy(module: nn.Module, reset: bool) -> nn.Module:
    """A copy of a module that keeps to itself, with new initial weights if `reset`."""
    found = copy.deepcopy(module)
    for part in found.modules():
        context = part.__dict__.get("_pyro_context")
        if context is not None and not hasattr(context, "param_state"):
            # as Pyro makes it under module_local_params, which was off where the user was
            context.param_state = {"params": {}, "constraints": {}}
    if reset:
        reset_weights(found)
    return found.double()


def reset_weights(module: nn.Module) -> None:
    """Draw new initial weights, wherever a layer says how."""
    for part in module.modules():
        again = getattr(part, "reset_parameters", None)
        if callable(again):
            again()


class Collect(Messenger):
    """Answers `pyro.param` and `pyro.module` from a store, while it is entered."""

    def __init__(self, store: Store, own: nn.Module) -> None:
        super().__init__()
        self._store, self._own = store, own
        self._swapped: list[tuple[nn.Module, nn.Module]] = []

    def __exit__(self, *error: Any) -> Any:
        while self._swapped:
            _swap(*self._swapped.pop())
        return super().__exit__(*error)

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if msg["fn"] != pyro.get_param_store().get_param:
            return  # of a `PyroModule`, which holds its parameters itself
        name = msg["name"]
        init = msg["args"][1] if len(msg["args"]) > 1 else None
        if DIVIDER in name and _registered() is not None:
            self._lend(name.split(DIVIDER)[0])
            msg["value"] = init
        else:
            constraint = msg["kwargs"].get("constraint", constraints.real)
            msg["value"] = self._store.read(name, init, constraint)
        msg["done"] = msg["stop"] = True

    def _lend(self, name: str) -> None:
        """Put our parameters into the user's module until the function has run."""
        theirs = _registered()
        known = {id(part) for part in self._own.modules()}
        if theirs is None or id(theirs) in known or any(theirs is t for t, _ in self._swapped):
            return
        ours = self._store.adopt(name, theirs)
        _swap(theirs, ours)
        self._swapped.append((theirs, ours))


def _registered() -> nn.Module | None:
    """The module that `pyro.module` is registering: its messages do not carry it."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is pyro.module.__code__:
            return frame.f_locals["nn_module"]
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _swap(one: nn.Module, two: nn.Module) -> None:
    """Exchange parameters, buffers and mode of two modules of the same build."""
    for a, b in zip(one.modules(), two.modules(), strict=True):
        for held in ("_parameters", "_buffers", "training"):
            a.__dict__[held], b.__dict__[held] = b.__dict__[held], a.__dict__[held]


def strangers(loss: Tensor, known: list[nn.Parameter]) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a loss would learn and that are not among those known."""
    seen, todo, ours, found = set(), [loss.grad_fn], {id(p) for p in known}, []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in ours:
            found.append(tuple(leaf.shape))
        todo += [parent for parent, _ in node.next_functions]
    return found

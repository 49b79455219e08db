"""Settings of a fit, and the record of what happened in it."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch

from probgen.errors import SchemaError, message

__all__ = ["FitResult", "Training", "resolve_device"]


@dataclass(frozen=True)
class Training:
    """Settings of a fit; estimators hand their fields over under the same names.

    Parameters
    ----------
    max_epochs : int
        Passes over the training rows at most.
    patience : int
        Epochs without improvement after which training stops.
    validation : float
        Share of rows held out for early stopping (the caller splits, see `split`).
    learning_rate : float
        Step of Adam; not used by closed-form updates.
    batch_size : int or None
        Rows a step. None: all rows for updates; for gradients a power of two near n / 32,
        from `least_batch` to 1,024.
    least_batch : int
        Rows a step at least where `batch_size` is None.
    weight_decay : float
        Share of a parameter of two or more dims that is taken off in a step of Adam, in units
        of the rate (decoupled: Loshchilov and Hutter 2019).
    gradient_clip : float or None
        Largest norm of the gradient of the loss a row; None: no limit.
    schedule : {"plateau", "cosine", "constant"}
        "plateau" keeps the rate until `patience` is spent, then goes on from the best state
        with a tenth of it for half as long (chosen by ``benchmarks/schedules.py``: rules
        that lower the rate earlier do so on saddles too); "constant" stops there; "cosine"
        falls to 0 at `max_epochs`, whatever the loss does.
    starts, restarts : int
        `starts` short runs of which the best is trained on; `restarts` full fits, all kept.
    device : str
        "auto": a GPU where there is one.
    random_state : int or None
        Seed; None: a fresh one, recorded in the result.
    progress : bool
        Show a progress bar with the loss and the time left.
    compile : {"auto", True, False}
        Whether to make one graph of the training step and compile it, which takes some ten
        seconds once. True tries in any case, "auto" where that pays in the steps that are
        certain; both go on with eager steps, and say why, where it cannot be done. Seeds repeat
        a fit bit for bit; compiled and eager fits agree to rounding. See `engines.Gradients`.
    checkpoint : path or None
        File to which the running fit is saved every few seconds, for `resume`.
    tolerance : float
        Improvement of the loss (nats a row) that counts.
    precision : {"float32", "float64"}
        Of gradient training; closed-form updates always take float64.
    delay, kappa : float
        Rates (t + delay)^-kappa of minibatched updates; kappa in (0.5, 1].
    """

    max_epochs: int = 1000
    patience: int = 25
    validation: float = 0.1
    learning_rate: float = 1e-2
    batch_size: int | None = None
    least_batch: int = 32
    weight_decay: float = 0.0
    gradient_clip: float | None = 10.0
    schedule: Literal["plateau", "cosine", "constant"] = "plateau"
    starts: int = 1
    restarts: int = 1
    device: str = "auto"
    random_state: int | None = None
    progress: bool = False
    compile: Literal["auto"] | bool = "auto"
    checkpoint: str | os.PathLike[str] | None = None
    tolerance: float = 1e-4
    precision: Literal["float32", "float64"] = "float32"
    delay: float = 1.0
    kappa: float = 0.7

    def __post_init__(self) -> None:
        for name in ("max_epochs", "patience", "starts", "restarts", "batch_size", "least_batch",
                     "random_state"):  # fmt: skip
            value, low = getattr(self, name), int(name != "random_state")
            none = value is None and name in ("batch_size", "random_state")
            whole = isinstance(value, Integral) and int(value) >= low
            _require(name, value, none or whole, f"a whole number, at least {low}")
        for name in ("learning_rate", "delay", "gradient_clip"):
            value = getattr(self, name)
            positive = _is_number(value) and 0 < value < math.inf
            _require(name, value, positive or value is None, "a positive number")
        for name, low, high in (("weight_decay", 0, math.inf), ("tolerance", 0, math.inf),
                                ("validation", 0, 1)):  # fmt: skip
            value = getattr(self, name)
            fits = _is_number(value) and low <= value < high
            _require(name, value, fits, f"a number, {low} <= {name} < {high:g}")
        _require("kappa", self.kappa, 0.5 < self.kappa <= 1, "0.5 < kappa <= 1")
        schedules = ("plateau", "cosine", "constant")
        _require("schedule", self.schedule, self.schedule in schedules, f"one of {schedules}")
        precisions = ("float32", "float64")
        _require("precision", self.precision, self.precision in precisions, str(precisions))
        _require("compile", self.compile, self.compile in ("auto", True, False), "'auto' or bool")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _require(name: str, value: object, ok: bool, needed: str) -> None:
    if not ok:
        raise SchemaError(message(f"{name}={value!r}", needed, f"change {name}"))


@dataclass
class FitResult:
    """What happened in a fit.

    Attributes
    ----------
    losses, validation : list of float
        Negative ELBO of each epoch and score of the held-out rows after it, nats a row.
    epochs : int
        Epochs that were run.
    converged : bool
        Whether training stopped because there was nothing more to gain.
    reason : str
        Why it stopped.
    seconds : float
        Wall time.
    device, engine : str
        Where and how the steps were computed: "compiled", "traced" (as one graph that was not
        compiled), else the name of the loss or of the kind of step.
    engine_reason : str
        Why a gradient step was, or was not, compiled.
    seed : int
        Repeats this restart as `random_state` of `fit`.
    batch_size : int
        Rows a step.
    learning_rate : float
        The rate when training stopped.
    retries : int
        How often a non-finite loss halved the rate.
    noise : float
        Standard deviation of the noise that a network trained with, encoded units.
    chain : dict
        Of ``inference="nuts"``: warmup, steps, divergences, acceptance, step_size, and over all
        chains and globals the largest rhat and the smallest ess.
    """

    losses: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    epochs: int = 0
    converged: bool = False
    reason: str = ""
    seconds: float = 0.0
    device: str = "cpu"
    engine: str = ""
    engine_reason: str = ""
    seed: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0
    retries: int = 0
    noise: float = 0.0
    chain: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FitResult:
        """The inverse of `to_dict`; unknown entries (of a later version) are left out."""
        names = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in names})


def resolve_device(device: str) -> torch.device:
    """The torch device for a setting; "auto" is this process's GPU where there is one."""
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise SchemaError(
            message(f"device={device!r}", "'auto', 'cpu' or 'cuda'", "change device")
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise SchemaError(
            message(f"device={device!r} but no usable GPU", "a GPU, or 'cpu'", "use device='auto'")
        )
    return found

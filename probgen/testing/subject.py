"""What is under check: an estimator, its fits to the contract tables, and the runner."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from probgen.batch import Batch
from probgen.density import Density
from probgen.errors import NotSupported, SchemaError, message
from probgen.family import Family
from probgen.schema import Schema
from probgen.table import encode
from probgen.testing.tables import TABLES, Contract, holed

__all__ = [
    "CHECKS", "BrokenPromise", "NotApplicable", "Result", "Subject", "check", "check_family",
    "need",
]  # fmt: skip

Make = Density | Callable[..., Any]


class BrokenPromise(AssertionError):
    """A check of the contract that failed; the message says what was found and promised."""


class NotApplicable(Exception):
    """A check that says nothing about this family, and why."""


@dataclass
class Result:
    """What a check came to: status "passed", "failed" or "skipped", and why."""

    name: str
    promise: str
    status: Literal["passed", "failed", "skipped"]
    why: str = ""
    seconds: float = 0.0


class Subject:
    """A family under check, and its fits to the contract tables, each made once.

    Parameters
    ----------
    make : estimator, or callable
        An unfitted estimator; a function without arguments that makes one; or a `Family`
        class (or function) that is made from a schema.
    table : data frame, optional
        Takes the place of the mixed table with holes in the checks that suit any table.
    given : sequence of column names
        Columns of `table` that the fit conditions on.
    """

    def __init__(
        self,
        make: Make,
        table: pd.DataFrame | None = None,
        given: Sequence[Hashable] = (),
    ) -> None:
        self._make = _maker(make)
        self._table, self.given = table, list(given)
        self._fits: dict[str, Density] = {}

    def estimator(self, **settings: Any) -> Density:
        """A new unfitted estimator with some settings changed."""
        made = clone(self._make())
        known = made.get_params()
        return made.set_params(**{k: v for k, v in settings.items() if k in known})

    @property
    def own_columns(self) -> bool:
        """Whether the estimator is written for the columns of one table: its own functions."""
        return bool(self.estimator().functions)

    @property
    def family(self) -> Family | type[Family]:
        """The class of the family; the fitted one where the user's functions decide."""
        return self.fitted()._traits if self.own_columns else self.estimator().family

    def any(self, name: str) -> str:
        """The name of a contract table, or "mixed" where only the subject's own will do."""
        return "mixed" if self.own_columns else name

    def modelled(self, table: pd.DataFrame) -> list[Hashable]:
        """The columns of a table that are not conditioned on."""
        return [name for name in table.columns if name not in self.given]

    def sample(self, model: Density, n: int, random_state: int) -> pd.DataFrame:
        """n rows of a model, in contexts of the subject's table where it has some."""
        if not self.given:
            return model.sample(n, random_state=random_state)
        rows = np.random.default_rng(random_state).integers(len(self.table()), size=n)
        context = self.table()[self.given].iloc[rows].reset_index(drop=True)
        drawn = model.sample(1, given=context, random_state=random_state)
        return drawn.reset_index(drop=True)

    def table(self, name: str = "mixed") -> pd.DataFrame:
        """A contract table by name; a new frame at each call."""
        if name == "mixed" and self._table is not None:
            return self._table.copy()
        if self.own_columns:
            raise NotApplicable("the functions are written for the columns of another table")
        contract = TABLES[name]
        table = contract.make()
        return table if self.family.holes != "refuse" else table.dropna(ignore_index=True)

    def fit(self, table: pd.DataFrame, name: str = "", **settings: Any) -> Density:
        """A new fit, quiet; `name` lends the column kinds of a contract table."""
        own = name == "mixed" and self._table is not None
        contract = Contract(dict) if own else TABLES.get(name, Contract(dict))
        settings = {"columns": contract.columns} | contract.settings | settings
        how = {key: settings.pop(key, None) for key in ("sample_weight", "calibration")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.estimator(**settings).fit(table, given=self.given, **how)

    def fitted(self, name: str = "mixed") -> Density:
        """The fit to a contract table, made at the first call."""
        if name not in self._fits:
            self._fits[name] = self.fit(self.table(name), name)
        return self._fits[name]

    def batch(self, name: str = "mixed", model: Density | None = None) -> Batch:
        """The encoded rows of a contract table, by the schema of its fit."""
        model = model or self.fitted(name)
        encoded = encode(self.table(name), model.schema_)
        return model._batch(encoded, torch.device("cpu"))


def _maker(make: Make) -> Callable[[], Density]:
    if isinstance(make, Density):
        return lambda: make
    if isinstance(make, type) and issubclass(make, Density):
        return make
    required = [
        p
        for p in inspect.signature(make).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if not required and not (isinstance(make, type) and issubclass(make, Family)):
        return make
    return lambda: estimator_of(make)


def estimator_of(make: Callable[[Schema], Family]) -> Density:
    """An estimator of a bare family that is made from a schema."""
    made = make(Schema.infer(TABLES["real2"].make()))
    if not isinstance(made, Family):
        raise SchemaError(message(
            f"{type(made).__name__}", "a Density, or a Family made from a schema",
            "pass an estimator, or a function schema -> family",
        ))  # fmt: skip

    class Bare(Density):
        family: ClassVar[type[Family]] = type(made)

        def _make(self, schema: Schema) -> Family:
            return make(schema)

    Bare.__name__ = Bare.__qualname__ = f"Density[{type(made).__name__}]"
    return Bare(random_state=0)


Check = Callable[[Subject], None]
#: every check by name
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Put a check on the list."""
    CHECKS[function.__name__] = function
    return function


def need(holds: Any, found: str) -> None:
    """Raise `BrokenPromise` unless `holds`: never an `assert`, which ``python -O`` drops."""
    if not bool(holds):
        raise BrokenPromise(found)


def promise(function: Check) -> str:
    """The first line of a check's docstring."""
    return (function.__doc__ or "").strip().splitlines()[0]


def check_family(
    make: Make,
    table: pd.DataFrame | None = None,
    *,
    given: Sequence[Hashable] = (),
    only: Iterable[str] | None = None,
    skip: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "return"] = "raise",
) -> list[Result]:
    """Hold a family to the promises that every family of probgen keeps.

    Parameters
    ----------
    make : estimator, or callable
        An unfitted estimator, a function that makes one, or a `Family` made from a schema.
        Fast settings are wise: about thirty small tables are fitted.
    table : data frame, optional
        Your own table, used where any table will do. A `Pair` needs one: checks on tables
        that its functions do not know are skipped.
    given : sequence of column names
        Columns of `table` that the fit conditions on.
    only : iterable of str, optional
        Names of the checks to run (keys of `CHECKS`); all by default.
    skip : mapping, optional
        Names of checks to leave out, each with the reason, which is reported.
    on_fail : {"raise", "return"}
        Whether the first failure raises, or all are returned.

    Returns
    -------
    list of Result

    Raises
    ------
    BrokenPromise
        With the name of the check, what was found, and what is promised.

    Examples
    --------
    >>> from probgen import Independent
    >>> [r] = check_family(lambda: Independent(random_state=0), only=["no_rows_and_one_row"])
    >>> r.status
    'passed'
    """
    names = list(CHECKS) if only is None else list(only)
    skip = dict(skip or {})
    unknown = [name for name in [*names, *skip] if name not in CHECKS]
    if unknown:
        raise SchemaError(message(
            f"unknown check(s) {unknown}", f"names among {list(CHECKS)}", "correct the names"
        ))  # fmt: skip
    subject, results = Subject(make, table, given), []
    for name in names:
        result = _run(subject, name, skip.get(name))
        results.append(result)
        if result.status == "failed" and on_fail == "raise":
            raise BrokenPromise(f"{name}: {result.why} (promised: {result.promise})")
    return results


def _run(subject: Subject, name: str, reason: str | None) -> Result:
    result = Result(name, promise(CHECKS[name]), "passed")
    if reason is not None:
        result.status, result.why = "skipped", reason
        return result
    clock = time.perf_counter()
    try:
        CHECKS[name](subject)
    except (NotApplicable, NotSupported) as why:  # a family may refuse a question, not fake it
        result.status, result.why = "skipped", str(why)
    except Exception as error:  # noqa: BLE001 - any error of the family is the check's finding
        kind = "" if isinstance(error, BrokenPromise) else f"{type(error).__name__}: "
        result.status, result.why = "failed", f"{kind}{error}"
    result.seconds = time.perf_counter() - clock
    return result


def close(found: Any, wanted: Any, atol: float, rtol: float = 0.0) -> bool:
    """Whether arrays agree; infinities and holes must match."""
    return bool(
        np.allclose(
            np.asarray(found, float), np.asarray(wanted, float), rtol, atol, equal_nan=True
        )
    )


def gap(found: Any, wanted: Any) -> float:
    """Largest absolute difference; 0 of no numbers."""
    both = np.abs(np.asarray(found, float) - np.asarray(wanted, float))
    return float(both.max()) if both.size else 0.0


__all__ += ["close", "gap", "holed", "promise"]

"""What probgen raises and warns: every message has three parts, found, needed, do."""

import difflib
import sys
import warnings
from collections.abc import Iterable
from types import FrameType

__all__ = [
    "ApproximationError",
    "ApproximationWarning",
    "DataWarning",
    "FitError",
    "ModelFileError",
    "NotSupported",
    "ProbgenError",
    "SchemaError",
    "SchemaTypeError",
    "closest",
    "message",
    "warn",
]


#: names that a message lists
SHOWN = 8


class ProbgenError(Exception):
    """Base of every error that probgen raises on purpose."""


class SchemaError(ProbgenError, ValueError):
    """A table, a query or a setting does not fit what is needed."""


class SchemaTypeError(SchemaError, TypeError):
    """A `SchemaError` where scikit-learn's rules ask for a `TypeError`."""


class FitError(ProbgenError, RuntimeError):
    """Training could not reach a usable model."""


class ModelFileError(ProbgenError, ValueError):
    """A saved model is damaged, foreign, or newer than this version."""


class NotSupported(ProbgenError, NotImplementedError):
    """The family cannot answer this question, and says why."""


class ApproximationError(ProbgenError, ArithmeticError):
    """An answer could not be estimated well enough, and ``strict=True`` was asked."""


class DataWarning(UserWarning):
    """Something in the data deserves a look; the answer is still right."""


class ApproximationWarning(UserWarning):
    """An estimated answer may be worse than its stated error."""


def message(found: str, needed: str, do: str) -> str:
    """Join the three parts of an error: what was found, what was needed, what to do.

    >>> message("0 rows", "at least 2 rows", "pass a table with data")
    'found 0 rows; needed at least 2 rows; do: pass a table with data'
    """
    return f"found {found}; needed {needed}; do: {do}"


def closest(found: object, among: Iterable[object]) -> str:
    """Up to eight candidates for what was found, those that look alike first.

    >>> closest("nurze", ["cook", "nurse"])
    "['nurse', 'cook']"
    """
    names = list(among)
    near = difflib.get_close_matches(str(found), [str(name) for name in names], n=3)
    first = [name for text in near for name in names if str(name) == text]
    shown = (first + [name for name in names if str(name) not in near])[:SHOWN]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"[{', '.join(repr(name) for name in shown)}]{more}"


def warn(text: str, category: type[Warning] = DataWarning) -> None:
    """Warn at the line outside of the package that called into it, however deep this is.

    So a warning shows the user's own line, and Python's filters, which show a warning once a
    line, do not keep it back at another line.
    """
    package = __name__.partition(".")[0]
    frame: FrameType | None = sys._getframe()
    level = last = 1
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            last = level
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=last + 1)

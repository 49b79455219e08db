"""What probgen raises and warns: every message has three parts, found, needed, do."""

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
    "message",
]


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

"""Settings of an estimator from the command line: ``--set components=8 hidden=64,64``."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

__all__ = ["read_settings"]


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """A dict from texts ``name=value``; a value that is no Python literal stays a text.

    >>> read_settings(["components=8", "hidden=64,64", "base=normal", "noise=0.1"])
    {'components': 8, 'hidden': (64, 64), 'base': 'normal', 'noise': 0.1}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found

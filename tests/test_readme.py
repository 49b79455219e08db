"""The code of the README and of the how-to pages runs as it stands, block after block."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from probgen.datasets import penguins

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    *sorted(f"docs/how-to/{p.name}" for p in (ROOT / "docs/how-to").glob("*.md")),
    "docs/explanation/guides.md",
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: how a block begins that shows a part of a function
FRAGMENT = "with batch.rows():"


def incomes() -> dict[str, Any]:
    """A table with holes, and an analysis of it."""
    g = np.random.default_rng(0)
    age = g.integers(20, 65, 200)
    table = pd.DataFrame({
        "age": age, "income": np.round(500.0 * age + g.normal(0, 4000, 200) + 9000, 2),
        "grade": g.choice(["a", "b", "c"], 200),
    })  # fmt: skip
    table.loc[::5, "income"] = np.nan
    table.loc[3::9, "grade"] = None

    def analyse(own: pd.DataFrame) -> tuple[float, float]:
        return own["income"].mean(), own["income"].var() / len(own)

    return {"table": table, "analyse": analyse}


def lots() -> dict[str, Any]:
    """Rows that are trusted, and new ones of which two are odd."""
    g = np.random.default_rng(0)
    old, new = (pd.DataFrame(g.normal(size=(n, 3)), columns=list("abc")) for n in (300, 40))
    new.loc[[3, 8], "b"] = [9.0, -8.0]
    return {"pg": pg, "table": old, "old": old, "new": new, "sound": new.drop([3, 8]), "label": 3}


def birds() -> dict[str, Any]:
    return {"table": penguins()[["flipper_length_mm", "body_mass_g"]].dropna()}


def tied() -> dict[str, Any]:
    g = np.random.default_rng(0)
    x = g.normal(size=60)
    z = x + 0.2 * g.normal(size=60)
    return {"table": pd.DataFrame({"x": x, "z": z, "y": x - z + 0.5 * g.normal(size=60)})}


#: what the reader of a page has before its first block
HAVE: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/explanation/guides.md": tied,
    "docs/how-to/fill-holes.md": incomes,
    "docs/how-to/find-odd-rows.md": lots,
    "docs/how-to/write-your-own-pair.md": birds,
}


def blocks(page: str) -> list[str]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [code for code in found if not code.startswith(FRAGMENT)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a page saves is not left in the repository
    names = HAVE.get(page, dict)()
    with warnings.catch_warnings(), mpl.rc_context({"backend": "agg"}):
        for kind in (ConvergenceWarning, pg.ApproximationWarning, pg.DataWarning):
            warnings.simplefilter("ignore", kind)
        for number, code in enumerate(blocks(page)):
            exec(compile(code, f"{page}, block {number}", "exec"), names)  # noqa: S102

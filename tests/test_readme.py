"""The code of the README and of the how-to pages runs as it stands, block after block."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from sklearn.exceptions import ConvergenceWarning

import probgen as pg

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    *sorted(f"docs/how-to/{p.name}" for p in (ROOT / "docs/how-to").glob("*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what a page saves is not left in the repository
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        for kind in (ConvergenceWarning, pg.ApproximationWarning, pg.DataWarning):
            warnings.simplefilter("ignore", kind)
        for number, code in enumerate(blocks(page)):
            exec(compile(code, f"{page}, block {number}", "exec"), names)  # noqa: S102

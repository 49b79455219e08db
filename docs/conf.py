"""Sphinx settings. Builds without a network: no inventories are fetched, no notebook is run."""

import importlib.util
import pkgutil
import re
import shutil
import tomllib
from pathlib import Path

import jupytext

DOCS = Path(__file__).parent
ROOT = DOCS.parent
META = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = "probgen"
author = META["authors"][0]["name"]
copyright = author
release = version = META["version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # scikit-learn adds these; their text refers to pages of its own site
    "exclude-members": "set_fit_request, set_score_request",
}
autodoc_typehints_format = "short"
# napoleon looks attributes up by their bare name, which several classes may share
suppress_warnings = ["ref.python"]
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = f"probgen {release}"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

#: what a user of the package imports; every other module is shown under "engine"
PUBLIC = {
    "probgen", "answers", "calibration", "columns", "datasets", "density", "dependence",
    "diagnostics", "errors", "estimators", "evaluation", "outliers", "plots", "pooling",
    "saving", "schema", "selection", "testing", "verbs",
}  # fmt: skip


def write_reference(folder: Path) -> None:
    """One page for each module that exists, in `public` or `engine`."""
    shutil.rmtree(folder, ignore_errors=True)
    where = importlib.util.find_spec("probgen").submodule_search_locations
    found = {module.name: module.ispkg for module in pkgutil.walk_packages(where, "probgen.")}
    for name, package in {"probgen": True, **found}.items():
        part = name.split(".")[1] if "." in name else name
        page = folder / ("public" if part in PUBLIC else "engine") / f"{name}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        # what a package exports again is described once, in the module that defines it
        members = "\n   :no-members:" if package else ""
        page.write_text(f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}{members}\n```\n")


def write_notebooks(folder: Path) -> None:
    """Notebooks of `examples/`: with their output where `make examples` has run them since."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for source in sorted((ROOT / "examples").glob("*.py")):
        target = folder / f"{source.stem}.ipynb"
        executed = ROOT / "build" / "examples" / target.name
        if executed.exists() and executed.stat().st_mtime >= source.stat().st_mtime:
            shutil.copy(executed, target)
        else:
            jupytext.write(jupytext.read(source), target)


def literal_backticks(app, what, name, obj, options, lines) -> None:
    """`code` in docstrings is shown as code, as in Markdown; roles such as :class:`X` stay."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"(?<![`:\w])`([^`]+)`(?![`_])(?=(\w?))", _literal, line)


def _literal(found: re.Match) -> str:
    """``code``, and a separator where a letter follows."""
    return f"``{found[1]}``" + ("\\ " if found[2] else "")


def setup(app) -> None:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", literal_backticks, priority=900)


write_reference(DOCS / "reference" / "generated")
write_notebooks(DOCS / "examples")

"""The layout of the package: who may import whom, who knows which library, how long a file is."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "probgen"

#: Rows of the design, from the ground up. A module imports from rows above its own in this list;
#: the modules of one row may know each other. A package stands for all its modules.
ROWS = [
    {"errors"},
    {"answers"},
    {"datasets"},
    {"graphs"},  # of nodes: numbers and edges, no tables
    {"exchange"},  # files and objects of other packages that hold a network
    # the table: knows kinds and pandas, no models
    {"cells", "grids"},
    {"frames"},
    {"columns"},
    {"schema"},
    {"overrides"},
    {"decoding"},
    {"table"},
    {"events"},
    {"kinds"},
    # the engine: torch and Pyro, no pandas
    {"batch"},
    {"session", "checkpoint", "storage"},
    {"leaves"},
    {"counts"},
    {"normals"},
    {"holes", "whole_rows"},
    {"full_normals"},
    {"likelihoods", "starts"},
    {"masked", "recoding"},
    {"conditionals"},
    {"elimination"},  # exact sums over the hidden cells of a network
    {"nodes"},  # of a Bayesian network: parameters, and rows under them
    {"nn"},
    {"family"},
    {"queries"},
    {"pairs"},  # what a user's own functions see, and how their sites are read
    {"weights", "plain"},  # of a saved model
    {"elbo", "tracing"},
    {"training", "stopping"},
    {"adam"},
    {"compiled"},
    {"engines"},
    {"loop"},
    {"fitting"},
    {"gibbs", "nuts"},  # posterior draws: of the mixture, of any pair
    {"families"},
    {"companions", "probability"},
    # the faces
    {"diagnostics"},
    {"door"},
    {"calibration"},
    {"verbs"},
    {"density"},
    {"selection"},
    {"estimators"},
    {"dependence", "evaluation", "outliers", "pooling"},
    {"selftest"},
    {"saving"},
    {"plots"},
    {""},  # probgen/__init__.py: the public names
    {"testing"},
    {"demo"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

#: What a class hands over to a later module, imported inside the method: verbs of an estimator,
#: and `Schema.infer`, which reads a table.
HANDED_OVER = {
    ("verbs", "dependence"),
    ("verbs", "estimators"),
    ("verbs", "evaluation"),
    ("verbs", "outliers"),
    ("verbs", "plots"),
    ("density", "companions"),
    ("density", "saving"),
    ("outliers", "saving"),
    ("schema", "kinds"),
}


def between(first: str, last: str) -> set[str]:
    """The modules of the rows from that of `first` to that of `last`."""
    return {name for name, rank in RANK.items() if RANK[first] <= rank <= RANK[last]}


FRAMES = {"cells", "frames", "kinds", "table"}
FACES = between("diagnostics", "plots")
ARVIZ = {"diagnostics", "evaluation", "plots"}
LAST = {"testing", "demo"}
#: library -> the modules that may know it (annotations under TYPE_CHECKING aside)
KNOWN_BY = {
    "pyro": between("batch", "families") | {"testing"},
    "pandas": ({"datasets"} | between("cells", "kinds") | FACES | LAST),
    "zuko": {"nn", "families", "pairs", "testing"},
    "networkx": {"graphs", "exchange", "estimators", "plots"},
    "opt_einsum": {"elimination", "queries"},
    "pgmpy": {"exchange"},
    "narwhals": FRAMES,
    "polars": FRAMES,
    "pyarrow": FRAMES,
    "sklearn": FACES
    | LAST
    | {"fitting", "loop", "training"}  # for ConvergenceWarning
    | {"datasets"},
    "arviz": ARVIZ | LAST,
    "matplotlib": ARVIZ | LAST,
    "pickle": set(),
    "cloudpickle": set(),
    "joblib": set(),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
NAMES = sorted(FILES)


def typing_only(tree: ast.AST) -> set[ast.AST]:
    """Nodes below `if TYPE_CHECKING:`."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    guarded = (block for block in blocks if "TYPE_CHECKING" in ast.unparse(block.test))
    return {node for block in guarded for line in block.body for node in ast.walk(line)}


def imported(name: str) -> Iterator[tuple[str, bool, bool]]:
    """(dotted name, for annotations only, inside a function) of all that a module imports."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    typed = typing_only(tree)
    functions = (f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef))
    local = {node for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        where = node in typed, node in local
        if isinstance(node, ast.Import):
            yield from ((alias.name, *where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports inside probgen are written in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inside = whole.removeprefix("probgen.") in FILES
                yield (whole if inside else str(node.module), *where)


def rank_of(name: str) -> int:
    return RANK[name.split(".")[0]]


def own_imports(name: str) -> list[tuple[str, bool]]:
    """(module of probgen, not at run time before it is used) that module `name` imports."""
    found = ((whole, typed or local) for whole, typed, local in imported(name))
    own = [(whole, local) for whole, local in found if whole.split(".")[0] == "probgen"]
    return [(whole.removeprefix("probgen").lstrip("."), local) for whole, local in own]


@pytest.mark.parametrize("name", NAMES)
def test_every_module_has_its_place(name):
    assert name.split(".")[0] in RANK, f"give probgen.{name} a row in ROWS"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_imports_only_from_rows_above_its_own(name):
    wrong = [
        other
        for other, local in own_imports(name)
        if rank_of(other) > rank_of(name)
        and not (local and (name.split(".")[0], other.split(".")[0]) in HANDED_OVER)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("families.")])
def test_a_family_imports_none_of_the_others(name):
    others = [other for other, _ in own_imports(name) if other.startswith("families")]
    assert others == []


@pytest.mark.parametrize("name", NAMES)
def test_a_module_knows_only_the_libraries_of_its_layer(name):
    used = {whole.split(".")[0] for whole, typed, _ in imported(name) if not typed}
    package = name.split(".")[0]
    assert [lib for lib in sorted(used & set(KNOWN_BY)) if package not in KNOWN_BY[lib]] == []


def test_importing_the_package_is_light():
    code = "import sys, probgen; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert {"arviz", "matplotlib", "polars", "xarray"} & set(run.stdout.split()) == set()


@pytest.mark.parametrize("folder", ["probgen", "tests", "examples", "benchmarks"])
def test_no_file_is_too_long(folder):
    limit = 650 if folder == "tests" else 450  # tables of cases are read by row
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: n for path, n in lengths.items() if n > limit} == {}


def test_a_wrong_import_is_seen(tmp_path, monkeypatch):
    """The checks above can fail: each form of an import is read."""
    path = tmp_path / "wrong.py"
    path.write_text(
        "import pandas\nfrom probgen import table\n"
        "def late():\n    from probgen.estimators import Density\n"
    )
    monkeypatch.setitem(FILES, "wrong", path)
    assert [(whole, local) for whole, _, local in imported("wrong")] == [
        ("pandas", False),
        ("probgen.table", False),
        ("probgen.estimators", True),
    ]

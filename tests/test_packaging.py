"""pyproject.toml, environment.yml and constraints.txt say the same; the wheel holds the data."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: conda-forge's name -> the package index's
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def declared() -> dict[str, Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def conda() -> dict[str, Requirement]:
    text = (ROOT / "environment.yml").read_text().split("dependencies:")[1]
    found = (Requirement(line) for line in re.findall(r"^ *- (.+)$", text, re.MULTILINE))
    named = {CONDA_NAMES.get(r.name, canonicalize_name(r.name)): r for r in found}
    return {name: r for name, r in named.items() if name != "pip"}


def test_conda_environment_mirrors_pyproject():
    ranges = {name: r.specifier for name, r in declared().items()}
    mirrored = {name: r.specifier for name, r in conda().items()}
    assert str(mirrored.pop("python")) == PROJECT["requires-python"]
    assert mirrored == ranges


@pytest.mark.parametrize("name", sorted(declared()))
def test_each_direct_dependency_is_pinned_within_its_range(name):
    assert pins()[name] in declared()[name].specifier


def test_torch_is_the_tested_one():
    assert pins()["torch"] == Version("2.13.0")


def required_by(name: str) -> list[str]:
    """What the installed distribution `name` asks for here, without its extras."""
    lines = metadata.requires(name) or []
    asked = [
        r for r in map(Requirement, lines) if not r.marker or r.marker.evaluate({"extra": ""})
    ]
    return [canonicalize_name(r.name) for r in asked]


def test_everything_that_is_installed_along_is_pinned():
    # the extra "bn" is for exchange with another package, and no part of the tested environment
    exchanged = {canonicalize_name(Requirement(line).name) for line in EXTRAS["bn"]}
    waiting, reached = sorted(set(declared()) - exchanged), set()
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting += required_by(name)
    # a torch of a GPU machine brings its drivers along, which the processor-only one has not
    drivers = {
        name for name in reached if name.startswith(("nvidia-", "cuda-")) or name == "triton"
    }
    assert reached - drivers - set(pins()) - {"setuptools", "pip"} == set()


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE).group(1) == PROJECT["version"]


def test_wheel_holds_types_data_and_notices(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("py.typed", "errors.py", "data/penguins.csv", "data/README.md"):
        assert f"probgen/{needed}" in names
    assert {"LICENSE", "NOTICE"} <= {name.rsplit("/", 1)[-1] for name in names}
    outside = [
        n for n in names if not n.startswith(("probgen/", f"probgen-{PROJECT['version']}."))
    ]
    assert outside == []

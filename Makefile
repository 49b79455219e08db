# probgen: every command a contributor needs. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
WORKERS ?= 2
EXAMPLES := $(wildcard examples/*.py)

# WORKERS test processes of one thread each: on small tensors, threads only get in the way
test coverage docs examples: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help install demo test arviz1 lint format types docs examples bench coverage clean

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(STAMP) ## create .venv and install the tested versions with all extras

# torch goes first, by its exact pin, so that no other requirement chooses another build of it.
# The stamp holds the installation until the requirements change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt torch
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,docs,arrow]'
	touch $@

demo: $(STAMP) ## fit, question and plot a real table; results under build/demo/
	$(PY) -m probgen.demo

test: $(STAMP) ## the whole test suite, doctests included (ARGS=... goes to pytest)
	$(PY) -m pytest -q -n $(WORKERS) $(ARGS)

ARVIZ1 := build/arviz1

# ArviZ 1 needs Python 3.12 or later; the tested environment has 3.11 and ArviZ 0.23
arviz1: $(ARVIZ1)/.installed ## the tests about ArviZ on ArviZ 1 (PYTHON=python3.12 or later)
	OMP_NUM_THREADS=1 MPLBACKEND=agg $(ARVIZ1)/bin/python -m pytest -q tests/test_arviz.py \
	  tests/test_loo.py tests/test_diagnostics.py tests/test_plots.py \
	  tests/test_readme.py -k "not test_code_runs or arviz" $(ARGS)

$(ARVIZ1)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "PYTHON=python3.12 or later")'
	$(PYTHON) -m venv $(ARVIZ1)
	$(ARVIZ1)/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(ARVIZ1)/bin/python -m pip install --quiet 'arviz>=1,<2' pytest hypothesis -e '.[arrow]'
	touch $@

coverage: $(STAMP) ## the test suite with line and branch coverage
	$(PY) -m pytest -q -n $(WORKERS) --cov --cov-report=term-missing:skip-covered $(ARGS)

lint: $(STAMP) ## ruff: rules and layout
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP) ## let ruff repair what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP) ## mypy over the package
	$(PY) -m mypy

docs: $(STAMP) ## the documentation, offline, warnings are errors: build/docs/index.html
	$(PY) -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs

examples: $(STAMP) ## run every notebook of examples/; the executed ones are in build/examples/
	mkdir -p build/examples
	set -e; for source in $(EXAMPLES); do \
	  notebook=build/examples/$$(basename $$source .py).ipynb; \
	  echo "running $$source"; \
	  $(PY) -m jupytext --quiet --to ipynb --output $$notebook $$source; \
	  $(VENV)/bin/jupyter-execute --inplace $$notebook; \
	done

bench: $(STAMP) ## benchmarks beside other libraries (DATA=folder adds the reference data)
	$(PY) -m benchmarks $(if $(DATA),--data $(DATA))

clean: ## remove what was built; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage \
	  docs/_build docs/examples docs/reference/generated

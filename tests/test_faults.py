"""Bad input and bad luck: what a user gets, as one table of cases on each family.

The cases are in tests/faults. Training trouble (a loss that is not finite, interruption,
checkpoints, no memory) is tested in test_fitting.py, and damaged files in test_saving.py.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning

import probgen as pg
from probgen import DataWarning, ProbgenError, SchemaError
from tests.faults import at_events, at_fit, at_use
from tests.faults.cases import CASES, FAMILIES, FAST, Raises, Warns, quiet, real, table

assert at_events and at_fit and at_use  # imported for the cases that they put on the list


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.number}-{c.title}")
def test_fault(case, family):
    expect = case.expect
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(expect, Raises):
            with pytest.raises(expect.kind) as error:
                case.act(FAMILIES[family])
            text = str(error.value)
            assert [word for word in expect.words if word not in text] == [], text
            if isinstance(error.value, ProbgenError):
                parts = ("found ", "; needed ", "; do: ")
                assert all(part in text for part in parts), text
            return
        case.act(FAMILIES[family])
    said = [w for w in caught if issubclass(w.category, DataWarning | ConvergenceWarning)]
    if isinstance(expect, Warns):
        texts = [str(w.message) for w in said if issubclass(w.category, expect.kind)]
        assert any(all(word in text for word in expect.words) for text in texts), texts
    else:
        assert [str(w.message) for w in said if issubclass(w.category, DataWarning)] == []


# --- faults of the mixture alone --------------------------------------------------------------


def test_7_more_components_than_distinct_rows():
    data = pd.concat([real().iloc[:3]] * 5)
    with pytest.raises(SchemaError, match="components=4 for 3 distinct rows"):
        quiet(pg.GaussianMixture(4, **FAST), data)


@pytest.mark.parametrize("components", [0, -1])
def test_7_no_components(components):
    with pytest.raises(SchemaError, match=f"components={components}"):
        pg.GaussianMixture(components, **FAST).fit(real())


@pytest.mark.parametrize("setting", [{"covariance": "round"}, {"weights": "equal"},
                                     {"components": 2.5}, {"concentration": -1.0},
                                     {"spread": 0.0}, {"mean_strength": -1.0},
                                     {"category_strength": 0.0}, {"posterior": "exact"},
                                     {"draws": -1}, {"batch_size": 0}])  # fmt: skip
def test_settings_that_make_no_sense(setting):
    name = next(iter(setting))
    with pytest.raises(SchemaError, match=name):
        quiet(pg.GaussianMixture(**{"components": 2, **FAST, **setting}), table())


def test_56_empty_components_do_no_harm():
    data = real()[["a"]]
    model = quiet(pg.GaussianMixture(30, starts=1, **FAST), data)
    assert np.isfinite(model.log_prob(data)).all()
    assert np.isfinite(model.sample(500, random_state=0)["a"]).all()


def test_54_checks_survive_python_without_asserts():
    code = (
        "import pandas as pd, numpy as np, probgen as pg\n"
        "t = pd.DataFrame({'a': [1.5, np.inf, 2.25, 3.5]})\n"
        "try: pg.Independent().fit(t)\n"
        "except pg.SchemaError: print('refused')\n"
        "from probgen.testing import BrokenPromise\n"
        "from probgen.testing.subject import need\n"
        "try: need(False, 'x')\n"
        "except BrokenPromise: print('checked')\n"
    )
    run = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["refused", "checked"]


def test_8_all_rows_equal():
    data = pd.DataFrame({"a": [2.5] * 9, "job": ["cook"] * 9})
    for make in (FAMILIES["independent"], lambda: pg.GaussianMixture(1, **FAST)):
        with pytest.warns(DataWarning, match="constant"):
            model = make().fit(data)
        assert (model.log_prob(data) == 0).all()
        pd.testing.assert_frame_equal(model.sample(9, random_state=0), data)

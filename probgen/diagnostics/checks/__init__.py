"""Can a fit be believed? Two verdicts, fit for density and fit for intervals, with reasons."""

from __future__ import annotations

from typing import Any

from probgen.diagnostics.checks.convergence import convergence, restarts
from probgen.diagnostics.checks.coverage import coverage
from probgen.diagnostics.checks.density import floor, gap, rival, support
from probgen.diagnostics.checks.evidence import ROWS, Evidence, Floor, Rival, score, some
from probgen.diagnostics.checks.latents import collapsed, components
from probgen.diagnostics.checks.posterior import intervals
from probgen.diagnostics.checks.predictive import columns, pairs, uniform
from probgen.diagnostics.checks.units import units
from probgen.diagnostics.fitted import FittedRows, fingerprint
from probgen.diagnostics.posterior import Fitted
from probgen.diagnostics.report import Finding, Report
from probgen.table import encode, to_frame

__all__ = ["check"]

#: looked at where there are rows to judge by, in the order of the report
OF_ROWS = (support, floor, rival, gap, columns, pairs, uniform, coverage)


def check(
    model: Fitted,
    table: Any = None,
    train: Any = None,
    fit_floor: Floor | None = None,
    fit_rival: Rival | None = None,
) -> Report:
    """Findings about a fitted model.

    Parameters
    ----------
    model : Density
        A fitted model.
    table : data frame, optional
        Rows to judge the density by; rows that the fit did not see say most. That it is the
        fitted table is noticed by the content of its rows.
    train : data frame, optional
        The rows that the model was fitted to.
    fit_floor : callable, optional
        Fits a model of independent columns that shares the schema to given rows.
    fit_rival : callable, optional
        Fits a mixture to given rows and returns what scores others by it, for networks.

    Returns
    -------
    Report
        Of tables of more than 10,000 rows, 10,000 random ones are looked at.

    Notes
    -----
    Draws of the model are seeded: two calls give the same report.
    """
    evidence = _evidence(model, table, train, fit_floor, fit_rival)
    findings = list(convergence(evidence))
    if evidence.seen is None or not len(evidence.seen):
        findings.append(Finding(
            "floor", "unknown", ("density",), "not compared with independent columns",
            "pass check(table) rows that the fit did not see",
        ))  # fmt: skip
    else:
        found = list(units(evidence))
        foreign = any(finding.status == "fail" for finding in found)
        findings += found
        for look in (support,) if foreign else OF_ROWS:  # the rest would say it again
            findings += look(evidence)
    for look in (restarts, components, collapsed, intervals):
        findings += look(evidence)
    return Report(tuple(findings))


def _evidence(
    model: Fitted, table: Any, train: Any, fit_floor: Floor | None, fit_rival: Rival | None
) -> Evidence:
    """The rows, and whether they are those of the fit, by their content."""
    fitted: FittedRows | None = getattr(model, "fitted_rows_", None)
    names = model.schema_.names
    seen = None if table is None else to_frame(table, names)
    known = None if train is None else to_frame(train, names)
    prints = [None if rows is None or not len(rows) else _print(model, rows)
              for rows in (seen, known)]  # fmt: skip
    whole = known is not None and (fitted is None or prints[1] == fitted)
    same = prints[0] is not None and prints[0] in (fitted, prints[1])
    if same and known is None:
        known, whole = seen, True
    rows = 0 if known is None else len(known)
    scored = None if seen is None else score(model, some(seen))
    same_rows = same and known is not None and seen is not None and len(known) == len(seen)
    learned = scored if same_rows else None
    if known is not None and learned is None and len(known):
        learned = score(model, some(known))
    return Evidence(
        model, scored, learned, rows if fitted is None else fitted.rows, same,
        whole and rows <= ROWS and not (fitted is not None and fitted.weighted), fit_floor,
        fit_rival,
    )  # fmt: skip


def _print(model: Fitted, rows: Any) -> FittedRows:
    encoded = encode(rows, model.schema_, unseen="rare")
    return fingerprint(encoded, model.schema_)

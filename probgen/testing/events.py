"""Checks of events: their probabilities, scores given them, and rows that satisfy them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from probgen.events import Event
from probgen.testing.density import FOREIGN, _log_nameable, scores
from probgen.testing.subject import NotApplicable, Subject, check, need

__all__: list[str] = []

#: over the contract's mixed and discrete tables
EVENTS = ("real > 0.5", "real > 0.5 and label == 'x'", "count <= 3", "label != 'y' or count > 4")


@check
def events_and_their_opposites_add_up(subject: Subject) -> None:
    """P(event) + P(not event) = 1, within the stated errors."""
    model = subject.fitted("discrete")
    for text in EVENTS:
        one = model.prob(text, random_state=0)
        other = model.prob(f"not ({text})", random_state=1)
        off = abs(one.value + other.value - 1)  # type: ignore[union-attr]
        se = math.hypot(one.se, other.se)  # type: ignore[union-attr]
        need(off < 4 * se + 1e-6, f"{text!r}: {one} and {other}")


@check
def probabilities_are_shares_of_samples(subject: Subject) -> None:
    """P(event) is the share of samples in the event (4 se), also given values and events."""
    model, n = subject.fitted("discrete"), 8000
    rows = model.sample(n, random_state=6)
    rare = -math.expm1(-_log_nameable(model, rows)) if subject.family.density != "none" else 0.0
    for text in EVENTS:
        # a family that is not coherent conditions in another way than by picking samples
        for given in (None, "count >= 2", {"label": "x"})[: 3 if subject.family.coherent else 1]:
            if isinstance(given, str):
                inside = rows[Event(given, model.schema_).evaluate(rows)]
            else:
                inside = rows if given is None else rows[rows["label"] == "x"]
            share = Event(text, model.schema_).evaluate(inside).mean()
            p = model.prob(text, given=given, random_state=0)
            se = math.hypot(p.se, math.sqrt(max(share * (1 - share), 1 / n) / len(inside)))  # type: ignore[union-attr]
            off = abs(p.value - share)  # type: ignore[union-attr]
            need(off < 4 * se + abs(rare), f"{text!r} given {given!r}: {p}, samples {share:.4f}")


@check
def scores_given_an_event_have_mass_one(subject: Subject) -> None:
    """exp(log_prob(x, given=event)) sums to one, of columns in the event and of others."""
    if subject.family.density == "none" or subject.family.holes == "refuse":
        raise NotApplicable("the family has no marginal densities")
    if not subject.family.coherent:
        raise NotApplicable("the family does not promise coherent conditionals")
    model = subject.fitted("discrete")
    levels = pd.DataFrame({"label": [*(model.schema_["label"].levels or ()), FOREIGN]})
    for text in ("real > 0.5", "real > 0.5 or label == 'x'", "label != 'x' and count < 4"):
        found = model.log_prob(levels, given=text, unseen="rare", details=True)
        mass = np.exp(found["log_prob"])
        error = float((mass * found["se"]).sum())
        need(error < 0.05, f"given {text!r}: a mass with an error of {error:.3g}")
        need(abs(mass.sum() - 1) < 4 * error + 1e-6, f"given {text!r}: mass {mass.sum():.6f}")
    inside = subject.table("discrete").query("count < 4").head(20)
    plain = scores(model, inside) - math.log(float(model.prob("count < 4", random_state=0)))  # type: ignore[arg-type]
    found = scores(model, inside, given="count < 4")
    need(np.abs(found - plain).max() < 0.1, f"off by {np.abs(found - plain).max():.3g} nats")


@check
def samples_given_an_event_satisfy_it(subject: Subject) -> None:
    """sample(n, given=event) gives exactly n rows, all in the event."""
    model = subject.fitted("discrete")
    for text in (*EVENTS, "real > 1 and count > 1"):
        rows = model.sample(83, given=text, random_state=0)
        need(len(rows) == 83, f"{len(rows)} rows given {text!r}")
        bad = int((~Event(text, model.schema_).evaluate(rows)).sum())
        need(bad == 0, f"{bad} rows outside {text!r}")
        wrong = [c for c in rows if rows[c].dtype != subject.table("discrete")[c].dtype]
        need(not wrong, f"other data types of {wrong}")

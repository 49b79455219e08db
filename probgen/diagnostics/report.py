"""What `Density.check` returns: findings, and the two verdicts that follow from them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Literal

__all__ = ["Finding", "Report", "Status", "Verdict"]

Status = Literal["ok", "note", "unknown", "fail"]
Verdict = Literal["yes", "no", "unknown"]

PURPOSES = ("density", "intervals")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What was looked at.
    status : {"ok", "note", "unknown", "fail"}
        "note" deserves a look but decides nothing; "unknown" says what could not be tested
        although the verdict needs it.
    about : tuple of {"density", "intervals"}
        The verdicts that it counts for.
    text : str
        What was found.
    do : str
        What to do about it; empty where there is nothing to do.
    details : dict
        All numbers behind the text, which names the worst; only `Report.to_dict` shows them.
    """

    name: str
    status: Status
    about: tuple[str, ...]
    text: str
    do: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, repr=False)
class Report:
    """Whether a fit can be believed, and why.

    A verdict is "no" if any finding about it failed, "unknown" if one that it needs could not
    be tested, and "yes" otherwise. Intervals need all that a density needs.

    Examples
    --------
    >>> report = Report((Finding("convergence", "fail", ("density",), "stopped early"),))
    >>> report.density, report.intervals
    ('no', 'no')
    >>> print(report)
    fit for density     no       convergence
    fit for intervals   no       convergence
    <BLANKLINE>
      fail     convergence   stopped early
    """

    findings: tuple[Finding, ...]

    @property
    def density(self) -> Verdict:
        """Whether log densities, samples and conditionals can be used."""
        return self._verdict("density")

    @property
    def intervals(self) -> Verdict:
        """Whether posterior intervals can be used."""
        return self._verdict("intervals")

    def reasons(self, purpose: str) -> list[str]:
        """Names of the findings behind a verdict of "no" or "unknown"."""
        verdict = self._verdict(purpose)
        wanted = {"no": "fail", "unknown": "unknown", "yes": ""}[verdict]
        return [finding.name for finding in self._about(purpose) if finding.status == wanted]

    def _about(self, purpose: str) -> list[Finding]:
        counted = {purpose} if purpose == "density" else set(PURPOSES)
        return [finding for finding in self.findings if counted & set(finding.about)]

    def _verdict(self, purpose: str) -> Verdict:
        found = {finding.status for finding in self._about(purpose)}
        return "no" if "fail" in found else "unknown" if "unknown" in found else "yes"

    def __str__(self) -> str:
        lines = []
        for purpose in PURPOSES:
            reasons = ", ".join(self.reasons(purpose))
            label = f"fit for {purpose}"
            lines.append(f"{label:<19} {self._verdict(purpose):<8} {reasons}".rstrip())
        lines.append("")
        width = max((len(finding.name) for finding in self.findings), default=0)
        for finding in self.findings:
            lines += _wrapped(f"  {finding.status:<8} {finding.name:<{width}}   ", finding.text)
            if finding.do:
                lines += _wrapped(" " * (width + 14), f"do: {finding.do}")
        return "\n".join(lines)

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Verdicts, their reasons and all findings as plain values."""
        return {
            **{purpose: self._verdict(purpose) for purpose in PURPOSES},
            "reasons": {purpose: self.reasons(purpose) for purpose in PURPOSES},
            "findings": [asdict(finding) for finding in self.findings],
        }

    def _repr_html_(self) -> str:
        verdicts = "".join(
            f"<tr><th style='text-align:left'>fit for {purpose}</th>"
            f"<td style='text-align:left'><b>{self._verdict(purpose)}</b></td>"
            f"<td style='text-align:left'>{escape(', '.join(self.reasons(purpose)))}</td></tr>"
            for purpose in PURPOSES
        )
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(finding.name)}</td>"
            f"<td style='text-align:left'>{finding.status}</td>"
            f"<td style='text-align:left'>{escape(finding.text)}"
            + (f"<br><i>{escape(finding.do)}</i>" if finding.do else "")
            + "</td></tr>"
            for finding in self.findings
        )
        return f"<table>{verdicts}{rows}</table>"


def _wrapped(head: str, text: str, width: int = 98) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=" " * len(head),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip

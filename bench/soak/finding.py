"""One line of the result: what was measured, and the bound that it must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.table import render


@dataclass(frozen=True, slots=True)
class Finding:
    """What one part of the soak found out."""

    what: str
    measured: str
    bound: str = ""
    """Empty: only to be known."""
    is_held: bool = True


def table_of(findings: Iterable[Finding]) -> str:
    rows = [[each.what, each.measured, each.bound, _verdict(each)] for each in findings]
    return render(["what", "measured", "bound", ""], rows)


def _verdict(finding: Finding) -> str:
    if not finding.bound:
        return ""
    return "held" if finding.is_held else "BROKEN"

"""Tables in Markdown, padded so that a terminal shows them as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.summary import Spread, Summary, cpu_us_per_request, ratio, requests_per_s
from distributer.load.measurement import Measurement

NOTHING = "-"


def render(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draw a table: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in [headers, *rows]) for column in range(len(headers))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [headers, rule, *rows]
    return "\n".join(f"| {' | '.join(_pad(line, widths))} |" for line in lines)


def _pad(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]


def of_peers(peers: Mapping[str, Mapping[int, Measurement]], reference: str) -> str:
    """Draw one table of peers from what the rounds measured of each.

    The ratios say how many times better than the reference a peer is: in requests a second, and in CPU time.
    """
    against = peers.get(reference, {})
    headers = [
        "peer",
        "requests/s",
        f"vs {reference}",
        "CPU us/request",
        f"vs {reference}",
        "core busy",
        "p50 ms",
        "p99 ms",
        "max ms",
        "errors",
    ]
    rows, unevenness = [], []
    for name, rounds in peers.items():
        summary = Summary.of(list(rounds.values()))
        if summary is None:
            continue
        rows.append(
            [
                name,
                spread(summary.requests_per_s),
                times(ratio(rounds, against, requests_per_s)),
                spread(summary.cpu_us_per_request),
                times(ratio(against, rounds, cpu_us_per_request)),
                NOTHING if summary.core_busy is None else f"{summary.core_busy.median:.0%}",
                number(summary.p50_ms.median),
                number(summary.p99_ms.median),
                number(summary.max_ms),
                ", ".join(f"{count} {kind}" for kind, count in summary.errors.items()) or "0",
            ]
        )
        unevenness.append(summary.unevenness)
    if any(value is not None for value in unevenness):
        headers.append("uneven by")
        for row, value in zip(rows, unevenness, strict=True):
            row.append(NOTHING if value is None else str(value))
    return render(headers, rows)


def spread(value: Spread | None) -> str:
    if value is None:
        return NOTHING
    return f"{number(value.median)} ({number(value.low)}-{number(value.high)})"


def times(value: Spread | None) -> str:
    """Write a ratio with its spread."""
    if value is None:
        return NOTHING
    return f"{number(value.median)}x ({number(value.low)}-{number(value.high)})"


def number(value: float) -> str:
    """Write three significant digits, and whole numbers from a hundred on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"

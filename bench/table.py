"""Tables in Markdown, padded so that a terminal shows them as well."""

from __future__ import annotations

from collections.abc import Sequence

from bench.summary import Spread, Summary

NOTHING = "-"


def render(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draw a table: the first column to the left, all others to the right."""
    widths = [max(len(row[column]) for row in [headers, *rows]) for column in range(len(headers))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [headers, rule, *rows]
    return "\n".join(f"| {' | '.join(_pad(line, widths))} |" for line in lines)


def _pad(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]


def of_summaries(summaries: Sequence[tuple[str, Summary]], reference: str) -> str:
    """Draw one table of peers.

    The ratios say how many times better than the reference a peer is: in requests a second, and in CPU time.
    """
    against = dict(summaries).get(reference)
    against_requests = against.requests_per_s if against else None
    against_cpu = against.cpu_us_per_request if against else None
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
    rows = [
        [
            name,
            spread(summary.requests_per_s),
            ratio(summary.requests_per_s, against_requests),
            spread(summary.cpu_us_per_request),
            ratio(against_cpu, summary.cpu_us_per_request),
            NOTHING if summary.core_busy is None else f"{summary.core_busy.median:.0%}",
            number(summary.p50_ms.median),
            number(summary.p99_ms.median),
            number(summary.max_ms),
            ", ".join(f"{count} {kind}" for kind, count in summary.errors.items()) or "0",
        ]
        for name, summary in summaries
    ]
    if any(summary.unevenness is not None for _, summary in summaries):
        headers.append("uneven by")
        for row, (_, summary) in zip(rows, summaries, strict=True):
            row.append(NOTHING if summary.unevenness is None else str(summary.unevenness))
    return render(headers, rows)


def spread(value: Spread | None) -> str:
    if value is None:
        return NOTHING
    return f"{number(value.median)} ({number(value.low)}-{number(value.high)})"


def ratio(one: Spread | None, other: Spread | None) -> str:
    if one is None or other is None or not other.median:
        return NOTHING
    return f"{number(one.median / other.median)}x"


def number(value: float) -> str:
    """Write three significant digits, and whole numbers from a hundred on."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"

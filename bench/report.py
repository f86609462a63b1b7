"""The results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench import table
from bench.plan import Cell, Plan
from bench.rounds import Results
from bench.summary import Summary

READING = """\
Median of the rounds, with the least and the greatest in brackets. "vs" says how many times better than the reference
a peer is: more requests a second, or less CPU time for one. "core busy" is the share of its core that the proxy used:
well below 100 %, requests a second tell of the load side, or of others who use the machine, and only the CPU time
tells of the proxy."""


def page(plan: Plan, results: Results, facts: Mapping[str, str]) -> str:
    """Write the whole page."""
    parts = [
        "# Benchmark",
        "Written by `python -m bench`; the method is in bench/README.md.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        READING,
    ]
    for cell in plan.cells():
        parts += [f"## {title(cell)}", cell.scenario.about + ".", cell_table(plan, results, cell)]
    parts += ["## Peers", "\n".join(_peers(plan, results))]
    if results.notes:
        parts += ["## What went wrong", "\n".join(f"- {note}" for note in results.notes)]
    return "\n\n".join(parts) + "\n"


def title(cell: Cell) -> str:
    return f"{cell.scenario.name}, {cell.connections} connection{'s' if cell.connections > 1 else ''}"


def cell_table(plan: Plan, results: Results, cell: Cell) -> str:
    summaries = [
        (peer.name, summary) for peer in plan.peers if (summary := Summary.of(results.of(cell, peer))) is not None
    ]
    return table.of_summaries(summaries, plan.reference) if summaries else "Nothing was measured."


def _peers(plan: Plan, results: Results) -> Iterator[str]:
    for peer in plan.peers:
        reason = results.skipped.get(peer.name)
        yield f"- {peer.name}: {peer.about}" + (f". Skipped: {reason}" if reason else "")

"""The results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench import goals, table
from bench.plan import Cell, Plan
from bench.rounds import Results

READING = f"""\
Median of the rounds, with the least and the greatest in brackets. "vs" says how many times better than the reference
a peer is: more requests a second, or less CPU time for one; each round is compared with itself, so the brackets of a
ratio are narrower than those of what it is made of when the machine was busy. "core busy" is the share of its core that
the proxy used: below {goals.SATURATED:.0%}, requests a second tell of the load side, or of others who use the machine,
and only the CPU time tells of the proxy."""

JUDGING = """\
One core each, all features on, the rotation shared. Judged by requests a second where both used up their core, else by
CPU time for a request. A ratio says how many times as good as the other ours is."""


def page(plan: Plan, results: Results, facts: Mapping[str, str], plot: str | None = None) -> str:
    """Write the whole page; `plot` is the path of a picture, as seen from the page."""
    parts = [
        "# Benchmark",
        "Written by `make bench`; the method is in [bench/README.md](../bench/README.md).",
        *_goals(plan, results),
    ]
    if plot is not None:
        parts += [f"![Requests a second and CPU time for one, by peer]({plot})"]
    parts += ["\n".join(f"- {name}: {value}" for name, value in facts.items()), READING]
    for cell in plan.cells:
        parts += [f"## {title(cell)}", cell.scenario.about + ".", cell_table(plan, results, cell)]
    parts += ["## Peers", "\n".join(_peers(plan, results))]
    if results.notes:
        parts += ["## What went wrong", "\n".join(f"- {note}" for note in results.notes)]
    return "\n\n".join(parts) + "\n"


def title(cell: Cell) -> str:
    words = f"{cell.scenario.name}, {cell.connections} connection{'s' if cell.connections > 1 else ''}"
    return f"{words}, {cell.workers} workers" if cell.workers > 1 else words


def cell_table(plan: Plan, results: Results, cell: Cell) -> str:
    rows = {peer.name: rounds for peer in plan.peers if (rounds := results.of(cell, peer.name))}
    return table.of_peers(rows, plan.reference) if rows else "Nothing was measured."


def _goals(plan: Plan, results: Results) -> Iterator[str]:
    """Judge the goals that the plan has to do with."""
    names = {peer.name for peer in plan.peers}
    verdicts = [
        goals.Verdict.of(goal, results.of(goal.cell, goal.peer), results.of(goal.cell, goal.other))
        for goal in goals.GOALS
        if goal.cell in plan.cells and {goal.peer, goal.other} <= names
    ]
    if verdicts:
        yield "## Goals"
        yield JUDGING
        yield goals.table_of(verdicts)


def _peers(plan: Plan, results: Results) -> Iterator[str]:
    for peer in plan.peers:
        reason = results.skipped.get(peer.name)
        yield f"- {peer.name}: {peer.about}" + (f". Skipped: {reason}" if reason else "")

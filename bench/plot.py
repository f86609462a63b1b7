"""The picture: requests a second and CPU time for one, peer by peer, for the scenarios that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.peers import doors
from bench.peers.peer import Peer, Unavailable
from bench.plan import Cell, Plan
from bench.rounds import Results
from bench.summary import Spread, Summary
from bench.table import number

OURS, THEIRS = "#1f6feb", "#9aa4b2"
ROW_INCHES = 0.3


def draw(plan: Plan, results: Results, cells: Sequence[Cell], path: Path) -> None:
    """Draw one row of charts for each cell into an SVG file. Raises Unavailable if there is nothing to draw with.

    The same results give the same bytes. Slow peers are left out: beside them, the others would be one line.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unavailable("matplotlib is not installed") from error

    charts = [(cell, rows) for cell in cells if (rows := _rows(plan, results, cell))]
    if not charts:
        raise Unavailable("nothing was measured that the plot shows")
    heights = [len(rows) + 1.6 for _, rows in charts]
    with rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, ROW_INCHES * sum(heights)), layout="constrained", facecolor="white")
        grid = figure.subplots(len(charts), 2, squeeze=False, height_ratios=heights)
        for (left, right), (cell, rows) in zip(grid, charts, strict=True):
            what = f"{cell.scenario.name}, {cell.connections} connections"
            rates = [(peer, row.requests_per_s) for peer, row in rows]
            times = [(peer, row.cpu_us_per_request) for peer, row in rows]
            for axes, caption, bars in (
                (left, f"{what}: requests/s (more is better)", rates),
                (right, "CPU us for a request (less is better)", times),
            ):
                shown = [(peer, value) for peer, value in bars if value is not None]
                axes.set_title(caption, fontsize=9, loc="left")
                axes.barh(
                    [peer.name for peer, _ in shown],
                    [value.median for _, value in shown],
                    xerr=[[v.median - v.low for _, v in shown], [v.high - v.median for _, v in shown]],
                    color=[OURS if peer.launch in doors.OURS else THEIRS for peer, _ in shown],
                    error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
                )
                for place, (_, value) in enumerate(shown):
                    end = (value.high, place)
                    axes.annotate(number(value.median), end, (4, 0), textcoords="offset points", va="center", size=8)
                axes.invert_yaxis()
                axes.set_xlim(0, 1.18 * max(value.high for _, value in shown))
                axes.set_xticks([])
                axes.spines[["top", "right", "bottom"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _rows(plan: Plan, results: Results, cell: Cell) -> list[tuple[Peer, Summary]]:
    """Return what is drawn of a cell, the fastest first: the proxies whose CPU time is known."""
    rows = [
        (peer, summary)
        for peer in plan.peers
        if not peer.is_slow
        and (summary := Summary.of(list(results.of(cell, peer.name).values()))) is not None
        and summary.cpu_us_per_request is not None
    ]
    return sorted(rows, key=lambda row: _median(row[1].cpu_us_per_request))


def _median(value: Spread | None) -> float:
    return value.median if value else 0.0

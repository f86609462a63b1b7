"""How fast the distributer means to be, beside whom, and whether it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bench.plan import Cell
from bench.scenarios import SCENARIOS
from bench.summary import Spread, Summary, cpu_us_per_request, p50_ms, ratio, requests_per_s
from bench.table import NOTHING, render, times
from distributer.load.measurement import Measurement

SATURATED = 0.9
"""Share of its core that a proxy must have used for its requests a second to tell what it can do."""


class Basis(StrEnum):
    """What a goal is judged by."""

    REQUESTS = "requests/s"
    CPU = "CPU time"
    LATENCY = "p50"


@dataclass(frozen=True, slots=True)
class Goal:
    """How many times as fast as another a peer is to be."""

    peer: str
    other: str
    at_least: float
    cell: Cell
    is_latency: bool = False
    """Judged by the median latency; else by requests a second, or CPU time for one."""

    def __str__(self) -> str:
        what = "p50" if self.is_latency else "speed"
        connections = f"{self.cell.connections} connection{'s' if self.cell.connections > 1 else ''}"
        return (
            f"{self.peer}: {what} at least {self.at_least:g} x {self.other}, {self.cell.scenario.name}, {connections}"
        )


def _cell(scenario: str, connections: int = 64) -> Cell:
    return Cell(SCENARIOS[scenario], connections)


def _of_express(peer: str) -> tuple[Goal, ...]:
    return (
        Goal(peer, "nginx-lua-redis", 1.3, _cell("ping")),
        Goal(peer, "nginx-lua-redis", 1.3, _cell("read")),
        Goal(peer, "nginx-lua-redis", 1.0, _cell("ping", 1), is_latency=True),
        Goal(peer, "nginx", 0.7, _cell("ping")),
        Goal(peer, "envoy", 2.0, _cell("ping")),
        Goal(peer, "envoy", 1.0, _cell("download-1m")),
        Goal(peer, "envoy", 1.0, _cell("upload-1m")),
        Goal(peer, "aiohttp", 5.0, _cell("ping")),
    )


GOALS = (
    *_of_express("express-compiled"),
    Goal("asgi-compiled", "aiohttp", 3.0, _cell("ping")),
    *_of_express("express"),
    Goal("asgi", "aiohttp", 3.0, _cell("ping")),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a goal. Ratios are of the rounds: how many times as good as the other the peer was."""

    goal: Goal
    requests: Spread | None
    cpu: Spread | None
    p50: Spread | None
    basis: Basis

    @classmethod
    def of(cls, goal: Goal, ours: Mapping[int, Measurement], theirs: Mapping[int, Measurement]) -> Verdict:
        """Judge by requests a second where both used up their core.

        Where one did not, the load side was its limit, or another process on the machine: then the CPU time for a
        request, which is what a core's worth of requests a second would come to, is the one that tells.
        """
        if goal.is_latency:
            basis = Basis.LATENCY
        else:
            basis = Basis.REQUESTS if _is_saturated(ours) and _is_saturated(theirs) else Basis.CPU
        return cls(
            goal,
            ratio(ours, theirs, requests_per_s),
            ratio(theirs, ours, cpu_us_per_request),
            ratio(theirs, ours, p50_ms),
            basis,
        )

    @property
    def is_held(self) -> bool | None:
        """None if it was not measured."""
        deciding = {Basis.REQUESTS: self.requests, Basis.CPU: self.cpu, Basis.LATENCY: self.p50}[self.basis]
        return None if deciding is None else deciding.median >= self.goal.at_least


def _is_saturated(rounds: Mapping[int, Measurement]) -> bool:
    summary = Summary.of(list(rounds.values()))
    return summary is not None and summary.core_busy is not None and summary.core_busy.median >= SATURATED


def table_of(verdicts: Iterable[Verdict]) -> str:
    """Draw the goals, each with the ratios and what they come to."""
    rows = []
    for verdict in verdicts:
        held = {True: "held", False: "**not held**", None: "not measured"}[verdict.is_held]
        p50 = times(verdict.p50) if verdict.goal.is_latency else NOTHING
        basis = NOTHING if verdict.is_held is None else verdict.basis.value
        rows.append([str(verdict.goal), times(verdict.requests), times(verdict.cpu), p50, basis, held])
    return render(["goal", "requests/s", "CPU time", "p50", "judged by", ""], rows)

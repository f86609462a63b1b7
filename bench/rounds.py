"""The run: round after round, peer after peer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.peers.peer import Peer, Unavailable
from bench.plan import Cell, Plan
from bench.rig import Rig, Target
from distributer.load.measurement import Measurement

Progress = Callable[[str], None]

ByRound = dict[int, Measurement]
"""What was measured of one peer in one cell, by the number of the round."""


@dataclass(slots=True)
class Results:
    """All measurements, and what could not be measured."""

    measurements: dict[tuple[Cell, str], ByRound] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Peer -> why it was left out."""
    notes: list[str] = field(default_factory=list)
    """What went wrong with a peer that was measured all the same."""

    def of(self, cell: Cell, peer: str) -> ByRound:
        return self.measurements.get((cell, peer), {})

    def has_errors(self) -> bool:
        return bool(self.notes) or any(each.errors for row in self.measurements.values() for each in row.values())


class Rounds:
    """Take the peers in turn, in each round anew, so that whatever the machine does meanwhile happens to all of them.

    A peer is started afresh for each round. One that cannot be started in the first is skipped by name.
    """

    def __init__(self, plan: Plan, rig: Rig, progress: Progress) -> None:
        self._plan = plan
        self._rig = rig
        self._progress = progress
        self._results = Results()
        self._done = 0
        self._left = plan.measurements()
        self._began_s = time.monotonic()

    def run(self) -> Results:
        for number, peers in self._plan.order():
            for peer in peers:
                if peer.name not in self._results.skipped:
                    self._visit(number, peer)
        return self._results

    def _visit(self, number: int, peer: Peer) -> None:
        for workers, cells in itertools.groupby(self._plan.cells_of(peer), key=lambda cell: cell.workers):
            if peer.name in self._results.skipped:
                return
            self._run_peer(number, peer, workers, list(cells))

    def _run_peer(self, number: int, peer: Peer, workers: int, cells: Sequence[Cell]) -> None:
        left_after = self._left - len(cells)
        try:
            with self._rig.running(peer, workers) as target:
                for cell in cells:
                    self._measure(number, target, cell)
        except Unavailable as reason:
            self._left = left_after
            if number == 1 and not any(name == peer.name for _, name in self._results.measurements):
                self._results.skipped[peer.name] = str(reason)
                all_cells = len(self._plan.cells_of(peer))
                self._left -= all_cells - len(cells) + (self._plan.rounds - 1) * all_cells
            else:
                self._results.notes.append(f"round {number}, {peer.name}, {workers} workers: {reason}")
            self._progress(f"round {number}  {peer.name}: {reason}")

    def _measure(self, number: int, target: Target, cell: Cell) -> None:
        plan = self._plan
        measurement = self._rig.measure(
            target, cell, seconds=plan.seconds, warmup_s=plan.warmup_s, count_backends=plan.count_backends
        )
        self._results.measurements.setdefault((cell, target.peer.name), {})[number] = measurement
        self._done += 1
        self._left -= 1
        self._progress(
            f"[{self._time_left()} left] round {number}  {target.peer.name}  {cell.scenario.name}"
            f"  {cell.connections} conn{f'  {cell.workers} workers' if cell.workers > 1 else ''}: "
            f"{_in_short(measurement)}"
        )

    def _time_left(self) -> str:
        left_s = (time.monotonic() - self._began_s) / self._done * self._left
        return f"{left_s // 60:.0f}:{left_s % 60:02.0f}"


def _in_short(measurement: Measurement) -> str:
    words = [f"{measurement.requests_per_s:,.0f} req/s"]
    if (cpu_us := measurement.cpu_us_per_request) is not None:
        words.append(f"{cpu_us:,.1f} us CPU")
    words.append(f"p50 {measurement.latencies.percentile_ns(50) / 1e6:.3f} ms")
    words += [f"{count} x {kind}" for kind, count in measurement.errors.items()]
    return ", ".join(words)

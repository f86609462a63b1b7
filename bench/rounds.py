"""The run: round after round, peer after peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.peers.peer import Peer, Unavailable
from bench.plan import Cell, Plan
from bench.rig import Rig, Target
from distributer.load.measurement import Measurement

Progress = Callable[[str], None]


@dataclass(slots=True)
class Results:
    """All measurements, and what could not be measured."""

    measurements: dict[tuple[Cell, str], list[Measurement]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Peer -> why it was left out."""
    notes: list[str] = field(default_factory=list)
    """What went wrong with a peer that was measured all the same."""

    def of(self, cell: Cell, peer: Peer) -> list[Measurement]:
        return self.measurements.get((cell, peer.name), [])

    def has_errors(self) -> bool:
        return bool(self.notes) or any(each.errors for row in self.measurements.values() for each in row)


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

    def run(self) -> Results:
        for number, peers in self._plan.order():
            for peer in peers:
                if peer.name not in self._results.skipped:
                    self._visit(number, peer)
        return self._results

    def _visit(self, number: int, peer: Peer) -> None:
        try:
            with self._rig.running(peer) as target:
                for cell in self._plan.cells():
                    self._measure(number, target, cell)
        except Unavailable as reason:
            if number == 1 and not any(name == peer.name for _, name in self._results.measurements):
                self._results.skipped[peer.name] = str(reason)
            else:
                self._results.notes.append(f"round {number}, {peer.name}: {reason}")
            self._progress(f"round {number}  {peer.name}: {reason}")

    def _measure(self, number: int, target: Target, cell: Cell) -> None:
        plan = self._plan
        measurement = self._rig.measure(
            target, cell, seconds=plan.seconds, warmup_s=plan.warmup_s, count_backends=plan.count_backends
        )
        self._results.measurements.setdefault((cell, target.peer.name), []).append(measurement)
        self._done += 1
        self._progress(
            f"[{self._done}/{plan.measurements()}] round {number}  {target.peer.name}  {cell.scenario.name}"
            f"  {cell.connections} conn: {_in_short(measurement)}"
        )


def _in_short(measurement: Measurement) -> str:
    words = [f"{measurement.requests_per_s:,.0f} req/s"]
    if (cpu_us := measurement.cpu_us_per_request) is not None:
        words.append(f"{cpu_us:,.1f} us CPU")
    words.append(f"p50 {measurement.latencies.percentile_ns(50) / 1e6:.3f} ms")
    words += [f"{count} x {kind}" for kind, count in measurement.errors.items()]
    return ", ".join(words)

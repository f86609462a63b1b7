"""What is measured, how often and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bench.peers import PEERS
from bench.peers.peer import Peer
from bench.scenarios import SCENARIOS, Scenario

OVERHEAD_S = 0.9
"""What a measurement takes beside its window and its warm-up: the start of the load client, most of it."""

START_S = 2.0
"""What it takes to start a peer and to end it."""


class Cell(NamedTuple):
    """One measurement to be made of a peer that is running; each cell of the tables holds several."""

    scenario: Scenario
    connections: int
    workers: int = 1


HEADLINE = Cell(SCENARIOS["ping"], 64)
"""The one cell that is measured of every peer."""


def default_cells() -> tuple[Cell, ...]:
    """Return the cells of a plain run: every scenario at 64 connections, the rotation at all of them and twice."""
    ping = SCENARIOS["ping"]
    return (
        HEADLINE,
        Cell(ping, 1),
        Cell(ping, 512),
        *(Cell(scenario, 64) for scenario in SCENARIOS.values() if scenario is not ping),
        Cell(ping, 64, workers=2),
    )


def crossed(scenarios: Sequence[Scenario], connections: Sequence[int], workers: Sequence[int]) -> tuple[Cell, ...]:
    """Return a cell for each combination."""
    return tuple(Cell(scenario, n, m) for m in workers for scenario in scenarios for n in connections)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole run, as asked for on the command line."""

    peers: tuple[Peer, ...]
    cells: tuple[Cell, ...]
    rounds: int
    seconds: float
    warmup_s: float
    reference: str
    """The peer that the others are compared with."""
    spares_slow: bool = False
    """Measure slow peers in the headline cell only."""
    count_backends: bool = False

    def quick(self) -> Plan:
        """Return the plan cut down to a smoke test: everything starts and answers, and the figures mean nothing."""
        cells = dict.fromkeys(cell._replace(connections=min(cell.connections, 8)) for cell in self.cells)
        return replace(self, cells=tuple(cells), rounds=1, seconds=0.5, warmup_s=0.2)

    def cells_of(self, peer: Peer) -> list[Cell]:
        """Return what is measured of a peer: first all with one worker, so that it is started once for each number."""
        cells = self.cells[:1] if self.spares_slow and peer.is_slow else self.cells
        return sorted((cell for cell in cells if cell.workers == 1 or peer.scales), key=lambda cell: cell.workers)

    def order(self) -> Iterator[tuple[int, Sequence[Peer]]]:
        """Give the peers of each round, numbered from 1.

        Every other round goes backwards: when the machine gets slower little by little, no peer is always the late one.
        """
        for number in range(1, self.rounds + 1):
            yield number, self.peers if number % 2 else self.peers[::-1]

    def measurements(self) -> int:
        return self.rounds * sum(len(self.cells_of(peer)) for peer in self.peers)

    def duration_s(self) -> float:
        """Estimate how long it takes."""
        starts = self.rounds * sum(len({cell.workers for cell in self.cells_of(peer)}) for peer in self.peers)
        return starts * START_S + self.measurements() * (self.seconds + self.warmup_s + OVERHEAD_S)


def named(names: str, rows: Mapping[str, Scenario] | Mapping[str, Peer]) -> list[str]:
    """Split names at commas; `all` means every row. Raises ValueError for a name that is not in the table."""
    if names == "all":
        return list(rows)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in rows:
            raise ValueError(f"{name!r} is not one of {', '.join(rows)}")
    return chosen


def peers_named(names: str) -> tuple[Peer, ...]:
    return tuple(PEERS[name] for name in named(names, PEERS))


def scenarios_named(names: str) -> tuple[Scenario, ...]:
    return tuple(SCENARIOS[name] for name in named(names, SCENARIOS))


def numbers(text: str) -> tuple[int, ...]:
    """Read numbers with commas. Raises ValueError."""
    return tuple(int(number) for number in text.split(","))

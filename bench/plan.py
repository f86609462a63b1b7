"""What is measured, how often and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bench.peers import PEERS
from bench.peers.peer import Peer
from bench.scenarios import SCENARIOS, Scenario


class Cell(NamedTuple):
    """One measurement to be made of a peer that is running; each cell of the tables holds several."""

    scenario: Scenario
    connections: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole run, as asked for on the command line."""

    peers: tuple[Peer, ...]
    scenarios: tuple[Scenario, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: float
    warmup_s: float
    reference: str
    """The peer that the others are compared with."""
    count_backends: bool = False

    def quick(self) -> Plan:
        """Return the plan cut down to a smoke test: everything starts and answers, and the figures mean nothing."""
        return replace(self, connections=(1, 8), rounds=1, seconds=0.5, warmup_s=0.2)

    def cells(self) -> list[Cell]:
        return [Cell(scenario, connections) for scenario in self.scenarios for connections in self.connections]

    def order(self) -> Iterator[tuple[int, Sequence[Peer]]]:
        """Give the peers of each round, numbered from 1.

        Every other round goes backwards: when the machine gets slower little by little, no peer is always the late one.
        """
        for number in range(1, self.rounds + 1):
            yield number, self.peers if number % 2 else self.peers[::-1]

    def measurements(self) -> int:
        return self.rounds * len(self.peers) * len(self.cells())

    def duration_s(self) -> float:
        """Estimate how long it takes, with about 2 s for a peer to start and half a second for each load client."""
        return self.rounds * len(self.peers) * (2 + len(self.cells()) * (self.seconds + self.warmup_s + 0.5))


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

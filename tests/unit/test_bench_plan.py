"""bench.plan and bench.scenarios: what is asked, how often, in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.peers import PEERS
from bench.plan import HEADLINE, Cell, Plan, crossed, default_cells, peers_named, scenarios_named
from bench.scenarios import SCENARIOS


def plan(cells: tuple[Cell, ...] | None = None, peers: str = "direct,express,aiohttp", rounds: int = 3) -> Plan:
    return Plan(
        peers=peers_named(peers),
        cells=cells or crossed(scenarios_named("ping,read"), (1, 64), (1,)),
        rounds=rounds,
        seconds=3.0,
        warmup_s=1.0,
        reference="aiohttp",
    )


def test_every_other_round_goes_backwards() -> None:
    order = [(number, [peer.name for peer in peers]) for number, peers in plan().order()]
    forwards, backwards = ["direct", "express", "aiohttp"], ["aiohttp", "express", "direct"]
    assert order == [(1, forwards), (2, backwards), (3, forwards)]


def test_a_plan_counts_its_measurements() -> None:
    assert plan().measurements() == 3 * 3 * 4


def test_quick_keeps_peers_and_scenarios_and_takes_seconds() -> None:
    quick = plan().quick()
    assert quick.peers == plan().peers
    assert quick.cells == crossed(scenarios_named("ping,read"), (1, 8), (1,))
    assert quick.duration_s() < 40


def test_a_plain_run_has_each_scenario_and_takes_less_than_half_an_hour() -> None:
    plain = replace(plan(default_cells(), "all", rounds=3), spares_slow=True, seconds=1.5, warmup_s=0.5)
    assert {cell.scenario for cell in plain.cells} == set(SCENARIOS.values())
    assert {cell.connections for cell in plain.cells} == {1, 64, 512}
    assert plain.duration_s() < 30 * 60


def test_slow_peers_are_spared_all_but_the_headline() -> None:
    plain = replace(plan(default_cells()), spares_slow=True)
    assert plain.cells_of(PEERS["httpx-naive"]) == [HEADLINE]
    assert plain.cells_of(PEERS["express"])[0] == HEADLINE
    assert len(plan(default_cells()).cells_of(PEERS["httpx-naive"])) > 1


def test_a_peer_is_started_once_for_each_number_of_workers_it_can_have() -> None:
    both = plan(crossed(scenarios_named("ping,read"), (64,), (2, 1)))
    assert [cell.workers for cell in both.cells_of(PEERS["express"])] == [1, 1, 2, 2]
    assert [cell.workers for cell in both.cells_of(PEERS["direct"])] == [1, 1]
    assert both.measurements() == 3 * (4 + 2 + 4)


def test_all_means_every_row() -> None:
    assert peers_named("all") == tuple(PEERS.values())
    assert scenarios_named("all") == tuple(SCENARIOS.values())


def test_a_name_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="'nginy' is not one of direct, "):
        peers_named("direct,nginy")


def test_reads_follow_the_creates_of_the_same_items() -> None:
    scenario = SCENARIOS["read"]
    requests = scenario.requests(501)
    assert requests(0).startswith(b"POST /items/?item_id=501 ")
    assert requests(scenario.preparation - 1).startswith(b"POST /items/?item_id=%d " % (500 + scenario.preparation))
    assert requests(scenario.preparation).startswith(b"GET /items/501 ")
    assert requests(2 * scenario.preparation + 7).startswith(b"GET /items/508 ")


def test_creates_never_repeat_an_item() -> None:
    requests = SCENARIOS["create"].requests(1)
    assert len({requests(n).partition(b" HTTP")[0] for n in range(100)}) == 100

"""bench.plan and bench.scenarios: what is asked, how often, in which order."""

from __future__ import annotations

import pytest

from bench.peers import PEERS
from bench.plan import Plan, peers_named, scenarios_named
from bench.scenarios import SCENARIOS, get, post


def plan(rounds: int = 3) -> Plan:
    return Plan(
        peers=peers_named("direct,express,aiohttp"),
        scenarios=scenarios_named("ping,read"),
        connections=(1, 64),
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
    assert (quick.peers, quick.scenarios) == (plan().peers, plan().scenarios)
    assert quick.duration_s() < 30


def test_all_means_every_row() -> None:
    assert peers_named("all") == tuple(PEERS.values())
    assert scenarios_named("all") == tuple(SCENARIOS.values())


def test_a_name_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="'nginy' is not one of direct, "):
        peers_named("direct,nginy")


def test_requests_are_complete() -> None:
    assert get("/ping").startswith(b"GET /ping HTTP/1.1\r\nHost: ")
    assert get("/ping").endswith(b"\r\n\r\n")
    assert post("/x", b"four").endswith(b"Content-Length: 4\r\n\r\nfour")


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

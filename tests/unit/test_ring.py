"""The ring: on which backend a ticket falls, and which backends may be used."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.model import Backend, Ticket
from distributer.routing.ring import Ring

BACKENDS = tuple(Backend.from_url(f"http://127.0.0.1:{port}") for port in range(8000, 8008))
A, B, C, D = BACKENDS[:4]


def rings(max_size: int = 8) -> st.SearchStrategy[Ring]:
    """Make rings with any of their backends down."""
    members = st.integers(1, max_size).map(lambda size: BACKENDS[:size])
    return members.flatmap(
        lambda backends: st.builds(Ring, st.just(backends), st.frozensets(st.sampled_from(backends)))
    )


SOME_BACKENDS = st.frozensets(st.sampled_from(BACKENDS))


@pytest.mark.parametrize(
    ("ticket", "backend"), [(1, A), (2, B), (3, C), (4, D), (5, A), (8, D), (9, A), (2**63 - 1, C)]
)
def test_ticket_k_falls_on_backend_k_minus_1_mod_n(ticket: int, backend: Backend) -> None:
    assert Ring((A, B, C, D)).at(Ticket(ticket)) is backend


@given(rings(), st.integers(1, 2**63), st.integers(1, 100))
def test_consecutive_tickets_fall_evenly_from_wherever_they_start(ring: Ring, first: int, count: int) -> None:
    counts = Counter(ring.at(Ticket(ticket)) for ticket in range(first, first + count))
    shares = [counts[backend] for backend in ring.backends]
    assert max(shares) - min(shares) <= 1


@given(rings(), st.integers(1, 1_000))
def test_a_backend_that_goes_down_moves_nobody_elses_tickets(ring: Ring, ticket: int) -> None:
    for backend in ring.backends:
        assert ring.with_down(frozenset({backend})).at(Ticket(ticket)) is ring.at(Ticket(ticket))


def test_a_ring_has_at_least_one_backend() -> None:
    with pytest.raises(ValueError, match="at least one backend"):
        Ring(())


def test_a_ring_is_a_snapshot_that_never_changes() -> None:
    before = Ring((A, B))
    after = before.with_down(frozenset({A}))
    assert before.down == frozenset()
    assert after.down == {A}
    assert after.with_down(frozenset({A})) == after
    assert after.with_down(frozenset()) == before


def test_a_backend_is_found_by_its_base_url_up_or_down() -> None:
    ring = Ring((A, B), down=frozenset({B}))
    assert ring.urls == ("http://127.0.0.1:8000", "http://127.0.0.1:8001")
    assert [ring.by_url(url) for url in ring.urls] == [A, B]
    assert ring.by_url("http://127.0.0.1:8002") is None
    assert ring.by_url("http://127.0.0.1:8000/") is None


CANDIDATES = [
    # down, tried -> candidates, usable
    ("", "", "ABCD", "1111"),
    ("B", "", "ACD", "1011"),
    ("", "B", "ACD", "1011"),
    ("B", "A", "CD", "0011"),
    ("B", "B", "ACD", "1011"),
    # All that were not tried are down: what is believed of them may be stale.
    ("ABCD", "", "ABCD", "1111"),
    ("ABCD", "A", "BCD", "0111"),
    ("B", "ACD", "B", "0100"),
    # All were tried.
    ("", "ABCD", "", "0000"),
    ("ABCD", "ABCD", "", "0000"),
]


@pytest.mark.parametrize(("down", "tried", "candidates", "usable"), CANDIDATES)
def test_candidates_are_untried_and_up_or_else_untried(down: str, tried: str, candidates: str, usable: str) -> None:
    by_name = dict(zip("ABCD", (A, B, C, D), strict=True))
    ring = Ring((A, B, C, D), frozenset(by_name[name] for name in down))
    tries = {by_name[name] for name in tried}
    assert list(ring.candidates(tries)) == [by_name[name] for name in candidates]
    assert ring.usable(tries) == usable


@given(rings(), SOME_BACKENDS)
def test_nothing_is_tried_twice_and_nothing_down_while_another_is_up(ring: Ring, tried: frozenset[Backend]) -> None:
    candidates = ring.candidates(tried)
    untried = set(ring.backends) - tried
    assert set(candidates) <= untried
    assert bool(candidates) == bool(untried)
    if untried - ring.down:
        assert set(candidates) == untried - ring.down
    assert list(candidates) == [backend for backend in ring.backends if backend in candidates], "in ring order"

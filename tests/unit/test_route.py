"""The routing decision: tickets that are exchanged, owners that are known or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.errors import StateError, Unroutable
from distributer.model import Backend, ItemId, Ticket
from distributer.routing.ring import Ring
from distributer.routing.route import (
    MAX_EXCHANGES_PER_BACKEND,
    Reason,
    Route,
    TakeTicket,
    choose_by_owner,
    choose_by_ticket,
)

BACKENDS = tuple(Backend.from_url(f"http://127.0.0.1:{port}") for port in range(8000, 8008))
A, B, C, D = BACKENDS[:4]
RING = Ring((A, B, C, D))
ITEM = ItemId("7")


# Tickets.


@pytest.mark.parametrize(("ticket", "backend"), [(1, A), (2, B), (3, C), (4, D), (5, A)])
def test_a_ticket_routes_to_where_it_falls(ticket: int, backend: Backend) -> None:
    assert choose_by_ticket(Ticket(ticket), RING) == Route(backend, Reason.ROTATION, Ticket(ticket))


@pytest.mark.parametrize(
    ("down", "tried"), [({B}, set()), (set(), {B}), ({B}, {B}), ({B}, {A})], ids=["down", "tried", "both", "each"]
)
def test_a_ticket_that_falls_on_no_candidate_is_exchanged(down: set[Backend], tried: set[Backend]) -> None:
    assert choose_by_ticket(Ticket(2), Ring(RING.backends, frozenset(down)), tried) is TakeTicket.ANOTHER


def test_with_all_down_the_untried_are_tried() -> None:
    ring = Ring(RING.backends, frozenset(RING.backends))
    assert choose_by_ticket(Ticket(2), ring) == Route(B, Reason.ROTATION, Ticket(2))
    assert choose_by_ticket(Ticket(2), ring, {B}) is TakeTicket.ANOTHER
    assert choose_by_ticket(Ticket(3), ring, {B}) == Route(C, Reason.ROTATION, Ticket(3))


@pytest.mark.parametrize("down", [frozenset(), frozenset({A}), frozenset(RING.backends)])
def test_with_all_tried_the_request_is_refused(down: frozenset[Backend]) -> None:
    refusal = choose_by_ticket(Ticket(2), Ring(RING.backends, down), set(RING.backends))
    assert isinstance(refusal, Unroutable)
    assert (refusal.status, refusal.retry_after_s) == (503, 1)


@given(st.data(), st.integers(1, 8))
def test_every_request_ends_whatever_tickets_it_gets(data: st.DataObject, size: int) -> None:
    backends = BACKENDS[:size]
    some = st.frozensets(st.sampled_from(backends))
    ring, tried = Ring(backends, data.draw(some)), data.draw(some)
    for exchanged in range(MAX_EXCHANGES_PER_BACKEND * size + 1):
        decision = choose_by_ticket(Ticket(data.draw(st.integers(1, 100))), ring, tried, exchanged)
        if decision is not TakeTicket.ANOTHER:
            break
    if isinstance(decision, Unroutable):
        assert tried == set(backends)
    else:
        assert isinstance(decision, Route)
        assert decision.backend in ring.candidates(tried)


@given(st.integers(1, 1_000), st.integers(1, 8), st.data())
def test_one_that_gives_up_exchanging_takes_a_candidate(ticket: int, size: int, data: st.DataObject) -> None:
    backends = BACKENDS[:size]
    ring = Ring(backends, data.draw(st.frozensets(st.sampled_from(backends))))
    decision = choose_by_ticket(Ticket(ticket), ring, (), MAX_EXCHANGES_PER_BACKEND * size)
    assert isinstance(decision, Route)
    assert decision.backend in ring.candidates()


# The cluster: one counter, replicas that believe different things of health, requests that overlap as they like.


@dataclass
class Request:
    """A rotated request of one replica. Each step takes one ticket."""

    ring: Ring
    exchanged: int = 0
    route: Route | None = None


@dataclass
class Cluster:
    """Deals tickets, and counts where they bring requests."""

    rotation: int = 0
    served: Counter[Backend] = field(default_factory=Counter)
    tickets: list[Ticket] = field(default_factory=list)
    gave_up: int = 0

    def step(self, request: Request) -> None:
        """Deal the request one ticket."""
        self.rotation += 1
        decision = choose_by_ticket(Ticket(self.rotation), request.ring, (), request.exchanged)
        if decision is TakeTicket.ANOTHER:
            request.exchanged += 1
            return
        assert isinstance(decision, Route)
        assert decision.ticket == self.rotation
        request.route = decision
        self.served[decision.backend] += 1
        self.tickets.append(decision.ticket)
        self.gave_up += decision.backend is not request.ring.at(decision.ticket)


@given(st.data(), st.integers(1, 6), st.integers(1, 3))
def test_live_backends_stay_level_whatever_each_replica_believes(data: st.DataObject, size: int, replicas: int) -> None:
    backends = BACKENDS[:size]
    beliefs = [Ring(backends, data.draw(st.frozensets(st.sampled_from(backends)))) for _ in range(replicas)]
    cluster = Cluster()
    waiting: list[Request] = []
    for replica in data.draw(st.lists(st.integers(0, replicas - 1), max_size=30)):
        waiting.append(Request(beliefs[replica]))
        # Whose ticket comes next is anybody's guess.
        for _ in range(data.draw(st.integers(0, 2))):
            if waiting:
                request = waiting[data.draw(st.integers(0, len(waiting) - 1))]
                cluster.step(request)
                waiting = [other for other in waiting if other.route is None]
    for request in waiting:
        while request.route is None:
            cluster.step(request)

    assert len(set(cluster.tickets)) == len(cluster.tickets), "each ticket is used at most once"
    if not cluster.gave_up:
        live = [backend for backend in backends if all(backend in ring.candidates() for ring in beliefs)]
        shares = [cluster.served[backend] for backend in live]
        assert not shares or max(shares) - min(shares) <= 1


def test_the_live_half_of_a_ring_is_level_and_the_dead_half_gets_nothing() -> None:
    cluster = Cluster()
    ring = Ring(RING.backends, frozenset({A, C}))
    for _ in range(100):
        request = Request(ring)
        while request.route is None:
            cluster.step(request)
    assert cluster.served == {B: 50, D: 50}
    assert cluster.gave_up == 0


# Owners.


@pytest.mark.parametrize("reason", [Reason.STICKY, Reason.CREATE, Reason.DELETE])
@pytest.mark.parametrize("down", [frozenset(), frozenset({B}), frozenset(RING.backends)])
def test_an_item_goes_to_its_owner_up_or_not(reason: Reason, down: frozenset[Backend]) -> None:
    assert choose_by_owner(ITEM, B.url, Ring(RING.backends, down), reason) == Route(B, reason, None)


def test_an_unbound_item_takes_a_ticket() -> None:
    assert choose_by_owner(ITEM, None, RING, Reason.STICKY) is TakeTicket.FIRST


def test_an_owner_that_is_no_backend_of_ours_is_refused() -> None:
    refusal = choose_by_owner(ITEM, "http://10.0.0.1:9", RING, Reason.STICKY)
    assert isinstance(refusal, Unroutable)
    assert (refusal.status, refusal.title) == (503, "Owner unknown")
    assert str(refusal) == "item 7 is bound to what is not one of the backends"


def test_an_unknown_owner_is_refused_not_guessed_while_the_state_is_away() -> None:
    refusal = choose_by_owner(ITEM, StateError("Redis does not answer"), RING, Reason.STICKY)
    assert isinstance(refusal, Unroutable)
    assert (refusal.status, refusal.title, refusal.retry_after_s) == (503, "Routing state unavailable", 1)
    assert "item 7" in str(refusal)
    assert "Redis does not answer" in str(refusal)

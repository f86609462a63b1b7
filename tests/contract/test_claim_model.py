"""Replicas, backends and a sweeper around the claims: what must hold whatever dies, is lost or comes late.

Twice over: long random histories of many requests, on the reference and on the scripts; and on the reference every
history of a few requests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from distributer.model import Claim, Doubt, ItemId, Operation, Outcome, Places
from distributer.routing import claim as claims
from distributer.routing.claim import Entry, Held, ItemState
from tests.support.claim_stores import TTL_MS, ClaimStore, ReferenceStore, ScriptStore

ITEMS = (ItemId("7"), ItemId("8"))
RING = ("A", "B", "C")
C, D = Operation.CREATE, Operation.DELETE


def check_claims(binding: str | None, entry: Entry | None) -> None:
    """Check the invariants of `routing/claim.py` that speak of one item's state alone: I1 to I3."""
    if entry is None:
        return
    creates = [held for held in entry.claims.values() if held.operation is C]
    deletes = [held for held in entry.claims.values() if held.operation is D]
    assert all(create.owner == binding for create in creates), "I1: a create goes to the present binding"
    assert not creates or all(delete.overlapped for delete in deletes), "I2: a create overlaps every delete"
    assert not entry.pending or (binding is not None and creates), "I3: pending means that a create is in flight"


# Random histories.


class Fate(Enum):
    """How far a request has come."""

    SENT = "sent"  # the backend may process it at any time, until the deadline
    DONE = "done"  # processed: it took effect
    REFUSED = "refused"  # processed: 400 or 404
    UNSENT = "unsent"  # given up before anything was sent


OUTCOMES = {Fate.DONE: Outcome.DONE, Fate.REFUSED: Outcome.FAILED, Fate.UNSENT: Outcome.FAILED}


@dataclass
class Request:
    """A claimed request. `owner` as its replica knows it: "" if the reply to the begin was lost."""

    claim: Claim
    owner: str
    deadline_ms: int
    fate: Fate = Fate.SENT


@dataclass
class Sweep:
    """A sweeper's doubt. `exists` is what the owner answered, None while it has not been asked."""

    doubt: Doubt
    exists: bool | None = None


@dataclass
class World:
    """Three backends with their items, and the requests on their way to them."""

    store: ClaimStore
    now_ms: int = 0
    begun: int = 0
    backends: dict[str, set[ItemId]] = field(default_factory=lambda: {url: set() for url in RING})
    requests: list[Request] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)

    def begin(
        self, item: ItemId, operation: Operation, usable: str = "111", *, reply_lost: bool = False
    ) -> Request | None:
        self.begun += 1
        claim = Claim(f"{operation.value}-{self.begun}", item, operation)
        begun = self.store.begin(claim, RING, usable)
        if reply_lost:
            # The replica does not know whether it claimed anything. It sends nothing, and gives the claim back.
            request = Request(claim, "", self.now_ms + TTL_MS, Fate.UNSENT)
        elif begun.owner is not None:
            request = Request(claim, begun.owner, self.now_ms + TTL_MS)
        else:
            return None
        self.requests.append(request)
        return request

    def process(self, request: Request) -> None:
        items, item = self.backends[request.owner], request.claim.item
        took_effect = (item not in items) == (request.claim.operation is C)
        if took_effect:
            items ^= {item}
        request.fate = Fate.DONE if took_effect else Fate.REFUSED

    def on_their_way(self) -> list[Request]:
        """List the requests that a backend may still process."""
        return [r for r in self.requests if r.fate is Fate.SENT and r.deadline_ms > self.now_ms]

    def settle(self, request: Request) -> None:
        self.store.settle(request.claim, request.owner, OUTCOMES.get(request.fate, Outcome.UNKNOWN))

    def ask(self, sweep: Sweep) -> None:
        sweep.exists = sweep.doubt.owner is not None and sweep.doubt.item in self.backends[sweep.doubt.owner]

    def resolve(self, sweep: Sweep) -> None:
        assert sweep.exists is not None
        self.store.resolve(sweep.doubt, exists=sweep.exists)

    def sweep(self) -> None:
        """List, ask and resolve without anything in between."""
        for doubt in self.store.doubts():
            sweep = Sweep(doubt)
            self.ask(sweep)
            self.resolve(sweep)

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        self.store.advance(ms)

    def check(self) -> None:
        view = self.store.view()
        for item in ITEMS:
            owners = [url for url, items in self.backends.items() if item in items]
            assert len(owners) <= 1, f"{item} is on {owners}"
            assert not owners or view.sticky.get(item) == owners[0], f"I4: {item} is on {owners}"
            check_claims(view.sticky.get(item), view.entries.get(item))

    def check_at_rest(self) -> None:
        """Let every deadline pass and the sweeper do its work: then bindings and items are the same thing."""
        self.advance(2 * TTL_MS)
        self.sweep()
        view = self.store.view()
        assert view.entries == {}
        assert view.sticky == {item: url for url, items in self.backends.items() for item in items}


DATA = st.data()
# Mostly one item: what happens to several at once meets nowhere but in the rotation.
SELDOM = st.sampled_from([False] * 7 + [True])
MOSTLY_ONE = st.sampled_from(ITEMS[:1] * 4 + ITEMS)


class Machine(RuleBasedStateMachine):
    """Any replica may do its next step at any time, or never: that is the same as its death."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.store())

    def store(self) -> ClaimStore:
        """Make an empty store."""
        return ReferenceStore()

    @initialize(item=MOSTLY_ONE)
    def begin_with_a_create(self, item: ItemId) -> None:
        self.world.begin(item, C)

    @rule(item=MOSTLY_ONE, usable=st.sampled_from(["111", "111", "010", "000"]), reply_lost=SELDOM)
    def begin_a_create(self, item: ItemId, usable: str, reply_lost: bool) -> None:
        self.world.begin(item, C, usable, reply_lost=reply_lost)

    @rule(item=MOSTLY_ONE, reply_lost=SELDOM)
    def begin_a_delete(self, item: ItemId, reply_lost: bool) -> None:
        self.world.begin(item, D, reply_lost=reply_lost)

    @rule(item=MOSTLY_ONE, operation=st.sampled_from(Operation), is_settled=st.booleans())
    def begin_and_process(self, item: ItemId, operation: Operation, is_settled: bool) -> None:
        request = self.world.begin(item, operation)
        if request is not None:
            self.world.process(request)
            if is_settled:
                self.world.settle(request)

    @precondition(lambda self: self.world.on_their_way())
    @rule(data=DATA, is_given_up=SELDOM)
    def process(self, data: st.DataObject, is_given_up: bool) -> None:
        request = data.draw(st.sampled_from(self.world.on_their_way()))
        if is_given_up:
            request.fate = Fate.UNSENT
        else:
            self.world.process(request)

    @precondition(lambda self: self.world.requests)
    @rule(data=DATA)
    def settle(self, data: st.DataObject) -> None:
        # As UNKNOWN while a backend may still process it: a timeout, or a reset after it was sent.
        # Also once more: the reply to the first settle was lost.
        self.world.settle(data.draw(st.sampled_from(self.world.requests)))

    @rule(tenths=st.sampled_from([1, 1, 4, 10]))
    def advance(self, tenths: int) -> None:
        self.world.advance(tenths * TTL_MS // 10)

    @rule()
    def list_doubts(self) -> None:
        self.world.sweeps += [Sweep(doubt) for doubt in self.world.store.doubts()]

    @precondition(lambda self: self.world.sweeps)
    @rule(data=DATA)
    def ask(self, data: st.DataObject) -> None:
        self.world.ask(data.draw(st.sampled_from(self.world.sweeps)))

    @precondition(lambda self: any(sweep.exists is not None for sweep in self.world.sweeps))
    @rule(data=DATA)
    def resolve(self, data: st.DataObject) -> None:
        self.world.resolve(data.draw(st.sampled_from([s for s in self.world.sweeps if s.exists is not None])))

    @rule()
    def sweep(self) -> None:
        self.world.sweep()

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.check_at_rest()


def test_random_histories_on_the_reference() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=300, stateful_step_count=60))


@pytest.mark.redis
def test_random_histories_on_the_scripts(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:

        class OnScripts(Machine):
            def store(self) -> ClaimStore:
                return ScriptStore(client)

        run_state_machine_as_test(OnScripts, settings=settings(max_examples=40, stateful_step_count=60))


# Every history.


class Flight(NamedTuple):
    """A request of a history. `fate` is None before its begin; a delete that found nothing to claim never leaves."""

    fate: Fate | None = None
    owner: str = ""
    deadline_ms: int = 0
    settles: int = 0


class Moment(NamedTuple):
    """A moment of a history, hashable: one item, two backends, one slow sweeper among any number of quick ones."""

    binding: str | None
    entry: tuple[int, bool, tuple[tuple[str, Held], ...]] | None
    last_version: int
    rotation: int
    holders: tuple[str, ...]
    now_ms: int
    flights: tuple[Flight, ...]
    slow_doubt: Doubt | None = None
    slow_exists: bool | None = None

    @property
    def state(self) -> ItemState:
        if self.entry is None:
            return ItemState(self.binding)
        version, pending, held = self.entry
        return ItemState(self.binding, Entry(version, pending, dict(held)))

    @property
    def now_us(self) -> int:
        # By A4 the time is ahead of every version that there has been.
        return max(self.now_ms * 1000, self.last_version + 1)

    def after(self, state: ItemState) -> Moment:
        if state.entry is None:
            return self._replace(binding=state.binding, entry=None)
        version, pending, held = state.entry.version, state.entry.pending, state.entry.claims
        entry = version, pending, tuple(sorted(held.items()))
        return self._replace(binding=state.binding, entry=entry, last_version=max(self.last_version, version))


@dataclass(frozen=True)
class Scope:
    """Which histories: of which requests, how long a claim lives, how much time passes, how often each is settled."""

    operations: tuple[Operation, ...]
    ttl_ms: int
    horizon_ms: int
    settles: int

    def __str__(self) -> str:
        requests = "-".join(operation.value for operation in self.operations)
        return f"{requests}-in-{self.horizon_ms}-ms-settled-{self.settles}x"

    def explore(self) -> int:
        """Visit every moment that can come about, and check each. Returns how many there are."""
        start = Moment(None, None, 0, 0, (), 0, (Flight(),) * len(self.operations))
        seen = {start}
        unexplored = [start]
        while unexplored:
            for moment in self.steps(unexplored.pop()):
                if moment not in seen:
                    seen.add(moment)
                    self.check(moment)
                    unexplored.append(moment)
        return len(seen)

    def steps(self, moment: Moment) -> Iterator[Moment]:
        for number, operation in enumerate(self.operations):
            # They begin in this order; all others are in the other scopes.
            if moment.flights[number].fate is not None or number == 0 or moment.flights[number - 1].fate is not None:
                yield from self.steps_of(moment, number, operation)
        if moment.now_ms < self.horizon_ms:
            yield moment._replace(now_ms=moment.now_ms + 1)
        doubt = claims.doubt(ITEMS[0], moment.state, moment.now_us)
        if doubt is not None:
            yield sweep(moment, moment.now_us)
            if moment.slow_doubt is None:
                yield moment._replace(slow_doubt=doubt)
        if moment.slow_doubt is not None:
            if moment.slow_exists is None:
                yield moment._replace(slow_exists=moment.slow_doubt.owner in moment.holders)
            else:
                idle = moment._replace(slow_doubt=None, slow_exists=None)
                exists, now_us = moment.slow_exists, moment.now_us
                yield idle.after(claims.resolve(moment.state, moment.slow_doubt, exists=exists, now_us=now_us)[0])

    def steps_of(self, moment: Moment, number: int, operation: Operation) -> Iterator[Moment]:
        claim = Claim(f"{number}", ITEMS[0], operation)
        flight = moment.flights[number]

        def become(**changes: Any) -> Moment:
            flights = list(moment.flights)
            flights[number] = flight._replace(**changes)
            return moment._replace(flights=tuple(flights))

        if flight.fate is None:
            state, rotation, begun = claims.begin(
                moment.state, claim, Places(RING[:2], "11"), moment.rotation, moment.now_us, self.ttl_ms
            )
            if begun.owner is None:
                yield become(fate=Fate.UNSENT, settles=self.settles)
            else:
                sent = become(fate=Fate.SENT, owner=begun.owner, deadline_ms=moment.now_ms + self.ttl_ms)
                yield sent._replace(rotation=rotation).after(state)
        elif flight.fate is Fate.SENT:
            unknown = Outcome.UNKNOWN
            yield moment.after(claims.settle(moment.state, claim, flight.owner, unknown, moment.now_us))
            yield become(fate=Fate.UNSENT)
            if moment.now_ms < flight.deadline_ms:
                is_there = flight.owner in moment.holders
                took_effect = is_there == (operation is D)
                others = tuple(url for url in moment.holders if url != flight.owner)
                holders = moment.holders if not took_effect else others if operation is D else (*others, flight.owner)
                yield become(fate=Fate.DONE if took_effect else Fate.REFUSED)._replace(holders=tuple(sorted(holders)))
        elif flight.settles < self.settles:
            state = claims.settle(moment.state, claim, flight.owner, OUTCOMES[flight.fate], moment.now_us)
            yield become(settles=flight.settles + 1).after(state)

    def check(self, moment: Moment) -> None:
        assert moment.holders in ((), (moment.binding,)), f"I4: {moment}"
        check_claims(moment.binding, moment.state.entry)
        at_rest = sweep(moment, (moment.now_ms + self.ttl_ms) * 1000)
        assert at_rest.entry is None, f"I5: {moment}"
        assert at_rest.holders == (() if at_rest.binding is None else (at_rest.binding,)), f"I5: {moment}"


def sweep(moment: Moment, now_us: int) -> Moment:
    """Let a sweeper find the doubt, ask and resolve without anything in between."""
    doubt = claims.doubt(ITEMS[0], moment.state, now_us)
    if doubt is None:
        return moment
    state, is_resolved = claims.resolve(moment.state, doubt, exists=doubt.owner in moment.holders, now_us=now_us)
    assert is_resolved
    return moment.after(state)


def scopes() -> Iterator[Scope]:
    # The first request is a create: before it there is nothing to delete.
    for last in Operation:
        yield Scope((C, last), ttl_ms=2, horizon_ms=3, settles=2)
    for rest in product(Operation, repeat=2):
        yield Scope((C, *rest), ttl_ms=1, horizon_ms=2, settles=1)
    if os.environ.get("HYPOTHESIS_PROFILE") == "explore":  # minutes
        for rest in product(Operation, repeat=2):
            yield Scope((C, *rest), ttl_ms=2, horizon_ms=5, settles=2)
        for rest in product(Operation, repeat=3):
            yield Scope((C, *rest), ttl_ms=1, horizon_ms=2, settles=1)


@pytest.mark.parametrize("scope", list(scopes()), ids=str)
def test_every_history_of_a_few_requests(scope: Scope) -> None:
    assert scope.explore() > 1_000


@pytest.mark.parametrize("bound", [1, 2])
@pytest.mark.parametrize("last", Operation)
def test_every_history_of_a_few_requests_of_which_some_are_refused_for_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch, bound: int, last: Operation
) -> None:
    monkeypatch.setattr(claims, "MAX_CLAIMS", bound)
    assert Scope((C, C, last), ttl_ms=1, horizon_ms=2, settles=1).explore() > 200

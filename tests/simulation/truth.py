"""What really happened, and whether it may have.

Whoever simulates a backend, Redis or a client tells what happens here, at the moment at which it does. What must hold
is checked there and then, so that a trace ends where things went wrong:

T1. An item is on one backend at most, and is bound to it (I4 of `routing/claim.py`, with I1 to I3).
T2. No request for an item that exists is answered by a backend that does not have it. (Not if the item has come into
    being since the request began; nor, while Redis is away, if the replica's memory is older than the item.)
T3. A create reaches backends once, and takes effect once at most.
T4. Every answer is that of the request it is given to, and says what the backend did.
T5. Whoever has the answer to a create or a delete finds it settled.
T6. Every ticket is used once at most, by whichever replica, and on the backend on which it falls. It is not used on a
    backend that the replica knows to be down, if there is another.
T7. Every request gets one answer, or its connection is cut, within a bounded time.
T8. A claim under which nothing was sent, and one whose outcome is known, is given back as soon as Redis answers.
T9. At rest there are no claims, and the bindings are exactly the items that exist (I5).

T1 with T2 make each item a register that all see alike: whatever takes effect does so at one moment, on the only
backend that has the item, between the request and its answer; and who is told that there is no such item is told the
truth about some moment in between.

T9 is not exact for an item that a delete without a claim has removed: the item was not bound when that began, and came
into being on the very backend to which chance had sent it. Nor for one that was bound by a hint (`state/fallback.py`),
without a create that succeeded. Their stale bindings are harmless: the owner says 404, or takes the next create.

Some faults take a promise away: `loses_items` (a backend that forgets) the exactness of T9, and `loses_writes` (a Redis
that fails over to a replica which lags behind) T1, T2, T5, T8, and the exactness of T9. What is left of those then is
that an item whose create was settled since is bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distributer.model import Backend, Claim, Operation, Outcome
from distributer.routing.claim import IS_OVER, Entry, ItemState
from distributer.routing.route import MAX_EXCHANGES_PER_BACKEND, Reason, Route
from distributer.routing.topology import Topology
from tests.contract.test_claim_model import check_claims
from tests.simulation.world import Process, World

PATIENCE_S = 8.0
"""The longest that any request may take."""


@dataclass(eq=False, slots=True)
class Op:
    """One request of a client."""

    number: int
    client: str
    process: Process
    method: str
    item: str | None
    began: int
    """The moment, as `Truth` counts them."""
    began_at: float
    is_over: bool = False
    status: int = 0
    """0: cut, or not over yet."""
    answers: list[int] = field(default_factory=list)
    """What backends decided."""
    received: int = 0
    effects: int = 0
    sent: int = 0
    """How often it was begun to be sent to a backend."""
    claims: list[str] = field(default_factory=list)
    is_degraded: bool = False
    """Whether its replica has gone by its memory, for Redis was away."""
    is_unsettled: bool = False
    """Whether its replica could not settle its claim."""

    def __str__(self) -> str:
        return f"op {self.number}: {self.method} {self.item or '/ping'}"


class Truth:
    """All that is known to the simulation and to nobody in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loses_items = False
        self.loses_writes = False
        self.ops: list[Op] = []
        self.holders: dict[str, dict[str, str]] = {}
        """item → base URL → value."""
        self.states: dict[str, ItemState] = {}
        """What Redis has of each item."""
        self.tickets: dict[int, Op] = {}
        self.has_refused = False
        """A replica has refused a request: a round trip was late, and its tickets are a gap."""
        self.late_claims: set[str] = set()
        """Claims whose begin was executed after their replica had given it up."""
        self._moment = 0
        self._existing_since: dict[str, int] = {}
        self._claims: dict[str, Op] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._epochs: list[Topology] = []
        self._unclaimed: set[str] = set()
        self._inexact: set[str] = set()
        self._creates_settled: dict[tuple[str, str], int] = {}
        self._lost_writes = 0

    # What clients tell.

    def asked(self, client: str, process: Process, method: str, item: str | None) -> Op:
        """Note a request that is about to be sent."""
        self._moment += 1
        op = Op(len(self.ops), client, process, method, item, self._moment, self.world.now)
        self.ops.append(op)
        return op

    def answered(self, op: Op, status: int, number: int, *, is_backends: bool) -> None:
        """Note a complete answer; `number`: that of the request which it says it answers."""
        self.over(op)
        op.status = status
        if number != op.number:
            self.world.fail(f"T4: {op} got the answer to op {number}")
        if not is_backends:
            self.has_refused |= status == 503
            return
        if status not in op.answers:
            self.world.fail(f"T4: {op} was answered {status}, which no backend has said ({op.answers})")
        if op.method == "POST" and status == 200 and op.effects != 1:
            self.world.fail(f"T4: {op} was answered 200, and took effect {op.effects} times")
        if op.sent == 1 and not op.is_unsettled and not self.loses_writes and status < 500:
            for claim_id in op.claims:
                if self._holds(claim_id):
                    self.world.fail(f"T5: {op} was answered {status} while its claim {claim_id} is not settled")

    def over(self, op: Op) -> None:
        """Note that a request has ended: answered or cut."""
        if op.is_over:
            self.world.fail(f"T7: {op} got another answer")
        op.is_over = True

    # What replicas do.

    def routed(self, op: Op, route: Route, core: Any, tried: frozenset[Backend], exchanged: int) -> None:
        """Note where a replica wants to send a request."""
        down, ticket = core.ring.down, route.ticket
        if route.reason is Reason.ROTATION and route.backend in down:
            others = [other for other in core.ring.backends if other not in down and other not in tried]
            if others:
                self.world.fail(f"T6: {op} goes to {route.backend.host}, which {op.process.name} knows to be down")
        if ticket is None:
            return
        if ticket in self.tickets:
            self.world.fail(f"T6: {op} uses ticket {ticket}, which was used by {self.tickets[ticket]}")
        self.tickets[ticket] = op
        epoch = next(epoch for epoch in reversed(self._epochs) if epoch.after < ticket)
        ring = epoch.in_rotation
        backend = ring[(ticket - epoch.after - 1 + epoch.first) % len(ring)]
        has_given_up = exchanged >= MAX_EXCHANGES_PER_BACKEND * len(core.ring.backends)
        if backend != route.backend and not has_given_up:
            self.world.fail(f"T6: {op} goes to {route.backend.host}, but ticket {ticket} falls on {backend.host}")

    def claimed(self, op: Op, claim_id: str) -> None:
        """Note that a replica is about to begin a claim for a request."""
        op.claims.append(claim_id)
        self._claims[claim_id] = op

    def concluded(self, claim_id: str, outcome: Outcome) -> None:
        """Note the outcome that a replica has found."""
        self._outcomes[claim_id] = outcome

    # What backends do.

    def decided(self, op: Op, backend: Backend, status: int) -> None:
        """Note what a backend says to a request."""
        op.answers.append(status)
        item = op.item
        if item is None or status != 404 or op.is_degraded or self.loses_writes:
            return
        if self.holders.get(item) and self._existing_since[item] < op.began:
            where = ", ".join(self.holders[item])
            self.world.fail(f"T2: {op} was answered 404 by {backend.host}, while the item is on {where}")

    def received(self, op: Op, backend: Backend) -> None:
        """Note that a backend has got a request."""
        op.received += 1
        if op.received > 1 and op.method == "POST":
            self.world.fail(f"T3: {op} came to a backend again, to {backend.host}")

    def changed(self, op: Op | None, item: str, url: str, value: str | None) -> None:
        """Note that an item has come to be on a backend, with another value, or has gone from it."""
        self._moment += 1
        holders = self.holders.setdefault(item, {})
        if value is None:
            holders.pop(url, None)
            if op is not None and all(claim_id in self._unclaimed for claim_id in op.claims):
                self._inexact.add(item)
        else:
            if not holders:
                self._existing_since[item] = self._moment
            if op is not None and op.method == "POST":
                op.effects += 1
            holders[url] = value
        self._check(item)

    # What Redis does.

    def bound(self, item: str, state: ItemState) -> None:
        """Note the new state of an item in Redis."""
        self.states[item] = state
        self._check(item)

    def hinted(self, item: str) -> None:
        """Note that a create has bound an item to where it was before: the binding stays, should the create fail."""
        self._inexact.add(item)

    def unclaimed(self, claim_id: str) -> None:
        """Note a delete that found nothing to claim: should it find an item in the end, the binding stays."""
        self._unclaimed.add(claim_id)

    def settled(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        """Note a settlement, whether it had an effect or not."""
        if claim.operation is Operation.CREATE and outcome is Outcome.DONE:
            self._creates_settled[claim.item, owner] = self._lost_writes

    def epoch_began(self, topology: Topology) -> None:
        """Note a new ring."""
        self._epochs.append(topology)

    def writes_were_lost(self) -> None:
        """Note that Redis has fallen back to an earlier state."""
        self._lost_writes += 1

    # At rest.

    def check_progress(self) -> None:
        """T7, some time after the last request."""
        for op in self.ops:
            if not op.is_over and op.process.is_alive and self.world.now - op.began_at > PATIENCE_S:
                self.world.fail(f"T7: {op} has got no answer in {self.world.now - op.began_at:.1f} s")

    def check_given_back(self, states: Mapping[str, ItemState]) -> None:
        """T8, shortly after all requests are over and all faults are mended."""
        if self.loses_writes:
            return
        for item, state in states.items():
            claims = {} if state.entry is None else state.entry.claims
            for claim_id, held in claims.items():
                op = self._claims.get(claim_id)
                if op is None or not op.process.is_alive or claim_id in self.late_claims or held.deadline_ms == IS_OVER:
                    continue
                if not op.sent and op.is_over:
                    self.world.fail(f"T8: nothing was sent for {op}, and its claim {claim_id} stands")
                if self._outcomes.get(claim_id, Outcome.UNKNOWN) is not Outcome.UNKNOWN:
                    self.world.fail(
                        f"T8: item {item}: claim {claim_id} of {op} is not settled, though the outcome is known"
                    )

    def check_rest(self, states: Mapping[str, ItemState]) -> None:
        """T9, when every deadline has passed."""
        for item, state in states.items():
            if state.entry is not None:
                self.world.fail(f"T9: item {item} is still claimed: {sorted(state.entry.claims)}")
            is_exact = not (self.loses_items or self.loses_writes or item in self._inexact)
            if is_exact and not self.holders.get(item):
                self.world.fail(f"T9: item {item} is bound to {state.binding}, and nowhere")
        for item, holders in self.holders.items():
            binding = states[item].binding if item in states else None
            if self.loses_writes and not self._must_be_bound(item, holders):
                continue
            if holders and binding not in holders:
                self.world.fail(f"T9: item {item} is on {', '.join(holders)}, and bound to {binding}")

    def _must_be_bound(self, item: str, holders: Mapping[str, str]) -> bool:
        return len(holders) == 1 and all(
            self._creates_settled.get((item, url), -1) == self._lost_writes for url in holders
        )

    def check_level(self, rotation: int) -> None:
        """T6, where nothing went wrong: every ticket was used. So the backends are level, and stay so."""
        unused = set(range(1, rotation + 1)) - self.tickets.keys()
        if unused:
            self.world.fail(f"T6: tickets {sorted(unused)} were taken and not used")

    # The invariants.

    def _check(self, item: str) -> None:
        if self.loses_writes:
            return
        state, holders = self.states.get(item), self.holders.get(item)
        binding, entry = (None, None) if state is None else (state.binding, state.entry)
        if holders and (len(holders) > 1 or binding not in holders):
            self.world.fail(f"T1: item {item} is on {', '.join(holders)}, and bound to {binding}")
        if entry is not None:
            self._check_entry(binding, entry)

    def _check_entry(self, binding: str | None, entry: Entry) -> None:
        try:
            check_claims(binding, entry)
        except AssertionError as error:
            self.world.fail(f"T1: {error}")

    def _holds(self, claim_id: str) -> bool:
        op = self._claims[claim_id]
        state = self.states.get(op.item or "")
        held = None if state is None or state.entry is None else state.entry.claims.get(claim_id)
        return held is not None and held.deadline_ms != IS_OVER

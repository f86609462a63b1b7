"""Safeguards of the product, each of which can be taken away: then some schedule must fall.

A mutation that survives is a hole in the schedules, or in what is checked. `seed` is one that falls, so that showing it
costs one schedule; when the product or the schedules change it may stand again, and then others are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from distributer.control.sweeper import Sweeper
from distributer.errors import ClientGone, RequestError, StateError
from distributer.forwarding import claimed as claimed_module
from distributer.forwarding import connection as connection_module
from distributer.forwarding import exchange as exchange_module
from distributer.forwarding.claimed import ClaimedRequest
from distributer.forwarding.downstream import NOBODY
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.retried import RetriedRequest
from distributer.model import Begun, Claim, Operation, Outcome
from distributer.routing import claim as claims
from distributer.routing.claim import Entry, ItemState, Standing
from distributer.routing.route import Reason, Route, TakeTicket, choose_by_owner, choose_by_ticket
from distributer.state.agreed import AgreedTopology, Learned
from distributer.state.commit import Batch, GroupCommit
from distributer.state.redis_link import HotLink
from distributer.state.redis_store import RedisStore
from distributer.state.unsettled import Unsettled
from tests.simulation.faults import BY_NAME
from tests.simulation.schedule import Result, run

TRIES = 2_500
"""How many seeds are tried before a mutation counts as survived."""

Patches = Callable[[], Sequence[Any]]


@dataclass(frozen=True)
class Mutation:
    """A safeguard, and how it is taken away."""

    name: str
    profile: str
    seed: int
    patches: Patches
    caught_by: str = ""
    """What is expected to fall, if that is to be checked: "T1" to "T9"."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Take the safeguard away, within `determinism.simulated`."""
        with ExitStack() as stack:
            for one in self.patches():
                stack.enter_context(one)
            yield

    def hunt(self, tries: int = TRIES) -> Result | None:
        """Find a schedule that falls: the seed that is known first, then others."""
        profile = BY_NAME[self.profile]
        with self.applied():
            for seed in (self.seed, *range(tries)):
                result = run(seed, profile)
                if result.violation:
                    return result
        return None


# Claims: the transitions.


def _settling(operation: Operation, outcome: Outcome, standing: Standing, rule: Any) -> Sequence[Any]:
    table = {key: value for key, value in claims.SETTLING.items() if key != (operation, outcome, standing)}
    if rule is not None:
        table[operation, outcome, standing] = rule
    return [patch.object(claims, "SETTLING", table)]


def _withdraw_whoever_else_creates(state: ItemState, claim_id: str, _owner: str, _now_us: int) -> ItemState:
    entry, held = claims._take(state, claim_id)
    if not entry.pending:
        return ItemState(state.binding, claims._or_none(entry))
    return ItemState(claims._unbound_from(held.owner, state.binding), claims._or_none(replace(entry, pending=False)))


def _withdraw_although_one_has_succeeded(state: ItemState, claim_id: str, _owner: str, _now_us: int) -> ItemState:
    entry, held = claims._take(state, claim_id)
    if entry.has_create:
        return ItemState(state.binding, claims._or_none(entry))
    return ItemState(claims._unbound_from(held.owner, state.binding), claims._or_none(replace(entry, pending=False)))


def _confirm_and_stay_pending(state: ItemState, claim_id: str, _owner: str, _now_us: int) -> ItemState:
    entry, held = claims._take(state, claim_id)
    return ItemState(state.binding or held.owner, claims._or_none(entry))


def _begin_unmarked(state: ItemState, claim: Claim, *arguments: Any, **options: Any) -> tuple[ItemState, int, Begun]:
    after, rotation, begun = _BEGIN(state, claim, *arguments, **options)
    entry = after.entry
    if claim.operation is Operation.DELETE and entry is not None and claim.id in entry.claims:
        held = {**entry.claims, claim.id: replace(entry.claims[claim.id], overlapped=False)}
        after = ItemState(after.binding, replace(entry, claims=held))
    return after, rotation, begun


def _add_unmarked(entry: Entry | None, claim_id: str, held: claims.Held, now_us: int) -> Entry:
    entry = entry or Entry(now_us, pending=False, claims={})
    return replace(entry, version=entry.version + 1, claims={**entry.claims, claim_id: held})


def _resolve_whatever_has_happened(state: ItemState, _doubt: object, *, exists: bool, now_us: int) -> Any:
    return (state, False) if state.entry is None else (ItemState(state.binding if exists else None), True)


_BEGIN = claims.begin
_OUTCOME_OF = claims.outcome_of


def _unknown_is(outcome: Outcome) -> Callable[[Operation, int], Outcome]:
    def outcome_of(operation: Operation, status: int) -> Outcome:
        found = _OUTCOME_OF(operation, status)
        return outcome if found is Outcome.UNKNOWN else found

    return outcome_of


# Routing.


def _use_any_ticket(ticket: Any, ring: Any, tried: Any = (), _exchanged: int = 0) -> Any:
    return Route(ring.at(ticket), Reason.ROTATION, ticket) if ring.at(ticket) not in tried else TakeTicket.ANOTHER


def _shift_tickets(ticket: Any, ring: Any, tried: Any = (), exchanged: int = 0) -> Any:
    decision = choose_by_ticket(ticket, ring, tried, exchanged)
    if decision is TakeTicket.ANOTHER:
        candidates = ring.candidates(tried)
        return Route(candidates[ticket % len(candidates)], Reason.ROTATION, ticket)
    return decision


def _leave_owners_that_are_down(item: Any, owner: Any, ring: Any, reason: Reason) -> Any:
    decision = choose_by_owner(item, owner, ring, reason)
    return TakeTicket.FIRST if isinstance(decision, Route) and decision.backend in ring.down else decision


def _rotate_without_redis(item: Any, owner: Any, ring: Any, reason: Reason) -> Any:
    return TakeTicket.FIRST if isinstance(owner, StateError) else choose_by_owner(item, owner, ring, reason)


# Forwarding.


def _hold_nothing(self: ClaimedRequest, answer: Any, status: int, owner: str) -> None:
    self._exchange.release(answer)
    self.settle(owner, _OUTCOME_OF(self.claim.operation, status))


def _hold_without_doubt(self: ClaimedRequest, answer: Any, status: int, owner: str) -> None:
    self.held = answer
    self.settle(owner, _OUTCOME_OF(self.claim.operation, status))


def _give_nothing_back(self: ClaimedRequest, _owner: str, then: Any) -> None:
    self._core.claimed.discard(self)
    self._core.fallback.forget(self.claim.item)
    then(None)


def _forget_who_has_left(self: ClaimedRequest, claim: Claim, answer: Any) -> None:
    if self._exchange.is_routing:
        _BEGUN(self, claim, answer)


def _give_up_for_the_client(self: Exchange) -> None:
    if self._held is None and self.claimed is not None and self._connection is not None:
        self._downstream = NOBODY
        self._leave_backend()
        assert self.route is not None
        self.claimed.settle(self.route.backend.url, Outcome.FAILED)
        self._end(ClientGone.status, is_failure=False)
    else:
        _CLIENT_GONE(self)


_CLIENT_GONE = Exchange.client_gone


def _never_late() -> Sequence[Any]:
    return [patch.object(ClaimedRequest, "is_late", lambda self: False)]


_BEGUN = ClaimedRequest._begun


# The shared state.


def _take_one_ticket_for_all(self: GroupCommit) -> Batch | None:
    batch = _NEXT_BATCH(self)
    if batch is not None and batch.commands[0][0] == "INCRBY":
        batch.commands[0] = ("INCRBY", batch.commands[0][1], 1)
    return batch


def _wait_no_longer_but_stay_connected(self: HotLink, suspect: Any) -> None:
    self._timer = None
    awaited, protocol = self._awaited, self._protocol
    if awaited is None or protocol is None:
        return
    if suspect is not awaited:
        self._timer = self._loop.call_later(self._budget_s, self._look, awaited)
        return
    self._awaited = protocol._deliver = None
    awaited(StateError("Redis did not answer"))


_LEARN = AgreedTopology.learn
_NEXT_BATCH = GroupCommit.next_batch
_KEEP = Unsettled.keep


def _learn_and_go_on(self: AgreedTopology, then: Any) -> None:
    _LEARN(self, lambda _learned: then(Learned.YES))


def _keep_only_what_was_sent(self: Unsettled, claim: Claim, owner: str, outcome: Outcome) -> None:
    if owner:
        _KEEP(self, claim, owner, outcome)


# The sweeper.


async def _take_any_no_for_an_answer(self: Sweeper, doubt: Any) -> bool | None:
    return await _EXISTS(self, doubt) or False


async def _take_silence_for_an_answer(self: Sweeper, doubt: Any) -> bool | None:
    try:
        return await _EXISTS(self, doubt)
    except (RequestError, TimeoutError):
        return False


_EXISTS = Sweeper._exists


def _nothing(*_: Any, **__: Any) -> None: ...


_C, _D = Operation.CREATE, Operation.DELETE
_DONE, _FAILED = Outcome.DONE, Outcome.FAILED

MUTATIONS = (
    Mutation("a failed create unbinds while another is in flight", "answers", 20,
             lambda: _settling(_C, _FAILED, Standing.HELD, _withdraw_whoever_else_creates), "T1"),
    Mutation("a failed create unbinds what another has created", "calm", 0,
             lambda: _settling(_C, _FAILED, Standing.HELD, _withdraw_although_one_has_succeeded), "T1"),
    Mutation("a create that succeeded leaves the binding pending", "calm", 2,
             lambda: _settling(_C, _DONE, Standing.HELD, _confirm_and_stay_pending), "T1"),
    Mutation("a delete unbinds although a create overlapped it", "calm", 9,
             lambda: _settling(_D, _DONE, Standing.OVERLAPPED, claims._release), "T1"),
    Mutation("a delete is not marked when it begins beside a create", "calm", 2,
             lambda: [patch.object(claims, "begin", _begin_unmarked)], "T1"),
    Mutation("a create does not mark the deletes beside it", "calm", 15,
             lambda: [patch.object(claims, "_with_claim", _add_unmarked)], "T1"),
    Mutation("a create that was settled after its binding was lost is not written back", "failover", 499,
             lambda: _settling(_C, _DONE, Standing.GONE, None), "T9"),
    Mutation("the sweeper asks before the deadline", "calm", 4,
             lambda: [patch.object(Entry, "is_over", lambda self, now_us: True)]),
    Mutation("a doubt is resolved whatever has happened since", "answers", 1,
             lambda: [patch.object(claims, "resolve", _resolve_whatever_has_happened)], "T1"),
    Mutation("an unknown outcome counts as failed", "answers", 2,
             lambda: [patch.object(claimed_module, "outcome_of", _unknown_is(_FAILED))], "T1"),
    Mutation("an unknown outcome counts as done", "answers", 28,
             lambda: [patch.object(claimed_module, "outcome_of", _unknown_is(_DONE))], "T1"),
    Mutation("a ticket is used on a backend that is down", "refusals", 7,
             lambda: [patch.object(exchange_module, "choose_by_ticket", _use_any_ticket)], "T6"),
    Mutation("a ticket that falls on a backend that is down is shifted", "refusals", 7,
             lambda: [patch.object(exchange_module, "choose_by_ticket", _shift_tickets)], "T6"),
    Mutation("one ticket is dealt to all who wait", "calm", 37,
             lambda: [patch.object(GroupCommit, "next_batch", _take_one_ticket_for_all)]),
    Mutation("a change of the topology is not noticed", "changes", 1,
             lambda: [patch.object(AgreedTopology, "is_news", lambda *_: False)], "T6"),
    Mutation("tickets are dealt by the old ring when the new one cannot be read", "changes", 67,
             lambda: [patch.object(AgreedTopology, "learn", _learn_and_go_on)]),
    Mutation("a request leaves an owner that is down", "backends", 18,
             lambda: [patch.object(exchange_module, "choose_by_owner", _leave_owners_that_are_down)], "T2"),
    Mutation("a request for an item goes round while Redis is away", "redis", 1,
             lambda: [patch.object(exchange_module, "choose_by_owner", _rotate_without_redis)], "T2"),
    Mutation("a create goes round while Redis is away", "redis", 1,
             lambda: [patch.object(claimed_module, "choose_by_owner", _rotate_without_redis)], "T1"),
    Mutation("an answer does not wait until its claim is settled", "calm", 0,
             lambda: [patch.object(ClaimedRequest, "hold", _hold_nothing)], "T5"),
    Mutation("a request that was sent twice counts as refused", "resets", 975,
             lambda: [patch.object(ClaimedRequest, "hold", _hold_without_doubt)], "T9"),
    Mutation("a claim is kept when its backend cannot be reached", "refusals", 4,
             lambda: [patch.object(ClaimedRequest, "give_back", _give_nothing_back)], "T8"),
    Mutation("a claim is kept that was begun for a client that has left", "clients", 2,
             lambda: [patch.object(ClaimedRequest, "_begun", _forget_who_has_left)], "T8"),
    Mutation("a create that its client does not wait for counts as not sent", "clients", 3,
             lambda: [patch.object(Exchange, "client_gone", _give_up_for_the_client)], "T1"),
    Mutation("what may be sent again is not", "crashes", 7,
             lambda: [patch.object(RetriedRequest, "_is_repeatable", False)], "T7"),
    Mutation("a create is sent again", "backends", 10,
             lambda: [patch.object(RetriedRequest, "_is_repeatable", True)], "T3"),
    Mutation("a claimed request goes on after its deadline", "clients", 16,
             lambda: [patch.object(ClaimedRequest, "expire", _nothing), *_never_late()], "T1"),
    Mutation("a process that was stopped sends what is too late", "long-stalls", 6,
             _never_late, "T1"),
    Mutation("the system goes on sending a request that was given up", "long-partitions", 9,
             lambda: [patch.object(connection_module, "reset", lambda transport: transport.abort())], "T1"),
    Mutation("a late reply is dealt to the next batch", "redis", 54,
             lambda: [patch.object(HotLink, "_look", _wait_no_longer_but_stay_connected)]),
    Mutation("a claim whose begin got no reply is kept", "redis", 384,
             lambda: [patch.object(Unsettled, "keep", _keep_only_what_was_sent)], "T8"),
    Mutation("a settlement that got no reply is not repeated", "redis", 1,
             lambda: [patch.object(RedisStore, "_catch_up", _nothing)]),
    Mutation("the sweeper takes any refusal for a no", "answers", 49,
             lambda: [patch.object(Sweeper, "_exists", _take_any_no_for_an_answer)], "T1"),
    Mutation("the sweeper takes silence for a no", "backends", 6,
             lambda: [patch.object(Sweeper, "_exists", _take_silence_for_an_answer)], "T1"),
)  # fmt: skip

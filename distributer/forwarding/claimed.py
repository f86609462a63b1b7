"""The claim of a create or a delete: begun before the request is sent, settled by its answer.

    begin ──► held ──► settled          the answer waits for it, so that whoever has it finds the sticky map to agree
                └────► left             cut, late or lost: the claim stays, and the sweeper asks the backend

What a claim is, and what its transitions keep true, is in `routing/claim.py`. Most exchanges have none: what is here
costs them nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from distributer.errors import StateError, Unroutable
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.held import HeldAnswer
from distributer.forwarding.locate import Located
from distributer.model import Backend, Begun, Claim, Operation, Outcome, Ticket
from distributer.routing.claim import outcome_of
from distributer.routing.item import TakeClaim
from distributer.routing.retry import OwnerDown
from distributer.routing.route import Decision, Reason, Route, choose_by_owner, none_left

RETRY_WHEN_FULL_S = 5
MAX_BEGINS = 8
"""A claim is begun again when the topology has changed since, and when its backend cannot be reached."""


class Claimant(Protocol):
    """The exchange that a claim is made for."""

    @property
    def tried(self) -> Collection[Backend]:
        """The backends that refused a connection to it."""

    @property
    def is_routing(self) -> bool:
        """Whether it still waits for where to go."""

    def follow(self, decision: Decision) -> None:
        """Go where the request must go, or be refused."""

    def follow_unbound(self, reason: Reason) -> None:
        """Go where the item may be all the same, or take a ticket."""

    def forget_claim(self) -> None:
        """Have no claim any more."""

    def release(self, answer: HeldAnswer) -> None:
        """Let the answer out that was held."""

    def expire(self) -> None:
        """It has taken too long."""


class ClaimedRequest:
    """One create or delete, and its claim."""

    __slots__ = (
        "_begins",
        "_core",
        "_exchange",
        "_gone",
        "_located",
        "_need",
        "_ticket",
        "claim",
        "deadline",
        "held",
        "in_doubt",
    )

    def __init__(self, core: ForwardingCore, exchange: Claimant, need: TakeClaim) -> None:
        self._core = core
        self._exchange = exchange
        self._need = need
        self._ticket: Ticket | None = None
        self._begins = 0
        self._gone = ""  # the owner whose binding counts as none: it is down, and the item is to have another
        self._located: Located | None = None
        """What the backends said of an item that is bound nowhere, if they are to be asked (`locate.py`)."""
        self.claim = Claim("", need.item, need.operation)
        self.deadline = 0.0
        """Coarse time, in seconds, by which the request must have ended: a little before the claim's own."""
        self.in_doubt = False
        """It was sent more than once: it may have taken effect the first time, and a refusal says nothing then."""
        self.held: HeldAnswer | None = None

    def is_late(self) -> bool:
        """Whether nothing may be sent any more. Asked before each byte: the process may have been stopped meanwhile,
        and then takes up what has come for the request before it notices how late it is."""
        return self._core.clock.read() >= self.deadline

    def begin(self) -> None:
        """Claim the item; the exchange is told where to go."""
        core = self._core
        self._begins += 1
        self.claim = claim = Claim(core.new_claim_id(), self._need.item, self._need.operation)
        self.deadline = core.clock.now + core.options.claim_timeout_s
        core.claimed.add(self)
        places = core.ring.places(self._exchange.tried)
        hint = core.fallback.hint(claim.item)
        if hint and core.ring.by_url(hint) is None:
            hint = ""
        if core.locator is not None:
            if self._located is None:
                places, hint = places.with_none_usable(), ""  # claims only what is bound
            elif self._located.owner is not None:
                hint = self._located.owner
        core.store.begin(claim, places, lambda answer: self._begun(claim, answer), hint=hint, gone=self._gone)

    def begin_elsewhere(self, owner: str, *, is_gone: bool = False) -> None:
        """Give up the claim on an item of a backend that cannot be reached, and begin anew.

        The binding goes if this create has just made it; an older one, if it counts as none from now on: `is_gone`.
        """
        if is_gone:
            self._gone = owner

        def settled(error: StateError | None) -> None:
            if not self._exchange.is_routing:
                return
            if error is None:
                self.begin()
            else:
                self._follow_owner(error)

        self.give_back(owner, settled)

    def give_back(self, owner: str, then: Callable[[StateError | None], None]) -> None:
        """Settle a claim under which nothing was sent, and go on when that is done."""
        self._core.claimed.discard(self)
        self._core.fallback.forget(self.claim.item)
        self._core.store.settle(self.claim, owner, Outcome.FAILED, then)

    def hold(self, answer: HeldAnswer, status: int, owner: str) -> None:
        """Settle by the answer's status, and let the answer out when that is done."""
        outcome = outcome_of(self.claim.operation, status)
        if self.in_doubt and outcome is Outcome.FAILED:
            outcome = Outcome.UNKNOWN
        self.held = answer
        self.settle(owner, outcome)

    def settle(self, owner: str, outcome: Outcome) -> None:
        """Give the outcome."""
        if self.claim.operation is Operation.DELETE:
            is_released = outcome is Outcome.DONE
        else:
            is_released = outcome is Outcome.FAILED and self._ticket is not None
        if is_released:
            self._core.fallback.forget(self.claim.item)
        self.leave()
        self._core.store.settle(self.claim, owner, outcome, self._settled)

    def leave(self) -> None:
        """Have nothing more to do with the claim: it is settled, or the sweeper will ask."""
        self._core.claimed.discard(self)
        self._exchange.forget_claim()

    def expire(self) -> None:
        self._exchange.expire()

    def _begun(self, claim: Claim, answer: Begun | StateError) -> None:
        exchange, operation = self._exchange, claim.operation
        if not exchange.is_routing:
            if isinstance(answer, Begun) and answer.owner is not None:
                self.settle(answer.owner, Outcome.FAILED)
        elif isinstance(answer, StateError):
            self.leave()
            self._follow_owner(answer)
        elif answer.is_stale and self._begins < MAX_BEGINS:
            self._core.claimed.discard(self)
            self._located = None
            self.begin()
        elif answer.is_stale:
            self.leave()
            exchange.follow(Unroutable("the backends are changing all the time", title="Routing state unavailable"))
        elif answer.is_full:
            self.leave()
            detail = f"item {claim.item} has as many creates and deletes in flight, or in doubt, as it may"
            exchange.follow(Unroutable(detail, RETRY_WHEN_FULL_S, title="Item busy"))
        elif answer.owner is None and self._core.locator is not None and self._located is None:
            self._core.locator.find(claim.item, self._found, anew=True)
        elif answer.owner is None:
            self.leave()
            if operation is Operation.CREATE:
                exchange.follow(none_left(self._core.ring))
            else:
                exchange.follow_unbound(Reason.DELETE)
        else:
            self._ticket = answer.ticket
            if self._gone and answer.ticket is not None:
                self._core.metrics.rebound += 1
            self._follow_owner(answer.owner)

    def _found(self, found: Located) -> None:
        if not self._exchange.is_routing:
            self.leave()
        elif found.owner is None and not found.is_certain and self.claim.operation is Operation.CREATE:
            self.leave()
            detail = f"item {self.claim.item} is bound nowhere, and not every backend says whether it has it"
            self._exchange.follow(Unroutable(detail, title="Item not located"))
        else:
            self._core.claimed.discard(self)
            self._located = found
            self.begin()

    def _follow_owner(self, owner: str | StateError) -> None:
        item = self.claim.item
        reason = Reason.CREATE if self.claim.operation is Operation.CREATE else Reason.DELETE
        decision = choose_by_owner(item, owner, self._core.ring, reason)
        if isinstance(decision, Route):
            if isinstance(owner, str) and self._gives_away(decision.backend):
                self.begin_elsewhere(owner, is_gone=True)
                return
            self._core.fallback.remember(item, decision.backend.url)
            decision = Route(decision.backend, reason, self._ticket)
        elif isinstance(owner, str):
            self.settle(owner, Outcome.FAILED)
        self._exchange.follow(decision)

    def _gives_away(self, owner: Backend) -> bool:
        """Whether to make the item of a backend that is known to be down elsewhere, without trying that."""
        is_older = self.claim.operation is Operation.CREATE and self._ticket is None and self._gone != owner.url
        return is_older and self._core.options.owner_down is OwnerDown.REBIND and self._core.is_gone(owner)

    def _settled(self, _error: StateError | None) -> None:
        # An error changes nothing for the client: the binding is there, pending, and the store goes on settling.
        answer, self.held = self.held, None
        if answer is not None:
            self._exchange.release(answer)

"""What follows an attempt that failed: another one, a wait, another owner, or the error.

Whether an attempt is made again is decided in `routing/retry.py`; here it is done. Most exchanges never have one that
fails: what is here costs them nothing.
"""

from __future__ import annotations

from typing import Protocol

from distributer.errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectionStale,
    RequestError,
    Unroutable,
    UpstreamError,
    UpstreamTimeout,
)
from distributer.forwarding.claimed import ClaimedRequest
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.hinted import HintedRequest
from distributer.forwarding.rebound import Rebinder, Rebinding
from distributer.model import Backend, ItemId
from distributer.routing.retry import LEAVES_NOTHING, Again, Attempt, Failure, OwnerDown, may_roam, next_of
from distributer.routing.route import Reason, Route, TakeTicket
from distributer.wire.request import RequestHead


class Retrier(Rebinder, Protocol):
    """The exchange whose attempt has failed."""

    head: RequestHead
    item: ItemId | None
    tried: frozenset[Backend]
    claimed: ClaimedRequest | None
    holder: ClaimedRequest | HintedRequest | None

    @property
    def is_body_kept(self) -> bool:
        """Whether all that has come of the request's body can be sent again."""

    def connect(self, route: Route) -> None:
        """Wait for a connection, and go there."""

    def await_return(self, route: Route, until: float) -> None:
        """Wait for the backend to come back, until then, and go there."""

    def give_up(self, error: RequestError) -> None:
        """End with the error."""


class RetriedRequest:
    """One request of which an attempt has failed."""

    __slots__ = ("_core", "_exchange", "_resends", "_resent_to", "_wait_until")

    def __init__(self, core: ForwardingCore, exchange: Retrier) -> None:
        self._core = core
        self._exchange = exchange
        self._resends = 0
        self._resent_to: Backend | None = None
        self._wait_until = 0.0

    def failed(self, route: Route, error: UpstreamError) -> None:
        """Go on when an attempt has failed before anything of its answer was let out."""
        exchange, core, backend = self._exchange, self._core, route.backend
        core.failed_attempts.note(backend, error, core.clock.now)
        failure = _failure_of(error)
        if failure is None:
            exchange.give_up(error)
            return
        was_tried = backend in exchange.tried
        claimed = exchange.claimed
        if failure is Failure.CONNECT:
            core.note_unreachable(backend, str(error))
            exchange.tried |= {backend}
        again = next_of(
            Attempt(
                failure,
                has_owner=route.reason is not Reason.ROTATION,
                is_own_binding=_is_own_binding(route, claimed),
                may_roam=may_roam(exchange.head.method, has_item=exchange.item is not None),
                is_repeatable=self._is_repeatable,
                resends=self._resends,
                was_resent_here=self._resent_to == backend,
                has_others=bool(core.ring.candidates(exchange.tried | {backend})),
            )
        )
        if again is Again.OWNER_DOWN:
            self._owner_down(route, error, was_tried=was_tried)
        elif again is Again.NEVER or not self._may(failure):
            exchange.give_up(error)
        elif again is Again.HERE:
            self._resent_to = backend
            if claimed is not None:
                claimed.in_doubt = True
            exchange.connect(route)
        elif claimed is not None:
            claimed.begin_elsewhere(backend.url)
        else:
            exchange.tried |= {backend}
            exchange.follow(TakeTicket.FIRST)

    def owner_gone(self, owner: Backend) -> None:
        """Give the item to another backend without trying its owner, which is known to be down."""
        exchange = self._exchange
        assert exchange.item is not None
        exchange.tried |= {owner}
        Rebinding(self._core, exchange, exchange.item, owner).start()

    @property
    def _is_repeatable(self) -> bool:
        exchange = self._exchange
        head = exchange.head
        return exchange.is_body_kept and (head.is_idempotent or head.has_idempotency_key)

    def _may(self, failure: Failure) -> bool:
        """Whether the budget allows it; it is counted then."""
        metrics = self._core.metrics
        if failure is not Failure.CONNECT:
            if not self._core.retry_budget.take(metrics.requests):
                metrics.retries_refused += 1
                return False
            self._resends += 1
        metrics.retries[failure] += 1
        return True

    def _owner_down(self, route: Route, error: UpstreamError, *, was_tried: bool) -> None:
        exchange, core, options = self._exchange, self._core, self._core.options
        now, claimed = core.clock.now, exchange.claimed
        if options.owner_down is OwnerDown.WAIT:
            if not self._wait_until:
                self._wait_until = now + options.owner_wait_s
            if now < self._wait_until:
                exchange.await_return(route, self._wait_until)
                return
        elif (
            options.owner_down is OwnerDown.REBIND
            and not was_tried
            and route.backend in core.ring.backends
            # What was sent may have taken effect there.
            and not (self._resends and exchange.head.method not in LEAVES_NOTHING)
        ):
            if isinstance(exchange.holder, HintedRequest):
                exchange.holder.forget()
                exchange.holder = None
                exchange.follow(TakeTicket.FIRST)
                return
            if claimed is None and route.reason is Reason.STICKY:
                self.owner_gone(route.backend)
                return
            if claimed is not None and route.reason is Reason.CREATE and not claimed.in_doubt:
                claimed.begin_elsewhere(route.backend.url, is_gone=True)
                return
        if self._resends:
            # It was sent before, and may have taken effect: a 503 would say that it has not.
            exchange.give_up(UpstreamError(f"the connection was lost, and now {error}", sent=True))
            return
        detail = f"the backend that has item {exchange.item} cannot be reached"
        exchange.give_up(Unroutable(f"{detail}: {error}", title="Owner unreachable", detail=detail))


def _failure_of(error: UpstreamError) -> Failure | None:
    if isinstance(error, ConnectFailed):
        return Failure.CONNECT
    if isinstance(error, ConnectionStale):
        return Failure.STALE
    if isinstance(error, UpstreamTimeout):
        return Failure.TIMEOUT
    return Failure.RESET if isinstance(error, ConnectionLost) else None


def _is_own_binding(route: Route, claimed: ClaimedRequest | None) -> bool:
    return claimed is not None and not claimed.in_doubt and route.reason is Reason.CREATE and route.ticket is not None

"""An item that is given to another backend, because its owner is down and the settings say `owner_down = rebind`.

    ticket ──► the backend on which it falls ──► bind there, if the binding is still the old one ──► send

The binding moves before the request is sent, by compare-and-set, so all replicas agree on the one new owner: who comes
second finds the first one's. Nothing of the item moves. The old owner, when it is back, has a copy that nobody asks
for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Protocol

from distributer.errors import StateError, Unroutable
from distributer.forwarding.core import ForwardingCore
from distributer.model import Backend, ItemId, Ticket
from distributer.routing.route import Decision, Reason, Route, TakeTicket, choose_by_owner, choose_by_ticket

log = logging.getLogger("distributer.rebind")


class Rebinder(Protocol):
    """The exchange whose item gets another owner."""

    @property
    def tried(self) -> Collection[Backend]:
        """The backends that are not to be tried again; the owner is one of them."""

    @property
    def is_routing(self) -> bool:
        """Whether it still waits for where to go."""

    def follow(self, decision: Decision) -> None:
        """Go where the request must go, or be refused."""


class Rebinding:
    """One attempt to give one item to another backend."""

    __slots__ = ("_core", "_exchange", "_exchanged", "_item", "_owner")

    def __init__(self, core: ForwardingCore, exchange: Rebinder, item: ItemId, owner: Backend) -> None:
        self._core = core
        self._exchange = exchange
        self._item = item
        self._owner = owner
        self._exchanged = 0

    def start(self) -> None:
        """Take a ticket."""
        self._core.store.ticket(self._got_ticket)

    def _got_ticket(self, answer: Ticket | StateError) -> None:
        exchange, core = self._exchange, self._core
        if not exchange.is_routing:
            return
        if isinstance(answer, StateError):
            exchange.follow(self._refusal(str(answer)))
            return
        decision = choose_by_ticket(answer, core.ring, exchange.tried, self._exchanged)
        if decision is TakeTicket.ANOTHER:
            self._exchanged += 1
            core.metrics.tickets_exchanged += 1
            core.store.ticket(self._got_ticket)
        elif isinstance(decision, Route):
            bound = partial(self._bound, decision)
            core.store.bind(self._item, self._owner.url, decision.backend.url, bound)
        else:
            exchange.follow(decision)

    def _bound(self, route: Route, standing: str | StateError) -> None:
        exchange, core, item = self._exchange, self._core, self._item
        if not exchange.is_routing:
            return
        if isinstance(standing, StateError):
            exchange.follow(self._refusal(str(standing)))
        elif standing == route.backend.url:
            core.metrics.rebound += 1
            core.fallback.remember(item, standing)
            log.info("item rebound", extra={"item": item, "owner": self._owner.id, "new_owner": route.backend.id})
            exchange.follow(Route(route.backend, Reason.STICKY, route.ticket))
        else:
            # Another replica was faster; or somebody has unbound it; or it is claimed, and its owner must decide.
            if standing:
                core.fallback.remember(item, standing)
            exchange.follow(choose_by_owner(item, standing or None, core.ring, Reason.STICKY))

    def _refusal(self, why: str) -> Unroutable:
        detail = f"the backend that has item {self._item} cannot be reached, and it cannot be given to another now"
        return Unroutable(f"{detail}: {self._owner.url}: {why}", title="Owner unreachable", detail=detail)

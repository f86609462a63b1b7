"""A request for an item that the map does not know, sent where this replica remembers it to have been.

Redis may have lost the binding. The item's answer tells: a success proves that the item is there, and the binding is
written back before the answer is let out; 404 or 410, that the hint was of no use. Any other says neither.
"""

from __future__ import annotations

import logging
from typing import Protocol

from distributer.errors import StateError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.held import HeldAnswer
from distributer.model import Backend, ItemId, Operation, Outcome
from distributer.routing.claim import outcome_of
from distributer.routing.route import Reason

log = logging.getLogger("distributer.hints")


class Hinted(Protocol):
    """The exchange that follows a hint."""

    def release(self, answer: HeldAnswer) -> None:
        """Let the answer out that was held."""


def hint_for(core: ForwardingCore, item: ItemId) -> Backend | None:
    """Say where an unbound item may be; None if that is not known, or no request may go there."""
    hint = core.fallback.hint(item)
    backend = core.ring.by_url(hint) if hint else None
    return None if backend in core.ring.parked else backend


class HintedRequest:
    """One request that follows a hint."""

    __slots__ = ("_core", "_exchange", "_item", "_reason")

    def __init__(self, core: ForwardingCore, exchange: Hinted, item: ItemId, reason: Reason) -> None:
        self._core = core
        self._exchange = exchange
        self._item = item
        self._reason = reason

    def forget(self) -> None:
        """Follow the hint no more, nor any other request."""
        self._core.fallback.forget(self._item)

    def hold(self, answer: HeldAnswer, status: int, owner: str) -> None:
        """Learn from the answer's status, and let the answer out when the map has it too."""
        core, item = self._core, self._item

        def bound(standing: str | StateError) -> None:
            if isinstance(standing, StateError):
                log.debug("item %s: not bound again: %s", item, standing)  # the hint stays, for the next request
            else:
                core.fallback.forget_hint(item)
                core.fallback.remember(item, standing or owner)
                if standing != owner:
                    extra = {"item": item, "found_at": owner, "bound_to": standing}
                    log.warning("an item was found at a backend to which it is not bound", extra=extra)
            self._exchange.release(answer)

        if self._reason is Reason.DELETE:
            if outcome_of(Operation.DELETE, status) is Outcome.DONE:
                self.forget()
        elif 200 <= status < 300:
            core.store.bind(item, "", owner, bound)
            return
        elif status in (404, 410):
            self.forget()
        self._exchange.release(answer)

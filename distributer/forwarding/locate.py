"""Where an item is that the map does not know: all backends are asked for it (`unbound = "locate"`).

So a map that was lost, or that never knew of the items, heals itself as they are used: the backend that has the item
gets the binding. Nothing here is on the way of a request for an item that is bound.

- Requests that want the same item share one asking.
- That an item is nowhere is remembered for a second, for readers alone: who creates asks anew.
- Bindings that were lost while an asking was under way make it void: it is made anew. So a create never goes by an
  answer that is older than the loss.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from distributer.clock import Clock
from distributer.errors import RequestError, StateError
from distributer.forwarding.metrics import Metrics
from distributer.forwarding.pool import BackendPool
from distributer.forwarding.question import ask, existence, question
from distributer.model import Backend, ItemId
from distributer.routing.item import ItemRules
from distributer.state.store import Store
from distributer.tasks import end

ASK_TIMEOUT_S = 1.0
KNOWN_FOR_S = 1.0
MAX_KNOWN = 10_000
MAX_AT_ONCE = 64
"""Askings under way; each is a request to every backend. Others wait in line."""
MAX_WAITING = 1_000
"""Askings in that line. One more is not made: who wanted it is told that nothing is known."""

log = logging.getLogger("distributer.locate")


@dataclass(frozen=True, slots=True)
class Located:
    """Who has an item. `is_certain`: every backend has said whether it does."""

    owner: str | None
    is_certain: bool


NOT_KNOWN = Located(None, is_certain=False)

Deliver = Callable[[Located], None]


class Asker(Protocol):
    """What the core has that an asking needs."""

    clock: Clock
    metrics: Metrics
    store: Store

    @property
    def holders(self) -> Sequence[Backend]:
        """The backends that may have items."""

    @property
    def rules(self) -> ItemRules:
        """Where items are."""

    def pool(self, backend: Backend) -> BackendPool:
        """Return the connections to a backend."""


class Locator:
    """The askings of one replica."""

    def __init__(self, core: Asker) -> None:
        self._core = core
        self._askings: dict[ItemId, list[Deliver]] = {}
        """Those that may be joined, and who waits for each."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_AT_ONCE)
        self._known: dict[ItemId, tuple[float, Located]] = {}
        """What was not found, and until when that is believed; oldest first."""
        self._losses = 0

    def find(self, item: ItemId, deliver: Deliver, *, anew: bool = False) -> None:
        """Find who has the item, bind it there, and deliver where it is bound. May deliver at once.

        `anew`: not by what was found a moment ago.
        """
        if not anew:
            believed_until, known = self._known.get(item, (0.0, NOT_KNOWN))
            if self._core.clock.now < believed_until:
                deliver(known)
                return
        waiting = self._askings.get(item)
        if waiting is not None:
            waiting.append(deliver)
        elif len(self._tasks) >= MAX_AT_ONCE + MAX_WAITING:
            deliver(NOT_KNOWN)
        else:
            waiting = self._askings[item] = [deliver]
            task = asyncio.get_running_loop().create_task(self._find(item, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def start_anew(self) -> None:
        """Bindings may have been lost: what is known is void, and what is being asked."""
        self._losses += 1
        self._known.clear()
        self._askings.clear()

    async def close(self) -> None:
        """Ask no more."""
        await end(self._tasks)

    async def _find(self, item: ItemId, waiting: list[Deliver]) -> None:
        async with self._room:
            losses = -1
            while losses != self._losses:
                losses = self._losses
                found = await self._ask_all(item)
        if self._askings.get(item) is waiting:
            del self._askings[item]
            if found.owner is None:
                self._keep(item, found)
        for deliver in waiting:
            deliver(found)

    async def _ask_all(self, item: ItemId) -> Located:
        core = self._core
        core.metrics.askings += 1
        backends = core.holders
        answers: Sequence[bool | None] = await asyncio.gather(*(self._has(backend, item) for backend in backends))
        holders = [backend.url for backend, has in zip(backends, answers, strict=True) if has]
        if not holders:
            return Located(None, is_certain=bool(answers) and None not in answers)
        if len(holders) > 1:
            log.warning("an item is on more than one backend", extra={"item": item, "backends": ", ".join(holders)})
        core.metrics.located += 1
        return Located(await self._bind(item, holders[0]), is_certain=True)

    async def _has(self, backend: Backend, item: ItemId) -> bool | None:
        head = question(backend, f"{self._core.rules.collection}{item}".encode())
        try:
            return existence(await ask(self._core.pool(backend), head, ASK_TIMEOUT_S))
        except (RequestError, TimeoutError):
            return None

    async def _bind(self, item: ItemId, owner: str) -> str:
        standing: asyncio.Future[str | StateError] = asyncio.get_running_loop().create_future()
        self._core.store.bind(item, "", owner, lambda answer: None if standing.done() else standing.set_result(answer))
        bound = await standing
        # Without Redis, or while claims are on the item: it is there nonetheless.
        return bound if isinstance(bound, str) and bound else owner

    def _keep(self, item: ItemId, found: Located) -> None:
        now, known = self._core.clock.now, self._known
        known.pop(item, None)
        known[item] = (now + KNOWN_FOR_S, found)
        for oldest in tuple(known) if len(known) > MAX_KNOWN else ():
            if len(known) <= MAX_KNOWN // 2:
                break
            del known[oldest]

"""The shared state, in this process: for tests, and for one replica that is embedded without Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from distributer.errors import StateError
from distributer.model import Begun, Claim, Doubt, ItemId, Outcome, Places, Ticket
from distributer.routing import claim as claims
from distributer.routing.claim import ItemState
from distributer.routing.topology import Members, Topology
from distributer.state.store import Doubts, Store, Watcher

Answer = TypeVar("Answer")


class MemoryStore(Store, Doubts):
    """Tickets, bindings and doubts in plain dictionaries.

    `rotation`, `sticky` and `claims` hold what the Redis keys of those names would, and may be edited as those may.
    While `available` is False every call has no effect and gets a StateError.
    `now_ms` is the clock of the deadlines; a claim passes its own `claim_ttl_ms` after its begin.
    """

    def __init__(
        self,
        claim_ttl_ms: int = 60_000,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        call_soon: Callable[..., object] | None = None,
    ) -> None:
        self._claim_ttl_ms = claim_ttl_ms
        self._now_ms = now_ms
        self._call_soon = call_soon
        self._last_us = 0
        self._watcher: Watcher | None = None
        self.topology: Topology | None = None
        self.available = True
        self.rotation = 0
        self.sticky: dict[str, str] = {}
        self.claims: dict[str, str] = {}

    def __repr__(self) -> str:
        away = "" if self.available else "AWAY, "
        return f"<MemoryStore {away}rotation {self.rotation}, bound {len(self.sticky)}, claimed {len(self.claims)}>"

    def ticket(self, deliver: Callable[[Ticket | StateError], None]) -> None:
        self._run(self._ticket, deliver)

    def owner(self, item: ItemId, deliver: Callable[[str | StateError | None], None]) -> None:
        self._run(lambda: self._read(item).binding, deliver)

    def begin(
        self,
        claim: Claim,
        places: Places,
        deliver: Callable[[Begun | StateError], None],
        *,
        hint: str = "",
        gone: str = "",
    ) -> None:
        self._run(lambda: self._begin(claim, places, hint, gone), deliver)

    def bind(self, item: ItemId, instead_of: str, owner: str, deliver: Callable[[str | StateError], None]) -> None:
        self._run(lambda: self._bind(item, instead_of, owner), deliver)

    def settle(self, claim: Claim, owner: str, outcome: Outcome, deliver: Callable[[StateError | None], None]) -> None:
        self._run(lambda: self._settle(claim, owner, outcome), deliver)

    async def doubts(self, cursor: int) -> tuple[int, Sequence[Doubt]]:
        self._check()
        now_us = self._now_us()
        items = [ItemId(item) for item in self.claims]
        found = (claims.doubt(item, self._read(item), now_us) for item in items)
        return 0, [doubt for doubt in found if doubt is not None]

    async def resolve(self, doubt: Doubt, *, exists: bool) -> bool:
        self._check()
        state, is_resolved = claims.resolve(self._read(doubt.item), doubt, exists=exists, now_us=self._now_us())
        if is_resolved:
            self._write(doubt.item, state)
        return is_resolved

    def _ticket(self) -> Ticket:
        self.rotation += 1
        return Ticket(self.rotation)

    def watch(self, watcher: Watcher) -> None:
        self._watcher = watcher
        if self.topology is not None:
            watcher.follow(self.topology)

    def change(self, members: Members) -> None:
        """Change the topology: counts from the next answer on."""
        present = self.topology or Topology(members)
        self.topology = present.changed(members, self.rotation, present.version + 1)
        if self._watcher is not None:
            self._watcher.follow(self.topology)

    def _begin(self, claim: Claim, places: Places, hint: str, gone: str) -> Begun:
        if self.topology is not None and places.version != self.topology.version:
            return Begun(None, is_stale=True)
        now_us, ttl_ms = self._now_us(), self._claim_ttl_ms
        state, self.rotation, begun = claims.begin(
            self._read(claim.item), claim, places, self.rotation, now_us, ttl_ms, hint=hint, gone=gone
        )
        self._write(claim.item, state)
        return begun

    def _bind(self, item: ItemId, instead_of: str, owner: str) -> str:
        state, standing = claims.bind(self._read(item), instead_of, owner)
        self._write(item, state)
        return standing

    def _settle(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        state = claims.settle(self._read(claim.item), claim, owner, outcome, self._now_us())
        self._write(claim.item, state)

    def _now_us(self) -> int:
        # No two transitions happen at the same time, as in Redis; the claims' versions rely on it.
        self._last_us = max(self._last_us + 1, self._now_ms() * 1000)
        return self._last_us

    def _read(self, item: ItemId) -> ItemState:
        # An empty text, which only an edit can have left, binds to nothing.
        return ItemState(self.sticky.get(item) or None, claims.decode(self.claims.get(item)))

    def _write(self, item: ItemId, state: ItemState) -> None:
        _put(self.sticky, item, state.binding)
        _put(self.claims, item, None if state.entry is None else state.entry.encode())

    def _run(self, command: Callable[[], Answer], deliver: Callable[[Answer | StateError], None]) -> None:
        """Run a command now, and deliver its answer when the caller has returned."""
        call_soon = self._call_soon or asyncio.get_running_loop().call_soon
        try:
            self._check()
        except StateError as error:
            call_soon(deliver, error)
        else:
            call_soon(deliver, command())

    def _check(self) -> None:
        if not self.available:
            raise StateError("the shared state is away")


def _put(texts: dict[str, str], item: ItemId, text: str | None) -> None:
    if text is None:
        texts.pop(item, None)
    else:
        texts[item] = text

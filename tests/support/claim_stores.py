"""The claims' state machine behind one plain interface: the reference, and the scripts inside a server.

Both can be looked into, edited as with redis-cli, and told that time has passed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import redis

from distributer.errors import StateError
from distributer.model import Begun, Claim, Doubt, ItemId, Outcome, Places, Ticket
from distributer.routing.claim import KINDS, Entry, decode
from distributer.state.keys import Keys
from distributer.state.memory import MemoryStore
from distributer.state.scripts import BEGIN, DOUBTS, RESOLVE, SETTLE, Script

T = TypeVar("T")

TTL_MS = 1_000_000
"""Far longer than any test: on a real server only `advance` makes a deadline pass."""


@dataclass(frozen=True)
class View:
    """What the shared state means: an empty text binds to nothing. `now_ms` is the clock of the deadlines."""

    rotation: int
    sticky: Mapping[str, str]
    entries: Mapping[str, Entry]
    now_ms: int


class ClaimStore(Protocol):
    """What the tests do to the claims."""

    def begin(self, claim: Claim, ring: Sequence[str], usable: str) -> Begun: ...
    def settle(self, claim: Claim, owner: str, outcome: Outcome) -> None: ...
    def doubts(self) -> Sequence[Doubt]: ...
    def resolve(self, doubt: Doubt, *, exists: bool) -> bool: ...
    def advance(self, ms: int) -> None: ...
    def edit_rotation(self, value: int) -> None: ...
    def edit_sticky(self, item: ItemId, text: str | None) -> None: ...
    def edit_claims(self, item: ItemId, text: str | None) -> None: ...
    def view(self) -> View: ...


class ReferenceStore:
    """`routing/claim.py`, by way of MemoryStore."""

    def __init__(self) -> None:
        self._now_ms = 1_000_000_000_000
        self._store = MemoryStore(TTL_MS, lambda: self._now_ms, call_soon=lambda deliver, answer: deliver(answer))

    def begin(self, claim: Claim, ring: Sequence[str], usable: str) -> Begun:
        answers: list[Begun | StateError] = []
        self._store.begin(claim, Places(tuple(ring), usable), answers.append)
        [begun] = answers
        assert isinstance(begun, Begun)
        return begun

    def settle(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        answers: list[StateError | None] = []
        self._store.settle(claim, owner, outcome, answers.append)
        assert answers == [None]

    def doubts(self) -> Sequence[Doubt]:
        return _finish(self._store.doubts(0))[1]

    def resolve(self, doubt: Doubt, *, exists: bool) -> bool:
        return _finish(self._store.resolve(doubt, exists=exists))

    def advance(self, ms: int) -> None:
        self._now_ms += ms

    def edit_rotation(self, value: int) -> None:
        self._store.rotation = value

    def edit_sticky(self, item: ItemId, text: str | None) -> None:
        _edit(self._store.sticky, item, text)

    def edit_claims(self, item: ItemId, text: str | None) -> None:
        _edit(self._store.claims, item, text)

    def view(self) -> View:
        sticky, entries = _bound(self._store.sticky), _decoded(self._store.claims)
        return View(self._store.rotation, sticky, entries, self._now_ms)


class ScriptStore:
    """The Lua scripts, in a server that `client` is connected to. Empties it first."""

    def __init__(self, client: redis.Redis, sticky_ttl_ms: int = 0) -> None:
        self._client: Any = client
        self._sticky_ttl_ms = sticky_ttl_ms
        self._keys = Keys("test")
        client.flushall()
        for script in (BEGIN, SETTLE, DOUBTS, RESOLVE):
            assert client.script_load(script.source) == script.sha1

    def begin(
        self, claim: Claim, ring: Sequence[str], usable: str, ttl_ms: int = TTL_MS, *, hint: str = "", gone: str = ""
    ) -> Begun:
        keys = (self._keys.rotation, self._keys.sticky, self._keys.claims, self._keys.topology)
        kind = KINDS[claim.operation]
        arguments: Sequence[str | int] = (claim.item, claim.id, kind, ttl_ms, 0, 0, hint, gone, usable, -1, *ring)
        owner, ticket, refusal = self._run(BEGIN, keys, *arguments)
        full, stale = refusal == 1, refusal == 2
        return Begun(owner.decode() or None, Ticket(ticket) if ticket else None, is_full=full, is_stale=stale)

    def settle(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        kind = KINDS[claim.operation]
        reply = self._run(SETTLE, self._hashes, claim.item, claim.id, kind, owner, outcome.value)
        assert reply == 1

    def doubts(self) -> Sequence[Doubt]:
        return [doubt for page in self.pages(10) for doubt in page]

    def pages(self, count: int) -> Sequence[Sequence[Doubt]]:
        """List the doubts, page by page."""
        pages: list[Sequence[Doubt]] = []
        cursor = 0
        while True:
            next_cursor, rows = self._run(DOUBTS, self._hashes, cursor, count)
            triples = zip(rows[0::3], rows[1::3], rows[2::3], strict=True)
            pages.append([Doubt(ItemId(i.decode()), owner.decode() or None, version) for i, owner, version in triples])
            if (cursor := int(next_cursor)) == 0:
                return pages

    def resolve(self, doubt: Doubt, *, exists: bool) -> bool:
        reply = self._run(RESOLVE, self._hashes, doubt.item, doubt.owner or "", doubt.version, int(exists))
        return {1: True, 0: False}[reply]

    def advance(self, ms: int) -> None:
        # The server's clock cannot be moved, so the deadlines are.
        for item, text in self._hash(self._keys.claims).items():
            if decode(text) is not None:
                entry = json.loads(text)
                for held in entry["c"].values():
                    held[1] = held[1] and max(1, held[1] - ms)
                self.edit_claims(ItemId(item), json.dumps(entry))

    def edit_rotation(self, value: int) -> None:
        self._client.set(self._keys.rotation, value)

    def edit_sticky(self, item: ItemId, text: str | None) -> None:
        self._edit(self._keys.sticky, item, text)

    def edit_claims(self, item: ItemId, text: str | None) -> None:
        self._edit(self._keys.claims, item, text)

    def view(self) -> View:
        rotation = int(self._client.get(self._keys.rotation) or 0)
        sticky, entries = _bound(self._hash(self._keys.sticky)), _decoded(self._hash(self._keys.claims))
        return View(rotation, sticky, entries, time.time_ns() // 1_000_000)

    def texts(self) -> Mapping[str, str]:
        """Read the claims hash as redis-cli would."""
        return self._hash(self._keys.claims)

    @property
    def _hashes(self) -> tuple[str, str]:
        return self._keys.sticky, self._keys.claims

    def _run(self, script: Script, keys: Sequence[str], *arguments: str | int) -> Any:
        return self._client.evalsha(
            script.sha1, len(keys) + 1, *keys, self._keys.expiry, *arguments, self._sticky_ttl_ms
        )

    def _hash(self, key: str) -> dict[str, str]:
        return {field.decode(): text.decode() for field, text in self._client.hgetall(key).items()}

    def _edit(self, key: str, item: ItemId, text: str | None) -> None:
        if text is None:
            self._client.hdel(key, item)
        else:
            self._client.hset(key, item, text)


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: T = stop.value
        return answer
    raise AssertionError("it awaits something")


def _edit(texts: dict[str, str], item: ItemId, text: str | None) -> None:
    if text is None:
        texts.pop(item, None)
    else:
        texts[item] = text


def _bound(texts: Mapping[str, str]) -> Mapping[str, str]:
    return {item: text for item, text in texts.items() if text}


def _decoded(texts: Mapping[str, str]) -> Mapping[str, Entry]:
    return {item: entry for item, text in texts.items() if (entry := decode(text)) is not None}

"""A backend goes: not while items are bound to it, unless those are released.

A released item is bound nowhere. Its copy goes with the backend, and the next create makes a new one elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis

from distributer.control.membership import Membership
from distributer.control.registry import Registry, evaluate
from distributer.errors import ChangeRefusedError
from distributer.model import AdminState
from distributer.routing.topology import Topology, with_state, without
from distributer.state.keys import Keys
from distributer.state.scripts import RELEASE

WAIT_S = 10.0
"""How long the creates and deletes on a backend's items are waited for, before it is given up."""
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Removed:
    """A backend is gone. `released`: how many items were unbound for that."""

    url: str
    released: int
    topology: Topology


class Removal:
    """Removes backends from the cluster."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client: Any = client
        self._keys = keys
        self._membership = Membership(client, keys)
        self._registry = Registry(client, keys)

    async def remove(self, backend_id: str, *, releases: bool = False, wait_s: float = WAIT_S) -> Removed:
        """Remove a backend. Raises ChangeRefusedError, which says what to do, when it cannot go; StateError.

        It takes no more items from the beginning. If it cannot go after all, it stays out of the rotation: nobody who
        wanted it gone is served by its return.
        """
        topology = await self._membership.read() or Topology(())
        member = topology.member(backend_id)
        url = member.backend.url
        without(topology.members, url)  # raises if it is the last one
        bound = await self._bound(url)
        if bound and not releases:
            raise ChangeRefusedError(
                f"{_items(bound)} bound to {url}: drain it until none is, or release them (--release)"
            )
        # In maintenance nobody looks for items there either, so that what is released stays released.
        state = AdminState.MAINT if releases or member.state is AdminState.MAINT else AdminState.DRAIN
        await self._membership.change(lambda members: with_state(members, url, state))
        released = await self._release(url, wait_s) if releases else 0
        left = await self._bound(url)
        if left:
            raise ChangeRefusedError(f"{_items(left)} bound to {url} meanwhile; it is in {state.value} now: try again")
        return Removed(url, released, await self._membership.change(lambda members: without(members, url)))

    async def _release(self, url: str, wait_s: float) -> int:
        deadline = time.monotonic() + wait_s
        released = 0
        while True:
            claimed = 0
            async for page in self._registry.bindings():
                items = [item for item, owner in page if owner == url]
                left = await self._release_page(url, items)
                released += len(items) - left
                claimed += left
            if not claimed:
                return released
            if time.monotonic() >= deadline:
                raise ChangeRefusedError(
                    f"{_items(claimed)} being created or deleted on {url}, or in doubt; {released:,} were released, "
                    "and it is in maint now: try again"
                )
            await asyncio.sleep(POLL_S)

    async def _release_page(self, url: str, items: Sequence[str]) -> int:
        if not items:
            return 0
        keys = self._keys
        hashes = (keys.sticky, keys.claims, keys.expiry)
        return int(await evaluate(self._client, RELEASE, hashes, url, *items))

    async def _bound(self, url: str) -> int:
        """Count the items that are bound to it. Takes one pass over the sticky map."""
        found = 0
        async for page in self._registry.bindings():
            found += sum(owner == url for _, owner in page)
        return found


def _items(count: int) -> str:
    return "1 item is" if count == 1 else f"{count:,} items are"

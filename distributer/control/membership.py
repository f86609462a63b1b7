"""Which backends the cluster has, and what is wanted of each: read, and changed by compare-and-set.

A change counts from the next request on, on every replica: each asks for the topology's version with each round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import redis.asyncio as redis

from distributer.control.registry import Registry, translated
from distributer.errors import StateError
from distributer.model import Backend
from distributer.routing.topology import Members, Topology, reconciled
from distributer.state.agreement import change_command, changed_of, read_command, reading_of
from distributer.state.commit import Command
from distributer.state.keys import Keys

ATTEMPTS = 10
"""How often a change is tried anew when others change the topology at the same time."""


class Membership:
    """The topology of the cluster, in Redis. Every method raises StateError when Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def read(self) -> Topology | None:
        """Read the topology; None if there is none yet."""
        reply = await self._run(read_command(self._keys))
        try:
            return reading_of(reply).topology
        except ValueError as error:
            raise StateError(f"the topology in Redis is not readable: {error}") from error

    async def change(self, how: Callable[[Members], Members]) -> Topology:
        """Change the members, and return the new topology. `how` may be called more than once.

        Raises what `how` raises; StateError if others change it all the time.
        """
        for _ in range(ATTEMPTS):
            present = await self.read() or Topology(())
            members = how(present.members)
            if members == present.members:
                return present
            # The first ring ever goes on where the counter stands, as if it had been there before.
            before = present if present.version else Topology(members)
            reply = await self._run(change_command(self._keys, before, present.version, members))
            try:
                changed = changed_of(reply, members)
            except ValueError as error:
                raise StateError(f"the topology cannot be changed: {error}") from error
            if changed is not None:
                return changed
        raise StateError("the topology is being changed by others all the time")

    async def found(self, wanted: Sequence[Backend]) -> Topology:
        """Write the settings' backends, if there are none yet."""
        return await self.change(lambda members: members or Topology.of(wanted).members)

    async def reconcile(self, wanted: Sequence[Backend], registry: Registry) -> Topology:
        """Bring the members in line with the settings (`routing.topology.reconciled`)."""
        present = await self.read()
        named = {backend.url for backend in wanted}
        left = (
            {member.backend.url for member in present.members if member.backend.url not in named} if present else set()
        )
        bound = await registry.bound_among(left) if left else set()
        return await self.change(lambda members: reconciled(members, wanted, bound))

    async def _run(self, command: Command) -> Any:
        with translated():
            return await cast(Any, self._client).execute_command(*command)

"""The lease: which replica does what one replica must do for the whole cluster.

It is renewed often, and short, so that another takes over within 3 s when its holder dies: `TTL_S` after its last
renewal at most, and `RENEW_S` later at most the next one asks. A holder whose loop has stalled for longer than that
must not go on as if nothing had been: whoever writes for all says for whom (`health.lua`), or is checked otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import redis.asyncio as redis

from distributer.control.complaint import Complaint
from distributer.control.registry import evaluate
from distributer.errors import StateError
from distributer.state.keys import Keys
from distributer.state.scripts import LEASE
from distributer.tasks import end

TTL_S = 2.0
RENEW_S = 0.5

Duty = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger("distributer.lease")


class Lease:
    """One replica's part in it."""

    def __init__(self, client: redis.Redis, keys: Keys, replica_id: str) -> None:
        self.replica_id = replica_id
        self.duties: Sequence[Duty] = ()
        """What is done while it is held."""
        self._client = client
        self._keys = keys
        self._tasks: list[asyncio.Task[None]] = []
        self._ends_at = 0.0
        self._ahead_s = 0.0
        self._complaint = Complaint(log, "the lease cannot be taken: backends are not probed, doubts not resolved")

    def __repr__(self) -> str:
        return f"<Lease of {self.replica_id}, {'held' if self.is_held else 'not held'}>"

    @property
    def is_held(self) -> bool:
        """Whether this replica certainly holds it."""
        return asyncio.get_running_loop().time() < self._ends_at

    @property
    def now(self) -> float:
        """Redis TIME, in seconds, as of the last renewal and our own clock since."""
        return asyncio.get_running_loop().time() + self._ahead_s

    async def run(self) -> None:
        """Take the lease whenever it is free, and do the duties while it is held, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                started_at = loop.time()
                try:
                    await self.take()
                    self._complaint.worked()
                except StateError as error:
                    self._complaint.failed(error)
                if not self.is_held:
                    await self._lay_down()
                elif not self._tasks:
                    self._tasks = [loop.create_task(duty()) for duty in self.duties]
                elif failed := [task for task in self._tasks if task.done()]:
                    # Held by one who does nothing it would be worse than free. Another may have more luck.
                    log.error("a duty of the whole cluster has failed", exc_info=failed[0].exception())
                    await self._lay_down()
                    with contextlib.suppress(StateError):
                        await self.release()
                    await asyncio.sleep(TTL_S)
                await asyncio.sleep(max(0.0, started_at + RENEW_S - loop.time()))
        finally:
            await self._lay_down()

    async def take(self) -> bool:
        """Take or renew it. False: another holds it. Raises StateError."""
        asked_at = asyncio.get_running_loop().time()
        held, now = await self._ask(int(TTL_S * 1000))
        self._ends_at = asked_at + TTL_S if held else 0.0
        self._ahead_s = now - asked_at
        return held

    async def release(self) -> None:
        """Give it back, if it is held, so that another need not wait until it expires. Raises StateError."""
        self._ends_at = 0.0
        await self._ask(0)

    async def _lay_down(self) -> None:
        tasks, self._tasks = self._tasks, []
        if tasks:
            await end(tasks)

    async def _ask(self, ttl_ms: int) -> tuple[bool, float]:
        keys = (self._keys.prober,)
        held, seconds, micros = await evaluate(self._client, LEASE, keys, self.replica_id, ttl_ms)
        return bool(held), int(seconds) + int(micros) / 1e6

"""Resolving doubts: whoever holds the lease asks the backends about items whose claims have passed their deadline.

A create whose outcome nobody knows (a timeout, a replica that died) leaves its binding pending. Past the deadline no
replica works on it any more, so its backend's word is final: it has the item, or it has not.
"""

from __future__ import annotations

import asyncio
import logging

from distributer.control.registry import Registry
from distributer.errors import RequestError, StateError, UpstreamError
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.core import ForwardingCore
from distributer.model import Doubt
from distributer.state.store import Doubts
from distributer.wire.head import ResponseHead

INTERVAL_S = 1.0
LEASE_S = 3.0
BATCH = 100

log = logging.getLogger("distributer.sweeper")


class Sweeper:
    """Resolves doubts, one round each second, while this replica holds the lease."""

    def __init__(self, core: ForwardingCore, doubts: Doubts, registry: Registry) -> None:
        self._core = core
        self._doubts = doubts
        self._registry = registry
        self.confirmed = 0
        self.released = 0

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                if await self._registry.take_lease(self._core.replica_id, LEASE_S):
                    await self.sweep()
            except StateError as error:
                log.debug("no sweep: %s", error)

    async def sweep(self) -> None:
        """Ask about each item in doubt, and confirm or release its binding. Raises StateError."""
        for doubt in await self._doubts.doubts(BATCH):
            exists = await self._exists(doubt)
            if exists is None or not await self._doubts.resolve(doubt, exists=exists):
                continue
            if exists:
                self.confirmed += 1
            else:
                self.released += 1
            log.info("doubt resolved", extra={"item": doubt.item, "owner": doubt.owner, "exists": exists})

    async def _exists(self, doubt: Doubt) -> bool | None:
        """Ask the owner whether it has the item. None: it cannot say now."""
        if doubt.owner is None:
            return False
        backend = self._core.ring.by_url(doubt.owner)
        if backend is None:
            return None
        path = f"{self._core.options.rules.collection}{doubt.item}".encode()
        head = b"GET %b HTTP/1.1\r\nHost: %b\r\nVia: 1.1 distributer\r\n\r\n" % (path, backend.id.encode())
        pool = self._core.pool(backend)
        question = _Question()
        connection = pool.idle()
        if connection is not None:
            question.send(connection, head)
        else:
            pool.acquire(lambda result: question.connected(result, head))
        try:
            status = await question.status
        except RequestError:
            return None
        if status == 404:
            return False
        return True if 200 <= status < 300 else None


class _Question:
    """A request of our own: only the status of its answer counts."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._seen = 0

    def connected(self, result: UpstreamConnection | RequestError, head: bytes) -> None:
        if isinstance(result, UpstreamConnection):
            self.send(result, head)
        else:
            self.status.set_exception(result)

    def send(self, connection: UpstreamConnection, head: bytes) -> None:
        connection.send(self, head, answers_head=False, done=True)

    def response_started(self, head: ResponseHead) -> None:
        self._seen = head.status

    def response_data(self, data: bytes) -> None: ...

    def response_finished(self) -> None:
        if not self.status.done():
            self.status.set_result(self._seen)

    def response_flush(self) -> None: ...

    def upstream_failed(self, error: UpstreamError) -> None:
        if not self.status.done():
            self.status.set_exception(error)

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

"""Resolving doubts: whoever holds the lease asks the backends about items whose claims have passed their deadline.

A create whose outcome nobody knows (a timeout, a replica that died) leaves its binding pending. Past the deadline no
replica works on it any more, so its backend's word is final: it has the item, or it has not.
"""

from __future__ import annotations

import asyncio
import logging

from distributer.control.complaint import Complaint
from distributer.control.registry import Registry
from distributer.errors import RequestError, StateError, UpstreamError
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.core import ForwardingCore
from distributer.model import Doubt
from distributer.state.store import Doubts
from distributer.wire.response import ResponseHead

INTERVAL_S = 1.0
LEASE_S = 3.0
ASK_TIMEOUT_S = 2.0

log = logging.getLogger("distributer.sweeper")


class Sweeper:
    """Resolves doubts, one round each second, while this replica holds the lease."""

    def __init__(self, core: ForwardingCore, doubts: Doubts, registry: Registry) -> None:
        self._core = core
        self._doubts = doubts
        self._registry = registry
        self._complaint = Complaint(log, "creates and deletes in doubt are not resolved")

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                if await self._registry.take_lease(self._core.replica_id, LEASE_S):
                    await self.sweep()
                self._complaint.worked()
            except StateError as error:
                self._complaint.failed(error)

    async def sweep(self) -> None:
        """Ask about each item in doubt, and confirm or release its binding. Raises StateError.

        A backend that does not answer is not asked again in this round, so that its doubts do not hold up the others'.
        """
        silent: set[str] = set()
        cursor = 0
        while True:
            cursor, doubts = await self._doubts.doubts(cursor)
            for doubt in doubts:
                if doubt.owner in silent:
                    continue
                try:
                    exists = await self._exists(doubt)
                except (RequestError, TimeoutError):
                    silent.add(doubt.owner or "")
                    continue
                if exists is not None:
                    await self._resolve(doubt, exists=exists)
            if cursor == 0:
                return
            await self._registry.take_lease(self._core.replica_id, LEASE_S)

    async def _resolve(self, doubt: Doubt, *, exists: bool) -> None:
        if await self._doubts.resolve(doubt, exists=exists):
            log.info("doubt resolved", extra={"item": doubt.item, "owner": doubt.owner, "exists": exists})

    async def _exists(self, doubt: Doubt) -> bool | None:
        """Ask the owner whether it has the item. None: its answer says neither.

        Raises RequestError or TimeoutError when there is no answer.
        """
        if doubt.owner is None:
            return False
        backend = self._core.ring.by_url(doubt.owner)
        if backend is None:
            return None
        path = f"{self._core.options.rules.collection}{doubt.item}".encode()
        head = b"GET %b HTTP/1.1\r\nHost: %b\r\nVia: 1.1 distributer\r\n\r\n" % (path, backend.authority)
        question = _Question(head)
        pool = self._core.pool(backend)
        waiter = None
        connection = pool.idle()
        if connection is not None:
            question.connected(connection)
        else:
            waiter = pool.acquire(question.connected)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                status = await question.status
        finally:
            if waiter is not None:
                waiter.cancel()
            question.abandon()
        if status == 404:
            return False
        return True if 200 <= status < 300 else None


class _Question:
    """A request of our own: only the status of its answer counts."""

    def __init__(self, head: bytes) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._head = head
        self._connection: UpstreamConnection | None = None
        self._seen = 0

    def connected(self, result: UpstreamConnection | RequestError) -> None:
        if isinstance(result, UpstreamConnection):
            self._connection = result
            result.send(self, self._head, answers_head=False, done=True)
        elif not self.status.done():
            self.status.set_exception(result)

    def abandon(self) -> None:
        """Cut the connection, unless the answer is complete."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def response_started(self, head: ResponseHead) -> None:
        self._seen = head.status

    def response_data(self, data: bytes) -> None: ...

    def response_finished(self, trailers: bytes) -> None:
        self._connection = None
        if not self.status.done():
            self.status.set_result(self._seen)

    def response_switched(self, rest: bytes) -> None:
        raise ValueError("it switched to another protocol unasked")

    def response_flush(self) -> None: ...

    def upstream_failed(self, error: UpstreamError) -> None:
        self._connection = None
        if not self.status.done():
            self.status.set_exception(error)

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

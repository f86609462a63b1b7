"""A request of our own to a backend, of which the status, and perhaps the body, is wanted."""

from __future__ import annotations

import asyncio

from distributer.errors import ConnectionStale, RequestError, UpstreamError
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.pool import BackendPool
from distributer.model import Backend
from distributer.wire.response import ResponseHead


def question(backend: Backend, target: bytes) -> bytes:
    """Spell the request: a GET."""
    return b"GET %b HTTP/1.1\r\nHost: %b\r\nVia: 1.1 distributer\r\n\r\n" % (target, backend.authority)


def existence(status: int) -> bool | None:
    """Read a backend's answer to the question for an item: it has it, it has not, or neither is said."""
    if status == 404:
        return False
    return True if 200 <= status < 300 else None


async def ask(pool: BackendPool, head: bytes, timeout_s: float) -> int:
    """Ask, and return the answer's status. Raises RequestError or TimeoutError when there is none."""
    return (await fetch(pool, head, timeout_s))[0]


async def fetch(pool: BackendPool, head: bytes, timeout_s: float, max_bytes: int = 0) -> tuple[int, bytes]:
    """Ask, and return the answer's status, and up to so much of its body: one that is longer is an error.

    0: without its body, which may be as long as it likes. Raises RequestError or TimeoutError when there is no answer.
    """
    asked = Question(head, max_bytes)
    waiter = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = pool.idle()
            if connection is not None:
                asked.connected(connection)
                try:
                    return await asked.status, bytes(asked.body)
                except ConnectionStale:
                    asked.start_again()
            waiter = pool.acquire(asked.connected)
            return await asked.status, bytes(asked.body)
    finally:
        if waiter is not None:
            waiter.cancel()
        asked.abandon()


class Question:
    """A request of our own."""

    def __init__(self, head: bytes, max_bytes: int = 0) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.body = bytearray()
        self._head = head
        self._max_bytes = max_bytes
        self._connection: UpstreamConnection | None = None
        self._seen = 0

    def connected(self, result: UpstreamConnection | RequestError) -> None:
        if isinstance(result, UpstreamConnection):
            self._connection = result
            result.send(self, self._head, answers_head=False, done=True)
        elif not self.status.done():
            self.status.set_exception(result)

    def start_again(self) -> None:
        """Be asked once more: the connection was closed before any answer."""
        self.status = asyncio.get_running_loop().create_future()

    def abandon(self) -> None:
        """Cut the connection, unless the answer is complete."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def response_started(self, head: ResponseHead) -> None:
        self._seen = head.status

    def response_data(self, data: bytes) -> None:
        if not self._max_bytes:
            return
        self.body += data
        if len(self.body) > self._max_bytes:
            self.body.clear()
            if not self.status.done():
                self.status.set_exception(
                    UpstreamError(f"the answer is longer than {self._max_bytes} bytes", sent=True)
                )

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

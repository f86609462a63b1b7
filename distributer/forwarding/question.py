"""A request of our own to a backend, of which the status, and perhaps the body, is wanted.

Over the pool, as clients' requests go; or over a connection of its own, which says whether a new one can be made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from distributer.clock import Clock
from distributer.errors import ConnectFailed, ConnectionStale, RequestError, UpstreamError
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.limits import UpstreamLimits
from distributer.forwarding.pool import BackendPool
from distributer.model import Backend
from distributer.wire.response import ResponseHead


def question(backend: Backend, target: bytes, *fields: bytes) -> bytes:
    """Spell the request: a GET, with more field lines."""
    lines = (b"GET %b HTTP/1.1" % target, b"Host: " + backend.authority, b"Via: 1.1 distributer", *fields)
    return b"\r\n".join((*lines, b"", b""))


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


async def ask_alone(backend: Backend, head: bytes | None, timeout_s: float, limits: UpstreamLimits) -> int:
    """Ask over a connection of its own, and return the status; without a head, only connect, and return 0.

    Raises RequestError or TimeoutError if no answer comes. Its body is not waited for.
    """
    loop = asyncio.get_running_loop()
    asked = Question(head or b"", at_once=True)
    protocol: Callable[[], Any] = partial(UpstreamConnection, _Alone(backend, limits))
    async with asyncio.timeout(timeout_s):
        try:
            _, made = await loop.create_connection(protocol, backend.host, backend.port)
        except (OSError, UnicodeError) as error:  # a name that no resolver can be asked for
            raise ConnectFailed(f"no connection: {getattr(error, 'strerror', None) or error}") from error
        connection: UpstreamConnection = made
        try:
            if head is None:
                return 0
            if not connection.is_open:
                raise ConnectFailed("the connection was closed at once")
            asked.connected(connection)
            return await asked.status
        finally:
            connection.abandon()


class _Alone:
    """Where a connection belongs that is used once."""

    def __init__(self, backend: Backend, limits: UpstreamLimits) -> None:
        self.backend = backend
        self.limits = limits
        self.clock = Clock()

    def give_back(self, connection: UpstreamConnection) -> None:
        connection.abandon()

    def closed(self, connection: UpstreamConnection) -> None: ...


class Question:
    """A request of our own. `at_once`: its status counts as soon as it has come, and its body does not."""

    def __init__(self, head: bytes, max_bytes: int = 0, *, at_once: bool = False) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.body = bytearray()
        self._head = head
        self._max_bytes = max_bytes
        self._at_once = at_once
        self._connection: UpstreamConnection | None = None
        self._seen = 0

    def connected(self, result: UpstreamConnection | RequestError) -> None:
        if isinstance(result, UpstreamConnection):
            self._connection = result
            result.send(self, self._head, answers_head=False, done=True)
        else:
            self._fail(result)

    def start_again(self) -> None:
        """Be asked once more: the connection was closed before any answer."""
        self.status = asyncio.get_running_loop().create_future()

    def abandon(self) -> None:
        """Cut the connection, unless the answer is complete."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()
        self.status.cancel()

    def response_started(self, head: ResponseHead) -> None:
        self._seen = head.status
        if self._at_once and head.status >= 200:
            self._answer()

    def response_data(self, data: bytes) -> None:
        if not self._max_bytes:
            return
        self.body += data
        if len(self.body) > self._max_bytes:
            self.body.clear()
            self._fail(UpstreamError(f"the answer is longer than {self._max_bytes} bytes", sent=True))

    def response_finished(self, trailers: bytes) -> None:
        self._connection = None
        self._answer()

    def response_switched(self, rest: bytes) -> None:
        raise ValueError("it switched to another protocol unasked")

    def response_flush(self) -> None: ...

    def upstream_failed(self, error: UpstreamError) -> None:
        self._connection = None
        self._fail(error)

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def _answer(self) -> None:
        if not self.status.done():
            self.status.set_result(self._seen)

    def _fail(self, error: RequestError) -> None:
        if not self.status.done():
            self.status.set_exception(error)

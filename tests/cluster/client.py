"""A client of the cluster: one request at a time on a kept-alive connection, light enough for dozens in one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import httptools


@dataclass(slots=True)
class Answer:
    """A complete answer."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True

    @property
    def backend(self) -> str | None:
        """The backend that it came from, if that is told."""
        value = self.headers.get(b"x-distributer-backend")
        return None if value is None else value.decode()

    @property
    def route(self) -> bytes:
        """Why the request went there, if that is told."""
        return self.headers.get(b"x-distributer-route", b"")

    @property
    def ticket(self) -> int | None:
        """The ticket that was used, if that is told."""
        value = self.headers.get(b"x-distributer-ticket")
        return None if value is None else int(value)


class NoAnswerError(Exception):
    """There is no complete answer. `may_retry`: the connection had been used before, and was closed before any byte."""

    def __init__(self, why: str, *, may_retry: bool = False) -> None:
        super().__init__(why)
        self.may_retry = may_retry


class _Connection(asyncio.Protocol):
    """One connection, and the answer that is awaited on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.requests = 0
        self.is_closed = False
        self._parser = httptools.HttpResponseParser(self)
        self._awaited: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._has_begun = False

    def ask(self, payload: bytes) -> asyncio.Future[Answer]:
        """Send a request."""
        self.requests += 1
        self._has_begun = False
        self._awaited = asyncio.get_running_loop().create_future()
        if self.is_closed:
            self.fail("closed")
        else:
            self.transport.write(payload)
        return self._awaited

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"bad answer: {error}")
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._answer = Answer()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        answer, awaited = self._answer, self._awaited
        answer.status = self._parser.get_status_code()
        answer.keep_alive = self._parser.should_keep_alive()
        if awaited is not None and not awaited.done():
            self._awaited = None
            awaited.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self.fail(f"closed{'' if exc is None else f' ({exc})'}{' within the answer' if self._has_begun else ''}")

    def fail(self, why: str) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None and not awaited.done():
            awaited.set_exception(NoAnswerError(why, may_retry=self.requests > 1 and not self._has_begun))


class Client:
    """Asks one request after the other; opens a connection when it has none."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: _Connection | None = None

    async def ask(self, payload: bytes, timeout_s: float) -> Answer:
        """Send a request and await its answer. Raises NoAnswerError."""
        connection = self._connection
        try:
            async with asyncio.timeout(timeout_s):
                # One that is known to be closed is not used: only what is lost under way is anybody's matter.
                if connection is None or connection.is_closed:
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
                    self._connection = connection
                answer = await connection.ask(payload)
        except TimeoutError:
            self.leave()
            raise NoAnswerError(f"none within {timeout_s:g} s") from None
        except OSError as error:
            self.leave()
            raise NoAnswerError(f"no connection: {error}") from error
        except NoAnswerError:
            self.leave()
            raise
        if not answer.keep_alive:
            self.leave()
        return answer

    def leave(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.transport.abort()

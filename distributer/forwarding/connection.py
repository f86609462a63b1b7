"""One connection to a backend.

    CONNECTING ──► IDLE ──send──► BUSY ──answer and request complete──► IDLE ──► …
                    │               │
                    └──────────────►└──► CLOSED   (closed by either side, cut short, or not fit to be reused)

A connection serves one attempt at a time, its *user*. It is reused only after an answer that was complete, to a request
that was completely sent, with nothing left over: any doubt about where a message ends closes it. And not when it is
old: behind a name or a balancer that spreads connections, a pool that never renews its own never sees a new backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Protocol, cast

from distributer.clock import Clock
from distributer.errors import ConnectionLost, ConnectionStale, UpstreamError, UpstreamTimeout
from distributer.forwarding.limits import HIGH_WATER_BYTES, UpstreamLimits
from distributer.forwarding.reset import reset
from distributer.model import Backend
from distributer.wire.fields import Framing
from distributer.wire.parser import ResponseParser
from distributer.wire.response import ResponseHead


class UpstreamUser(Protocol):
    """Who sent the request on a connection, and takes its answer."""

    def response_started(self, head: ResponseHead) -> None:
        """A head has come; one of status 1xx announces that another will follow."""

    def response_data(self, data: bytes) -> None:
        """Some bytes of the body have come, never none."""

    def response_finished(self, trailers: bytes) -> None:
        """The answer is complete, with these trailers, serialised. The connection is no longer this user's."""

    def response_flush(self) -> None:
        """All that one read brought has been handed over."""

    def response_switched(self, rest: bytes) -> None:
        """Behind the 101 whose head was taken, the connection speaks another protocol; `rest` has come of it.

        The user takes the connection over by `hand_over`. Raises ValueError if it does not want it.
        """

    def upstream_failed(self, error: UpstreamError) -> None:
        """The answer will never be complete. The connection is no longer this user's."""

    def pause_sending(self) -> None:
        """The backend takes no more of the request for now."""

    def resume_sending(self) -> None:
        """The backend takes more again."""


class ConnectionHome(Protocol):
    """Where a connection belongs: the pool of its backend."""

    backend: Backend
    limits: UpstreamLimits
    clock: Clock

    def give_back(self, connection: UpstreamConnection) -> None:
        """Take the connection back: it may be reused."""

    def closed(self, connection: UpstreamConnection) -> None:
        """Forget the connection: it is closed."""


class UpstreamConnection:
    """An HTTP/1.1 connection to a backend, kept alive between exchanges."""

    __slots__ = (
        "_answered",
        "_is_digesting",
        "_is_reusable",
        "_parser",
        "_pool",
        "_reading_paused",
        "_request_done",
        "_response",
        "_transport",
        "_writable",
        "deadline",
        "idle_since",
        "requests",
        "retires_at",
        "user",
    )

    def __init__(self, pool: ConnectionHome) -> None:
        self._pool = pool
        self._parser = ResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._response: ResponseHead | None = None
        self._answered = False  # some byte of the answer has come
        self._request_done = False
        self._is_digesting = False
        self._is_reusable = False
        self._reading_paused = False
        self._writable = True
        self.user: UpstreamUser | None = None
        self.requests = 0
        self.idle_since = 0.0
        self.deadline = 0.0
        """Coarse time, in seconds, at which the backend has been silent for too long."""
        # Spread a little, or the connections of one burst would all be renewed in one burst.
        age_s = pool.limits.lifetime_s * random.uniform(0.8, 1.0)  # noqa: S311 - not a secret
        self.retires_at = pool.clock.now + age_s
        """Coarse time, in seconds, from which on it is not used again."""

    def __repr__(self) -> str:
        state = "CLOSED" if self._transport is None else "BUSY" if self.user is not None else "IDLE"
        return f"<UpstreamConnection {self._pool.backend.id} {state}, requests: {self.requests}>"

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    # What the exchange calls.

    def send(self, user: UpstreamUser, data: bytes, *, answers_head: bool, done: bool) -> None:
        """Send the head, and what there is of the body, of a new request."""
        assert self.user is None, "a connection serves one attempt at a time"
        assert self._transport is not None
        self.user = user
        self.requests += 1
        self._answered = False
        self._request_done = done
        self._response = None
        self._parser.expect(answers_head=answers_head)
        self.deadline = self._pool.clock.now + self._pool.limits.first_byte_timeout_s
        self._transport.write(data)

    def send_more(self, data: bytes, *, done: bool) -> None:
        """Send more of the request's body; `done` with its last part, which may be empty."""
        self._request_done = done
        if self._transport is not None and data:
            # Progress of the body counts: the answer may come only when all of it is there.
            self.deadline = self._pool.clock.now + self._pool.limits.first_byte_timeout_s
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Take no more of the answer for now: the client is slow."""
        if self._transport is not None and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more of the answer again."""
        if self._transport is not None and self._reading_paused:
            self._reading_paused = False
            self._restart_deadline()
            self._transport.resume_reading()

    def abandon(self, *, by_reset: bool = False) -> None:
        """Cut the connection: nobody waits for the answer any more.

        `by_reset`: the system sends nothing more of the request either. Else it goes on with what it has, and a backend
        that was out of reach may get it at any later time.
        """
        self.user = None
        self._close(by_reset=by_reset)

    def hand_over(self) -> tuple[asyncio.Transport, bool]:
        """Leave the transport to a tunnel, and say whether it takes bytes. It never returns to the pool.

        The tunnel calls `connection_lost` in the end.
        """
        assert self._transport is not None
        self.user = None
        return self._transport, self._writable

    def check(self, now: float) -> None:
        """Fail if the backend has been silent for too long. A client that takes nothing is not the backend's fault."""
        if now < self.deadline or self.user is None or self._reading_paused:
            return
        if not self._answered and not self._writable:
            detail = f"{self._pool.backend.url} took no more of the request"
        elif not self._answered:
            detail = f"{self._pool.backend.url} did not answer in {self._pool.limits.first_byte_timeout_s:g} s"
        else:
            detail = f"{self._pool.backend.url} stopped answering for {self._pool.limits.idle_timeout_s:g} s"
        self._fail(UpstreamTimeout(detail, sent=True))

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        user = self.user
        if user is None:
            # Bytes that answer nothing: this connection is out of step.
            self._close()
            return
        self._answered = True
        try:
            rest = self._parser.feed(data)
            if rest is not None:
                user.response_switched(rest)
                return
        except ValueError as error:
            self._fail(UpstreamError(f"{self._pool.backend.url} sent a malformed answer: {error}", sent=True))
        if self._parser.has_more and self.is_open:
            assert self._transport is not None
            self._is_digesting = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._digest)
        if self.user is not None:
            self.deadline = self._pool.clock.now + self._pool.limits.idle_timeout_s
        elif self._is_reusable and self.is_open:
            # Only now, with all bytes looked at: those of the next exchange must not meet leftovers of this one.
            self._is_reusable = False
            self.resume_reading()
            self._pool.give_back(self)
        else:
            self._close()
        user.response_flush()

    def _digest(self) -> None:
        """Go on with an answer when others have had their turn."""
        self._is_digesting = False
        if self._transport is None or self.user is None:
            return
        self.data_received(b"")
        if not self._is_digesting and not self._reading_paused and self.is_open:
            self._transport.resume_reading()

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.user is not None:
            self._take_rest()
        self._transport = None
        user = self.user
        if user is not None and exc is None and self._ends_by_close():
            self.user = None
            user.response_finished(b"")
            user.response_flush()
        elif user is not None:
            self._fail(self._loss(exc))
        self._pool.closed(self)

    def pause_writing(self) -> None:
        self._writable = False
        if self.user is not None:
            self.user.pause_sending()

    def resume_writing(self) -> None:
        self._writable = True
        if self.user is not None:
            self.user.resume_sending()

    # What the parser calls.

    def response_started(self, head: ResponseHead) -> None:
        user = self.user
        if user is None:
            raise ValueError("more than one answer to one request")
        if head.status >= 200:
            self._response = head
        user.response_started(head)

    def response_data(self, data: bytes) -> None:
        user = self.user
        if user is not None:
            user.response_data(data)

    def response_finished(self) -> None:
        head, user = self._response, self.user
        assert head is not None
        if user is None:
            return
        self.user = None
        self._response = None
        # What the backend has not taken yet is in the way of the next request, and nobody would be told to wait.
        self._is_reusable = self._request_done and head.keep_alive and self._writable
        user.response_finished(self._parser.trailers)

    # The ends.

    def _take_rest(self) -> None:
        """Take what had come before sending failed.

        A backend that refuses a request early, and closes, resets what is still sent to it. Its answer may have come
        before that, and be unread.
        """
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return
        with contextlib.suppress(OSError), socket.fromfd(sock.fileno(), sock.family, sock.type) as copy:
            copy.setblocking(False)
            while self.user is not None and (data := copy.recv(HIGH_WATER_BYTES)):
                self.data_received(data)

    def _restart_deadline(self) -> None:
        limits = self._pool.limits
        self.deadline = self._pool.clock.now + (
            limits.idle_timeout_s if self._answered else limits.first_byte_timeout_s
        )

    def _ends_by_close(self) -> bool:
        return self._response is not None and self._response.framing is Framing.UNTIL_CLOSE

    def _loss(self, exc: Exception | None) -> UpstreamError:
        where = self._pool.backend.url
        why = f": {exc}" if isinstance(exc, OSError) else ""  # a mistake of our own is not the backend's
        if self._answered:
            return ConnectionLost(f"{where} closed the connection within its answer{why}", sent=True)
        if self.requests > 1:
            return ConnectionStale(f"{where} closed a kept-alive connection{why}", sent=True)
        return ConnectionLost(f"{where} closed the connection without an answer{why}", sent=True)

    def _fail(self, error: UpstreamError) -> None:
        user, self.user = self.user, None
        # Who does not answer may not have got the request: then it must not come when nobody reckons with it any more.
        self._close(by_reset=isinstance(error, UpstreamTimeout))
        if user is not None:
            user.upstream_failed(error)

    def _close(self, *, by_reset: bool = False) -> None:
        # At once: nothing that is still buffered is of use to anybody.
        if self._transport is not None and by_reset:
            reset(self._transport)
        elif self._transport is not None:
            self._transport.abort()

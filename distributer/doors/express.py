"""The express door: a uvicorn HTTP protocol class that drives the forwarding core without an ASGI layer between.

    uvicorn distributer.app:app --http distributer.doors.express:ExpressProtocol

It finds the core where the application's lifespan left it. Requests of one connection are answered in their order: one
exchange is under way, those that were read behind it wait, and reading stops meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from distributer.doors.lifespan import CORE_KEY
from distributer.errors import ClientError, ConfigError, RequestError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.limits import HIGH_WATER_BYTES
from distributer.forwarding.tunnel import End, StreamEnd
from distributer.wire.head import LAST_CHUNK, Framing, RequestHead, ResponseHead, chunk, downstream_head, origin_fields
from distributer.wire.parser import RequestParser
from distributer.wire.problem import problem

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

LINGER_S = 2.0
"""How long a connection that is closed within a request goes on reading, so that the client can read its answer: closed
at once, it would get a reset instead (RFC 9112 section 9.6)."""


class ExpressProtocol(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_chunked",
        "_core",
        "_current",
        "_early",
        "_incoming",
        "_is_closing",
        "_is_paused",
        "_is_writable",
        "_keep_alive",
        "_last_active",
        "_linger_until",
        "_loop",
        "_origin_fields",
        "_out",
        "_parser",
        "_queue",
        "_rejection",
        "_server_state",
        "_started",
        "_takes_no_more",
        "_transport",
        "_upstream_paused",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        core = app_state.get(CORE_KEY)
        if not isinstance(core, ForwardingCore):
            raise ConfigError("the express door needs an application that opens a distributer in its lifespan")
        self._core = core
        self._loop = _loop or asyncio.get_running_loop()
        self._server_state = server_state
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser(self)
        self._incoming: Exchange | None = None  # whose body is being read
        self._current: Exchange | None = None  # whose answer is being written
        self._queue: deque[Exchange] = deque()
        self._early: bytearray | None = None  # what comes behind an offer to switch, until the backend has answered it
        self._out: list[bytes] = []
        self._origin_fields = b""
        self._started = False
        self._chunked = False
        self._keep_alive = True
        self._is_paused = False
        self._is_writable = True
        self._upstream_paused = False
        self._takes_no_more = False  # what the client sends from now on is thrown away
        self._is_closing = False
        self._rejection: ClientError | None = None
        self._last_active = core.clock.now
        self._linger_until = 0.0

    def __repr__(self) -> str:
        return f"<ExpressProtocol {self._current!r}, queued: {len(self._queue)}>"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        peer = transport.get_extra_info("peername")
        host = str(peer[0]).encode() if isinstance(peer, tuple) else b"unknown"
        scheme = b"https" if transport.get_extra_info("sslcontext") else b"http"
        self._origin_fields = origin_fields(host, scheme)
        # uvicorn waits for these to go when it stops.
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._core.client_connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._takes_no_more:
            return
        self._last_active = self._core.clock.now
        if self._early is not None:
            self._keep(data)
            return
        try:
            rest = self._parser.feed(data)
            if rest:
                self._take_behind_offer(rest)
        except ClientError as error:
            self._reject(error)

    def eof_received(self) -> None:
        """Let the transport close. A client that closes its half has most likely left: its backend is set free."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server_state.connections.discard(self)
        self._core.client_connections.discard(self)
        current, self._current = self._current, None
        self._queue.clear()
        self._early = None
        self._incoming = None
        if current is not None:
            current.client_gone()

    def pause_writing(self) -> None:
        self._is_writable = False
        if self._current is not None:
            self._upstream_paused = True
            self._current.pause_answer()

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._upstream_paused:
            self._upstream_paused = False
            if self._current is not None:
                self._current.resume_answer()

    # What uvicorn and the core's clock call.

    def shutdown(self) -> None:
        """Take no further requests; close when the one under way is answered, at once when there is none."""
        self._keep_alive = False
        if self._current is None:
            self._close()

    def check(self, now: float) -> None:
        """Close a connection that has been idle for too long, or that lingers."""
        if self._linger_until:
            if now >= self._linger_until and self._transport is not None:
                self._transport.abort()
        elif self._current is None and now - self._last_active >= self._core.options.client_idle_timeout_s:
            self._close()

    # What the parser calls.

    def request_started(self, head: RequestHead) -> None:
        if head.method == b"CONNECT":
            raise ClientError("CONNECT is for proxies that a client has chosen", 405, "Method not allowed")
        self._incoming = exchange = Exchange(self._core, head, self, self._origin_fields)
        if head.upgrade is not None:
            self._early = bytearray()
        if self._current is None:
            self._current = exchange
            exchange.start()
        else:
            self._queue.append(exchange)
            self.pause_reading()

    def request_data(self, data: bytes) -> None:
        if self._incoming is not None:
            self._incoming.body(data)

    def request_finished(self) -> None:
        if self._incoming is not None:
            self._incoming.body_finished()
            self._incoming = None

    # What the exchange calls.

    def interim(self, head: ResponseHead) -> None:
        self._out.append(downstream_head(head, is_http11=True, keep_alive=True))
        self.flush()

    def start(self, head: ResponseHead) -> None:
        current = self._current
        assert current is not None
        request = current.head
        self._started = True
        self._chunked = head.framing >= Framing.CHUNKED and request.is_http11
        keep_alive = (
            self._keep_alive
            and request.keep_alive
            and not self._core.is_draining
            and not self._takes_no_more
            and current.is_request_complete
            and (request.is_http11 or head.framing < Framing.CHUNKED)
        )
        self._keep_alive = keep_alive
        self._out.append(downstream_head(head, is_http11=request.is_http11, keep_alive=keep_alive))

    def write(self, data: bytes) -> None:
        self._out.append(chunk(data) if self._chunked else data)

    def flush(self) -> None:
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        self._out = []

    def finish(self) -> None:
        if self._chunked:
            self._out.append(LAST_CHUNK)
        self.flush()
        self._server_state.total_requests += 1
        self._next()

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        transport, early = self._transport, self._early
        assert transport is not None
        assert early is not None
        self._early = None
        self._out.append(downstream_head(head, is_http11=True, keep_alive=True))
        self.flush()
        self._server_state.total_requests += 1
        # The exchange stays the current one: this connection is in use until it is lost, of which its end tells us.
        return StreamEnd(transport, self, is_writable=self._is_writable), bytes(early)

    def abort(self, error: RequestError) -> None:
        if self._transport is None:
            return
        if self._started:
            self._out = []
            self._transport.abort()
            return
        current = self._current
        assert current is not None
        if isinstance(error, ClientError):
            self._keep_alive = False
        self._answer_problem(error, current.request_id)
        self.finish()

    def pause_reading(self) -> None:
        if not self._is_paused and self._transport is not None and not self._takes_no_more:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    # The ends.

    def _answer_problem(self, error: RequestError, request_id: bytes | None) -> None:
        head, body = problem(error, request_id)
        current = self._current
        if current is not None:
            answers_head = current.head.method == b"HEAD"
            self.start(head)
        else:
            answers_head = False
            self._out.append(downstream_head(head, is_http11=True, keep_alive=False))
        if not answers_head:
            self._out.append(body)
        self._chunked = False

    def _next(self) -> None:
        """Go on with the next request of this connection, or close it."""
        self._current = None
        self._started = False
        self._chunked = False
        self._upstream_paused = False
        self._last_active = self._core.clock.now
        if not self._keep_alive:
            self._close()
        elif self._queue:
            self._current = exchange = self._queue.popleft()
            # On the loop, not on the stack: a long queue of refused requests must not recurse.
            self._loop.call_soon(self._start_queued, exchange)
        elif self._early is not None:
            # The offer to switch was declined: what has come behind it are requests.
            self._loop.call_soon(self._take_early)
        elif self._rejection is not None:
            self._answer_problem(self._rejection, None)
            self.flush()
            self._close()
        elif self._core.is_draining:
            self._close()
        elif self._is_paused:
            self.resume_reading()

    def _start_queued(self, exchange: Exchange) -> None:
        if self._current is exchange:
            exchange.start()
            if self._incoming is exchange and not exchange.holds_back:
                self.resume_reading()  # which was paused when it had to wait, before its body was complete

    def _take_behind_offer(self, data: bytes) -> None:
        """Take what has come behind a request that offers to switch. If the offer is not passed on, requests go on."""
        rest: bytes | None = data
        while rest and self._early is None:
            rest = self._parser.feed(rest)
        if rest:
            self._keep(rest)

    def _keep(self, data: bytes) -> None:
        """Keep what has come behind an offer that is passed on: what it is hangs on the backend's answer."""
        assert self._early is not None
        self._early += data
        if len(self._early) > HIGH_WATER_BYTES:
            self.pause_reading()

    def _take_early(self) -> None:
        early, self._early = self._early, None
        self.resume_reading()
        if early and self._transport is not None:
            self.data_received(bytes(early))

    def _reject(self, error: ClientError) -> None:
        """Refuse what the client sent: after the answers that it still has coming, and nothing behind it counts."""
        self._core.metrics.refused(error.status)
        self._stop_taking()
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming is self._current:
            # The bad bytes are in the body of the request under way: no backend may take it for a complete one.
            if self._started:
                assert self._transport is not None
                self._transport.abort()
                return
            self._current = None
            incoming.client_gone()
        elif incoming is not None:
            self._queue.remove(incoming)
        self._rejection = error
        if self._current is None:
            self._answer_problem(error, None)
            self.flush()
            self._close()

    def _stop_taking(self) -> None:
        self._takes_no_more = True
        # It goes on reading, or it would not see the client leave; what comes is thrown away.
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    def _close(self) -> None:
        transport = self._transport
        if transport is None or self._is_closing:
            return
        self._is_closing = True
        self._queue.clear()
        incomplete = self._rejection is not None or self._incoming is not None
        self._incoming = None
        if not incomplete or not transport.can_write_eof():
            transport.close()
            return
        self._stop_taking()
        self._linger_until = self._core.clock.now + LINGER_S
        transport.write_eof()

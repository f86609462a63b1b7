"""The express door: a uvicorn HTTP protocol class that drives the forwarding core without an ASGI layer between.

    uvicorn distributer.app:app --http distributer.doors.express:ExpressProtocol

It finds the core where the application's lifespan left it. Requests of one connection are answered in their order: one
exchange is under way, those that were read behind it wait, and reading stops meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from distributer.doors.client_connection import Awaited, ClientConnection
from distributer.doors.lifespan import CORE_KEY
from distributer.doors.peer import peer_of
from distributer.errors import ClientError, ConfigError, RequestError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.limits import HIGH_WATER_BYTES, LARGE_READ_BYTES
from distributer.forwarding.reset import has_unread
from distributer.forwarding.tunnel import End, StreamEnd
from distributer.wire.body import LAST_CHUNK, chunk, last_chunk
from distributer.wire.fields import Framing
from distributer.wire.parser import RequestParser
from distributer.wire.problem import problem
from distributer.wire.request import RequestHead
from distributer.wire.response import ResponseHead, downstream_head

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

MAX_QUEUED = 32
"""Pipelined requests that are read ahead. What comes behind them is parsed when they have had their turn."""
SLICE_BYTES = 4096
"""How much of a read is parsed before those are counted."""
TOO_MANY_QUEUED = 256
"""Behind the end of a body, more requests may be parsed at once. So many are refused."""

_BY_CHUNKS: Final = Framing.CHUNKED  # through the Enum it takes longer


class ExpressProtocol(ClientConnection):
    """One client connection."""

    __slots__ = (
        "_chunked",
        "_current",
        "_early",
        "_incoming",
        "_is_digesting",
        "_is_held_back",
        "_is_paused",
        "_is_write_paused",
        "_keep_alive",
        "_loop",
        "_origin",
        "_out",
        "_parser",
        "_queue",
        "_rejection",
        "_started",
        "_unparsed",
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
        super().__init__(core, server_state)
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = RequestParser(self, core.options.heads)
        self._incoming: Exchange | None = None  # whose body is being read
        self._current: Exchange | None = None  # whose answer is being written
        self._queue: deque[Exchange] = deque()
        self._early: bytearray | None = None  # what comes behind an offer to switch, until the backend has answered it
        self._unparsed = b""  # behind more requests than are read ahead
        self._out: list[bytes] = []
        self._started = b""  # the head of the answer that is being written
        self._chunked = False
        self._keep_alive = True
        self._is_paused = False
        self._is_digesting = False  # others have their turn first
        self._is_held_back = False  # by an exchange: its body must wait
        self._is_write_paused = False  # the client takes nothing
        self._rejection: ClientError | None = None

    def __repr__(self) -> str:
        return f"<ExpressProtocol {self._current!r}, queued: {len(self._queue)}>"

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        if self._takes_no_more:
            self._heard()
            return
        if self._early is not None:
            self._keep(data)
            return
        if len(data) > SLICE_BYTES or self._unparsed:
            self._parse_in_slices(self._unparsed + data)
        else:
            self._parse(data)
        if self._current is None:
            if not self._queue:
                self._head_goes_on()
        elif self._incoming is not None and self._pace is None:
            self._body_goes_on(self._incoming)
        if len(data) >= LARGE_READ_BYTES:
            self._give_way()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        current, self._current = self._current, None
        self._queue.clear()
        self._early = None
        self._unparsed = b""
        self._incoming = None
        if current is not None:
            current.client_gone()

    def pause_writing(self) -> None:
        self._is_write_paused = True
        self._watch_taking()
        if self._current is not None:
            self._current.pause_answer()

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._current is not None:
            self._current.resume_answer()
        elif not self._is_closing:
            self._go_on()

    # What uvicorn calls.

    def shutdown(self) -> None:
        """Take no further requests; close when the one under way is answered, at once when there is none."""
        self._core.start_draining()
        self._keep_alive = False
        if self._current is not None:
            return
        if self._transport is not None and not self._is_paused and has_unread(self._transport):
            return  # it was asked in time: the answer will be the last one
        self._end()

    # What the connection asks and tells.

    @property
    def _awaits(self) -> Awaited:
        if self._is_write_paused or self._is_closing:
            return Awaited.TAKING
        if self._incoming is not None and not self._is_paused:
            return Awaited.BODY
        if self._current is None:
            return Awaited.REQUEST
        return Awaited.TURN if self._queue else Awaited.NOTHING

    def _opened(self, transport: asyncio.Transport) -> None:
        self._origin = self._core.origins.of(*peer_of(transport))

    def _say(self, error: RequestError) -> None:
        self._answer_problem(error)
        self.flush()
        self._close(lingers=True)

    # What the parser calls.

    def request_started(self, head: RequestHead) -> None:
        if self._is_closing:
            return
        if len(self._queue) >= TOO_MANY_QUEUED:
            raise ClientError("too many requests are sent ahead", 429, "Too many requests")
        self._head_since = 0.0
        self._pace = None
        self._incoming = exchange = Exchange(self._core, head, self, self._origin)
        if head.section.upgrade is not None:
            self._early = bytearray()
        if self._current is None and not self._is_write_paused:
            self._current = exchange
            exchange.start()
        else:
            self._queue.append(exchange)
            self._update_reading()

    def request_data(self, data: bytes) -> None:
        if self._incoming is not None:
            self._incoming.body(data)

    def request_finished(self) -> None:
        if self._incoming is not None:
            self._incoming.body_finished(self._parser.trailers)
            self._incoming = None

    # What the exchange calls.

    def interim(self, head: ResponseHead) -> None:
        self._out.append(downstream_head(head, is_http11=True, keep_alive=True))
        self.flush()
        if head.status == 100 and self._incoming is not None and self._incoming is self._current:
            self._watch_body(self._incoming)  # only now is the client to send it

    def start(self, head: ResponseHead) -> None:
        current = self._current
        assert current is not None
        request = current.head
        self._chunked = head.framing >= _BY_CHUNKS and request.is_http11
        keep_alive = (
            self._keep_alive
            and request.keep_alive
            and not self._core.is_draining
            and (not self._takes_no_more or self._rejection is not None)  # which is the last answer then
            and current.is_request_complete
            and (request.is_http11 or head.framing < _BY_CHUNKS)
        )
        self._keep_alive = keep_alive
        date = self._core.clock.date
        self._started = downstream_head(head, is_http11=request.is_http11, keep_alive=keep_alive, date=date)
        self._out.append(self._started)

    def write(self, data: bytes) -> None:
        self._out.append(chunk(data) if self._chunked else data)

    def flush(self) -> None:
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        self._out = []

    def withdraw(self) -> None:
        self._out = []
        self._started = b""
        self._chunked = False

    def finish(self, trailers: bytes = b"") -> None:
        if self._chunked:
            self._out.append(last_chunk(trailers) if trailers else LAST_CHUNK)
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
        # Its time is the tunnel's.
        self._core.wheel.forget(self)
        return StreamEnd(transport, self, is_writable=not self._is_write_paused), bytes(early)

    def abort(self, error: RequestError) -> None:
        if self._transport is None:
            return
        current = self._current
        assert current is not None
        self._core.refusals.note(error, self._client, current.head, self._core.clock.now)
        has_gone_out = self._started and not (self._out and self._out[0] is self._started)
        self._out = []
        if has_gone_out:
            self.cut()
            return
        if isinstance(error, ClientError):
            self._keep_alive = False
        self._answer_problem(error)
        self.finish()

    def pause_reading(self) -> None:
        self._is_held_back = True
        self._update_reading()

    def resume_reading(self) -> None:
        self._is_held_back = False
        self._update_reading()

    # What comes in.

    def _parse(self, data: bytes) -> None:
        try:
            rest = self._parser.feed(data)
            if rest:
                self._keep(rest)
            elif self._parser.has_more:
                self._give_way()
        except ClientError as error:
            self._refuse(error)

    def _parse_in_slices(self, data: bytes) -> None:
        """Parse a large read, which may hold any number of small requests; keep what is behind too many of them."""
        self._unparsed = b""
        at = 0
        while at < len(data) and not self._takes_no_more:
            if self._early is not None:
                self._keep(data[at:])
                break
            if len(self._queue) >= MAX_QUEUED or self._parser.has_more:
                self._unparsed = data[at:]
                break
            left = len(data) - at
            size = left if self._incoming is not None and self._incoming.may_fill(left) else min(left, SLICE_BYTES)
            self._parse(data if size == len(data) else data[at : at + size])
            at += size
        self._update_reading()

    def _give_way(self) -> None:
        """Go on with what this client sends when others have had their turn."""
        if not self._is_digesting:
            self._is_digesting = True
            self._update_reading()
            self._loop.call_soon(self._digest)

    def _digest(self) -> None:
        self._is_digesting = False
        if self._transport is None or self._takes_no_more:
            return
        if self._parser.has_more:
            self._parse(b"")
        if self._unparsed and not self._queue and not self._parser.has_more:
            self._parse_in_slices(self._unparsed)
        else:
            self._update_reading()
        if self._incoming is not None and self._incoming is self._current:
            self._body_goes_on(self._incoming)

    def _keep(self, data: bytes) -> None:
        """Keep what has come behind an offer to switch: what it is hangs on the backend's answer."""
        assert self._early is not None
        self._early += data
        self._update_reading()

    def _take_early(self) -> None:
        """Take what has come behind an offer that was declined: requests."""
        early, self._early = self._early, None
        self._update_reading()
        if early and self._transport is not None:
            self.data_received(bytes(early))

    def _body_goes_on(self, exchange: Exchange) -> None:
        # Until the backend has sent its 100, a client may wait for that.
        if exchange.body_bytes or not exchange.head.expects_continue:
            self._watch_body(exchange)

    def _update_reading(self) -> None:
        """Read from the client, or stop: others wait for their turn, or nobody takes more of its body."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        holds_much = self._early is not None and len(self._early) > HIGH_WATER_BYTES
        is_paused = not self._takes_no_more and bool(
            self._is_held_back or self._is_digesting or self._queue or self._unparsed or holds_much
        )
        if is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if is_paused:
            transport.pause_reading()
            if self._queue:
                self._watch_turn()
        else:
            self._watch_body_again()
            transport.resume_reading()

    # The ends.

    def _answer_problem(self, error: RequestError) -> None:
        current = self._current
        if current is not None:
            head, body = current.problem(error)
            answers_head = current.head.method == b"HEAD"
            self.start(head)
        else:
            head, body = problem(error)
            answers_head = self._parser.refused_head
            date = self._core.clock.date
            self._out.append(downstream_head(head, is_http11=True, keep_alive=False, date=date))
        if not answers_head:
            self._out.append(body)
        self._chunked = False

    def _next(self) -> None:
        """Go on with the next request of this connection, or close it."""
        self._current = None
        self._started = b""
        self._chunked = False
        self._is_held_back = False
        self._idle_since = self._core.clock.now
        if not self._keep_alive:
            self._end()
        elif not self._is_write_paused:
            self._go_on()
        # Else when the client has taken what it was sent: small answers to many requests would pile up.

    def _go_on(self) -> None:
        if self._queue:
            self._current = exchange = self._queue.popleft()
            self._is_held_back = exchange.is_held_back
            # On the loop, not on the stack: a long queue of refused requests must not recurse.
            self._loop.call_soon(self._start_queued, exchange)
        elif self._early is not None:
            self._loop.call_soon(self._take_early)
        elif self._rejection is not None:
            self._say(self._rejection)
        elif self._core.is_draining:
            self._end()
        else:
            if not self._parser.is_between_messages:
                self._head_goes_on()
            self._update_reading()

    def _start_queued(self, exchange: Exchange) -> None:
        if self._current is not exchange:
            return
        exchange.start()
        if not self._queue and self._unparsed:
            self._parse_in_slices(self._unparsed)
        else:
            self._update_reading()
        if self._incoming is exchange and self._current is exchange:
            self._body_goes_on(exchange)

    def _refuse(self, error: ClientError) -> None:
        """Refuse what the client sent: after the answers that it still has coming, and nothing behind it counts."""
        self._stop_taking()
        if self._is_closing:
            return
        self._rejection = error
        incoming, self._incoming = self._incoming, None
        if incoming is not None and incoming is self._current:
            # It is within the body of the request under way.
            incoming.refuse(error)
            return
        core = self._core
        core.metrics.refused(error.status)
        core.refusals.note(error, self._client, None if incoming is None else incoming.head, core.clock.now)
        if incoming is not None:
            self._queue.remove(incoming)
        if self._current is None and not self._queue:
            self._say(error)

    def _stop_taking(self) -> None:
        # It goes on reading, or it would not see the client leave; what comes is thrown away.
        self._takes_no_more = True
        self._unparsed = b""
        self._update_reading()

    def _end(self) -> None:
        """Close, for there will be no further requests."""
        is_incomplete = self._rejection is not None or self._incoming is not None
        self._queue.clear()
        self._incoming = None
        if is_incomplete:
            self._stop_taking()
        self._close(lingers=is_incomplete)

"""One connection of a client, whatever is said on it: let in, kept within its bounds, closed.

What a client may take up is time and memory. Time:

    the connection waits for        counted from                   at most         then
    ------------------------------  -----------------------------  --------------  -------------------------------------
    its first head                  its opening                    head_timeout_s  408; closed silently if no byte came
    the rest of a later head        the head's first byte          head_timeout_s  408
    1 KiB of a body, or its rest    the last such span             body_timeout_s  408; cut, if an answer has begun
    the next request                the last answer                idle_timeout_s  closed
    the client to take its answer   the last byte that was taken   idle_timeout_s  cut
    its turn, with requests that    ---                            LEFT_CHECK_S    cut, if the client has left
    were sent ahead
    the client to read why it was   the last byte that was read    LINGER_S        cut
    refused and to close

A connection stands in the core's wheel for the next time at which one of these may be due, and is looked at then
(`check`). What happens on each read and for each request is to note a time, at most.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, cast

from distributer.errors import ClientError, RequestError, Unroutable
from distributer.forwarding.admission import MAX_LINGERING
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.limits import HIGH_WATER_BYTES
from distributer.forwarding.pace import BodyPace, Receiving, body_too_slow
from distributer.forwarding.reset import has_left, reset

if TYPE_CHECKING:
    from uvicorn.server import ServerState

LINGER_S = 2.0
"""A connection that is closed within a request goes on reading until the client has sent nothing for so long, so that
it can read its answer: closed at once, it would get a reset instead (RFC 9112 section 9.6)."""
LEFT_CHECK_S = 1.0
"""How often a client is asked whether it has left, while nobody reads what it has sent ahead."""
MAX_LINGER_S = 30.0
"""The longest that it goes on reading."""


class Awaited(Enum):
    """What a connection waits for."""

    REQUEST = "the rest of a head, or the next request"
    BODY = "more of a body"
    TAKING = "the client, to take what it was sent"
    TURN = "the answer that comes before those to requests that were sent ahead; nothing is read meanwhile"
    NOTHING = "nothing of the client's"


class ClientConnection(ABC):
    """A client's connection, as asyncio's protocols are; who inherits speaks HTTP on it."""

    __slots__ = (
        "_client",
        "_core",
        "_head_has_begun",
        "_head_since",
        "_idle_since",
        "_is_admitted",
        "_is_closing",
        "_linger_ends",
        "_linger_until",
        "_pace",
        "_server_state",
        "_takes_no_more",
        "_transport",
        "_untaken",
        "_untaken_since",
        "slot",
    )

    def __init__(self, core: ForwardingCore, server_state: ServerState) -> None:
        self._core = core
        self._server_state = server_state
        self._transport: asyncio.Transport | None = None
        self._client = b"unknown"
        self._is_admitted = False
        self._is_closing = False
        self._takes_no_more = False  # what the client sends from now on is thrown away
        self._idle_since = self._head_since = core.clock.now  # the latter 0: no head has begun
        self._head_has_begun = False
        self._pace: BodyPace | None = None
        self._linger_until = self._linger_ends = 0.0
        self._untaken = 0  # bytes that the client had not taken when that was last looked at
        self._untaken_since = 0.0
        self.slot = 0

    # What a protocol says of itself.

    @property
    @abstractmethod
    def _awaits(self) -> Awaited:
        """What it waits for now."""

    @abstractmethod
    def _opened(self, transport: asyncio.Transport) -> None:
        """The connection was let in."""

    @abstractmethod
    def _refuse(self, error: ClientError) -> None:
        """The client has taken too long with what it sends."""

    @abstractmethod
    def _say(self, error: RequestError) -> None:
        """Tell the client why its connection will be closed, and close it."""

    # Opened, and gone.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        core, limits = self._core, self._core.options.clients
        # An answer of that size is out of the backend's hands, however slow the client is.
        high = HIGH_WATER_BYTES + limits.answer_buffer_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._client = str(peer[0]).encode()
        # uvicorn waits for these to go when it stops.
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        refusal = core.admission.admit(self._client)
        if refusal is None:
            self._is_admitted = True
            core.wheel.watch(self, self._head_since + limits.head_timeout_s)
            self._opened(transport)
            return
        error = Unroutable(refusal, title="Too many connections")
        core.refusals.turned_away(error, self._client, core.clock.now)
        self._takes_no_more = True
        self._say(error)

    def eof_received(self) -> bool:
        """Let the transport close. A client that closes its half has most likely left: its backend is set free."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server_state.connections.discard(self)
        self._core.wheel.forget(self)
        if self._is_admitted:
            self._core.admission.leave(self._client)
        elif self._linger_until:
            self._core.admission.lingering -= 1

    # Time.

    def check(self, now: float) -> float:
        """Close, cut or refuse what has taken too long; return when to look again. Called by the wheel."""
        transport, limits = self._transport, self._core.options.clients
        if transport is None:
            return 0.0
        match self._awaits:
            case Awaited.TAKING:
                return self._check_taking(transport, now)
            case Awaited.BODY if self._pace is not None:
                if self._pace.is_too_slow(now):
                    self._refuse(body_too_slow(limits.body_timeout_s))
                    return now + LINGER_S
                return self._pace.deadline
            case Awaited.REQUEST if self._head_since:
                due = self._head_since + limits.head_timeout_s
                if now < due:
                    return due
                if self._head_has_begun:
                    detail = f"the head was not complete within {limits.head_timeout_s:g} s"
                    self._refuse(ClientError(detail, 408, "Request timeout"))
                else:
                    # As after any other idle time: a browser that connects ahead must not find a 408 later.
                    self._close()
                return now + LINGER_S
            case Awaited.REQUEST:
                due = self._idle_since + limits.idle_timeout_s
                if now >= due:
                    self._close()
                return due
            case Awaited.TURN:
                if has_left(transport):
                    transport.abort()
                    return 0.0
                return now + LEFT_CHECK_S
            case _:
                return now + limits.idle_timeout_s

    def _check_taking(self, transport: asyncio.Transport, now: float) -> float:
        untaken, limit_s = transport.get_write_buffer_size(), self._core.options.clients.idle_timeout_s
        if untaken != self._untaken:
            self._untaken, self._untaken_since = untaken, now
        elif untaken and now - self._untaken_since >= limit_s:
            self.cut()
            return 0.0
        if untaken:
            if self._linger_until:
                self._linger_until = now + LINGER_S  # counted from when all is taken
            return now + limit_s / 4
        if self._linger_until and now >= self._linger_until:
            transport.abort()
            return 0.0
        return self._linger_until or now + limit_s

    def _head_goes_on(self) -> None:
        """A read has left a head that is not complete."""
        self._head_has_begun = True
        if not self._head_since and not self._is_closing:
            self._head_since = now = self._core.clock.now
            self._core.wheel.watch(self, now + self._core.options.clients.head_timeout_s)

    def _watch_body(self, request: Receiving) -> None:
        """A body is on its way, of which more is to come."""
        self._pace = BodyPace(request, self._core.options.clients.body_timeout_s, self._core.clock.now)
        self._core.wheel.watch(self, self._pace.deadline)

    def _watch_body_again(self) -> None:
        """The client was held back, and is not any more."""
        if self._pace is not None:
            self._pace.restart(self._core.clock.now)
            self._core.wheel.watch(self, self._pace.deadline)

    def _watch_taking(self) -> None:
        """The client does not take what it is sent as fast as it comes."""
        self._core.wheel.watch(self, self._core.clock.now + self._core.options.clients.idle_timeout_s / 4)

    def _watch_turn(self) -> None:
        """Requests wait for their turn, and nothing more is read."""
        self._core.wheel.watch(self, self._core.clock.now + LEFT_CHECK_S)

    def _heard(self) -> None:
        """The client goes on sending what nobody reads."""
        if self._linger_until:
            self._linger_until = min(self._core.clock.now + LINGER_S, self._linger_ends)

    # The ends.

    def _close(self, *, lingers: bool = False) -> None:
        """Close when all is sent. `lingers`: the client may still be sending, and must be able to read its answer."""
        transport = self._transport
        if transport is None or self._is_closing:
            return
        self._is_closing = True
        now = self._core.clock.now
        if lingers and transport.can_write_eof() and self._may_linger():
            self._linger_until, self._linger_ends = now + LINGER_S, now + MAX_LINGER_S
            transport.write_eof()
        else:
            transport.close()
        # Not even a connection that is closing may wait for its client for ever.
        self._core.wheel.watch(self, now + min(LINGER_S, self._core.options.clients.idle_timeout_s / 4))

    def _may_linger(self) -> bool:
        if self._is_admitted:
            return True
        admission = self._core.admission
        if admission.lingering >= MAX_LINGERING:
            return False
        admission.lingering += 1
        return True

    def cut(self) -> None:
        """End an answer that will not be complete, so that the client can see it: by a reset, not by closing.

        The end of an answer without length is the connection's, which must not look like a clean one.
        """
        if self._transport is not None:
            reset(self._transport)

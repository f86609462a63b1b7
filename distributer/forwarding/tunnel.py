"""Connections that have switched to another protocol (RFC 9110 section 7.8): two ends, and bytes both ways.

              ┌──────── up ────────►
    client end                       backend end
              ◄────── down ─────────┘

What one end receives, the other sends, unread. An end that takes no more holds the other back, and one that takes
nothing at all for too long is cut. An end that has sent all is passed on as such (a TCP connection is closed one way at
a time), and one that is lost takes the other with it: once what it sent has arrived if it closed, at once and by a
reset if it broke. Nobody reads from an end that is held back, so nobody is told that it broke: its socket is asked.

A WebSocket's frames are followed, so that it can be closed by Close frames of ours, each put between two messages: one
to the client, one to the backend. Then nothing is passed on any more; each end is closed when its own Close frame has
come back, or CLOSE_WAIT_S later. Of other protocols nobody here knows how to end them. They are left to end by
themselves, and cut by resets when they must not go on: half a stream with a clean end could be taken for the whole.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Protocol, cast

from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.limits import LARGE_READ_BYTES
from distributer.forwarding.reset import has_failed, reset
from distributer.wire.websocket import GOING_AWAY, FrameFollower, close_frame

CLOSE_WAIT_S = 5.0
"""How long an end may take to send its Close frame back."""

_PROBES = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""TCP's own probes find an end that has vanished within two minutes, however long the protocol may be silent."""


class End(Protocol):
    """One of the two: a connection, or what speaks for a client behind an ASGI server."""

    is_writable: bool
    """Whether it takes bytes to send: it has not paused the direction that comes in."""

    @property
    def unsent(self) -> int:
        """How much of what it was given to send has not been taken."""

    @property
    def has_failed(self) -> bool:
        """Whether it is known to be broken, though `outgoing` was not told: nobody reads from it."""

    def join(self, outgoing: Direction, incoming: Direction) -> None:
        """Belong to a tunnel: the bytes that are received go to `outgoing`, those to send come from `incoming`."""

    def start(self) -> None:
        """Begin to receive. In the end, whatever ends it, `outgoing.lost` is to be called."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def write_eof(self) -> None:
        """Send what is not sent yet, then that this was all."""

    def pause_reading(self) -> None:
        """Receive no more for now."""

    def resume_reading(self) -> None:
        """Receive again."""

    def close(self) -> None:
        """Send what is not sent yet, then close."""

    def abort(self) -> None:
        """Close at once."""

    def reset(self) -> None:
        """Close at once, so that the peer cannot take what it got for the whole."""


class Tunnel:
    """Two ends joined. Made by the exchange whose request was answered with 101."""

    __slots__ = ("_closing", "_core", "_cut_at", "_idle_s", "_last_active", "backend", "client", "down", "up")

    def __init__(self, core: ForwardingCore, client: End, backend: End, *, is_websocket: bool) -> None:
        self._core = core
        self._last_active = core.clock.now
        self._idle_s = core.options.tunnel_idle_timeout_s
        self._cut_at = math.inf
        self._closing = False
        self.client = client
        self.backend = backend
        self.up = Direction(self, client, backend, FrameFollower(is_masked=True) if is_websocket else None)
        self.down = Direction(self, backend, client, FrameFollower(is_masked=False) if is_websocket else None)

    def __repr__(self) -> str:
        return f"<Tunnel{', closing' if self._closing else ''}, up: {self.up!r}, down: {self.down!r}>"

    def start(self, early: bytes, rest: bytes) -> None:
        """Set it going, with what the client has sent behind its request, and the backend behind its 101."""
        self._core.tunnels.add(self)
        self._core.metrics.tunnels += 1
        self._core.metrics.tunnels_open += 1
        self.backend.join(self.down, self.up)
        self.client.join(self.up, self.down)
        self.backend.start()
        self.client.start()
        for direction in (self.up, self.down):
            if not direction.sink.is_writable:
                direction.pause()
        if early:
            self.up.received(early)
        if rest:
            self.down.received(rest)

    def check(self, now: float) -> None:
        """End it if an end is broken or stuck, if it has been silent for too long, or if its end takes too long."""
        stuck_s = self._core.options.clients.idle_timeout_s
        if now >= self._cut_at or self.up.is_stuck(now, stuck_s) or self.down.is_stuck(now, stuck_s):
            self.cut()
        elif now - self._last_active >= self._idle_s:
            if self.up.follower is None or self._closing or self.up.is_ended or self.down.is_ended:
                self.cut()
            else:
                self.close(GOING_AWAY)

    def close(self, code: int) -> None:
        """Close a WebSocket by Close frames with this status code. Other protocols go on."""
        if self._closing or self.up.follower is None:
            return
        self._closing = True
        self._cut_at = self._core.clock.now + CLOSE_WAIT_S
        self.down.send_close(code)
        self.up.send_close(code)
        self.close_ends()

    def cut(self) -> None:
        """End it at once."""
        self.down.cut()
        self.up.cut()

    # What the directions call.

    @property
    def now(self) -> float:
        """The coarse time."""
        return self._core.clock.now

    def passed(self, direction: Direction, size: int) -> None:
        """Bytes have come."""
        self._last_active = self._core.clock.now
        if direction is self.up:
            self._core.metrics.tunnel_bytes_up += size
        else:
            self._core.metrics.tunnel_bytes_down += size

    def close_ends(self) -> None:
        """Close the ends whose Close frames have gone both ways."""
        if self.up.has_closed and self.down.is_told:
            self.client.close()
        if self.down.has_closed and self.up.is_told:
            self.backend.close()

    def ended(self, direction: Direction) -> None:
        """Nothing more will come from an end, which may still receive."""
        if self._closing:
            direction.source.close()
        elif self.up.is_ended and self.down.is_ended:
            self.client.close()
            self.backend.close()
            self._cut_later()
        else:
            direction.sink.write_eof()
            self._idle_s = min(self._idle_s, self._core.options.limits.idle_timeout_s)

    def lost(self, direction: Direction) -> None:
        """An end is gone."""
        if self.up.is_lost and self.down.is_lost:
            self._core.tunnels.discard(self)
            self._core.metrics.tunnels_open -= 1
        elif direction.is_broken:
            direction.cut()
        elif not self._closing:
            direction.sink.close()
            self._cut_later()

    def _cut_later(self) -> None:
        """Bound the time in which an end may take what has been sent to it."""
        self._cut_at = min(self._cut_at, self._core.clock.now + self._core.options.limits.idle_timeout_s)


class Direction:
    """The bytes that go one way. Its source calls `received`, `ended` and `lost`; its sink, `pause` and `resume`."""

    __slots__ = (
        "_close_code",
        "_is_paused",
        "_is_told",
        "_tunnel",
        "_unsent",
        "_unsent_since",
        "follower",
        "is_broken",
        "is_ended",
        "is_lost",
        "sink",
        "source",
    )

    def __init__(self, tunnel: Tunnel, source: End, sink: End, follower: FrameFollower | None) -> None:
        self._tunnel = tunnel
        self._close_code: int | None = None  # of a Close frame that waits for the end of the message under way
        self._is_told = False
        self._is_paused = False
        self._unsent = 0  # what the sink had not taken when that was last looked at
        self._unsent_since = 0.0
        self.source = source
        self.sink = sink
        self.follower = follower
        self.is_ended = False
        self.is_lost = False
        self.is_broken = False

    def __repr__(self) -> str:
        return f"<Direction{', ended' if self.is_ended else ''}{', lost' if self.is_lost else ''}, {self.follower!r}>"

    @property
    def has_closed(self) -> bool:
        """Whether the source has sent its Close frame."""
        return self.follower is not None and self.follower.is_closed

    @property
    def is_told(self) -> bool:
        """Whether a Close frame has been sent to the sink, the source's or ours."""
        return self._is_told or self.has_closed

    @property
    def is_held_back(self) -> bool:
        """Whether the source must wait: the sink takes no more for now, and what comes is for the sink."""
        return self._is_paused and not self._is_told

    def received(self, data: bytes) -> None:
        """Pass bytes on; never none."""
        self._tunnel.passed(self, len(data))
        if self._is_told or self._close_code is not None:
            self._end_with(data)
            return
        if self.follower is not None:
            self.follower.follow(data)
        self.sink.write(data)

    def ended(self) -> None:
        """The source has sent all."""
        if not self.is_ended:
            self.is_ended = True
            self._tunnel.ended(self)

    def lost(self, *, by_error: bool = False) -> None:
        """The source is gone. `by_error`: it did not close."""
        self.is_lost = True
        # What has its end cannot be cut short any more.
        self.is_broken = by_error and not self.is_ended and not self.is_told
        self._tunnel.lost(self)

    def cut(self) -> None:
        """Close the sink at once: by a reset, unless it has been told the end by a Close frame."""
        if self.is_told:
            self.sink.abort()
        else:
            self.sink.reset()

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """Whether the sink has taken nothing for that long, or the source has broken while it was held back."""
        if not self._is_paused:
            return False
        unsent = self.sink.unsent
        if unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return now - self._unsent_since >= limit_s or self.source.has_failed

    def pause(self) -> None:
        """The sink takes no more for now."""
        self._is_paused = True
        self._unsent, self._unsent_since = self.sink.unsent, self._tunnel.now
        if not self._is_told:
            self.source.pause_reading()

    def resume(self) -> None:
        """The sink takes more again."""
        self._is_paused = False
        self.source.resume_reading()

    def send_close(self, code: int) -> None:
        """Send the sink a Close frame as soon as no message is under way; nothing that comes later is passed on."""
        follower = self.follower
        if follower is None or follower.is_lost or follower.is_closed or self.is_ended:
            return
        self._close_code = code
        if follower.is_between:
            self._tell()

    def _tell(self) -> None:
        assert self._close_code is not None
        assert self.follower is not None
        self.sink.write(close_frame(self._close_code, is_masked=self.follower.is_masked))
        self._is_told = True
        self.source.resume_reading()  # what comes is not kept, and the source's Close frame must come

    def _end_with(self, data: bytes) -> None:
        follower = self.follower
        assert follower is not None
        if not self._is_told:
            size = follower.follow(data, to_boundary=True)
            self.sink.write(data[:size])
            data = data[size:]
            if follower.is_between and not follower.is_closed:
                self._tell()
        follower.follow(data)
        self._tunnel.close_ends()


class Owner(Protocol):
    """The protocol of a connection until it became an end."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""


class StreamEnd:
    """An end that is a TCP connection."""

    __slots__ = ("_incoming", "_outgoing", "_owner", "_transport", "is_writable")

    _outgoing: Direction
    _incoming: Direction

    def __init__(self, transport: asyncio.Transport, owner: Owner, *, is_writable: bool) -> None:
        """`owner`: the connection's protocol until now, told when the connection is lost. `is_writable`: whether the
        transport has not told it to pause writing."""
        self._transport = transport
        self._owner = owner
        self.is_writable = is_writable

    # What the tunnel calls.

    @property
    def unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def has_failed(self) -> bool:
        return has_failed(self._transport)

    def join(self, outgoing: Direction, incoming: Direction) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def start(self) -> None:
        transport = self._transport
        transport.set_protocol(cast(asyncio.BaseProtocol, self))
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _PROBES:
                if (number := getattr(socket, option, None)) is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, number, value)
        self.resume_reading()

    def write(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport.can_write_eof():
            if not self._transport.is_closing():
                self._transport.write_eof()
        else:
            self._transport.close()  # TLS cannot close one way only

    def pause_reading(self) -> None:
        if not self._transport.is_closing() and not self._outgoing.is_ended:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing() and not self._outgoing.is_ended:
            self._transport.resume_reading()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def reset(self) -> None:
        reset(self._transport)

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        self._outgoing.received(data)
        if len(data) >= LARGE_READ_BYTES:
            self.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._outgoing.is_held_back:
            self.resume_reading()

    def eof_received(self) -> bool:
        self._outgoing.ended()
        return self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self.is_writable = False
        self._incoming.pause()

    def resume_writing(self) -> None:
        self.is_writable = True
        self._incoming.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._outgoing.lost(by_error=exc is not None)
        self._owner.connection_lost(exc)

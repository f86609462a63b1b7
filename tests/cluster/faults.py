"""A TCP proxy that fails on demand: between the replicas and Redis, or one backend.

    client ◄──► Pipe: two Flows, one each way ◄──► server

Without a fault, bytes are passed on as they come. A fault is put on a link while it runs, for all its connections or
for a share of them (each connection has a lot, drawn when it is made), and taken off again:

    kind       what happens
    ---------  ------------------------------------------------------------------------------------------------------
    DELAY      bytes and ends arrive later, by a delay and a random part; order is kept
    HALF_OPEN  connections stay and nothing flows, ends neither; new ones are accepted. What was held flows at the end,
               unless a side has left meanwhile: nobody is handed a request that its sender has given up
    BLACKHOLE  connections are accepted, what is sent is swallowed. At the end those with a hole in them are reset
    TRUNCATE   a connection carries so many bytes more to the client, and is closed
    REFUSE     the listening socket is closed, as if the server had died; connections stay

`reset` cuts connections by RST, at once. Everything runs on one event loop; `LinkThread` is a loop of its own, so that
a caller that blocks holds up no bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar, cast

T = TypeVar("T")

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends RST, and what is unsent is dropped."""


class FaultKind(Enum):
    """What can be wrong with a link."""

    DELAY = "delay"
    HALF_OPEN = "half-open"
    BLACKHOLE = "blackhole"
    TRUNCATE = "truncate"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Fault:
    """A fault of a link. Times in seconds.

    `share`: of its connections, it is on those whose lot is below; `spares_new`: not on those made while it lasts.
    """

    kind: FaultKind
    delay_s: float = 0.0
    jitter_s: float = 0.0
    after_bytes: int = 0
    share: float = 1.0
    spares_new: bool = False


class Link:
    """Passes connections from a port of 127.0.0.1 on to another."""

    def __init__(self, port: int, target: int, seed: int = 0) -> None:
        self.port = port
        self.fault: Fault | None = None
        self.accepted = 0
        self.old = 0
        """How many had been accepted when the fault was put on."""
        self.random = random.Random(seed)
        self._target = target
        # No asyncio.Server: in Python 3.11 one that is closed while it accepts loses the connection, unclosed.
        self._listener: socket.socket | None = None
        self._pipes: set[_Pipe] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Link {self.port} → {self._target}, {len(self._pipes)} connections, {self.fault}>"

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._pipes)

    async def start(self) -> None:
        """Listen."""
        if self._listener is None:
            it = self._listener = socket.socket()
            it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            it.bind(("127.0.0.1", self.port))
            it.listen(512)
            it.setblocking(False)
            asyncio.get_running_loop().add_reader(it, self._accept, it)

    async def stop(self) -> None:
        """Close the listening socket, and reset all connections."""
        self._close_listener()
        await asyncio.sleep(0)  # those that were accepted last begin to be opened: then they can be cancelled
        for task in tuple(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self.reset()

    async def put(self, fault: Fault) -> None:
        """Put a fault on the link, in the place of another."""
        await self.heal()
        self.fault = fault
        self.old = self.accepted
        if fault.kind is FaultKind.REFUSE:
            self._close_listener()

    async def heal(self) -> None:
        """Take the fault off. Connections that it has damaged are reset, what it held flows."""
        self.fault = None
        for pipe in tuple(self._pipes):
            pipe.healed()
        await self.start()

    def reset(self, share: float = 1.0) -> None:
        """Cut connections by RST."""
        for pipe in tuple(self._pipes):
            if pipe.lot < share:
                pipe.reset()

    def _close_listener(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:  # it has left meanwhile
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        pipe = _Pipe(self)
        self._pipes.add(pipe)
        task = asyncio.ensure_future(self._open(pipe, accepted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, pipe: _Pipe, accepted: socket.socket) -> None:
        """Open both sides of a connection."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: pipe.client, accepted)
        try:
            await loop.create_connection(lambda: pipe.server, "127.0.0.1", self._target)
        except OSError:
            pipe.reset()

    def forget(self, pipe: _Pipe) -> None:
        """A connection has ended on both sides."""
        self._pipes.discard(pipe)


class _Pipe:
    """One connection: its two sides, and a flow each way."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.lot = link.random.random()
        self._number = link.accepted
        self.client, self.server = _Side(self), _Side(self)
        self.client.out, self.server.out = _Flow(self, self.server), _Flow(self, self.client)
        self.has_hole = False
        self.passed = 0
        """Bytes to the client since TRUNCATE was put on."""

    @property
    def fault(self) -> Fault | None:
        """The fault that is on this connection."""
        fault = self.link.fault
        if fault is None or self.lot >= fault.share or (fault.spares_new and self._number > self.link.old):
            return None
        return fault

    def reset(self) -> None:
        """Cut both sides by RST."""
        self.client.reset()
        self.server.reset()
        self.link.forget(self)

    def healed(self) -> None:
        """The link has no fault any more."""
        self.passed = 0
        if self.has_hole or self.client.has_left or self.server.has_left:
            self.reset()
        else:
            self.client.out.release()
            self.server.out.release()


class _Flow:
    """The bytes that one side sends, on their way to the other."""

    def __init__(self, pipe: _Pipe, to: _Side) -> None:
        self._pipe = pipe
        self._to = to
        self._queue: deque[tuple[float, bytes | None]] = deque()  # when, and what; None: the end
        self._timer: asyncio.TimerHandle | None = None
        self._last_due = 0.0

    def feed(self, data: bytes | None) -> None:
        """Take bytes, or the end, and pass them on as the fault lets them."""
        pipe, fault = self._pipe, self._pipe.fault
        if fault is None:
            if self._queue or not self._to.is_open:
                self._queue.append((0.0, data))
            else:
                self._to.deliver(data)
        elif fault.kind is FaultKind.HALF_OPEN:
            self._queue.append((0.0, data))
        elif fault.kind is FaultKind.BLACKHOLE:
            pipe.has_hole = True
        elif fault.kind is FaultKind.DELAY:
            now = asyncio.get_running_loop().time()
            self._last_due = max(self._last_due, now + fault.delay_s + pipe.link.random.random() * fault.jitter_s)
            self._queue.append((self._last_due, data))
            self.pump()
        elif fault.kind is FaultKind.TRUNCATE and data is not None and self._to is pipe.client:
            left = max(0, fault.after_bytes - pipe.passed)
            pipe.passed += len(data)
            self._queue.append((0.0, data[:left]))
            if len(data) > left:
                self._queue.append((0.0, None))
            self.pump()
        else:
            self._queue.append((0.0, data))
            self.pump()

    def pump(self) -> None:
        """Pass on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        fault = self._pipe.fault
        if not self._to.is_open or (fault is not None and fault.kind in (FaultKind.HALF_OPEN, FaultKind.BLACKHOLE)):
            return
        loop = asyncio.get_running_loop()
        while self._queue:
            due, data = self._queue[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self.pump)
                return
            self._queue.popleft()
            self._to.deliver(data)

    def release(self) -> None:
        """Pass on all that was held."""
        self._last_due = 0.0
        self._queue = deque((0.0, data) for _, data in self._queue)
        self.pump()


class _Side(asyncio.Protocol):
    """The socket to one of the two."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe
        self._transport: asyncio.Transport | None = None
        self.out: _Flow
        """What this side sends."""
        self.has_left = False

    @property
    def is_open(self) -> bool:
        """Whether it can be written to."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def _other(self) -> _Side:
        pipe = self._pipe
        return pipe.server if self is pipe.client else pipe.client

    def deliver(self, data: bytes | None) -> None:
        """Write bytes, or end the connection behind what was written."""
        assert self._transport is not None
        if data is None:
            self._transport.close()
        elif data:
            self._transport.write(data)

    def reset(self) -> None:
        """Cut it by RST."""
        self.has_left = True
        transport, self._transport = self._transport, None
        if transport is not None:
            with contextlib.suppress(OSError):  # closed already
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.has_left:
            self.reset()  # the connection was cut while this side was being opened
            return
        if self is self._pipe.server:
            self._pipe.client.out.pump()

    def data_received(self, data: bytes) -> None:
        self.out.feed(data)

    def eof_received(self) -> bool:
        """Take half a close for a whole one."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        pipe, other = self._pipe, self._other
        was_cut = self.has_left
        self.has_left = True
        self._transport = None
        if was_cut:
            return
        fault = pipe.fault
        if other.has_left:
            pipe.link.forget(pipe)
        elif fault is not None and fault.kind in (FaultKind.HALF_OPEN, FaultKind.BLACKHOLE):
            pass  # the other side hears of it when the link is healed
        elif isinstance(exc, ConnectionResetError):
            pipe.reset()
        else:
            self.out.feed(None)

    def pause_writing(self) -> None:
        if self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other._transport is not None:
            self._other._transport.resume_reading()


class LinkThread:
    """An event loop for links in a thread of its own, as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: list[Link] = []

    async def link(self, port: int, target: int, seed: int) -> Link:
        """Open a link. Its other methods are to be called by `do`."""
        it = Link(port, target, seed)
        self._links.append(it)
        await self.do(it.start)
        return it

    async def do(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Call a link's method on the links' loop."""

        async def call() -> T:
            return await work(*arguments)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._loop))

    async def reset(self, link: Link, share: float = 1.0) -> None:
        """Cut connections of a link."""

        async def cut() -> None:
            link.reset(share)

        await self.do(cut)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        async def stop() -> None:
            await asyncio.gather(*(link.stop() for link in self._links))
            await asyncio.sleep(0)  # the transports that were aborted close in the next turn

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

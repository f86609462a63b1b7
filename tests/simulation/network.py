"""Connections between a process and something outside it, as TCP has them.

Bytes come in order, or not at all, however long they take. What was written before a close or an abort still arrives:
the system goes on sending it, unless the socket was told to linger for no time (SO_LINGER, 0 s).
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from tests.simulation.world import Process, World

Address = tuple[str, int]

USUAL_S = (0.0001, 0.003)
"""How long bytes are on their way."""
SLOW_S = (0.003, 0.04)


class Outside(Protocol):
    """The end of a connection that is not in a process: a backend's, Redis', a client's."""

    def received(self, wire: Wire, data: bytes) -> None:
        """Bytes have come."""

    def lost(self, wire: Wire) -> None:
        """The connection has ended. Whatever is still sent is lost."""


class Server(Outside, Protocol):
    """Something outside that processes connect to."""

    def accept(self, wire: Wire) -> bool:
        """Take a connection, or refuse it."""


class Network:
    """All connections. `slowness` is the share of messages that take long."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.slowness = 0.02
        self.servers: dict[Address, Server] = {}
        self.unreachable: dict[Address, float] = {}
        """Addresses to which packets get lost, and until when."""
        self.wires: dict[Wire, None] = {}

    def latency(self) -> float:
        """Choose how long something is on its way, in seconds."""
        chance = self.world.chance
        least, most = SLOW_S if chance() < self.slowness else USUAL_S
        return least + (most - least) * chance()

    def connect(
        self, process: Process, address: Address, factory: Callable[[], Any], made: asyncio.Future[Any]
    ) -> None:
        """Make a connection from a process."""
        self.world.after(self.latency(), self._connecting, process, address, factory, made)

    def _connecting(
        self, process: Process, address: Address, factory: Callable[[], Any], made: asyncio.Future[Any]
    ) -> None:
        if self.unreachable.get(address, 0.0) > self.world.now:
            return  # nobody ever hears of it
        server = self.servers[address]
        wire = Wire(self, process, server)
        if server.accept(wire):
            wire.carry(factory, made)
        else:
            wire.forget()
            self.world.after(self.latency(), process.deliver, _refuse, made)

    def open(self, process: Process, outside: Outside, factory: Callable[[], Any]) -> Wire:
        """Make a connection to a process."""
        wire = Wire(self, process, outside)
        wire.carry(factory, None)
        return wire


def _refuse(made: asyncio.Future[Any]) -> None:
    if not made.done():
        made.set_exception(ConnectionRefusedError(111, "Connection refused"))


class _Socket:
    """As much of a socket as the product asks for."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def fileno(self) -> int:
        return -1

    def setsockopt(self, _level: int, _option: int, value: object) -> None:
        if value == struct.pack("ii", 1, 0):
            self._wire.lingers = False


class Wire(asyncio.Transport):
    """One connection. The process holds it as its transport; `send` and `shut` are for the other end."""

    def __init__(self, network: Network, process: Process, outside: Outside) -> None:
        super().__init__()
        self.network = network
        self.world = network.world
        self.process = process
        self.outside = outside
        self.held_until = 0.0
        """Until then packets get lost, and are sent again."""
        self.lingers = True
        self.is_lost = False
        """Whether the outer end knows of its end, or has ended it."""
        self._protocol: Any = None
        self._is_closing = False
        self._is_over = False  # `connection_lost` was called
        self._is_paused = False
        self._unread: deque[bytes | Exception | None] = deque()
        self._outgoing: deque[bytes | None] = deque()
        self._incoming: deque[bytes | Exception | None] = deque()
        self._out_at = self._in_at = 0.0
        process.wires[self] = None
        network.wires[self] = None

    # The process' end.

    def carry(self, factory: Callable[[], Any], made: asyncio.Future[Any] | None) -> None:
        """Tell the process of the connection."""
        self._in_at = when = self._next(self._in_at)
        self.world.at(when, self.process.deliver, self.connected, factory, made)

    def connected(self, factory: Callable[[], Any], made: asyncio.Future[Any] | None) -> None:
        """The process has the connection."""
        if made is not None and made.done():
            self.abort()  # it has waited for too long
            return
        protocol = factory()
        self._protocol = protocol
        protocol.connection_made(self)
        if made is not None:
            made.set_result((self, protocol))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or not self.process.is_alive:
            return
        self._push(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def abort(self) -> None:
        if self._is_closing or not self.process.is_alive:
            return
        self._is_closing = True
        self.process.call_soon(self._end, None)
        self._tell_outside()

    def close(self) -> None:
        self.abort()  # nothing is ever unsent here: the system takes it all at once

    def orphan(self) -> None:
        """The process has ended."""
        self._is_closing = self._is_over = True
        self._tell_outside()

    def _tell_outside(self) -> None:
        self.forget()
        if not self.lingers and self.held_until > self.world.now:
            # What has not arrived is dropped, and so is the loss of packets: the reset is one itself.
            self._outgoing.clear()
            self.held_until = 0.0
        self._push(None)

    def _push(self, what: bytes | None) -> None:
        self._outgoing.append(what)
        self._out_at = when = self._next(self._out_at)
        self.world.at(when, self._arrive)

    def is_closing(self) -> bool:
        return self._is_closing or not self.process.is_alive

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._unread:
            self.process.call_soon(self._read_on)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return _Socket(self)
        return ("127.0.0.1", 1) if name == "peername" else default

    # The other end.

    def send(self, data: bytes) -> None:
        """Send bytes to the process."""
        if not self.is_lost:
            self._pull(data)

    def shut(self, error: Exception | None = None) -> None:
        """End the connection: in order, or by a reset."""
        if self.is_lost:
            return
        self.is_lost = True
        self._pull(error)

    def _pull(self, what: bytes | Exception | None) -> None:
        self._incoming.append(what)
        self._in_at = when = self._next(self._in_at)
        self.world.at(when, self.process.deliver, self._take)

    def hold(self, for_s: float) -> None:
        """Lose packets, both ways, for so long."""
        self.held_until = max(self.held_until, self.world.now + for_s)

    def forget(self) -> None:
        """Be no connection any more."""
        self.process.wires.pop(self, None)
        self.network.wires.pop(self, None)

    # On the way.

    def _next(self, last: float) -> float:
        return max(last, self.held_until, self.world.now + self.network.latency())

    def _arrive(self) -> None:
        if self.held_until > self.world.now:
            self.world.at(self.held_until, self._arrive)
        elif self._outgoing:
            what = self._outgoing.popleft()
            if self.is_lost:
                return
            if what is None:
                self.is_lost = True
                self.outside.lost(self)
            else:
                self.outside.received(self, what)

    def _take(self) -> None:
        if self._is_closing:
            return
        if self.held_until > self.world.now:
            self.world.at(self.held_until, self.process.deliver, self._take)
            return
        what = self._incoming.popleft()
        if self._is_paused or self._unread or self._protocol is None:
            self._unread.append(what)
        else:
            self._read(what)

    def _read_on(self) -> None:
        while self._unread and not self._is_paused and not self._is_closing:
            self._read(self._unread.popleft())

    def _read(self, what: bytes | Exception | None) -> None:
        if isinstance(what, bytes):
            self._protocol.data_received(what)
            return
        if what is None:
            self._protocol.eof_received()
        if not self._is_closing:
            self._is_closing = True
            self.forget()
            self._end(what)

    def _end(self, error: Exception | None) -> None:
        if not self._is_over:
            self._is_over = True
            self.forget()
            if self._protocol is not None:
                self._protocol.connection_lost(error)

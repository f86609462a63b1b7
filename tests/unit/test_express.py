"""The express door's turns: what one client sends at once does not hold up the others."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from distributer.doors.asgi import lifespan_only
from distributer.doors.express import ExpressProtocol
from distributer.doors.lifespan import CORE_KEY
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.limits import LARGE_READ_BYTES
from distributer.model import Backend
from distributer.state.memory import MemoryStore
from distributer.wire.body import MAX_CHUNKS_AT_ONCE

HEAD = b"POST /a HTTP/1.1\r\nHost: t\r\n"


class Wire(asyncio.Transport):
    """A transport that notes whether it is read from."""

    is_read = True
    is_closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def write(self, data: Any) -> None: ...

    def close(self) -> None:
        self.is_closed = True


def connected(socket: object = None) -> tuple[ExpressProtocol, Wire]:
    core = ForwardingCore([Backend.from_url("http://127.0.0.1:8000")], MemoryStore(call_soon=lambda *_: None))
    protocol = ExpressProtocol(Config(lifespan_only, log_config=None), ServerState(), {CORE_KEY: core})
    wire = Wire({"peername": ("127.0.0.1", 50_000), "socket": socket})
    protocol.connection_made(wire)
    return protocol, wire


async def test_behind_a_large_read_others_have_their_turn() -> None:
    protocol, wire = connected()
    start = HEAD + b"Content-Length: 1000000\r\n\r\n"
    protocol.data_received(start + bytes(LARGE_READ_BYTES - len(start)))
    assert not wire.is_read
    await asyncio.sleep(0)
    assert wire.is_read


async def test_of_many_chunks_some_are_taken_at_a_time() -> None:
    protocol, wire = connected()
    protocol.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * (3 * MAX_CHUNKS_AT_ONCE))
    taken = [0]
    async with asyncio.timeout(5):
        while not wire.is_read:
            assert protocol._incoming is not None
            taken.append(protocol._incoming.body_bytes)
            await asyncio.sleep(0)
    assert len(taken) > 2
    # What was left of the part before, and another one.
    assert all(later - before <= 2 * MAX_CHUNKS_AT_ONCE for before, later in pairwise(taken))


class Unread:
    """What of a socket is asked for here: a descriptor, on which something may have come."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def fileno(self) -> int:
        return self.descriptor

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8080)


async def test_at_the_drain_an_idle_connection_is_closed_unless_a_request_has_come_that_is_not_read_yet() -> None:
    reading, writing = os.pipe()
    try:
        for has_come in (False, True):
            if has_come:
                os.write(writing, b"G")
            protocol, wire = connected(Unread(reading))
            protocol.shutdown()
            assert wire.is_closed is not has_come
    finally:
        os.close(reading)
        os.close(writing)

"""The links: each fault does to connections what it says, and is over when it is taken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.cluster.faults import Fault, FaultKind, Link, LinkThread
from tests.support.ports import free_port
from tests.support.waiting import wait_until_async

SECONDS = 5.0


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.port = 0
        self.received = b""
        self.ended = 0
        self.reset = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.received += data
                writer.write(data)
            self.ended += 1
        except ConnectionResetError:
            self.reset += 1
        finally:
            writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Link, Echo]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    link = Link(free_port(), echo.port)
    await link.start()
    try:
        yield link, echo
    finally:
        await link.stop()
        server.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def turned_around(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"hello") -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    writer.write(data)
    async with asyncio.timeout(SECONDS):
        assert await reader.readexactly(len(data)) == data
    return loop.time() - start


async def nothing_comes(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read(1)


async def until(claim: Callable[[], int], *, is_met: int = 1) -> None:
    async def met() -> bool:
        return claim() == is_met

    await wait_until_async(met, "it has come about", SECONDS)


async def test_without_a_fault_bytes_and_ends_pass() -> None:
    async with linked() as (link, echo), connected(link) as (reader, writer):
        await turned_around(reader, writer, bytes(2_000_000))
        writer.close()
        await until(lambda: echo.ended)
        await until(lambda: link.connections, is_met=0)


async def test_delay_holds_bytes_up_and_keeps_their_order() -> None:
    async with linked() as (link, _), connected(link) as (reader, writer):
        await link.put(Fault(FaultKind.DELAY, delay_s=0.02, jitter_s=0.03))
        for _ in range(3):
            assert await turned_around(reader, writer) >= 0.04
        writer.write(b"0123")
        await asyncio.sleep(0.005)
        await link.heal()
        writer.write(b"4567")
        async with asyncio.timeout(SECONDS):
            assert await reader.readexactly(8) == b"01234567"


async def test_half_open_connections_stay_and_nothing_flows_until_it_is_over() -> None:
    async with linked() as (link, echo), connected(link) as (reader, writer):
        await turned_around(reader, writer)
        await link.put(Fault(FaultKind.HALF_OPEN))
        writer.write(b"later")
        async with connected(link) as (_, other):
            other.write(b"new")
            await nothing_comes(reader)
            assert echo.received == b"hello"
            await link.heal()
            async with asyncio.timeout(SECONDS):
                assert await reader.readexactly(5) == b"later"
            await until(lambda: len(echo.received), is_met=13)


async def test_what_a_half_open_connection_held_is_dropped_when_its_sender_has_left() -> None:
    async with linked() as (link, echo):
        async with connected(link) as (reader, writer):
            await turned_around(reader, writer)
            await link.put(Fault(FaultKind.HALF_OPEN))
            writer.write(b"given up")
            await nothing_comes(reader)
        await asyncio.sleep(0.02)
        assert (echo.ended, echo.reset) == (0, 0)
        await link.heal()
        await until(lambda: echo.reset)
        assert echo.received == b"hello"


async def test_a_black_hole_swallows_and_connections_with_a_hole_are_reset_in_the_end() -> None:
    async with linked() as (link, echo), connected(link) as (reader, writer), connected(link) as (fine, fine_writer):
        await turned_around(fine, fine_writer)
        await link.put(Fault(FaultKind.BLACKHOLE))
        writer.write(b"gone")
        await nothing_comes(reader)
        await link.heal()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), SECONDS)
        await turned_around(fine, fine_writer)
        assert b"gone" not in echo.received


async def test_truncation_passes_so_many_bytes_and_closes() -> None:
    async with linked() as (link, _), connected(link) as (reader, writer):
        await link.put(Fault(FaultKind.TRUNCATE, after_bytes=7))
        writer.write(b"0123456789")
        assert await asyncio.wait_for(reader.read(), SECONDS) == b"0123456"


async def test_a_link_that_refuses_does_so_until_it_is_healed() -> None:
    async with linked() as (link, _), connected(link) as (reader, writer):
        await turned_around(reader, writer)
        await link.put(Fault(FaultKind.REFUSE))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", link.port)
        await turned_around(reader, writer)
        await link.heal()
        async with connected(link) as (other, other_writer):
            await turned_around(other, other_writer)


async def test_reset_cuts_both_sides_by_rst() -> None:
    async with linked() as (link, echo), connected(link) as (reader, writer):
        await turned_around(reader, writer)
        link.reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), SECONDS)
        await until(lambda: echo.reset)
        assert link.connections == 0


async def test_a_server_that_is_gone_is_seen_as_a_reset() -> None:
    link = Link(free_port(), free_port())
    await link.start()
    async with connected(link) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), SECONDS)
    await link.stop()


async def test_a_share_of_the_connections_has_the_fault_and_the_others_have_not() -> None:
    async with linked() as (link, _):
        await link.put(Fault(FaultKind.HALF_OPEN, share=0.5))
        served = 0
        for _ in range(24):
            async with connected(link) as (reader, writer):
                writer.write(b"x")
                with suppress(TimeoutError):
                    served += await asyncio.wait_for(reader.read(1), 0.02) == b"x"
        assert 0 < served < 24


async def test_a_fault_may_spare_connections_that_are_made_while_it_lasts() -> None:
    async with linked() as (link, _), connected(link) as (reader, writer):
        await turned_around(reader, writer)
        await link.put(Fault(FaultKind.TRUNCATE, spares_new=True))
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        async with connected(link) as (other, other_writer):
            await turned_around(other, other_writer)


async def test_links_may_have_a_thread_of_their_own() -> None:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    with LinkThread() as links:
        link = await links.link(free_port(), server.sockets[0].getsockname()[1], 0)
        async with connected(link) as (reader, writer):
            await turned_around(reader, writer)
            await links.do(link.put, Fault(FaultKind.HALF_OPEN))
            writer.write(b"x")
            await nothing_comes(reader)
            await links.do(link.heal)
            assert await asyncio.wait_for(reader.read(1), SECONDS) == b"x"
            await links.reset(link)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), SECONDS)
    server.close()

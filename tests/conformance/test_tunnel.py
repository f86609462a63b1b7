"""Connections that switch to another protocol, raw bytes over the express door: WebSocket and whatever else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from distributer.forwarding.reset import reset
from tests.support.cluster import SharedRedis, distributers
from tests.support.raw import Client, Message, Origin, Script, connected, ok, origin, read_head, replies, request
from tests.support.waiting import wait_until_async

OFFER = ("Connection: Upgrade", "Upgrade: x")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nX-Own: 1\r\n\r\n"


@asynccontextmanager
async def front(script: Script, **settings: Any) -> AsyncIterator[tuple[int, Origin]]:
    """Open the express door in front of an origin that does what the script says."""
    async with origin(script) as it:
        shared = SharedRedis(None)
        async with distributers("express", shared.settings([it.port], **settings), shared, 1) as ports:
            yield ports[0], it


def switching(then: Script, answer: bytes = SWITCH) -> Script:
    """Script: answer offers with a 101, and go on as `then` says; answer all else with 200."""

    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if message.value("upgrade") is None:
            writer.write(ok(b"plain"))
            return
        writer.write(answer)
        await then(message, reader, writer)

    return script


async def echo(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes until its end, then end as well."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write(b"<end>")
    await writer.drain()
    writer.close()


async def switched(client: Client, *fields: str) -> Message:
    """Offer x, and read the head of the answer."""
    await client.send(request("GET", "/", *(fields or OFFER)))
    async with asyncio.timeout(10):
        return await read_head(client.reader)


async def read(client: Client, size: int) -> bytes:
    async with asyncio.timeout(10):
        return await client.reader.readexactly(size)


async def test_a_backend_that_switches_is_spoken_to_byte_for_byte_both_ways() -> None:
    async with front(switching(echo)) as (port, it), connected(port) as client:
        head = await switched(client, "Connection: keep-alive, Upgrade", "Upgrade: x", "X-Mine: 1")
        assert head.start == b"HTTP/1.1 101 Switching Protocols"
        assert (head.values("connection"), head.values("upgrade")) == ([b"Upgrade"], [b"x"])
        assert head.value("x-own") == b"1"
        for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 1000, b"\r\n"):
            await client.send(data)
            assert await read(client, len(data)) == data
    sent = it.requests[0]
    assert (sent.values("connection"), sent.values("upgrade")) == ([b"Upgrade"], [b"x"])
    assert sent.value("x-mine") == b"1"
    assert sent.value("x-forwarded-for") == b"127.0.0.1"


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        (("Connection: upgrade", "Upgrade: websocket"), b"websocket"),
        (("Connection: x-a", "X-A: 1", "Connection: UPGRADE", "Upgrade: Foo/2", "Upgrade: bar"), b"Foo/2, bar"),
        (("Connection: Upgrade", "Upgrade: h2c, foo, HTTP/2.0, H2C, TLS/1.0"), b"foo"),
    ],
)
async def test_what_a_client_offers_is_offered_to_the_backend(fields: tuple[str, ...], offered: bytes) -> None:
    async with front(replies(ok())) as (port, it), connected(port) as client:
        assert (await client.ask(request("GET", "/", *fields))).status == 200
    assert it.requests[0].values("upgrade") == [offered]
    assert it.requests[0].values("connection") == [b"Upgrade"]


@pytest.mark.parametrize(
    ("fields", "body", "version"),
    [
        (("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), b"", "1.1"),
        (("Upgrade: x",), b"", "1.1"),  # not named by Connection
        (("Connection: Upgrade",), b"", "1.1"),
        (("Connection: Upgrade", "Upgrade: ,"), b"", "1.1"),
        (("Connection: Upgrade", "Upgrade: x"), b"hello", "1.1"),
        (("Connection: Upgrade, keep-alive", "Upgrade: x"), b"", "1.0"),
    ],
)
async def test_an_offer_that_counts_for_nothing_is_not_passed_on_and_requests_follow_it(
    fields: tuple[str, ...], body: bytes, version: str
) -> None:
    raw = request("PUT" if body else "GET", "/", *fields, body=body).replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    async with front(replies(ok())) as (port, it), connected(port) as client:
        await client.send(raw + raw)
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    for sent in it.requests:
        assert sent.values("upgrade") + sent.values("connection") + sent.values("http2-settings") == []
        assert sent.body == body


# Early bytes.


async def test_bytes_that_came_before_the_101_go_first_both_ways() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(SWITCH + b"first of the backend;")
        await echo(_message, reader, writer)

    async with front(script) as (port, it), connected(port) as client:
        await client.send(request("GET", "/", *OFFER) + b"early 1;")
        await asyncio.wait_for(asked.wait(), 5)
        await client.send(b"early 2;")
        go_on.set()
        assert (await read_head(client.reader)).status == 101
        await client.send(b"late")
        expected = b"first of the backend;early 1;early 2;late"
        assert await read(client, len(expected)) == expected
    assert len(it.requests) == 1


async def test_early_bytes_are_bounded_and_arrive_whole() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(SWITCH)
        await echo(_message, reader, writer)

    body = bytes(range(251)) * 200_000
    async with front(script) as (port, _), connected(port) as client:
        await client.send(request("GET", "/", *OFFER))
        await asyncio.wait_for(asked.wait(), 5)
        client.writer.transport.set_write_buffer_limits(high=0)
        sending = asyncio.create_task(client.send(body))
        await stands_still(client)
        assert len(body) - client.writer.transport.get_write_buffer_size() < len(body) // 2
        go_on.set()
        assert (await read_head(client.reader)).status == 101
        assert await read(client, len(body)) == body
        await sending


async def stands_still(client: Client) -> None:
    """Wait until nothing more of what was sent leaves."""
    last = -1

    async def stalled() -> bool:
        nonlocal last
        await asyncio.sleep(0.1)
        before, last = last, client.writer.transport.get_write_buffer_size()
        return before == last > 0

    await wait_until_async(stalled, "the client is held back")


# The ends.


async def test_the_clients_half_close_is_passed_on_and_the_backend_may_still_answer() -> None:
    async with front(switching(echo)) as (port, it), connected(port) as client:
        assert (await switched(client)).status == 101
        await client.send(b"all")
        client.writer.write_eof()
        assert await client.rest() == b"all<end>"
        await wait_until_async(lambda: _closed(it), "the backend's connection is closed")


async def test_the_backends_half_close_is_passed_on_and_the_client_may_still_send() -> None:
    received = asyncio.Event()

    async def bye(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        assert await reader.read() == b"last words"
        received.set()

    async with front(switching(bye)) as (port, _), connected(port) as client:
        assert (await switched(client)).status == 101
        assert await client.rest() == b"bye"
        await client.send(b"last words")
        client.writer.write_eof()
        await asyncio.wait_for(received.wait(), 5)


async def test_an_end_that_is_gone_takes_the_other_with_it_and_the_connection_is_not_used_again() -> None:
    # One connection at most: the tunnel's counts, until it is closed.
    async with front(switching(echo), backend_max_in_flight=1) as (port, it):
        async with connected(port) as client:
            assert (await switched(client)).status == 101
            client.leave()
        await wait_until_async(lambda: _closed(it), "the backend's connection is closed")
        async with connected(port) as client:
            assert (await client.ask(request())).body == b"plain"
    assert it.connections == 2


async def _closed(it: Origin) -> bool:
    return it.open_connections == 0


async def test_a_tunnel_that_is_silent_for_too_long_is_cut() -> None:
    async with front(switching(echo), tunnel_idle_timeout_s=0.2) as (port, it), connected(port) as client:
        assert (await switched(client)).status == 101
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
        await wait_until_async(lambda: _closed(it), "the backend's connection is closed")


async def test_a_backend_that_resets_within_its_bytes_resets_the_client() -> None:
    go_on = asyncio.Event()

    async def broken(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half")
        await go_on.wait()
        reset(writer.transport)

    async with front(switching(broken)) as (port, _), connected(port) as client:
        assert (await switched(client)).status == 101
        assert await read(client, 4) == b"half"
        go_on.set()
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await client.reader.read()


async def test_a_client_that_resets_resets_the_backend() -> None:
    ends: list[Exception | bytes] = []

    async def listening(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        try:
            ends.append(await reader.read())
        except ConnectionResetError as exc:
            ends.append(exc)

    async def told() -> bool:
        return bool(ends)

    async with front(switching(listening)) as (port, _), connected(port) as client:
        assert (await switched(client)).status == 101
        reset(client.writer.transport)
        await wait_until_async(told, "the backend is told")
    assert isinstance(ends[0], ConnectionResetError)


@asynccontextmanager
async def stuck(**settings: Any) -> AsyncIterator[tuple[Client, asyncio.StreamWriter]]:
    """Open a tunnel whose backend takes nothing, with a client that is held back."""
    writers: list[asyncio.StreamWriter] = []
    go_on = asyncio.Event()

    async def deaf(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        cast(asyncio.Transport, writer.transport).pause_reading()
        await go_on.wait()

    async with front(switching(deaf), **settings) as (port, _), connected(port) as client:
        try:
            assert (await switched(client)).status == 101
            client.writer.write(b"x" * 50_000_000)
            await stands_still(client)
            yield client, writers[0]
        finally:
            go_on.set()


async def test_a_client_that_resets_while_the_backend_takes_nothing_is_found() -> None:
    async with stuck() as (client, backend):
        sock = backend.get_extra_info("socket")

        async def is_reset() -> bool:
            return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

        reset(client.writer.transport)
        await wait_until_async(is_reset, "the backend's connection is reset", 5)


async def test_a_backend_that_takes_nothing_for_too_long_is_cut() -> None:
    async with stuck(client_idle_timeout_s=1) as (client, _):

        async def is_closed() -> bool:
            return client.writer.transport.is_closing()

        await wait_until_async(is_closed, "the client's connection is reset", 8)
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


# Backpressure.


async def test_a_client_that_takes_nothing_holds_the_backend_back() -> None:
    sent, total = 0, 64 * 1024 * 1024

    async def flood(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < total:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536
        writer.close()

    async with front(switching(flood)) as (port, _), connected(port) as client:
        assert (await switched(client)).status == 101
        last = -1

        async def stalled() -> bool:
            nonlocal last
            await asyncio.sleep(0.1)
            before, last = last, sent
            return before == last

        await wait_until_async(stalled, "the backend is held back")
        assert sent < total // 2
        received = 0
        while data := await client.reader.read(1 << 20):
            received += len(data)
        assert received == total


async def test_a_backend_that_takes_nothing_holds_the_client_back() -> None:
    go_on = asyncio.Event()

    async def late(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await echo(_message, reader, writer)

    body = bytes(range(251)) * 200_000
    async with front(switching(late)) as (port, _), connected(port) as client:
        assert (await switched(client)).status == 101
        sending = asyncio.create_task(client.send(body))
        await stands_still(client)
        assert len(body) - client.writer.transport.get_write_buffer_size() < len(body) // 2
        go_on.set()
        assert await read(client, len(body)) == body
        await sending


# Refusals.


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"no"),
        b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: y\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ],
)
async def test_behind_an_offer_that_the_backend_declines_requests_go_on(answer: bytes) -> None:
    offer = request("GET", "/", *OFFER)
    async with front(replies(ok(b"0"), answer, answer, ok(b"3"))) as (port, it), connected(port) as client:
        await client.send(request() + offer + offer + request() + request()[:10])
        answers = [await client.answer() for _ in range(4)]
        await client.send(request()[10:])
        answers.append(await client.answer())
    assert [message.body for message in answers] == [b"0", b"no", b"no", b"3", b"3"]
    assert answers[1].status == int(answer[9:12])
    if answers[1].status == 426:
        assert (answers[1].value("connection"), answers[1].value("upgrade")) == (b"Upgrade", b"y")
    assert (it.connections, len(it.requests)) == (1, 5)


async def test_more_requests_behind_a_declined_offer_than_are_kept_are_all_answered() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(ok(message.body))

    async with front(script) as (port, _), connected(port) as client:
        await client.send(request("GET", "/", *OFFER))
        await asyncio.wait_for(asked.wait(), 5)
        bodies = [b"%d" % number * 2_000_000 for number in range(5)]
        client.writer.transport.set_write_buffer_limits(high=0)
        sending = asyncio.create_task(client.send(b"".join(request("PUT", "/", body=body) for body in bodies)))
        await stands_still(client)
        go_on.set()
        assert [(await client.answer()).body for _ in range(6)] == [b"", *bodies]
        await sending


async def test_many_declined_offers_behind_each_other_are_answered_in_order() -> None:
    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(message.start.split(b" ")[1]))

    async with front(script) as (port, _), connected(port) as client:
        await client.send(b"".join(request("GET", f"/{number}", *OFFER) for number in range(500)))
        assert [(await client.answer()).body for _ in range(500)] == [b"/%d" % number for number in range(500)]


async def test_requests_behind_an_offer_that_reached_no_backend_are_answered() -> None:
    shared = SharedRedis(None)
    async with (
        distributers("express", shared.settings([9], backend_max_waiting=0), shared, 1) as ports,
        connected(ports[0]) as it,
    ):
        await it.send(request("GET", "/", *OFFER) * 20)
        assert {(await it.answer()).status for _ in range(20)} == {503}


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ((), SWITCH),
        (("Connection: Upgrade", "Upgrade: h2c"), SWITCH.replace(b" x", b" h2c")),
        (OFFER, SWITCH.replace(b" x", b" y")),
        (OFFER, SWITCH.replace(b" x", b" y") + b"stolen"),
        (OFFER, SWITCH.replace(b" x", b" x, y")),
        (OFFER, SWITCH.replace(b"Upgrade: x\r\n", b"")),
        (OFFER, SWITCH.replace(b"Connection: Upgrade\r\n", b"")),
        (("Connection: Upgrade", "Upgrade: x, y"), SWITCH.replace(b" x", b" x, z")),
    ],
)
async def test_a_101_that_was_not_asked_for_is_a_502_and_its_connection_closed(
    fields: tuple[str, ...], answer: bytes
) -> None:
    async with front(replies(answer)) as (port, it), connected(port) as client:
        for turn in range(2):
            got = await client.ask(request("GET", "/", *fields))
            assert got.status == 502
            assert json.loads(got.body)["status"] == 502
            assert it.connections == turn + 1


async def test_one_of_several_protocols_may_be_chosen() -> None:
    async with front(switching(echo, SWITCH.replace(b" x", b" Y"))) as (port, _), connected(port) as client:
        head = await switched(client, "Connection: Upgrade", "Upgrade: x, y/1, Y")
        assert (head.status, head.value("upgrade")) == (101, b"Y")


async def test_connect_is_refused() -> None:
    async with front(replies(ok())) as (port, it), connected(port) as client:
        await client.send(b"CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\nhello")
        assert (await client.answer()).status == 405
    assert it.requests == []


async def test_a_create_that_switches_leaves_its_outcome_to_be_asked_for() -> None:
    shared = SharedRedis(None)
    async with (
        origin(switching(echo)) as it,
        shared.client() as state,
        distributers("express", shared.settings([it.port]), shared, 1) as ports,
        connected(ports[0]) as client,
    ):
        await client.send(request("POST", "/items/?item_id=7", *OFFER))
        assert (await read_head(client.reader)).status == 101
        await client.send(b"hello")
        assert await read(client, 5) == b"hello"
        assert await state.hkeys("distributer:claims") == [b"7"]
        assert await state.hget("distributer:sticky", "7") == f"http://127.0.0.1:{it.port}".encode()

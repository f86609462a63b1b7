"""WebSockets over both doors, between a real client library and a real server library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from tests.support.cluster import SharedRedis, distributers
from tests.support.raw import Message, Script, ok, origin, replies
from tests.support.waiting import wait_until_async

Act = Callable[[ServerConnection], Awaitable[None]]


@dataclass
class Backend:
    """What a WebSocket backend has seen."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    closes: list[tuple[int | None, str | None]] = field(default_factory=list)


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def backend(act: Act = echo, **options: Any) -> AsyncIterator[Backend]:
    """Run a WebSocket server that does what `act` says with each connection."""
    it = Backend()

    async def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        it.requests.append(socket.request)
        try:
            await act(socket)
        finally:
            await socket.wait_closed()
            it.closes.append((socket.close_code, socket.close_reason))

    server: Server
    async with serve(handle, "127.0.0.1", 0, ping_interval=None, **options) as server:
        it.port = next(iter(server.sockets)).getsockname()[1]
        yield it


@asynccontextmanager
async def door_to(door: str, port: int, **settings: Any) -> AsyncIterator[str]:
    """Open a door in front of a backend, and yield the URL at which WebSockets are asked for."""
    shared = SharedRedis(None)
    async with distributers(door, shared.settings([port], **settings), shared, 1) as ports:
        yield f"ws://127.0.0.1:{ports[0]}/ws?x=1"


@asynccontextmanager
async def through(door: str, act: Act = echo, **options: Any) -> AsyncIterator[tuple[ClientConnection, Backend]]:
    """Connect through a door to a backend that does what `act` says."""
    async with backend(act) as it, door_to(door, it.port) as url, connect(url, ping_interval=None, **options) as socket:
        yield socket, it


async def seen(it: Backend) -> tuple[int | None, str | None]:
    """Wait for the backend's end of the connection to be closed."""

    async def closed() -> bool:
        return bool(it.closes)

    await wait_until_async(closed, "the backend's end is closed")
    return it.closes[0]


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(10):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


async def test_messages_of_every_kind_and_size_pass_both_ways(door: str) -> None:
    async with through(door, max_size=None) as (socket, _):
        for message in ("hello", "", b"", "žluťoučký kůň", bytes(range(256)), "x" * 70_000, b"y" * 900_000):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_message_in_fragments_arrives_whole(door: str) -> None:
    async with through(door) as (socket, _):
        await socket.send(["in ", "three ", "parts"])
        assert await socket.recv() == "in three parts"


async def test_many_messages_keep_their_order(door: str) -> None:
    async with through(door) as (socket, _):
        for number in range(200):
            await socket.send(str(number))
        assert [await socket.recv() for _ in range(200)] == [str(number) for number in range(200)]


async def test_the_handshake_is_forwarded_as_any_request(door: str) -> None:
    headers = {"Cookie": "a=1", "X-Mine": "2", "X-Forwarded-For": "6.6.6.6"}
    async with through(door, origin="http://site", additional_headers=headers) as (socket, it):
        await socket.send("x")
        assert await socket.recv() == "x"
        sent = it.requests[0]
    assert sent.path == "/ws?x=1"
    assert (sent.headers["Cookie"], sent.headers["X-Mine"], sent.headers["Origin"]) == ("a=1", "2", "http://site")
    assert sent.headers.get_all("X-Forwarded-For") == ["127.0.0.1"]
    assert sent.headers.get_all("X-Forwarded-Proto") == ["http"]
    assert sent.headers["Host"] == sent.headers["X-Forwarded-Host"]
    assert sent.headers["X-Request-ID"]
    assert sent.headers.get_all("Upgrade") == ["websocket"]


@pytest.mark.parametrize(("chosen", "seen_by_client"), [("b", "b"), (None, None)])
async def test_the_backend_chooses_the_subprotocol(door: str, chosen: str | None, seen_by_client: str | None) -> None:
    async def process(_socket: object, _request: object, response: Response) -> Response:
        response.headers["X-Answer"] = "1"
        return response

    options: dict[str, Any] = {"subprotocols": [chosen] if chosen else None, "process_response": process}
    async with (
        backend(**options) as it,
        door_to(door, it.port) as url,
        connect(url, subprotocols=[Subprotocol("a"), Subprotocol("b")]) as socket,
    ):
        assert socket.subprotocol == seen_by_client
        assert socket.response is not None
        assert socket.response.headers["X-Answer"] == "1"
        assert it.requests[0].headers["Sec-WebSocket-Protocol"] == "a, b"


async def test_the_clients_close_code_reaches_the_backend(door: str) -> None:
    async with through(door) as (socket, it):
        await socket.close(4321, "enough")
        assert await seen(it) == (4321, "enough")


async def test_the_backends_close_code_reaches_the_client(door: str) -> None:
    async def bye(socket: ServerConnection) -> None:
        await socket.send("last")
        await socket.close(4000, "no more")

    async with through(door, bye) as (socket, it):
        assert await socket.recv() == "last"
        assert await closed(socket) == (4000, "no more")
        assert (await seen(it))[0] == 4000, "its Close frame came back"


async def test_a_client_that_is_gone_is_gone_for_the_backend(door: str) -> None:
    async with through(door) as (socket, it):
        await socket.send("x")
        assert await socket.recv() == "x"
        socket.transport.abort()
        code, _ = await seen(it)
        # uvicorn does not tell a client that vanished from one that closed without a code.
        assert code in ((1006,) if door == "express" else (1005, 1006))


async def test_a_backend_that_is_gone_is_gone_for_the_client(door: str) -> None:
    async def vanish(socket: ServerConnection) -> None:
        socket.transport.abort()

    async with through(door, vanish) as (socket, _):
        # An ASGI server cannot be told to cut a WebSocket: it is closed with 1014, Bad Gateway.
        assert (await closed(socket))[0] == (1006 if door == "express" else 1014)


async def test_pings_are_answered(door: str) -> None:
    answered = asyncio.Event()

    async def ping(socket: ServerConnection) -> None:
        await (await socket.ping())
        answered.set()
        await echo(socket)

    async with through(door, ping) as (socket, _):
        await asyncio.wait_for(await socket.ping(), 5)
        await asyncio.wait_for(answered.wait(), 5)


async def test_a_client_that_reads_nothing_holds_the_backend_back(door: str) -> None:
    sent, count = 0, 4000

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        while sent < count:
            await socket.send(b"x" * 10_000)
            sent += 1

    async with through(door, flood, compression=None) as (socket, _):
        last = -1

        async def stalled() -> bool:
            nonlocal last
            await asyncio.sleep(0.1)
            before, last = last, sent
            return before == last > 0

        await wait_until_async(stalled, "the backend is held back")
        assert sent < count * 3 // 4
        for _ in range(count):
            assert len(await socket.recv()) == 10_000


async def test_a_backend_that_reads_nothing_holds_the_client_back(door: str) -> None:
    go_on = asyncio.Event()

    async def late(socket: ServerConnection) -> None:
        await go_on.wait()
        await echo(socket)

    count, received = 4000, 0
    async with through(door, late, compression=None) as (socket, _):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while sent < count:
                await socket.send(b"x" * 10_000)
                sent += 1

        sending = asyncio.create_task(flood())
        last = -1

        async def stalled() -> bool:
            nonlocal last
            await asyncio.sleep(0.1)
            before, last = last, sent
            return before == last > 0

        await wait_until_async(stalled, "the client is held back")
        assert sent < count * 3 // 4
        go_on.set()
        while received < count:
            assert len(await socket.recv()) == 10_000
            received += 1
        await sending


async def test_a_refused_handshake_is_answered_as_the_backend_does(door: str) -> None:
    def refuse(socket: ServerConnection, _request: Request) -> Response:
        return socket.respond(HTTPStatus.UNAUTHORIZED, "who are you?")

    async with backend(process_request=refuse) as it, door_to(door, it.port) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url)
        assert refused.value.response.status_code == 401
        assert refused.value.response.body == b"who are you?"


async def test_a_backend_that_cannot_be_reached_is_a_503(door: str) -> None:
    async with door_to(door, 9) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, proxy=None)
        assert refused.value.response.status_code == 503


async def test_a_socket_for_an_item_goes_to_the_items_owner(door: str) -> None:
    shared = SharedRedis(None)
    async with backend() as first, backend() as second:
        settings = shared.settings([first.port, second.port])
        async with distributers(door, settings, shared, 1) as ports, shared.client() as state:
            await state.hset("distributer:sticky", "7", f"http://127.0.0.1:{second.port}")
            for _ in range(3):
                async with connect(f"ws://127.0.0.1:{ports[0]}/items/7") as socket:
                    await socket.send("x")
                    assert await socket.recv() == "x"
            assert (len(first.requests), len(second.requests)) == (0, 3)
            for _ in range(4):
                async with connect(f"ws://127.0.0.1:{ports[0]}/ws"):
                    pass
            assert (len(first.requests), len(second.requests)) == (2, 5), "the rest goes round"


async def test_a_silent_socket_is_closed_with_1001(door: str) -> None:
    async with (
        backend() as it,
        door_to(door, it.port, tunnel_idle_timeout_s=0.2) as url,
        connect(url, ping_interval=None) as socket,
    ):
        assert (await closed(socket))[0] == 1001
        assert (await seen(it))[0] == 1001


# What only the ASGI door must look at: there the handshake with the backend is our own.


async def test_a_refusal_with_a_long_body_keeps_its_status_alone() -> None:
    answer = ok(b"x" * 500_000).replace(b"200 OK", b"403 Forbidden")
    async with origin(replies(answer)) as it, door_to("asgi", it.port) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url)
        assert (refused.value.response.status_code, refused.value.response.body) == (403, b"")


def switching(lines: bytes, then: Script | None = None) -> Script:
    """Script: answer a handshake with these lines, in which %b is the right Sec-WebSocket-Accept."""

    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = (message.value("sec-websocket-key") or b"").decode()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        writer.write(lines.replace(b"%b", accept_key(key).encode()) + b"\r\n")
        if then is not None:
            await then(message, reader, writer)
        await reader.read()
        writer.close()

    return script


async def test_a_backend_may_send_what_it_has_before_it_closes_in_return() -> None:
    done = asyncio.Event()

    async def finish(_message: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = Protocol(Side.SERVER)
        while socket.close_rcvd is None:
            socket.receive_data(await reader.read(65_536))
        assert (socket.close_rcvd.code, socket.close_rcvd.reason) == (4321, "enough")
        for _ in range(100):
            writer.write(Frame(Opcode.BINARY, b"x" * 65_536).serialize(mask=False))
            await writer.drain()
        writer.write(Frame(Opcode.CLOSE, Close(4321, "").serialize()).serialize(mask=False))
        await writer.drain()
        assert await reader.read() == b""
        done.set()

    accepted = b"Sec-WebSocket-Accept: %b\r\n"
    async with (
        origin(switching(accepted, finish)) as it,
        door_to("asgi", it.port) as url,
        connect(url, compression=None) as socket,
    ):
        await socket.close(4321, "enough")
        await asyncio.wait_for(done.wait(), 5)


@pytest.mark.parametrize(
    "lines",
    [
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
        b"",
        b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
        b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: unasked\r\n",
    ],
)
async def test_a_handshake_that_is_wrong_is_a_502(lines: bytes) -> None:
    async with origin(switching(lines)) as it, door_to("asgi", it.port) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, subprotocols=[Subprotocol("asked")])
        assert refused.value.response.status_code == 502


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xff\xff", 1014),  # no frame
        (b"\x81\x02\xc3\x28", 1014),  # no UTF-8
        (b"\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff", 1009),  # 2 GB
    ],
)
async def test_a_backend_that_breaks_the_protocol_is_closed_and_so_is_the_client(frame: bytes, code: int) -> None:
    async def spoil(socket: ServerConnection) -> None:
        socket.transport.write(frame)
        await socket.wait_closed()

    async with through("asgi", spoil) as (socket, _):
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == code

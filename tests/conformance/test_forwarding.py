"""Raw bytes in, raw bytes out: what is forwarded, over both doors."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket

import pytest

from tests.conformance.conftest import Front
from tests.support.cluster import SharedRedis, distributers
from tests.support.raw import (
    Message,
    ask,
    connected,
    ok,
    origin,
    read_head,
    replies,
    request,
)
from tests.support.waiting import wait_until_async


def problem(message: Message) -> dict[str, object]:
    """Read the body of an answer that distributer gave itself."""
    assert message.value("content-type") == b"application/problem+json"
    text: dict[str, object] = json.loads(message.body)
    assert text["status"] == message.status
    return text


# Heads.


async def test_repeated_set_cookie_fields_stay_apart_and_in_order(front: Front) -> None:
    async with front(replies(ok(b"x", "Set-Cookie: a=1; Expires=Thu, 01 Jan 2026", "X: y", "Set-Cookie: b=2"))) as (
        port,
        _,
    ):
        answer = await ask(port, request())
    assert answer.values("set-cookie") == [b"a=1; Expires=Thu, 01 Jan 2026", b"b=2"]


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb",
        "/a//b",
        "//a/b",
        "/a;p=1/b;q",
        "/a+b?c+d=e+f",
        "/a/../b/./c",
        "/%7euser/%E2%82%AC?q=%26&r=%zz",
        "/a?x=1?y=2&&z",
        "/a?b=[1]|{2}",
        "/?",
        "/items/%37?",
    ],
)
async def test_raw_path_and_query_survive(front: Front, door: str, target: str) -> None:
    async with front(replies(ok())) as (port, origin):
        await ask(port, request("GET", target))
    expected = target
    if door == "asgi" and target.endswith("?"):
        expected = target[:-1]  # ASGI has one word for an empty query and none
    assert origin.requests[0].start == f"GET {expected} HTTP/1.1".encode()


async def test_fields_keep_their_order_repetition_and_spelling(front: Front, door: str) -> None:
    async with front(replies(ok())) as (port, origin):
        await ask(port, request("GET", "/", "X-B: 1", "x-a: 2", "X-b: 3", "Cookie: c=1", "Empty:"))
    sent = origin.requests[0].headers
    kept = [(name, value) for name, value in sent if name.lower() in (b"x-b", b"x-a", b"cookie", b"empty")]
    expected = [(b"X-B", b"1"), (b"x-a", b"2"), (b"X-b", b"3"), (b"Cookie", b"c=1"), (b"Empty", b"")]
    if door == "asgi":
        expected = [(name.lower(), value) for name, value in expected]  # ASGI lower-cases names
    assert kept == expected


async def test_hop_by_hop_fields_stop_here_both_ways(front: Front) -> None:
    answer = ok(b"x", "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=3", "X-End: 1", "Proxy-Connection: close")
    async with front(replies(answer)) as (port, origin):
        got = await ask(
            port,
            request(
                "GET", "/", "Connection: keep-alive, X-Secret", "X-Secret: 1", "TE: gzip", "Keep-Alive: 5", "X-Ok: 1"
            ),
        )
    sent = origin.requests[0]
    for name in ("connection", "x-secret", "te", "keep-alive"):
        assert sent.values(name) == [], name
    assert sent.value("x-ok") == b"1"
    assert got.values("x-hop") == got.values("keep-alive") == got.values("proxy-connection") == []
    assert got.value("x-end") == b"1"


async def test_connection_cannot_name_host_or_forwarded_fields_away(front: Front) -> None:
    async with front(replies(ok())) as (port, origin):
        await ask(port, request("GET", "/", "Connection: Host, X-Forwarded-For, Cookie", "Cookie: c=1"))
    sent = origin.requests[0]
    assert sent.value("host") == b"test"
    assert sent.value("x-forwarded-for") == b"127.0.0.1"
    assert sent.value("cookie") == b"c=1"


@pytest.mark.parametrize(
    ("given", "is_kept"), [("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("two words", False), ("", False)]
)
async def test_a_sound_request_id_is_kept_and_another_replaced(front: Front, given: str, is_kept: bool) -> None:
    async with front(replies(ok())) as (port, origin):
        await ask(port, request("GET", "/", f"X-Request-ID: {given}"))
        await ask(port, request("GET", "/"))
    first, second = (message.value("x-request-id") for message in origin.requests)
    assert (first == given.encode()) is is_kept
    assert first
    assert second
    assert first != second


async def test_an_http_1_0_client_gets_a_plain_answer_and_a_closed_connection(front: Front, door: str) -> None:
    if door == "asgi":
        pytest.skip("the ASGI server frames the answer, and uvicorn's chunks it whatever the client speaks")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    async with front(replies(chunked)) as (port, origin), connected(port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.rest()
    assert origin.requests[0].value("host") is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body == b"hello"


# Bodies.


async def test_a_gzip_body_is_untouched_and_its_length_right(front: Front) -> None:
    packed = gzip.compress(b"hello" * 100)
    async with front(replies(ok(packed, "Content-Encoding: gzip", "Vary: Accept-Encoding"))) as (port, _):
        answer = await ask(port, request("GET", "/", "Accept-Encoding: gzip"))
    assert answer.body == packed
    assert answer.value("content-length") == str(len(packed)).encode()
    assert answer.value("content-encoding") == b"gzip"


async def test_a_chunked_answer_stays_whole(front: Front) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"
    async with front(replies(raw)) as (port, _), connected(port) as client:
        for _ in range(3):
            assert (await client.ask(request())).body == b"hello world"


async def test_an_answer_that_ends_by_closing_is_framed_for_the_client(front: Front) -> None:
    async with front(replies(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True)) as (port, _), connected(port) as client:
        for _ in range(2):
            answer = await client.ask(request())
            assert (answer.body, answer.value("transfer-encoding")) == (b"hello", b"chunked")


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
async def test_bodies_of_any_size_arrive_whole_both_ways(front: Front, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]

    async def echo(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(message.body))

    async with front(echo) as (port, origin):
        head = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n".encode()
        assert (await ask(port, head + body)).body == body
        head = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1000], body[1000:]) if part)
        assert (await ask(port, head + pieces + b"0\r\n\r\n")).body == body
    assert [message.body for message in origin.requests] == [body, body]


async def test_the_body_streams_while_the_client_still_sends(front: Front) -> None:
    arrived = asyncio.Event()

    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(9) == b"4\r\nabcd\r\n"
        arrived.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"2\r\nef\r\n0\r\n\r\n"
        writer.write(ok(b"got it"))

    async with front(script, reads_body=False) as (port, _), connected(port) as client:
        await client.send(b"PUT /up HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
        await asyncio.wait_for(arrived.wait(), 5)
        await client.send(b"2\r\nef\r\n0\r\n\r\n")
        assert (await client.answer()).body == b"got it"


async def test_the_answer_streams_while_the_backend_still_sends(front: Front) -> None:
    go_on = asyncio.Event()

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"0\r\n\r\n")

    async with front(script) as (port, _), connected(port) as client:
        await client.send(request())
        head = await read_head(client.reader)
        assert head.status == 200
        assert await asyncio.wait_for(client.reader.readexactly(3 + 9 + 2), 5) == b"9\r\ndata: 1\n\n\r\n"
        go_on.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"0\r\n\r\n"


async def test_a_slow_reader_holds_the_backend_back(front: Front) -> None:
    sent = 0
    total = 64 * 1024 * 1024
    piece = b"x" * 65_536

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with front(script) as (port, _), connected(port) as client:
        await client.send(request())
        await read_head(client.reader)
        last = -1

        async def stalled() -> bool:
            nonlocal last
            await asyncio.sleep(0.1)
            stands, last = sent == last, sent
            return stands

        await wait_until_async(stalled, "the backend is held back")
        assert sent < total // 2
        received = 0
        while received < total:
            received += len(await client.reader.read(1 << 20))
        assert received == total


# Answers without a body.


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 55\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_end_with_their_head(front: Front, door: str, method: str, raw: bytes) -> None:
    async with front(replies(raw, ok(b"next"))) as (port, origin), connected(port) as client:
        answer = await client.ask(request(method), has_body=False)
        assert answer.status == int(raw[9:12])
        if b"Content-Length" in raw and not (door == "asgi" and b"304" in raw):
            assert answer.value("content-length") == raw.split(b"Content-Length: ")[1].split(b"\r\n")[0]
        # What follows on the same connection is the next answer, not a body.
        assert (await client.ask(request())).body == b"next"
    if b"\r\nContent-Length" in raw or b"204" in raw or b"304" in raw:
        assert origin.connections == 1, "the backend's connection is reused"


async def test_interim_answers_are_passed_on_and_do_not_end_the_exchange(front: Front, door: str) -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok(b"end")
    async with front(replies(raw)) as (port, _), connected(port) as client:
        await client.send(request())
        if door == "express":
            first = await client.answer(has_body=False)
            assert (first.status, first.value("link")) == (103, b"</a.css>")
            assert (await client.answer(has_body=False)).status == 102
        assert (await client.answer()).body == b"end"
        assert (await client.ask(request())).status in (103, 200)


async def test_expect_100_continue_works_end_to_end(front: Front) -> None:
    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if message.value("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(message.value("content-length") or b"0"))
        writer.write(ok(body))

    async with front(script, reads_body=False) as (port, _), connected(port) as client:
        await client.send(request("PUT", "/", "Expect: 100-continue", "Content-Length: 5"))
        assert (await client.answer(has_body=False)).status == 100
        await client.send(b"hello")
        assert (await client.answer()).body == b"hello"


# Connections.


async def test_connections_are_kept_alive_both_ways(front: Front) -> None:
    async with front(replies(ok())) as (port, origin), connected(port) as client:
        for _ in range(5):
            assert (await client.ask(request())).status == 200
    assert (origin.connections, len(origin.requests)) == (1, 5)


async def test_pipelined_requests_are_answered_in_their_order(front: Front) -> None:
    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(message.start.split(b" ")[1] + message.body))

    async with front(script) as (port, _), connected(port) as client:
        pipelined = [request("POST" if n % 2 else "GET", f"/{n}", body=b"body" if n % 2 else b"") for n in range(20)]
        await client.send(b"".join(pipelined))
        answers = [(await client.answer()).body for _ in range(20)]
    assert answers == [f"/{n}{'body' if n % 2 else ''}".encode() for n in range(20)]


@pytest.mark.parametrize("size", [40_000, 400_000])
async def test_pipelined_requests_with_bodies_that_come_in_pieces_are_answered_in_their_order(
    front: Front, size: int
) -> None:
    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(message.body[:1]))

    async with front(script) as (port, _), connected(port) as client:
        raw = b"".join(request("PUT", "/", body=b"%d" % number * size) for number in range(10))
        sending = asyncio.create_task(client.send(raw))
        assert [(await client.answer()).body for _ in range(10)] == [b"%d" % number for number in range(10)]
        await sending


async def test_a_client_that_leaves_frees_the_backends_connection(front: Front) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        asked.set()
        await reader.read()  # until the other side closes
        gone.set()

    async with front(script) as (port, _):
        async with connected(port) as client:
            await client.send(request())
            await asyncio.wait_for(asked.wait(), 5)
            client.leave()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_client_that_leaves_within_the_answer_frees_the_backends_connection(front: Front) -> None:
    gone = asyncio.Event()

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"5\r\nhello\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            gone.set()
            raise

    async with front(script) as (port, _):
        async with connected(port) as client:
            await client.send(request())
            await client.reader.readuntil(b"hello")
            client.leave()
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_kept_connection_that_the_backend_closed_is_replaced_unseen(front: Front) -> None:
    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        if it.connections == 1 and len(it.requests) == 2:
            writer.transport.abort()  # reused, and closed without a byte
        else:
            writer.write(ok())

    async with front(script) as (port, it), connected(port) as client:
        assert (await client.ask(request())).status == 200
        assert (await client.ask(request("PUT", "/", body=b"kept"))).status == 200
    assert it.connections == 2
    assert [message.body for message in it.requests] == [b"", b"kept", b"kept"]


async def test_a_post_on_a_closing_connection_is_not_sent_twice(front: Front) -> None:
    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        if len(it.requests) == 2:
            writer.transport.abort()
        else:
            writer.write(ok())

    async with front(script) as (port, it), connected(port) as client:
        assert (await client.ask(request())).status == 200
        answer = await client.ask(request("POST", "/pay", body=b"1"))
        assert answer.status == 502
        assert problem(answer)["title"] == "Backend closed the connection"
    assert len(it.requests) == 2


# Failures.


async def test_a_backend_that_refuses_is_left_out_and_another_is_taken(door: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listening: refused
        async with origin(replies(ok(b"alive"))) as it:
            shared = SharedRedis(None)
            settings = shared.settings([closed.getsockname()[1], it.port])
            async with distributers(door, settings, shared, 1) as (port,):
                for _ in range(6):
                    assert (await ask(port, request("POST", "/", body=b"x"))).body == b"alive"


async def test_no_backend_at_all_is_a_503_that_says_so(door: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        shared = SharedRedis(None)
        where = closed.getsockname()[1]
        async with distributers(door, shared.settings([where]), shared, 1) as (port,), connected(port) as client:
            for _ in range(2):
                answer = await client.ask(request())
                assert answer.status == 503
                assert answer.value("retry-after") == b"1"
                assert problem(answer)["title"] == "No backend available"


async def test_a_silent_backend_is_a_504(front: Front) -> None:
    async def script(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        await reader.read()

    async with front(script, first_byte_timeout_s=0.3) as (port, it):
        answer = await ask(port, request())
        assert answer.status == 504
        problem(answer)
        assert len(it.requests) == 1, "the backend that is too slow does not get it twice"


async def test_a_backend_that_stops_within_its_answer_gets_the_client_cut_off(front: Front) -> None:
    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await reader.read()

    async with front(script, idle_timeout_s=0.3) as (port, _), connected(port) as client:
        await client.send(request())
        answer = await client.rest()
    assert not answer.endswith(b"0\r\n\r\n"), "never a clean end"


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_a_malformed_answer_is_a_502(front: Front, raw: bytes) -> None:
    async with front(replies(raw)) as (port, it), connected(port) as client:
        for turn in range(2):
            answer = await client.ask(request())
            assert answer.status == 502
            problem(answer)
            assert it.connections == turn + 1, "a connection that is out of step is not reused"


async def test_bytes_behind_an_answer_are_not_the_next_answer(front: Front) -> None:
    smuggled = ok(b"mine") + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
    async with front(replies(smuggled, ok(b"yours"))) as (port, it), connected(port) as client:
        first = await client.ask(request())
        second = await client.ask(request())
    assert (first.body, second.body) == (b"mine", b"yours")
    assert it.connections == 2


@pytest.mark.parametrize("size", [100_000, 1000])
async def test_an_answer_cut_short_when_it_has_begun_is_cut_short_for_the_client(front: Front, size: int) -> None:
    go_on = asyncio.Event()

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nhello" % size)
        await writer.drain()
        await go_on.wait()
        writer.close()

    async with front(script) as (port, it), connected(port) as client:
        await client.send(request())
        assert await client.reader.readuntil(b"hello")  # a large one at once, a small one on the next tick
        go_on.set()
        assert await client.rest() == b""
    assert len(it.requests) == 1


# What clients may not send. The full list comes with the hardening; these would smuggle a request.


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_an_ambiguous_request_is_refused_and_the_connection_closed(front: Front, raw: bytes) -> None:
    async with front(replies(ok())) as (port, it), connected(port) as client:
        await client.send(raw)
        answer = await client.rest()
        assert answer.split(b" ")[1] in (b"400", b"501")
        assert answer.count(b"HTTP/1.1 ") == 1
    assert it.requests == []


async def test_an_offer_to_change_protocols_is_passed_over(front: Front, door: str) -> None:
    if door == "asgi":
        pytest.skip("uvicorn's parser drops the body of such a request before the door sees it")
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    async with front(replies(ok())) as (port, it), connected(port) as client:
        for body in (b"", b"hello", b""):
            answer = await client.ask(request("PUT" if body else "GET", "/", *offer, body=body))
            assert (answer.status, answer.body) == (200, b"ok")
    assert [message.body for message in it.requests] == [b"", b"hello", b""]
    assert all(not message.values("upgrade") + message.values("http2-settings") for message in it.requests)

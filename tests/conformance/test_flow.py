"""The flow of an exchange: what is slow, large, many, early or broken, over both doors.

Where the ASGI server decides, the test is for the express door alone, and says so.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from distributer.doors import client_connection
from distributer.forwarding.exchange import Exchange
from distributer.routing.claim import MAX_CLAIMS, decode
from tests.conformance.conftest import Front
from tests.support.cluster import SharedRedis, distributers
from tests.support.raw import Client, Message, ask, connected, ok, origin, read_head, replies, request
from tests.support.waiting import wait_until_async

CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture
def express_only(door: str) -> None:
    if door == "asgi":
        pytest.skip("the ASGI server in front decides")


def status_of(answer: bytes) -> int:
    """Read the status of the one answer that a connection ended with."""
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    return int(answer.split(b" ")[1])


async def until(claim: Callable[[], object], what: str) -> None:
    """Wait until claim is true."""

    async def holds() -> bool:
        return bool(claim())

    await wait_until_async(holds, what)


async def is_reset(client: Client) -> bool:
    """Read until the other side ends the connection; tell whether by a reset."""
    try:
        while await asyncio.wait_for(client.reader.read(65_536), 10):
            pass
    except ConnectionResetError:
        return True
    return False


async def stalled(value: Callable[[], int]) -> int:
    """Wait until a value grows no more, and return it."""
    last = -1

    async def stands() -> bool:
        nonlocal last
        await asyncio.sleep(0.15)
        stood, last = value() == last, value()
        return stood

    await wait_until_async(stands, "it grows no more")
    return last


# Slow heads.


@pytest.mark.usefixtures("express_only")
@pytest.mark.parametrize("trickles", [False, True])
async def test_a_head_that_is_not_complete_in_time_is_a_408(front: Front, trickles: bool) -> None:
    async with front(replies(ok()), head_timeout_s=0.3) as (port, it), connected(port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: t\r\n")

        async def trickle() -> None:
            while trickles:
                client.writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        answer = await client.rest()
        trickling.cancel()
        assert status_of(answer) == 408
        assert b"Connection: close" in answer
    assert it.requests == []


@pytest.mark.usefixtures("express_only")
async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(front: Front) -> None:
    async with front(replies(ok()), head_timeout_s=0.2) as (port, _), connected(port) as client:
        assert await client.rest() == b""


@pytest.mark.usefixtures("express_only")
async def test_between_requests_a_connection_may_be_idle_for_longer_and_then_is_closed_without_a_word(
    front: Front,
) -> None:
    async with front(replies(ok()), head_timeout_s=0.1, client_idle_timeout_s=0.6) as (port, _):
        async with connected(port) as client:
            assert (await client.ask(request())).status == 200
            begun = asyncio.get_running_loop().time()
            assert await client.rest() == b""
            assert asyncio.get_running_loop().time() - begun > 0.4
        async with connected(port) as client:
            # A later head has its own time, from its first byte.
            assert (await client.ask(request())).status == 200
            await client.send(b"GET / HT")
            assert status_of(await client.rest()) == 408


# Slow bodies.


@pytest.mark.parametrize("framing", ["Content-Length: 100000", CHUNKED])
async def test_a_body_that_comes_too_slowly_is_a_408_and_the_backend_is_cut_off(front: Front, framing: str) -> None:
    gone = asyncio.Event()

    async def script(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        await reader.read()
        gone.set()

    async with front(script, reads_body=False, body_timeout_s=0.4) as (port, it), connected(port) as client:
        await client.send(request("PUT", "/", framing) + (b"5\r\nhello\r\n" if framing == CHUNKED else b"hello"))

        async def trickle() -> None:
            while True:
                client.writer.write(b"1\r\nx\r\n" if framing == CHUNKED else b"x")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        answer = await client.answer()
        assert answer.status == 408
        assert answer.value("connection") in (b"close", b"Close")
        await asyncio.wait_for(gone.wait(), 5)
        trickling.cancel()
    assert it.connections == 1


async def test_a_body_that_stops_after_the_answer_has_begun_gets_the_client_cut_off(front: Front, door: str) -> None:
    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        await reader.read()

    async with front(script, reads_body=False, body_timeout_s=0.3) as (port, _), connected(port) as client:
        await client.send(request("PUT", "/", "Content-Length: 100") + b"x")
        assert (await read_head(client.reader)).status == 200
        assert not (await client.rest()).endswith(b"0\r\n\r\n"), "never a clean end"
    assert door in ("asgi", "express")


@pytest.mark.parametrize("stops", [False, True], ids=["goes on", "stops then"])
async def test_a_client_that_is_held_back_by_the_backend_is_not_slow(front: Front, stops: bool) -> None:
    go_on = asyncio.Event()
    size = 12_000_000

    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await reader.readexactly(size + stops)
        writer.write(ok(b"all"))

    async with front(script, reads_body=False, body_timeout_s=0.2) as (port, _), connected(port) as client:
        client.writer.write(request("PUT", "/", f"Content-Length: {size + stops}") + b"x" * size)
        answer = asyncio.create_task(client.answer())
        # It is stuck for several spans, and nothing is wrong with it.
        assert not (await asyncio.wait([answer], timeout=0.7))[0]
        go_on.set()
        # From now on it is its turn.
        assert (await answer).status == (408 if stops else 200)


@pytest.mark.usefixtures("express_only")
async def test_a_client_that_waits_for_its_100_is_not_slow(front: Front) -> None:
    go_on = asyncio.Event()

    async def script(_message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(ok(await reader.readexactly(5)))

    async with front(script, reads_body=False, body_timeout_s=0.2) as (port, _), connected(port) as client:
        await client.send(request("PUT", "/", "Expect: 100-continue", "Content-Length: 5"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.6)
        go_on.set()
        assert (await client.answer(has_body=False)).status == 100
        # From now on it is its turn.
        assert (await client.answer()).status == 408


# Large bodies.


@pytest.mark.parametrize("target", ["/", "/items/?item_id=7"])
async def test_a_length_beyond_the_bound_is_a_413_before_anything_happens(front: Front, target: str) -> None:
    shared = SharedRedis(None)
    async with front(replies(ok()), shared=shared, max_body_bytes=1000) as (port, it):
        async with connected(port) as client:
            await client.send(request("POST", target, "Content-Length: 1001"))
            assert (await client.answer()).status == 413
        async with shared.client() as redis:
            assert await redis.get("distributer:rotation") in (None, b"0")
            assert await redis.hlen("distributer:claims") == 0
        assert it.connections == 0
        assert (await ask(port, request("POST", "/", body=b"x" * 1000))).status == 200


async def test_a_chunked_body_that_passes_the_bound_is_a_413_and_the_backend_is_cut_off(front: Front) -> None:
    ends: list[bytes] = []

    async def script(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        ends.append(await reader.read())

    async with front(script, reads_body=False, max_body_bytes=1000) as (port, it), connected(port) as client:
        await client.send(request("PUT", "/", CHUNKED) + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        await until(lambda: it.requests, "its beginning has reached the backend")
        await client.send(b"1\r\nx\r\n0\r\n\r\n")
        assert (await client.answer()).status == 413
        await until(lambda: ends, "the backend is cut off")
    assert b"\r\n0\r\n\r\n" not in ends[0]


async def test_a_chunked_body_up_to_the_bound_is_forwarded(front: Front) -> None:
    async with front(replies(ok()), max_body_bytes=1000) as (port, it):
        raw = request("PUT", "/", CHUNKED) + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"
        assert (await ask(port, raw)).status == 200
    assert it.requests[0].body == b"x" * 1000


async def test_without_a_bound_any_length_is_forwarded(front: Front) -> None:
    async with front(replies(ok()), reads_body=False, max_body_bytes=0) as (port, it), connected(port) as client:
        await client.send(request("PUT", "/", f"Content-Length: {10**15}") + b"x")
        assert (await client.answer()).status == 200
    assert it.requests[0].value("content-length") == str(10**15).encode()


async def test_a_create_that_passes_the_bound_stays_claimed_since_its_outcome_is_unknown(front: Front) -> None:
    async def script(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        await reader.read()

    shared = SharedRedis(None)
    async with front(script, reads_body=False, shared=shared, max_body_bytes=10) as (port, it):
        async with connected(port) as client:
            await client.send(request("POST", "/items/?item_id=7", CHUNKED) + b"5\r\nhello\r\n")
            await until(lambda: it.requests, "the create has reached the backend")
            await client.send(b"6\r\nhello!\r\n")
            assert (await client.answer()).status == 413
        async with shared.client() as redis:
            assert await redis.hlen("distributer:claims") == 1
            assert await redis.hlen("distributer:sticky") == 1


# Many connections.


@pytest.mark.usefixtures("express_only")
@pytest.mark.parametrize("setting", ["max_client_connections", "max_connections_per_address"])
async def test_connections_beyond_the_bound_are_turned_away_and_the_others_go_on(front: Front, setting: str) -> None:
    async with front(replies(ok()), **{setting: 2}) as (port, it):  # noqa: SIM117
        async with connected(port) as first, connected(port) as second:
            for client in (first, second):
                assert (await client.ask(request())).status == 200
            async with connected(port) as third:
                answer = await third.rest()  # unasked, and closed
                assert status_of(answer) == 503
                assert b"Retry-After: 1" in answer
                assert b"Too many connections" in answer
            for client in (first, second):
                assert (await client.ask(request())).status == 200
            first.leave()

            async def is_let_in() -> bool:
                return (await ask(port, request())).status == 200

            await wait_until_async(is_let_in, "another is let in when one has left")
    assert all(message.start == b"GET /ping HTTP/1.1" for message in it.requests)


# Many requests for one backend.


async def test_requests_beyond_those_in_flight_wait_in_line_and_beyond_the_line_are_refused(front: Front) -> None:
    go_on = asyncio.Event()

    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(ok(message.start.split(b" ")[1]))

    bounds = {"backend_max_in_flight": 1, "backend_max_waiting": 2, "backend_wait_timeout_s": 30}
    async with front(script, **bounds) as (port, it):  # noqa: SIM117
        async with connected(port) as a, connected(port) as b, connected(port) as c:
            await a.send(request("GET", "/a"))
            await until(lambda: it.requests, "the first is in flight")
            await b.send(request("GET", "/b"))
            await c.send(request("GET", "/c"))

            async def is_full() -> bool:
                answer = await asyncio.wait_for(ask(port, request("GET", "/d")), 5)
                assert answer.status == 503
                assert answer.value("retry-after") == b"1"
                return b"Backend busy" in answer.body

            await wait_until_async(is_full, "a fourth is refused at once")
            go_on.set()
            assert [(await client.answer()).body for client in (a, b, c)] == [b"/a", b"/b", b"/c"]
    assert it.connections == 1


async def test_a_wait_in_line_is_short(front: Front) -> None:
    async def script(message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        await reader.read()

    bounds = {"backend_max_in_flight": 1, "backend_wait_timeout_s": 0.2}
    async with front(script, **bounds) as (port, it), connected(port) as first:
        await first.send(request())
        await until(lambda: it.requests, "the first is in flight")
        answer = await ask(port, request())
        assert (answer.status, answer.value("retry-after")) == (503, b"1")


async def test_who_leaves_the_line_makes_room_in_it(front: Front) -> None:
    go_on = asyncio.Event()

    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(ok(message.start.split(b" ")[1]))

    bounds = {"backend_max_in_flight": 1, "backend_max_waiting": 1, "backend_wait_timeout_s": 30}
    async with front(script, **bounds) as (port, it), connected(port) as first, connected(port) as third:
        await first.send(request("GET", "/first"))
        await until(lambda: it.requests, "the first is in flight")
        async with connected(port) as second:
            await second.send(request("GET", "/second"))

            async def is_full() -> bool:
                return (await asyncio.wait_for(ask(port, request("GET", "/other")), 5)).status == 503

            await wait_until_async(is_full, "the line is full")
            second.leave()
        task: asyncio.Task[Message] | None = None

        async def is_in_line() -> bool:
            nonlocal task
            task = asyncio.create_task(third.ask(request("GET", "/third")))
            done, _ = await asyncio.wait([task], timeout=0.1)
            assert not done or task.result().status == 503
            return not done

        await wait_until_async(is_in_line, "another may wait")
        go_on.set()
        assert task is not None
        assert (await task).body == b"/third"
        assert (await first.answer()).body == b"/first"
    assert b"GET /second HTTP/1.1" not in [message.start for message in it.requests]


async def test_a_connection_to_a_backend_is_renewed_when_it_is_old(front: Front) -> None:
    async with front(replies(ok()), upstream_lifetime_s=0.2) as (port, it), connected(port) as client:

        async def is_renewed() -> bool:
            assert (await client.ask(request())).status == 200
            return it.connections >= 3

        await wait_until_async(is_renewed, "connections are renewed")
    assert len(it.requests) > it.connections, "but not for each request"


# Slow readers.


def endless(sent: list[int]) -> Callable[[Message, object, asyncio.StreamWriter], Awaitable[None]]:
    """Make a script that answers without end, and counts."""

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent[0] += 65_536

    return script


async def test_an_answer_is_taken_from_the_backend_up_to_the_bound_however_slow_the_client_is(front: Front) -> None:
    taken = []
    for bound in (0, 16_000_000):
        sent = [0]
        async with front(endless(sent), answer_buffer_bytes=bound) as (port, _), connected(port) as client:
            await client.send(request())
            taken.append(await stalled(lambda sent=sent: sent[0]))  # type: ignore[misc]
            client.leave()
    less, more = taken
    assert 12_000_000 < more - less < 20_000_000, "what the kernel takes is in both"


@pytest.mark.usefixtures("express_only")
async def test_a_client_that_takes_nothing_for_long_is_cut_off(front: Front) -> None:
    sent = [0]
    async with front(endless(sent), client_idle_timeout_s=0.5) as (port, it), connected(port) as client:
        await client.send(request())
        await until(lambda: it.open_connections == 1, "the backend answers")
        await until(lambda: it.open_connections == 0, "the backend is set free")
        assert await is_reset(client)


@pytest.mark.usefixtures("express_only")
async def test_a_client_that_takes_nothing_of_its_last_answer_does_not_keep_its_connection(front: Front) -> None:
    shared = SharedRedis(None)
    body = b"x" * 20_000_000
    bounds = {"client_idle_timeout_s": 0.5, "answer_buffer_bytes": 30_000_000, "max_client_connections": 1}
    async with front(replies(ok(body)), shared=shared, **bounds) as (port, _), connected(port) as client:
        await client.send(request("GET", "/", "Connection: close"))

        async def is_gone() -> bool:
            return (await ask(port, request("GET", "/", "Connection: close"))).status == 200

        await wait_until_async(is_gone, "its place is free")


@pytest.mark.usefixtures("express_only")
async def test_answers_to_pipelined_requests_do_not_pile_up_behind_a_client_that_reads_nothing(front: Front) -> None:
    body, count = b"x" * 300_000, 200
    async with front(replies(ok(body))) as (port, it), connected(port) as client:
        await client.send(request() * count)
        asked = await stalled(lambda: len(it.requests))
        assert asked < count // 2, "the kernel takes some megabytes; the rest is not even asked for"
        for _ in range(count):
            assert (await client.answer()).body == body
    assert len(it.requests) == count


# Pipelining.


@pytest.mark.usefixtures("express_only")
async def test_any_number_of_pipelined_requests_is_answered_in_order_and_few_are_read_ahead(front: Front) -> None:
    go_on = asyncio.Event()

    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(ok(message.start.split(b" ")[1] + message.body))

    count = 1_000
    gc.collect()
    async with front(script) as (port, it), connected(port) as client:
        raw = [request("GET", f"/{number}") for number in range(count)]
        raw[7] = request("PUT", "/7", body=b"=" * 50_000)
        raw[70] = request("PUT", "/70", CHUNKED) + b"2\r\n==\r\n0\r\n\r\n"
        await client.send(b"".join(raw))
        await until(lambda: it.requests, "the first is in flight")
        assert await stalled(lambda: sum(isinstance(it, Exchange) for it in gc.get_objects())) < 300
        go_on.set()
        for number in range(count):
            body = (await client.answer()).body
            assert body.rstrip(b"=") == b"/%d" % number
            assert body.count(b"=") == {7: 50_000, 70: 2}.get(number, 0)


@pytest.mark.usefixtures("express_only")
@pytest.mark.parametrize("resets", [False, True])
async def test_a_client_that_leaves_with_a_request_sent_ahead_is_noticed(front: Front, resets: bool) -> None:
    async def script(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        await reader.read()  # until it is told that nobody waits any more

    async with front(script) as (port, it):
        async with connected(port) as client:
            await client.send(request("GET", "/first") + request("GET", "/second"))
            await until(lambda: it.requests, "the first is in flight")
            if resets:
                sock = client.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: not it.open_connections, "its backend is set free")
        assert [message.start for message in it.requests] == [b"GET /first HTTP/1.1"]


@pytest.mark.usefixtures("express_only")
@pytest.mark.parametrize("half", [1_000, 100_000])
async def test_a_body_that_begins_behind_another_request_is_read_on_when_it_is_its_turn(
    front: Front, half: int
) -> None:
    go_on = asyncio.Event()

    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        if message.start.startswith(b"GET"):
            await go_on.wait()
        writer.write(ok(b"%d" % len(message.body)))

    async with front(script) as (port, it), connected(port) as client:
        await client.send(request() + request("PUT", "/", f"Content-Length: {2 * half}") + b"x" * half)
        await until(lambda: it.requests, "the first is in flight")
        go_on.set()
        assert (await client.answer()).body == b"0"
        await client.send(b"x" * half)
        assert (await client.answer()).body == b"%d" % (2 * half)


@pytest.mark.usefixtures("express_only")
async def test_a_body_that_begins_behind_another_request_waits_for_a_connection_unread(front: Front) -> None:
    gates = {b"/a": asyncio.Event(), b"/b": asyncio.Event(), b"/c": asyncio.Event()}
    moved, size = 0, 50_000_000

    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        path = message.start.split(b" ")[1]
        if path in gates:
            await gates[path].wait()
        writer.write(ok(path))

    bounds = {"backend_max_in_flight": 1, "backend_wait_timeout_s": 30}
    async with front(script, **bounds) as (port, it), connected(port) as first, connected(port) as third:  # noqa: SIM117
        async with connected(port) as second:
            await first.send(request("GET", "/a"))
            await until(lambda: len(it.requests) == 1, "/a is in flight")
            body = request("PUT", "/d", f"Content-Length: {size}") + b"x" * 100_000
            await second.send(request("GET", "/b") + body)
            gates[b"/a"].set()
            await until(lambda: len(it.requests) == 2, "/b is in flight")
            await third.send(request("GET", "/c"))
            await stalled(lambda: 1)  # /c is in line
            gates[b"/b"].set()
            assert (await second.answer()).body == b"/b"
            await until(lambda: len(it.requests) == 3, "/c is in flight, and /d in line")

            async def send_rest() -> None:
                nonlocal moved
                for _ in range(100_000, size, 100_000):
                    await second.send(b"x" * 100_000)
                    moved += 100_000

            sending = asyncio.create_task(send_rest())
            assert await stalled(lambda: moved) < size // 2, "the kernel takes some megabytes, and we do not"
            gates[b"/c"].set()
            await sending
            assert (await second.answer()).body == b"/d"


# Early answers.


@pytest.mark.parametrize("closes", [False, True], ids=["kept open", "closed by the backend"])
@pytest.mark.parametrize("status", [b"401 Unauthorized", b"413 Content Too Large"])
async def test_an_early_answer_reaches_a_client_that_still_sends(front: Front, status: bytes, closes: bool) -> None:
    async def script(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        if not message.value("content-length"):
            writer.write(ok())
            return
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nearly")
        await writer.drain()
        if closes:
            writer.close()
        await asyncio.Event().wait()

    async with front(script, reads_body=False) as (port, it):
        async with connected(port) as client:
            await client.send(request("PUT", "/", "Content-Length: 5000000") + b"x" * 1_000_000)
            answer = await client.answer()
            assert (answer.status, answer.body) == (int(status[:3]), b"early")
        assert (await ask(port, request())).status == 200
    assert it.connections == 2, "a connection on which the request was not sent whole is not used again"


@pytest.mark.usefixtures("express_only")
async def test_a_client_that_sends_all_before_it_reads_still_finds_an_early_answer(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nearly")
        await asyncio.Event().wait()

    monkeypatch.setattr(client_connection, "LINGER_S", 0.3)
    size = 30_000_000
    async with front(script, reads_body=False) as (port, it), connected(port) as client:
        await client.send(request("PUT", "/", f"Content-Length: {size}"))
        await until(lambda: it.requests, "the backend has the head")
        for _ in range(10):
            await asyncio.sleep(0.1)  # in all, longer than a silence may be
            await client.send(b"x" * (size // 10))
        answer = await client.answer()
        assert (answer.status, answer.body, answer.value("connection")) == (401, b"early", b"close")
        assert await client.rest() == b""


@pytest.mark.usefixtures("express_only")
@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"401 Unauthorized"])
async def test_a_final_answer_instead_of_the_100_reaches_the_client(front: Front, status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nno"
    async with front(replies(answer), reads_body=False) as (port, it), connected(port) as client:
        await client.send(request("PUT", "/", "Expect: 100-continue", "Content-Length: 5"))
        got = await client.answer()
        assert (got.status, got.body, got.value("connection")) == (int(status[:3]), b"no", b"close")
        assert await client.rest() == b""
        assert (await ask(port, request())).status == int(status[:3])
    assert it.connections == 2


async def test_a_create_is_answered_early_and_settled_by_that(front: Front) -> None:
    shared = SharedRedis(None)
    answer = b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 2\r\n\r\nno"
    async with front(replies(answer), shared=shared, reads_body=False) as (port, _), connected(port) as client:
        await client.send(request("POST", "/items/?item_id=7", "Content-Length: 50") + b"x")
        assert (await client.answer()).body == b"no"
        async with shared.client() as redis:
            assert await redis.hlen("distributer:claims") == await redis.hlen("distributer:sticky") == 0


# Broken answers, after their head has gone out.

BROKEN = [
    pytest.param(CHUNKED, b"5\r\nhello\r\nx\r\nhello\r\n0\r\n\r\n", False, id="a chunk size that is none"),
    pytest.param(CHUNKED, b"5\r\nhello\r\n5\r\nhelloworld\r\n0\r\n\r\n", False, id="a chunk longer than its size"),
    pytest.param(CHUNKED, b"5\r\nhello\r\n-5\r\nhello\r\n0\r\n\r\n", False, id="a negative chunk size"),
    pytest.param(CHUNKED, b"5\r\nhello\r\n", True, id="closed between chunks"),
    pytest.param(CHUNKED, b"5\r\nhello\r\n0\r\n", True, id="closed within the last chunk"),
    pytest.param("Content-Length: 10", b"hello", True, id="closed within the length"),
]


@pytest.mark.parametrize(("framing", "body", "closes"), BROKEN)
async def test_an_answer_that_breaks_never_ends_cleanly_and_its_connection_is_not_used_again(
    front: Front, framing: str, body: bytes, closes: bool
) -> None:
    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        if len(it.requests) > 1:
            writer.write(ok(b"sound"))
            return
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        await writer.drain()
        await go_on.wait()
        writer.write(body)
        await writer.drain()
        if closes:
            writer.close()

    go_on = asyncio.Event()
    async with front(script) as (port, it):
        async with connected(port) as client:
            await client.send(request())
            assert (await read_head(client.reader)).status == 200
            go_on.set()
            rest = await client.rest()
            assert not rest.endswith(b"0\r\n\r\n") if framing == CHUNKED else len(rest) < 10
        assert (await ask(port, request())).body == b"sound"
    assert it.connections == 2


@pytest.mark.parametrize(("framing", "body", "closes"), [case for case in BROKEN if not case.values[2]])
async def test_an_answer_that_breaks_before_its_head_has_gone_out_is_a_502(
    front: Front, framing: str, body: bytes, closes: bool
) -> None:
    raw = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + body
    async with front(replies(raw, ok(b"sound"))) as (port, it), connected(port) as client:
        answer = await client.ask(request())
        assert (answer.status, b"Backend failed" in answer.body) == (502, True)
        assert (await client.ask(request())).body == b"sound"
    assert it.connections == 2


@pytest.mark.usefixtures("express_only")
async def test_an_http_1_0_client_may_keep_its_connection(front: Front) -> None:
    async with front(replies(ok(b"one"))) as (port, it), connected(port) as client:
        for _ in range(2):
            answer = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (answer.body, answer.value("connection")) == (b"one", b"keep-alive")
    assert it.connections == 1


@pytest.mark.usefixtures("express_only")
@pytest.mark.parametrize("framing", [CHUNKED, "X: ends by closing"])
async def test_an_http_1_0_client_sees_that_its_answer_broke(front: Front, framing: str) -> None:
    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        chunked = framing == CHUNKED
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + (b"5\r\nhello\r\n" if chunked else b"hello"))
        await writer.drain()
        await go_on.wait()
        if not chunked:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
        writer.close()

    go_on = asyncio.Event()
    async with front(script) as (port, _), connected(port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.reader.readuntil(b"hello")
        go_on.set()
        # The end of the connection is the end of the answer: it must not look like a clean one.
        assert await is_reset(client)


# Creates that are cut off.


async def test_creates_that_are_cut_off_leave_a_bounded_number_of_claims_and_reads_go_on(door: str) -> None:
    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.add(message.value("x-number"))
        if message.start.startswith(b"POST"):
            await reader.read()
        else:
            writer.write(ok(b"read"))

    arrived: set[bytes | None] = set()

    shared = SharedRedis(None)
    async with origin(script, reads_body=False) as it:  # noqa: SIM117
        async with distributers(door, shared.settings([it.port]), shared, 1) as (port,), shared.client() as redis:

            async def create_and_leave(number: int) -> None:
                async with connected(port) as client:
                    head = request("POST", "/items/?item_id=7", "Content-Length: 50", f"X-Number: {number}")
                    await client.send(head + b"{")
                    await until(lambda: b"%d" % number in arrived, "it has reached the backend")
                    client.leave()

            async def claims() -> int:
                text = await redis.hget("distributer:claims", "7")
                entry = decode(text.decode() if isinstance(text, bytes) else text)
                return 0 if entry is None else len(entry.claims)

            for first in range(0, MAX_CLAIMS, 32):
                await asyncio.gather(*(create_and_leave(first + more) for more in range(32)))

            async def are_full() -> bool:
                return await claims() == MAX_CLAIMS

            await wait_until_async(are_full, "each has left its claim")
            answer = await ask(port, request("POST", "/items/?item_id=7", body=b"{}"))
            assert answer.status == 503
            assert answer.value("retry-after") is not None
            assert b"Item busy" in answer.body
            assert await claims() == MAX_CLAIMS
            assert (await ask(port, request("GET", "/items/7"))).body == b"read"


# The log.


async def test_what_a_client_is_refused_is_in_the_log_with_its_reason(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "distributer.requests"):
        async with front(replies(b"nonsense\r\n\r\n"), max_body_bytes=5) as (port, _):
            await ask(port, request("POST", "/large", body=b"123456"))
            await ask(port, request("GET", "/broken"))
            await ask(port, request("GET", "/ambiguous", "Host: another"))
    lines = [
        (it.getMessage().partition(":")[0], vars(it)["status"], vars(it).get("target"), vars(it)["client"])
        for it in caplog.records
        if it.name == "distributer.requests"
    ]
    assert lines == [
        ("refused", 413, "/large", "127.0.0.1"),
        ("failed", 502, "/broken", "127.0.0.1"),
        ("refused", 400, None, "127.0.0.1"),
    ]


# Trailers.


async def test_trailers_reach_the_backend_without_those_that_would_do_harm(front: Front, door: str) -> None:
    if door == "asgi":
        pytest.skip("ASGI does not carry them")
    seen: list[bytes] = []

    async def script(_head: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ok())

    async with front(script, reads_body=False) as (port, _):
        body = b"0\r\nX-Sum: 7\r\nHost: evil\r\nX-Forwarded-For: 6\r\n\r\n"
        assert (await ask(port, request("POST", "/", "Transfer-Encoding: chunked") + body)).status == 200
    assert seen == [b"0\r\nX-Sum: 7\r\n\r\n"]


@pytest.mark.parametrize("takes", [True, False])
async def test_trailers_reach_the_client_that_takes_them(front: Front, door: str, takes: bool) -> None:
    if door == "asgi":
        pytest.skip("the ASGI server frames the answer, and uvicorn's sends no trailers")
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    body = b"2\r\nhi\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a\r\n\r\n"
    async with front(replies(head + body)) as (port, it), connected(port) as client:
        await client.send(request("GET", "/", *(["TE: trailers", "Connection: TE"] if takes else [])))
        raw = b""
        while not raw.endswith(b"\r\n\r\n") or b"0\r\n" not in raw:
            raw += await client.reader.read(1000)
    assert raw.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n" if takes else b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert it.requests[0].values("te") == ([b"trailers"] if takes else [])


# Fairness.


async def test_many_small_chunks_reach_the_backend_whole_and_requests_behind_them_are_answered(front: Front) -> None:
    content = bytes(range(256)) * 100
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    async with front(replies(ok())) as (port, it), connected(port) as client:
        await client.send(request("POST", "/", "Transfer-Encoding: chunked") + chunks + request("GET", "/next"))
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert it.requests[0].body == content
    assert it.requests[1].start == b"GET /next HTTP/1.1"


async def test_many_small_chunks_reach_the_client_whole(front: Front) -> None:
    content = bytes(range(256)) * 100
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with front(replies(head + chunks)) as (port, it), connected(port) as client:
        for _ in range(2):
            assert (await client.ask(request())).body == content
        assert it.connections == 1

"""What a backend is told about the client, and a client about the way of its request: over both doors."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from distributer import DistributerMiddleware, Settings, replica
from distributer.doors.asgi import lifespan_only
from distributer.doors.express import ExpressProtocol
from tests.conformance.conftest import Front
from tests.support.cluster import SharedRedis, distributers, served, served_on
from tests.support.raw import Message, Origin, ask, connected, ok, origin, read_message, replies, request

LIES = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: bank",
    "Forwarded: for=6.6.6.6;proto=https",
    "X-Real-IP: 6.6.6.6",
    "X_Forwarded_For: 6.6.6.6",
)
TOLD = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "x-real-ip",
    "x_forwarded_for",
    "via",
)


def told(message: Message) -> dict[str, bytes]:
    """List what a backend was told, each field once."""
    fields = {name: message.value(name) for name in TOLD}
    return {name: value for name, value in fields.items() if value is not None}


def problem(message: Message) -> dict[str, Any]:
    assert message.value("content-type") == b"application/problem+json"
    text: dict[str, Any] = json.loads(message.body)
    return text


# Anybody.


async def test_a_client_cannot_lie_about_where_it_comes_from(front: Front) -> None:
    async with front(replies(ok())) as (port, it):
        await ask(port, request("GET", "/", *LIES))
        await ask(port, request())
    expected = {
        "x-forwarded-for": b"127.0.0.1",
        "x-forwarded-proto": b"http",
        "x-forwarded-host": b"test",
        "via": b"1.1 distributer",
    }
    assert [told(message) for message in it.requests] == [expected, expected]


async def test_via_keeps_whoever_passed_the_request_on_and_takes_the_name_that_is_set(front: Front) -> None:
    async with front(replies(ok()), via_name="edge") as (port, it):
        answer = await ask(port, request("GET", "/", "Via: 1.0 a (old)", "Via: odd, HTTP/1.1 b:80"))
    assert it.requests[0].value("via") == b"1.0 a, HTTP/1.1 b:80, 1.1 edge"
    assert answer.value("via") is None


async def test_forwarded_is_told_if_the_settings_want_it(front: Front) -> None:
    async with front(replies(ok()), forwarded_header=True) as (port, it):
        await ask(port, request("GET", "/", *LIES))
    assert it.requests[0].value("forwarded") == b"for=127.0.0.1;host=test;proto=http"


async def test_an_http_1_0_request_without_a_host_asks_for_none(front: Front) -> None:
    async with front(replies(ok())) as (port, it), connected(port) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        await client.rest()
    sent = it.requests[0]
    assert sent.value("host") == f"127.0.0.1:{it.port}".encode()
    assert sent.values("x-forwarded-host") == []
    assert sent.value("via") == b"1.0 distributer"


async def test_host_may_be_the_backends_own(front: Front) -> None:
    async with front(replies(ok()), host_header="backend") as (port, it):
        await ask(port, request("GET", "/", "X-Host: a"))
        await ask(port, b"GET / HTTP/1.1\r\nhost: shop.example:8080\r\n\r\n")
    own = f"127.0.0.1:{it.port}".encode()
    assert [message.value("host") for message in it.requests] == [own, own]
    assert [message.value("x-forwarded-host") for message in it.requests] == [b"test", b"shop.example:8080"]
    assert it.requests[0].value("x-host") == b"a"


# A trusted proxy.


async def test_a_trusted_proxy_speaks_for_its_clients(front: Front) -> None:
    said = [
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-For: 192.0.2.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: www.example",
        "X-Real-IP: 192.0.2.9",
        'Forwarded: for="[2001:db8::1]:80";proto=https',
        "X_Forwarded_For: 6.6.6.6",
    ]
    proxies = ("192.0.2.1", "127.0.0.0/8")
    async with front(replies(ok()), trusted_proxies=proxies, forwarded_header=True) as (port, it):
        await ask(port, request("GET", "/", *said))
        await ask(port, request())
    first, second = it.requests
    assert told(first) == {
        "x-forwarded-for": b"6.6.6.6, 192.0.2.9, 127.0.0.1",
        "x-forwarded-proto": b"https",
        "x-forwarded-host": b"www.example",
        "x-real-ip": b"192.0.2.9",
        "forwarded": b'for="[2001:db8::1]:80";proto=https, for=127.0.0.1;host=test;proto=http',
        "via": b"1.1 distributer",
    }
    assert told(second) == {
        "x-forwarded-for": b"127.0.0.1",
        "x-forwarded-proto": b"http",
        "x-forwarded-host": b"test",
        "forwarded": b"for=127.0.0.1;host=test;proto=http",
        "via": b"1.1 distributer",
    }


async def test_the_access_log_names_the_client_that_a_trusted_proxy_names(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "distributer.access")
    async with front(replies(ok()), trusted_proxies=("127.0.0.1",), access_log=True) as (port, it):
        await ask(port, request("GET", "/", "X-Forwarded-For: 6.6.6.6, 192.0.2.9"))
        await ask(port, request("GET", "/", "X-Forwarded-For: 6.6.6.6, <b>"))
    where = f"127.0.0.1:{it.port} rotation ticket"
    assert caplog.messages == [f"192.0.2.9 GET / 200 → {where} 1", f"127.0.0.1 GET / 200 → {where} 2"]


async def test_what_is_malformed_in_its_word_is_left_out_and_never_an_error(front: Front) -> None:
    sayings = [
        (["X-Forwarded-For: 6.6.6.6, <b>, 192.0.2.9", "X-Forwarded-Proto: gopher"], b"192.0.2.9, 127.0.0.1"),
        (["X-Forwarded-For: unix:", "X-Forwarded-Host: a b"], b"127.0.0.1"),
        (["X-Forwarded-For:", "X-Forwarded-Proto: https, http"], b"127.0.0.1"),
        (
            ["X-Forwarded-For: " + "1.1.1.1, " * 2_000 + "\xe9", "X-Forwarded-Host: a", "X-Forwarded-Host: b"],
            b"127.0.0.1",
        ),
        (["X-Forwarded-For: " + ", ".join(["1.1.1.1"] * 2_000)], b"1.1.1.1, " * 64 + b"127.0.0.1"),
        (['Forwarded: for="6.6.6.6', "Forwarded: " + '"' * 9_999, "Via: " + "(" * 9_999], b"127.0.0.1"),
    ]
    async with front(replies(ok()), trusted_proxies=("127.0.0.1",), forwarded_header=True) as (port, it):
        for said, _ in sayings:
            assert (await ask(port, request("GET", "/", *said))).status == 200
    for message, (_, chain) in zip(it.requests, sayings, strict=True):
        assert message.value("x-forwarded-for") == chain
        assert message.value("x-forwarded-proto") == b"http"
        assert message.value("x-forwarded-host") == b"test"
        assert (message.value("forwarded") or b"").endswith(b"for=127.0.0.1;host=test;proto=http")
        assert message.value("via") == b"1.1 distributer"


async def test_another_peer_than_those_that_are_trusted_is_anybody(front: Front) -> None:
    async with front(replies(ok()), trusted_proxies=("192.0.2.0/24", "unix", "::1")) as (port, it):
        await ask(port, request("GET", "/", *LIES))
    assert told(it.requests[0])["x-forwarded-for"] == b"127.0.0.1"
    assert told(it.requests[0])["x-forwarded-proto"] == b"http"


@pytest.mark.parametrize(
    ("trusted", "chain", "proto"), [((), b"unknown", b"http"), (("unix",), b"192.0.2.9", b"https")]
)
async def test_the_peers_of_a_unix_socket_are_trusted_together(
    door: str, tmp_path: Path, trusted: tuple[str, ...], chain: bytes, proto: bytes
) -> None:
    path = str(tmp_path / "d.sock")
    http: Any = ExpressProtocol if door == "express" else "httptools"
    shared = SharedRedis(None)
    async with origin(replies(ok())) as it:
        settings = shared.settings([it.port], trusted_proxies=trusted)
        app = DistributerMiddleware(lifespan_only, replica(settings, shared.new_client()))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            async with served_on([sock], [app], http=http, lifespan="on"):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(request("GET", "/", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https"))
                assert (await read_message(reader)).status == 200
                writer.close()
    assert it.requests[0].value("x-forwarded-for") == chain
    assert it.requests[0].value("x-forwarded-proto") == proto


# Servers that write over the scope.


@asynccontextmanager
async def asgi_door(it: Origin, wrap: Any = None, **settings: Any) -> AsyncIterator[int]:
    """Open the ASGI door as `uvicorn distributer.app:app` does: uvicorn believes X-Forwarded-* from 127.0.0.1."""
    shared = SharedRedis(None)
    app: Any = DistributerMiddleware(
        lifespan_only, replica(shared.settings([it.port], **settings), shared.new_client())
    )
    app = wrap(app) if wrap is not None else app
    async with served(app, http="httptools", lifespan="on", proxy_headers=True, forwarded_allow_ips="*") as (port,):
        yield port


async def test_uvicorns_own_trust_lets_no_lie_through() -> None:
    async with origin(replies(ok())) as it, asgi_door(it) as port:
        await ask(port, request("GET", "/", *LIES))
        await ask(port, request("GET", "/", "X-Forwarded-For: 6.6.6.6:80"))
        await ask(port, request("GET", "/", "X-Forwarded-Proto: https"))
    assert {message.value("x-forwarded-for") for message in it.requests} == {b"127.0.0.1"}
    assert {message.value("x-forwarded-proto") for message in it.requests} == {b"http"}


async def test_nor_does_it_hide_a_trusted_proxy() -> None:
    async with origin(replies(ok())) as it, asgi_door(it, trusted_proxies=("127.0.0.1",)) as port:
        await ask(port, request("GET", "/", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https"))
    assert it.requests[0].value("x-forwarded-for") == b"192.0.2.9, 127.0.0.1"
    assert it.requests[0].value("x-forwarded-proto") == b"https"


async def test_behind_middleware_that_hides_the_connection_no_lie_gets_through_either() -> None:
    def wrap(app: Any) -> Any:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            async def receive_on() -> Any:
                return await receive()

            await app(scope, receive_on, send)

        return wrapped

    async with origin(replies(ok())) as it, asgi_door(it, wrap, trusted_proxies=("6.6.6.6", "127.0.0.1")) as port:
        await ask(port, request("GET", "/", *LIES))
    assert it.requests[0].value("x-forwarded-for") == b"unknown"
    assert it.requests[0].value("x-forwarded-proto") == b"http"


# Loops.


async def test_a_request_that_goes_in_a_circle_ends(front: Front) -> None:
    ports: list[int] = []

    async def pass_on(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        """Be a proxy that sends everything back to where it came from."""
        lines = [b"%b: %b" % field for field in message.headers]
        answer = await ask(ports[0], b"\r\n".join([message.start, *lines, b"", b""]))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (answer.status, len(answer.body), answer.body))

    async with front(pass_on) as (port, it):
        ports.append(port)
        answer = await ask(port, request())
    assert answer.status == 508
    assert json.loads(answer.body)["title"] == "Loop detected"
    assert len(it.requests) == 10


# What a client is told.


async def test_a_client_is_told_the_way_of_its_request_if_the_settings_want_it(front: Front) -> None:
    lies = ["X-Distributer-Backend: http://a:1", "x-distributer-route: sticky", "X-DISTRIBUTER-TICKET: 99"]
    async with front(replies(ok(b"ok", *lies)), routing_headers=True) as (port, it):
        rotated = await ask(port, request())
        sticky = await ask(port, request("GET", "/items/7"))
    assert rotated.value("x-distributer-backend") == f"http://127.0.0.1:{it.port}".encode()
    assert rotated.value("x-distributer-route") == b"rotation"
    assert rotated.value("x-distributer-ticket") == b"1"
    assert sticky.value("x-distributer-ticket") == b"2", "an unbound item goes round"


async def test_with_the_setting_off_such_fields_are_the_backends_own(front: Front) -> None:
    async with front(replies(ok(b"ok", "X-Distributer-Route: sticky"))) as (port, _):
        answer = await ask(port, request())
    assert answer.value("x-distributer-route") == b"sticky"
    assert answer.value("x-distributer-backend") is None


async def test_an_error_tells_the_way_too_and_which_request_it_was(front: Front) -> None:
    async with front(replies(b"garbage\r\n\r\n"), routing_headers=True) as (port, it):
        answer = await ask(port, request("GET", "/", "X-Request-ID: abc-1"))
        made = await ask(port, request())
    assert answer.status == 502
    assert answer.value("x-request-id") == b"abc-1"
    assert problem(answer)["request_id"] == "abc-1"
    assert made.value("x-request-id") == problem(made)["request_id"].encode()
    assert answer.value("x-distributer-backend") == f"http://127.0.0.1:{it.port}".encode()
    assert answer.value("x-distributer-route") == b"rotation"
    assert answer.value("x-distributer-ticket") == b"1"


async def test_an_error_with_the_setting_off_or_before_a_way_was_chosen_tells_none(door: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        shared = SharedRedis(None)
        settings: Settings = shared.settings([closed.getsockname()[1]])
        async with distributers(door, settings, shared, 1) as (port,):
            answer = await ask(port, request())
            looping = await ask(port, request("GET", "/", *["Via: 1.1 distributer"] * 10))
    assert (answer.status, looping.status) == (503, 508)
    for message in (answer, looping):
        assert message.value("x-request-id")
        assert [name for name, _ in message.headers if name.lower().startswith(b"x-distributer")] == []

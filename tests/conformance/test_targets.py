"""Methods and targets: any token, all forms of RFC 9112 section 3.2, and what is neither, over both doors.

Behind the ASGI door the server reads the request line; uvicorn's parser knows a list of methods, and hands on of an
absolute target its path and query only. Cases that it decides are skipped there, by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import DOORS, SharedRedis, distributers
from tests.support.raw import Message, Origin, ask, connected, ok, origin, replies, request

# One door and one origin for all cases: they are many, and leave nothing behind.
pytestmark = pytest.mark.asyncio(loop_scope="module")

BY_SERVER = "the ASGI server decides: "


class Site:
    """A door in front of an origin."""

    def __init__(self, door: str, port: int, it: Origin) -> None:
        self.door = door
        self.port = port
        self._origin = it

    def take(self) -> list[Message]:
        """Take what the origin got since the last time."""
        taken, self._origin.requests = self._origin.requests, []
        return taken

    async def sent_for(self, raw: bytes) -> tuple[Message, list[Message]]:
        """Send a request on a connection of its own: the answer, and what the origin got."""
        return await ask(self.port, raw), self.take()

    def foresee(self, by_server: str) -> None:
        """Leave out a case that is not ours to decide behind an ASGI server."""
        if self.door == "asgi" and by_server:
            pytest.skip(BY_SERVER + by_server)


@pytest_asyncio.fixture(params=DOORS, scope="module", loop_scope="module")
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    shared = SharedRedis(None)
    async with origin(replies(ok())) as it:
        settings = shared.settings([it.port], routing_headers=True)
        async with distributers(request.param, settings, shared, 1) as (port,):
            yield Site(request.param, port, it)


@pytest.fixture
def site(opened: Site) -> Site:
    opened.take()
    return opened


def line(start: bytes, *fields: bytes) -> bytes:
    """Make a request of a start line that may be anything."""
    return b"\r\n".join([start, b"Host: test", *fields, b"", b""])


# Methods.

LISTED = "httptools knows a list of methods"
METHODS = [
    ("PROPFIND", ""),
    ("M-SEARCH", ""),
    ("QUERY", ""),
    ("FOO", LISTED),
    ("get", LISTED),
    ("Patch", LISTED),
    ("!#$%&'*+-.^_`|~9", LISTED),
]


@pytest.mark.parametrize(("method", "by_server"), METHODS)
async def test_any_token_is_a_method_and_case_counts(site: Site, method: str, by_server: str) -> None:
    site.foresee(by_server)
    start = f"{method} /a HTTP/1.1".encode()
    answer, sent = await site.sent_for(line(start, b"Content-Length: 0"))
    assert answer.status == 200
    assert [message.start for message in sent] == [start]


async def test_a_lower_case_delete_deletes_nothing(site: Site) -> None:
    site.foresee(LISTED)
    answer, _ = await site.sent_for(line(b"delete /items/7 HTTP/1.1"))
    assert answer.value("x-distributer-route") == b"rotation", "an unbound item's request takes no claim"


@pytest.mark.parametrize(
    "method", [b"G T", b"G\x00T", b"G(T", b"G\xe9T", b"G,T", b"", b'"GET"', b"GET\t", b"\xef\xbb\xbfGET"]
)
async def test_what_is_no_token_is_no_method(site: Site, method: bytes) -> None:
    answer, sent = await site.sent_for(line(method + b" / HTTP/1.1"))
    assert (answer.status, sent) == (400, [])


# Absolute targets (RFC 9112 section 3.2.2).

PATH_ONLY = "it hands on the path alone, and refuses a target without one"
ABSOLUTE = [
    # target -> sent on, and to which host
    (b"http://shop.example/a?b", b"/a?b", b"shop.example", ""),
    (b"HTTP://shop.example:8080/a/../b", b"/a/../b", b"shop.example:8080", ""),
    (b"http://[::1]:80/%7e", b"/%7e", b"[::1]:80", ""),
    (b"http://shop.example//a", b"//a", b"shop.example", ""),
    (b"http://shop.example/http://other/", b"/http://other/", b"shop.example", ""),
    (b"http://shop.example/", b"/", b"shop.example", ""),
    (b"http://shop.example", b"/", b"shop.example", PATH_ONLY),
    (b"http://shop.example?x=/y", b"/?x=/y", b"shop.example", PATH_ONLY),
]


@pytest.mark.parametrize(("target", "path", "host", "by_server"), ABSOLUTE)
async def test_an_absolute_target_is_sent_on_as_its_path_and_its_host(
    site: Site, target: bytes, path: bytes, host: bytes, by_server: str
) -> None:
    site.foresee(by_server)
    answer, sent = await site.sent_for(line(b"GET " + target + b" HTTP/1.1"))
    assert answer.status == 200
    (message,) = sent
    assert message.start == b"GET " + path + b" HTTP/1.1"
    # The target's counts, whatever Host says; ASGI does not carry it.
    expected = host if site.door == "express" else b"test"
    assert message.value("host") == message.value("x-forwarded-host") == expected


async def test_an_absolute_target_needs_no_host_in_http_1_0(site: Site) -> None:
    site.foresee("ASGI does not carry a target's host")
    async with connected(site.port) as client:
        await client.send(b"GET http://shop.example/a HTTP/1.0\r\n\r\n")
        await client.rest()
    (message,) = site.take()
    assert message.start == b"GET /a HTTP/1.1"
    assert message.value("host") == message.value("x-forwarded-host") == b"shop.example"


async def test_but_in_http_1_1_it_does(site: Site) -> None:
    answer, sent = await site.sent_for(b"GET http://shop.example/a HTTP/1.1\r\n\r\n")
    assert (answer.status, sent) == (400, [])


async def test_an_absolute_target_is_routed_by_its_path(site: Site) -> None:
    answers = [
        await ask(site.port, raw)
        for raw in (
            line(b"POST http://shop.example/items/?item_id=7 HTTP/1.1", b"Content-Length: 0"),
            line(b"GET http://shop.example/items/7 HTTP/1.1"),
            line(b"GET HTTP://other.example:8080/items/%37?x HTTP/1.1"),
            request("GET", "/items/007"),
            line(b"GET http://shop.example/a?/items/7 HTTP/1.1"),
            line(b"DELETE http://shop.example/items/7 HTTP/1.1"),
        )
    ]
    routes = [answer.value("x-distributer-route") for answer in answers]
    assert routes == [b"create", b"sticky", b"sticky", b"sticky", b"rotation", b"delete"]


# OPTIONS of the server as a whole (RFC 9112 section 3.2.4).


async def test_options_of_the_server_as_a_whole_is_sent_on(site: Site) -> None:
    answer, sent = await site.sent_for(line(b"OPTIONS * HTTP/1.1"))
    assert answer.value("x-distributer-route") == b"rotation"
    assert [message.start for message in sent] == [b"OPTIONS * HTTP/1.1"]


@pytest.mark.parametrize(
    ("target", "sent_on", "by_server"),
    [
        (b"http://shop.example", b"*", PATH_ONLY),
        (b"http://shop.example:8080", b"*", PATH_ONLY),
        (b"http://shop.example/", b"/", ""),
        (b"http://shop.example?x", b"/?x", PATH_ONLY),
    ],
)
async def test_options_of_an_absolute_target_without_a_path_is_of_the_server_as_a_whole(
    site: Site, target: bytes, sent_on: bytes, by_server: str
) -> None:
    site.foresee(by_server)
    _, sent = await site.sent_for(line(b"OPTIONS " + target + b" HTTP/1.1"))
    assert [message.start for message in sent] == [b"OPTIONS " + sent_on + b" HTTP/1.1"]


# What is no target.

TAKEN = "httptools takes it"
DROPPED = "it leaves out what is no path"
BAD = [
    # start line; what the ASGI server decides
    (b"GET /a b HTTP/1.1", ""),
    (b"GET /a\tb HTTP/1.1", ""),
    (b"GET /a\x01b HTTP/1.1", ""),
    (b"GET /a\x00b HTTP/1.1", ""),
    (b"GET /a\x1fb HTTP/1.1", ""),
    (b"GET /a\x7fb HTTP/1.1", ""),
    (b"GET /a\rb HTTP/1.1", ""),
    (b"GET /\xc3\xa9 HTTP/1.1", ""),
    (b"GET /?\xff HTTP/1.1", ""),
    (b"GET /a#b HTTP/1.1", DROPPED),
    (b"GET http://shop.example/a#b HTTP/1.1", DROPPED),
    (b"GET a HTTP/1.1", ""),
    (b"GET items/7 HTTP/1.1", ""),
    (b"GET ?x HTTP/1.1", ""),
    (b"GET shop.example:80 HTTP/1.1", ""),
    (b"GET * HTTP/1.1", "it hands on any path"),
    (b"OPTIONS *a HTTP/1.1", "it hands on any path"),
    (b"GET http:///a HTTP/1.1", ""),
    (b"GET http://:80/a HTTP/1.1", ""),
    (b"GET http:/a HTTP/1.1", ""),
    (b"GET http://user@shop.example/a HTTP/1.1", PATH_ONLY),
    (b"GET http://shop.example:port/a HTTP/1.1", ""),
    (b"GET http://[::1/a HTTP/1.1", ""),
    (b"GET ftp://shop.example/a HTTP/1.1", PATH_ONLY),
    (b"GET  / HTTP/1.1", TAKEN),
    (b"GET /  HTTP/1.1", TAKEN),
    (b"GET / HTTP/1.1 ", ""),
    (b" GET / HTTP/1.1", ""),
    (b"GET  HTTP/1.1", ""),
    (b"GET HTTP/1.1", ""),
    (b"GET / http/1.1", ""),
    (b"GET / HTTP/1,1", ""),
    (b"GET / HTTP/11", ""),
    (b"GET / ICY/1.1", ""),
]


@pytest.mark.parametrize(("start", "by_server"), BAD)
async def test_a_bad_request_line_is_refused_and_nothing_is_sent_on(site: Site, start: bytes, by_server: str) -> None:
    site.foresee(by_server)
    async with connected(site.port) as client:
        answer = await client.ask(line(start))
        assert answer.status == 400
        assert answer.value("connection") == b"close"
        assert await client.rest() == b"", "closed"
    assert site.take() == []


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/0.9", b"GET / HTTP/2.0", b"GET / HTTP/3.0"])
async def test_another_version_is_not_supported(site: Site, start: bytes) -> None:
    answer, sent = await site.sent_for(line(start))
    assert answer.status in (400, 505)
    assert sent == []


async def test_a_long_target_is_sent_on_and_one_that_is_too_long_refused(site: Site) -> None:
    site.foresee("it has bounds of its own")
    long = b"GET /" + b"a" * 7_999  # RFC 9112 section 3: such a line at least
    assert (await ask(site.port, line(long + b" HTTP/1.1"))).status == 200
    assert (await ask(site.port, line(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"))).status == 414
    assert [message.start for message in site.take()] == [long + b" HTTP/1.1"]

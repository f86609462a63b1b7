"""Bytes to events: the same ones however the bytes are split, or one error and never another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distributer.errors import ClientError
from distributer.wire.body import MAX_CHUNKS_AT_ONCE
from distributer.wire.fields import Framing
from distributer.wire.parser import HEAD_LIMITS, MAX_INTERIM, RESPONSE_LIMITS, HeadLimits, RequestParser, ResponseParser
from distributer.wire.request import RequestHead
from distributer.wire.response import ResponseHead

Event = tuple[Any, ...]
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
CHUNKED_REQUEST = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_RESPONSE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b"5\r\nhello\r\n0\r\n\r\n"
SEEN_GET = [("request", b"GET", b"/", b"Host: shop\r\n", Framing.NONE, 0), ("end",)]


class Sink:
    """Notes events; body bytes that follow each other are one."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def request_started(self, head: RequestHead) -> None:
        self.events.append(("request", head.method, head.target, head.section.lines, head.framing, head.content_length))

    def response_started(self, head: ResponseHead) -> None:
        self.events.append(("response", head.status, head.reason, head.headers, head.framing, head.content_length))

    def data(self, data: bytes) -> None:
        assert data
        if self.events and self.events[-1][0] == "data":
            data = self.events.pop()[1] + data
        self.events.append(("data", data))

    def finished(self) -> None:
        self.events.append(("end",))

    request_data = response_data = data
    request_finished = response_finished = finished


def requests(parts: Iterable[bytes]) -> list[Event]:
    """Parse what comes from a client; an error, and what is behind an upgrade, are the last event."""
    sink = Sink()
    parser = RequestParser(sink)
    behind: bytes | None = None
    try:
        for part in parts:
            if behind is not None:
                behind += part
            else:
                behind = parser.feed(part)
    except ClientError as error:
        sink.events.append(("refused", error.status))
    if behind is not None:
        sink.events.append(("behind", behind))
    return sink.events


def responses(parts: Iterable[bytes], *, answers_head: bool = False) -> list[Event]:
    """Parse what comes from a backend; an error, and what is behind a 101, are the last event."""
    sink = Sink()
    parser = ResponseParser(sink)
    parser.expect(answers_head=answers_head)
    behind: bytes | None = None
    try:
        for part in parts:
            if behind is not None:
                behind += part
            else:
                behind = parser.feed(part)
    except ValueError:
        sink.events.append(("refused",))
    if behind is not None:
        sink.events.append(("behind", behind))
    return sink.events


def expecting(sink: Sink) -> ResponseParser:
    parser = ResponseParser(sink)
    parser.expect(answers_head=False)
    return parser


def split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# However the bytes are split.

OFFERS_UPGRADE = (
    b"POST / HTTP/1.1\r\nHost: shop\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello"
)
REQUESTS = [
    GET,
    b"\r\nGET /items/%37?a=b=c HTTP/1.1\r\nHost:shop\r\nEmpty:\r\nBlank:  \r\nPad: \t a b \t\r\nX: 1\r\nx: 2\r\n\r\n",
    b"HEAD http://shop/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /items/?item_id=7 HTTP/1.1\r\nHost: shop\r\nContent-Length: 12\r\n\r\nGET / HTTP/1",
    b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nHost: shop\r\n\r\n5;a\r\nhello\r\n00A\r\n0123456789\r\n0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nTrailer: x\r\nEmpty:\r\n\r\n",
    OFFERS_UPGRADE,
    b"POST / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY,
    # The last of a connection.
    b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
    b"CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: shop\r\nHost: shop\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: +5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: shop\r\n\r\n",
    b"nonsense\r\n",
]
RESPONSES = [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nEmpty:\r\nBlank:  \r\nA: 1\r\na: 2\r\n\r\nHTTP/1.1 200",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 500 No \xe9\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nTrailer: x\r\nEmpty:\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    # The last of a connection.
    b"HTTP/1.1 200 OK\r\n\r\nuntil it closes",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"nonsense",
]
CUTS = st.lists(st.integers(0, 2_000), max_size=12)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4).map(b"".join), CUTS)
@example(OFFERS_UPGRADE + b"nonsense", [])
def test_requests_are_the_same_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    assert requests(cut(data, cuts)) == requests([data])


@given(st.lists(st.sampled_from(RESPONSES), min_size=1, max_size=4).map(b"".join), CUTS)
def test_responses_are_the_same_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    assert responses(cut(data, cuts)) == responses([data])


@pytest.mark.parametrize("data", REQUESTS, ids=lambda data: repr(data[:40]))
def test_requests_are_the_same_byte_by_byte(data: bytes) -> None:
    assert requests(split(data, 1)) == requests([data])


@pytest.mark.parametrize("data", RESPONSES, ids=lambda data: repr(data[:40]))
@pytest.mark.parametrize("answers_head", [False, True])
def test_responses_are_the_same_byte_by_byte(data: bytes, answers_head: bool) -> None:
    assert responses(split(data, 1), answers_head=answers_head) == responses([data], answers_head=answers_head)


# What the events say.


def test_a_head_is_told_as_it_came() -> None:
    data = b"GET /a%2Fb?c HTTP/1.1\r\nhOST: shop\r\nA:1\r\nB:\t2 \r\na: 3\r\n\r\n"
    fields = b"hOST: shop\r\nA:1\r\nB:\t2 \r\na: 3\r\n"
    assert requests([data]) == [("request", b"GET", b"/a%2Fb?c", fields, Framing.NONE, 0), ("end",)]


def test_requests_that_come_together_are_told_one_after_the_other() -> None:
    post = b"POST /b HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi"
    assert requests([GET + post + GET]) == [
        *SEEN_GET,
        ("request", b"POST", b"/b", b"Host: shop\r\nContent-Length: 2\r\n", Framing.LENGTH, 2),
        ("data", b"hi"),
        ("end",),
        *SEEN_GET,
    ]


def test_a_trailer_is_no_field_of_the_next_request() -> None:
    post = CHUNKED_REQUEST + b"1\r\na\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n"
    assert requests([post + GET]) == [
        ("request", b"POST", b"/", b"Host: shop\r\n", Framing.CHUNKED, 0),
        ("data", b"a"),
        ("end",),
        *SEEN_GET,
    ]


def test_a_good_request_before_a_bad_one_is_told() -> None:
    assert requests([GET + b"nonsense\r\n\r\n"]) == [*SEEN_GET, ("refused", 400)]


BAD_REQUESTS = [
    (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET /\r\n\r\n", 400),  # HTTP/0.9
    (b"GET / HTTP/1.1\nHost: shop\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\n\r\n", 400),
    (b"GET / HTTP/1.1\rHost: shop\r\n\r\n", 400),
    (b"GET / HTTP/0.9\r\nHost: shop\r\n\r\n", 505),
    (b"GET / HTTP/2.0\r\nHost: shop\r\n\r\n", 505),
    (b"GET / HTTP/1.1\r\nHost : shop\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n Host: shop\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\r\n c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\rc\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\r\nA: b\x00c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\r\nA\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\r\n: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: shop\r\nA b: c\r\n\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\nHost: shop\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: shop\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: -1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5, 5\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000000000000000000\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
]
BAD_CHUNKS = [
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"g\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\n0\n\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nab\r\n0\r\n\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"3;\nx\r\nabc\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\nabc",
]


@pytest.mark.parametrize(("data", "status"), BAD_REQUESTS, ids=repr)
def test_what_is_no_request_is_refused_before_any_of_it_is_told(data: bytes, status: int) -> None:
    assert requests([data]) == [("refused", status)]


@pytest.mark.parametrize("chunks", BAD_CHUNKS, ids=repr)
def test_bad_chunks_never_end_a_body(chunks: bytes) -> None:
    """So that nobody takes what came before them for a whole message."""
    *events, last = requests([CHUNKED_REQUEST + chunks])
    assert last == ("refused", 400)
    assert ("end",) not in events
    *events, last = responses([CHUNKED_RESPONSE + chunks])
    assert last == ("refused",)
    assert ("end",) not in events


LENGTHS = [b"5", b"0", b"05", b"5 \t", b"", b"5,5", b"\x0b5"]
CODINGS = [
    b"chunked",
    b"Chunked ",
    b"chunked\t",
    b"\x0bchunked",
    b"x, chunked",
    b"chunked, x",
    b"xchunked",
    b"",
    b"chunked,",
]
LENGTH_FIELDS = st.sampled_from(
    [
        *(b"Content-Length:\t" + length for length in LENGTHS),
        *(b"Transfer-Encoding:" + coding for coding in CODINGS),
        b"Content-Length : 5",
        b"Transfer_Encoding: chunked",
        b"Connection: close",
        b"Connection: upgrade",
        b"Upgrade: h2c",
    ]
)


def agree(started: Event, after: list[Event]) -> None:
    """What is forwarded is framed by the head; the parser must take the body so."""
    body = after.pop(0)[1] if after and after[0][0] == "data" else b""
    ends = bool(after) and after[0] == ("end",)
    *_, framing, length = started
    match framing:
        case Framing.NONE:
            assert (body, ends) == (b"", True)
        case Framing.LENGTH:
            assert (body, ends) == (BODY[:length], True)
        case Framing.CHUNKED:
            assert (body, ends) == (b"hello", True)
        case Framing.UNTIL_CLOSE:
            assert (body, ends) == (BODY, False)


@given(st.lists(LENGTH_FIELDS, max_size=3))
@example([b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 5"])
@example([b"Transfer-Encoding:chunked\t"])
def test_head_and_parser_agree_on_where_a_message_ends(fields: list[bytes]) -> None:
    lines = b"".join(field + b"\r\n" for field in fields)
    started, *after = requests([b"POST / HTTP/1.1\r\nHost: shop\r\n" + lines + b"\r\n" + BODY])
    if started[0] != "refused":
        agree(started, after)
    started, *after = responses([b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + BODY])
    if started[0] != "refused":
        agree(started, after)


# Many chunks.


@pytest.mark.parametrize("makes", ["a request", "an answer"])
def test_a_read_of_many_chunks_is_taken_in_parts(makes: str) -> None:
    sink = Sink()
    parser = RequestParser(sink) if makes == "a request" else expecting(sink)
    start = CHUNKED_REQUEST if makes == "a request" else CHUNKED_RESPONSE
    content = bytes(range(256)) * 8
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
    parser.feed(start + chunks[:-3])
    turns = 1
    while parser.has_more:
        assert len(sink.events[-1][1]) <= turns * MAX_CHUNKS_AT_ONCE
        parser.feed(b"")
        turns += 1
    assert turns == len(content) // MAX_CHUNKS_AT_ONCE
    parser.feed(chunks[-3:] + b"0\r\n\r\n")
    assert not parser.has_more
    assert sink.events[1:] == [("data", content), ("end",)]


# Upgrades.


def test_what_follows_an_upgrade_is_handed_back() -> None:
    data = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert requests([data]) == [*SEEN_GET, ("behind", b"")]
    assert requests([data + b"\x81\x00"]) == [*SEEN_GET, ("behind", b"\x81\x00")]


@pytest.mark.parametrize(
    ("length", "body"),
    [(b"Content-Length: 5", b"hello"), (b"Transfer-Encoding: chunked", BODY)],
    ids=["length", "chunked"],
)
def test_a_request_that_offers_an_upgrade_keeps_its_body(length: bytes, body: bytes) -> None:
    """Java's client offers h2c with its first request, whatever that is."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAE\r\n"
    data = b"POST / HTTP/1.1\r\nHost: shop\r\n%b%b\r\n\r\n%b" % (offer, length, body)
    started, *rest = requests([data + GET])
    assert started[:3] == ("request", b"POST", b"/")
    assert rest == [("data", b"hello"), ("end",), *SEEN_GET]


# Answers to HEAD.


def test_an_answer_to_head_has_no_body_and_another_follows_on_the_same_connection() -> None:
    sink = Sink()
    parser = ResponseParser(sink)
    for length in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"", b"Content-Length: 0\r\n"):
        parser.expect(answers_head=True)
        parser.feed(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        assert [event[0] for event in sink.events] == ["response", "end"]
        parser.expect(answers_head=False)
        parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        assert [event[0] for event in sink.events] == ["response", "end", "response", "data", "end"]
        sink.events.clear()


def test_interim_answers_to_head_are_told_before_the_answer() -> None:
    data = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    events = responses([data], answers_head=True)
    assert [event[:2] for event in events] == [("response", 103), ("response", 200), ("end",)]


@pytest.mark.parametrize(
    ("length", "behind"),
    [
        (b"Content-Length: 5\r\n", b"h"),
        (b"Content-Length: 5\r\n", b"hello"),
        (b"", b"h"),
        (b"Transfer-Encoding: chunked\r\n", b"5"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"Content-Length: 0\r\n", b"HTTP"),
        (b"Content-Length: 0\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_a_connection_with_anything_behind_an_answer_to_head_is_of_no_more_use(length: bytes, behind: bytes) -> None:
    sink = Sink()
    parser = ResponseParser(sink)
    parser.expect(answers_head=True)
    with pytest.raises(ValueError, match="something follows"):
        parser.feed(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + behind)
    assert [event[0] for event in sink.events] == ["response", "end"]


@pytest.mark.parametrize("behind", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_connection_with_anything_behind_an_answer_is_of_no_more_use(start: bytes, behind: bytes) -> None:
    events = responses([b"HTTP/1.1 200 OK\r\n" + start + behind])
    assert [event[0] for event in events] == ["response", "end", "refused"]


def test_a_backend_cannot_announce_an_answer_for_ever() -> None:
    events = responses([b"HTTP/1.1 100 Continue\r\n\r\n"] * (MAX_INTERIM + 1))
    assert [event[0] for event in events] == ["response"] * MAX_INTERIM + ["refused"]


# What is remembered of the message before.


def test_what_is_remembered_of_one_request_does_not_stick_to_the_next() -> None:
    heads = [
        (b"HTTP/1.1", b"Host: shop\r\n"),
        (b"HTTP/1.1", b"Host: shop\r\n"),
        (b"HTTP/1.0", b"Host: shop\r\n"),
        (b"HTTP/1.1", b"Host: shop\r\nConnection: close\r\n"),
        (b"HTTP/1.1", b"Host: bank\r\n"),
        (b"HTTP/1.0", b""),
    ]
    together = [b"GET /%d %b\r\n%b\r\n" % (number, *head) for number, head in enumerate(heads)]
    sink = Keeping()
    parser = RequestParser(sink)
    for request in together:
        parser.feed(request)
    alone = Keeping()
    for request in together:
        RequestParser(alone).feed(request)
    assert [said(head) for head in sink.heads] == [said(head) for head in alone.heads]


class Keeping(Sink):
    """Keeps the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[RequestHead] = []

    def request_started(self, head: RequestHead) -> None:
        self.heads.append(head)


def said(head: RequestHead) -> tuple[Any, ...]:
    return head.target, head.section.lines, head.host, head.is_http11, head.keep_alive


def test_what_is_remembered_of_one_answer_does_not_stick_to_the_next() -> None:
    sink = Sink()
    parser = ResponseParser(sink)
    length = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    for answers_head, data in [(False, length + b"a"), (True, length), (True, length), (False, length + b"b")]:
        parser.expect(answers_head=answers_head)
        parser.feed(data)
    assert [event[0] for event in sink.events] == [
        *("response", "data", "end"),
        *("response", "end"),
        *("response", "end"),
        *("response", "data", "end"),
    ]


# Trailers.


def test_trailers_are_told_with_the_end_without_those_that_would_do_harm() -> None:
    class Trailing(Sink):
        def finished(self) -> None:
            self.events.append(("end", parser.trailers))

        request_finished = finished

    sink = Trailing()
    parser = RequestParser(sink)
    end = b"0\r\nX-Sum: 1\r\ncontent-LENGTH: 5\r\nHost: x\r\nX-Sum:2\r\n\r\n"
    for part in split(CHUNKED_REQUEST + end + GET, 1):
        parser.feed(part)
    assert [event for event in sink.events if event[0] == "end"] == [
        ("end", b"X-Sum: 1\r\nX-Sum:2\r\n"),
        ("end", b""),
    ]


# Bounds.

REQUEST_LINE = b"GET / HTTP/1.1\r\nHost: shop\r\n"
ENDLESS_REQUESTS = {
    "target": (b"GET /", b"x"),
    "query": (b"GET /?", b"x"),
    "field name": (REQUEST_LINE, b"x"),
    "field value": (REQUEST_LINE + b"A: ", b"x"),
    "white space": (REQUEST_LINE + b"A:", b" "),
    "fields": (REQUEST_LINE, b"A: b\r\n"),
    "empty lines": (b"", b"\r\n"),
    "chunk extension": (CHUNKED_REQUEST + b"1;", b"x"),
    "trailer value": (CHUNKED_REQUEST + b"0\r\nA: ", b"x"),
    "trailers": (CHUNKED_REQUEST + b"0\r\n", b"A: b\r\n"),
}
ENDLESS_RESPONSES = {
    "reason": (b"HTTP/1.1 200 ", b"x"),
    "field name": (b"HTTP/1.1 200 OK\r\n", b"x"),
    "field value": (b"HTTP/1.1 200 OK\r\nA: ", b"x"),
    "fields": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "empty lines": (b"", b"\r\n"),
    "chunk extension": (CHUNKED_RESPONSE + b"1;", b"x"),
    "trailer value": (CHUNKED_RESPONSE + b"0\r\nA: ", b"x"),
    "trailers": (CHUNKED_RESPONSE + b"0\r\n", b"A: b\r\n"),
}


def feed_without_end(feed: Callable[[bytes], Any], start: bytes, more: bytes) -> None:
    """Feed up to twice the bound, a network packet at a time."""
    feed(start)
    packet = more * (1_200 // len(more))
    for _ in range(2 * RESPONSE_LIMITS.max_head_bytes // len(packet)):
        feed(packet)


@pytest.mark.parametrize("start_and_more", ENDLESS_REQUESTS.values(), ids=ENDLESS_REQUESTS)
def test_a_client_that_never_comes_to_the_point_is_refused(start_and_more: tuple[bytes, bytes]) -> None:
    with pytest.raises(ClientError) as refusal:
        feed_without_end(RequestParser(Sink()).feed, *start_and_more)
    assert refusal.value.status in (400, 414, 431)


@pytest.mark.parametrize("start_and_more", ENDLESS_RESPONSES.values(), ids=ENDLESS_RESPONSES)
def test_a_backend_that_never_comes_to_the_point_is_refused(start_and_more: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"too |not an answer|sound size"):
        feed_without_end(expecting(Sink()).feed, *start_and_more)


SPLITS = [10**9, 256 * 1024, 64 * 1024, 10_000, 1_000]
ROOM = 1_000


@pytest.mark.parametrize("size", SPLITS)
def test_a_head_is_too_large_or_not_however_it_is_split(size: int) -> None:
    def head(first_line: bytes, length: int) -> bytes:
        # One large field, and some small ones: both kinds count.
        fields = b"A: b\r\n" * 90
        return first_line + fields + b"X: " + b"x" * (length - len(first_line) - len(fields)) + b"\r\n\r\n"

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
    most = HEAD_LIMITS.max_head_bytes
    assert requests(split(head(REQUEST_LINE, most - ROOM), size))[-1] == ("end",)
    assert requests(split(head(REQUEST_LINE, most + ROOM), size)) == [("refused", 431)]
    most = RESPONSE_LIMITS.max_head_bytes
    assert responses(split(head(answer, most - ROOM), size))[-1] == ("end",)
    assert responses(split(head(answer, most + ROOM), size)) == [("refused",)]


@pytest.mark.parametrize("size", [10**9, 10])
def test_fields_are_counted(size: int) -> None:
    fields = b"A: b\r\n" * (HEAD_LIMITS.max_fields - 1)
    assert requests(split(REQUEST_LINE + fields + b"\r\n", size))[-1] == ("end",)
    assert requests(split(REQUEST_LINE + fields + b"A: b\r\n\r\n", size)) == [("refused", 431)]


@pytest.mark.parametrize("size", [10**9, 100])
@pytest.mark.parametrize("kind", [b"/", b"http://shop/"])
def test_a_target_is_too_long_or_not_however_it_is_split(kind: bytes, size: int) -> None:
    def line(length: int) -> bytes:
        return b"GET " + kind.ljust(length, b"x") + b" HTTP/1.1\r\nHost: shop\r\n\r\n"

    most = HEAD_LIMITS.max_target_bytes
    assert requests(split(line(most), size))[-1] == ("end",)
    assert requests(split(line(most + 1), size)) == [("refused", 414)]
    assert requests(split(line(most * 3), size)) == [("refused", 414)]


def test_bounds_are_settable() -> None:
    parser = RequestParser(Sink(), HeadLimits(max_head_bytes=60, max_fields=2, max_target_bytes=10))
    for head, status in [
        (b"GET /xxxxxxxxxx HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nB: " + b"c" * 60 + b"\r\n\r\n", 431),
    ]:
        with pytest.raises(ClientError) as refusal:
            parser.feed(head)
        assert refusal.value.status == status


@pytest.mark.parametrize("split_at", [1, 10**9])
def test_chunk_extensions_are_bounded(split_at: int) -> None:
    extended = b"1;" + b"x" * 900 + b"\r\na\r\n"
    assert requests(split(CHUNKED_REQUEST + extended * 100, split_at))[-1] == ("refused", 400)


@pytest.mark.parametrize("size", [10, 1_500, 64 * 1024])
@pytest.mark.parametrize("first", [1, 20, 60])
def test_a_large_body_behind_the_rest_of_a_head_is_not_taken_for_head(first: int, size: int) -> None:
    body = b"x" * (2 * RESPONSE_LIMITS.max_head_bytes)
    post = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    assert requests([post[:first], post[first:]])[1:] == [("data", body), ("end",)]
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    first = min(first, 40)
    assert responses([answer[:first], answer[first:]])[1:] == [("data", body), ("end",)]
    # Nor one before the beginning of a head.
    assert requests([post + GET[:size], GET[size:]])[1:] == [("data", body), ("end",), *SEEN_GET]


def test_many_messages_are_no_large_head() -> None:
    many = 5_000
    assert requests(split(GET * many, 1_000)) == SEEN_GET * many
    sink = Sink()
    parser = ResponseParser(sink)
    for _ in range(many):
        parser.expect(answers_head=False)
        parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert len(sink.events) == 2 * many


# One error, and never another.


@given(st.lists(st.binary(max_size=100), max_size=5))
def test_garbage_is_an_error_of_who_sent_it(parts: list[bytes]) -> None:
    requests(parts)
    responses(parts)
    responses(parts, answers_head=True)


@st.composite
def spoilt(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """Take good messages, and put other bytes for some of theirs."""
    data = b"".join(draw(st.lists(st.sampled_from(messages), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 5))
        scrap = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\xff", b"0", b"\r\n\r\n", b","])
        )
        data = data[:place] + scrap + data[place + gone :]
    return data


@given(spoilt(REQUESTS), CUTS)
def test_spoilt_requests_are_refused_alike_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    assert requests(cut(data, cuts)) == requests([data])


@given(spoilt(RESPONSES), CUTS)
def test_spoilt_responses_are_refused_alike_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    assert responses(cut(data, cuts)) == responses([data])


class Failing(Sink):
    """A sink with an error of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def data(self, data: bytes) -> None:
        raise self.error

    request_data = response_data = data


@pytest.mark.parametrize(
    "error", [ClientError("too much", 413), ValueError("no"), ZeroDivisionError("a bug")], ids=repr
)
def test_what_a_sink_raises_is_not_disguised(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        RequestParser(Failing(error)).feed(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi")
    assert raised.value is error
    with pytest.raises(type(error)) as raised:
        expecting(Failing(error)).feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert raised.value is error

"""The parser of requests against two others: h11, and the letter of the grammar.

What it takes, one of them takes too, and reads as the same method, target, fields and body. By intention it is laxer
than h11 only where the grammar is: empty lines before a request, whitespace around a chunk extension's semicolon.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distributer.errors import ClientError
from distributer.wire.parser import RequestParser
from distributer.wire.request import RequestHead
from tests.conformance.mutations import REQUESTS, TOKENS, mutant
from tests.support.second_opinion import Reading, requests_by_h11
from tests.support.strict import Message, Requests

LEFT_OUT = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade http2-settings expect x-request-id x-forwarded-for x-forwarded-proto x-forwarded-host forwarded "
    b"via".split()
)
"""Fields that a head does not hold as they came: of one connection, or to be made anew."""


class Sink:
    """Notes heads and bodies."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.finished = 0

    def request_started(self, head: RequestHead) -> None:
        assert self.finished == len(self.heads), "a request within another"
        self.heads.append(head)
        self.bodies.append(b"")

    def request_data(self, data: bytes) -> None:
        assert data
        self.bodies[-1] += data

    def request_finished(self) -> None:
        self.finished += 1

    def events(self) -> list[tuple[object, ...]]:
        """List what was noted, so that it can be compared."""
        heads = [
            (head.method, head.target, head.section.lines, head.framing, head.content_length) for head in self.heads
        ]
        return [*zip(heads, self.bodies, strict=True), (self.finished,)]


def read(parts: Iterable[bytes]) -> tuple[Sink, int]:
    """Parse; return what was noted, and the status of the refusal, 0 if there was none."""
    sink = Sink()
    parser = RequestParser(sink)
    try:
        for part in parts:
            rest = parser.feed(part)
            while rest:
                rest = parser.feed(rest)
    except ClientError as error:
        return sink, error.status
    return sink, 0


def others(data: bytes) -> list[list[Reading]]:
    """Read what the other parsers make of it."""
    strict = Requests(skips_empty_lines=True)
    strict.feed(data)
    readings = [_reading(message, is_complete=True) for message in strict.messages]
    if strict.begun is not None:
        readings.append(_reading(strict.begun, is_complete=False))
    return [requests_by_h11(data).messages, readings]


def _reading(message: Message, *, is_complete: bool) -> Reading:
    fields = [(name.lower(), value) for name, value in message.fields]
    return Reading((message.method, message.target), fields, message.body, is_complete)


def difference(sink: Sink, number: int, other: Reading) -> str:
    """Say how a request differs from another reading of it; empty if it does not."""
    head = sink.heads[number]
    if (head.method, head.target) != other.start:
        return f"{(head.method, head.target)} is {other.start}"
    lines = [line.partition(b":") for line in head.section.lines.split(b"\r\n")[:-1]]
    ours = [(name.lower(), value.strip(b" \t")) for name, _, value in lines]
    named = {name.strip(b" \t").lower() for value in other.values(b"connection") for name in value.split(b",")}
    kept = [(name, value) for name, value in other.fields if name not in LEFT_OUT and name not in named]
    if not set(kept) <= set(ours) or not set(ours) <= set(other.fields):
        return f"{ours} is {other.fields}"
    order = [field for field in other.fields if field in ours]
    if ours != order:
        return f"the order of {ours} is {order}"
    if number < sink.finished and (not other.is_complete or sink.bodies[number] != other.body):
        return f"the body {sink.bodies[number]!r} is {other.body!r}, complete: {other.is_complete}"
    return ""


def check_agreement(data: bytes) -> None:
    """Fail if it takes what neither of the others does, or reads it otherwise."""
    sink, _ = read([data])
    readings = others(data)
    for number in range(len(sink.heads)):
        differences = [
            difference(sink, number, reading[number]) if number < len(reading) else "refused" for reading in readings
        ]
        assert "" in differences, (data, number, differences)


def check_splits(data: bytes, cuts: Sequence[int]) -> None:
    """Fail if it matters how the bytes are split."""
    ends = sorted(min(cut, len(data)) for cut in cuts)
    parts = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True) if start < end]
    whole, refused = read([data])
    split, split_refused = read(parts)
    assert (split.events(), split_refused) == (whole.events(), refused), parts


MUTANTS = st.integers(min_value=0, max_value=2**40).map(lambda seed: mutant(random.Random(seed), REQUESTS))

_FIELDS = (
    *(
        b"X-A: 1",
        b"X-A:",
        b"Cookie: a=b; c=d",
        b"x-b:  \t y z \t ",
    ),
    *(
        b"Connection: close",
        b"Connection: keep-alive, X-A",
        b"Expect: 100-continue",
        b"Upgrade: h2c",
        b"TE: trailers",
        b"Via: 1.1 x",
    ),
    *(
        b"Content-Length: 5",
        b"Content-Length: 0",
        b"Content-Length: 05",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
    ),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding:chunked ",
    ),
    *(
        b"X : y",
        b" folded",
        b"\tX: y",
        b"X",
        b": y",
        b"X: \x00",
        b"X: a\rb",
        b"X: a\nb",
        b"X: \xe9",
        b"X\xe9: y",
        b"X: \x0b",
        b"",
    ),
)
_BODIES = (
    *(
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        b'05 ; a = "b"\r\nhello\r\n00\r\n\r\n',
    ),
    *(
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    ),
)
_ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n "])


@st.composite
def assembled(draw: st.DrawFn) -> bytes:
    """Put requests together of parts that are sound, mostly."""
    data = b"".join(
        draw(st.lists(st.sampled_from([b"\r\n", b"\n", b" "]), max_size=1 if draw(st.integers(0, 9)) == 0 else 0))
    )
    for _ in range(draw(st.integers(1, 3))):
        method = draw(
            st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"M-SEARCH", b"get", b"CONNECT", b"G@T", b""])
        )
        target = draw(
            st.sampled_from(
                [b"/", b"/a?b=c", b"*", b"http://a.test/", b"a.test:80", b"/a b", b"/\xe9", b"/#a", b"/\x00", b""]
            )
        )
        version = draw(
            st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b""])
        )
        space = draw(st.sampled_from([b" "] * 8 + [b"  ", b"\t"]))
        hosts = draw(st.sampled_from([[b"Host: a.test"]] * 12 + [[], [b"Host: a.test", b"host: b.test"]]))
        lines = [space.join([method, target, version]), *hosts, *draw(st.lists(st.sampled_from(_FIELDS), max_size=3))]
        data += b"".join(line + draw(_ENDS) for line in lines) + draw(_ENDS) + draw(st.sampled_from(_BODIES))
        data += draw(st.sampled_from([b""] * 8 + list(TOKENS)))
    return data


@settings(max_examples=400)
@given(MUTANTS)
def test_what_is_taken_of_a_spoilt_request_is_what_others_take(data: bytes) -> None:
    check_agreement(data)


@settings(max_examples=400)
@given(assembled())
def test_what_is_taken_of_an_assembled_request_is_what_others_take(data: bytes) -> None:
    check_agreement(data)


@settings(max_examples=200)
@given(st.one_of(MUTANTS, assembled()), st.lists(st.integers(0, 400), min_size=1, max_size=6))
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", range(1, 90))
def test_it_does_not_matter_how_the_bytes_are_split(data: bytes, cuts: Sequence[int]) -> None:
    check_splits(data, cuts)


@pytest.mark.parametrize("number", range(len(REQUESTS)))
def test_what_is_sound_is_taken(number: int) -> None:
    data = REQUESTS[number]
    sink, refused = read([data])
    assert not refused
    assert sink.finished == len(sink.heads) == len(others(data)[1])
    check_agreement(data)
    check_splits(data, range(len(data)))

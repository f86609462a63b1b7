"""Sound messages, and how they are spoilt. Pure: the same seed gives the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.conformance.cases.case import answer, get, post

_TE = "Transfer-Encoding: chunked"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"

REQUESTS: tuple[bytes, ...] = (
    get(),
    get("X-A: 1", "Cookie: a=b; c=d", "Accept: */*"),
    get(start="HEAD /case?a=b&c=%20 HTTP/1.1"),
    get(start="OPTIONS * HTTP/1.1"),
    get(start="GET /case HTTP/1.0"),
    get("Connection: close"),
    get("Connection: keep-alive, X-Hop", "X-Hop: 1"),
    get("Connection: Upgrade", "Upgrade: h2c"),
    post("Content-Length: 5", body=b"hello"),
    post("Content-Length: 0", start="PUT /case HTTP/1.1"),
    post("Expect: 100-continue", "Content-Length: 5", body=b"hello"),
    post(_TE, body=CHUNKS),
    post(_TE, body=b'5;a=1;b="c"\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n'),
    post("TE: trailers", "Trailer: X-T", _TE, body=b"1\r\na\r\n1\r\nb\r\n0\r\nX-T: 1\r\n\r\n"),
    get() + get(start="GET /case/2 HTTP/1.1"),
    post("Content-Length: 5", body=b"hello") + post(_TE, body=CHUNKS) + get(),
)

ANSWERS: tuple[bytes, ...] = (
    answer("Content-Length: 5", body=b"hello"),
    answer("Content-Length: 5", "Set-Cookie: a=b", "Set-Cookie: c=d", "X-A: 1", body=b"hello"),
    answer("Content-Length: 0", start="HTTP/1.1 404 Not Found"),
    answer("Connection: close", "Content-Length: 5", body=b"hello"),
    answer("Connection: X-Hop", "X-Hop: 1", "Content-Length: 5", body=b"hello"),
    answer("Connection: keep-alive", "Content-Length: 5", body=b"hello", start="HTTP/1.0 200 OK"),
    answer(_TE, body=CHUNKS),
    answer(_TE, body=b'5;a=1\r\nhello\r\nA;b="c"\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n'),
    answer(body=b"hello"),
    answer(start="HTTP/1.1 204 No Content"),
    answer('ETag: "a"', "Content-Length: 5", start="HTTP/1.1 304 Not Modified"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + answer("Content-Length: 5", body=b"hello"),
    answer("Link: </a>", start="HTTP/1.1 103 Early Hints") + answer(_TE, body=CHUNKS),
)

TOKENS: tuple[bytes, ...] = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\n\r",
        b"\r\n\r\n",
        b"\r\n ",
        b"\r\n\t",
        b" \r\n",
        b"\x00",
        b"\x0b",
        b" ",
        b"\t",
    ),
    *(b":", b": ", b",", b";", b"#", b"@", b"/", b"*", b'"', b"\\", b"\x7f", b"\x80", b"\xff"),
    *(b"0", b"5", b"+", b"-", b"0x", b"%00", b"ffffffffffffffff", b"10000000000000005"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"GET ", b"HEAD ", b"POST ", b"CONNECT "),
    *(b"chunked", b"identity", b"gzip, ", b", chunked", b"close", b"keep-alive", b"Upgrade", b"http://x.test"),
    *(b"Host: spliced.test\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: websocket\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
    ),
    *(b"X: y\r\n", b" X: y\r\n", b": y\r\n", b"X : y\r\n"),
    b"GET /spliced HTTP/1.1\r\nHost: spliced.test\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 X\r\n\r\n",
)


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 1, 1, 2, 2, 4, 8, 20)))


def _delete(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _duplicate(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] + data[end:]


def _splice(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _replace(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.choice(TOKENS) + data[end:]


def _line_ending(rng: random.Random, data: bytes) -> bytes:
    ends = [at for at in range(len(data)) if data.startswith(b"\r\n", at)]
    if not ends:
        return data
    at = rng.choice(ends)
    return (
        data[:at]
        + rng.choice((b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"\r\n\r\n", b" \r\n", b"\r\n "))
        + data[at + 2 :]
    )


def _swap_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    if len(lines) < 2:
        return data
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def _double_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[:at], lines[at], *lines[at:]])


def _splice_line(rng: random.Random, data: bytes) -> bytes:
    at = data.find(b"\r\n", rng.randrange(len(data)))
    line = rng.choice([token for token in TOKENS if token.endswith(b"\r\n")])
    return data if at < 0 else data[: at + 2] + line + data[at + 2 :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(1, len(data) + 1)]


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _set, _delete, _duplicate, _splice, _splice, _replace, _line_ending, _line_ending, _swap_lines),
    *(_double_line, _splice_line, _splice_line, _truncate),
)


def mutant(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Spoil a sound message, in one way mostly; now and then it stays sound, or a sound one follows it."""
    data = rng.choice(corpus)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3, 5))):
        if data:
            data = rng.choice(MUTATIONS)(rng, data)
    if rng.random() < 0.3:
        data += rng.choice(corpus)
    return data


def pieces(rng: random.Random, data: bytes) -> tuple[bytes, ...]:
    """Split bytes at random places, or not at all."""
    count = rng.choice((0, 0, 1, 1, 2, 5))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
    return tuple(data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True))

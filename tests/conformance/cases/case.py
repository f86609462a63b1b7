"""The shape of a case, and of what must become of it.

A case's requests ask for `/case`; whatever has `smuggled` in its target must never reach an origin as a request of its
own, by anybody's reading. Behind a case's bytes, unless it says otherwise, its client sends one sound request (`PROBE`)
in the same write: it is answered if all before it was in order, and nothing of it is read if something was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

PROBE = b"GET /probe HTTP/1.1\r\nHost: probe.test\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n"
HOST = b"case.test"

Raw = bytes | tuple[bytes, ...]
"""Bytes as they are sent; a tuple: each piece in a write, and if all goes well a read, of its own."""


@dataclass(frozen=True)
class Seen:
    """A request as the origin must see it. What is None, or not named, may be anything.

    `fields`: a name to the values of all its fields; () says that there is none.
    """

    target: bytes | None = b"/case"
    method: bytes | None = None
    body: bytes | None = None
    fields: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """The requests `before` it are forwarded and answered; then one answer of these statuses, and the connection ends.

    Nothing of the refused request reaches the origin. `begun`: its head, and a beginning of its body, may, if the fault
    is in the body, which is forwarded while it comes; never so that the origin takes it for complete. `silently`: to
    close without an answer is as right; so it is anyhow behind an answer that announced it (Connection: close).
    """

    statuses: tuple[int, ...] = (400,)
    before: tuple[Seen, ...] = ()
    begun: bool = False
    silently: bool = False


@dataclass(frozen=True)
class Forwarded:
    """The origin sees these requests, and no other but the probe; each is answered, in order, from its own answer.

    `closes`: the connection ends behind the last of them, and what comes behind on it is not read.
    """

    requests: tuple[Seen, ...] = (Seen(),)
    closes: bool = False


@dataclass(frozen=True)
class Answered:
    """One answer of these statuses, made without asking the origin; the connection may go on or end."""

    statuses: tuple[int, ...]


Expect = Refused | Forwarded | Answered


@dataclass(frozen=True)
class Case:
    """One client connection's worth of bytes.

    `also`: what is right by the specification, too, though distributer promises `expect`.
    """

    name: str
    source: str
    raw: Raw
    expect: Expect
    also: tuple[Expect, ...] = ()
    probe: bool = True


@dataclass(frozen=True)
class BadGateway:
    """The client gets a 502 that is complete; the connection to the backend is not used again."""


@dataclass(frozen=True)
class Broken:
    """A 502, or an answer that the client can see to be cut short; the connection to the backend is not used again."""


@dataclass(frozen=True)
class Delivered:
    """The client gets this answer, complete. `interim`: the 1xx before it, None for any.

    `reuse`: whether the connection to the backend may be used for the next request.
    """

    status: int = 200
    body: bytes | None = b"hello"
    fields: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    interim: tuple[int, ...] | None = None
    reuse: bool = True


AnswerExpect = BadGateway | Broken | Delivered


@dataclass(frozen=True)
class AnswerCase:
    """One answer's worth of bytes from a backend, to a request that `asks`.

    `ends`: what the backend does behind them: "stay" (and answer what comes next), "close", "reset".
    """

    name: str
    source: str
    raw: Raw
    expect: AnswerExpect
    also: tuple[AnswerExpect, ...] = ()
    asks: bytes = b"GET /case HTTP/1.1\r\nHost: case.test\r\n\r\n"
    ends: str = "stay"


C = TypeVar("C", Case, AnswerCase)


@dataclass(frozen=True)
class Rule(Generic[C]):
    """A requirement, or an attack that it stands against, and all the ways in which it is tried."""

    name: str
    source: str
    must: str
    cases: tuple[C, ...]


def rule(
    name: str,
    source: str,
    must: str,
    expect: Expect,
    variants: Mapping[str, Raw],
    *,
    also: Iterable[Expect] = (),
    probe: bool = True,
) -> Rule[Case]:
    """Make a rule of request cases that all expect the same."""
    cases = tuple(
        Case(f"{name}/{variant}", source, raw, expect, tuple(also), probe) for variant, raw in variants.items()
    )
    return Rule(name, source, must, cases)


def answer_rule(
    name: str,
    source: str,
    must: str,
    expect: AnswerExpect,
    variants: Mapping[str, Raw],
    *,
    also: Iterable[AnswerExpect] = (),
    asks: bytes = b"GET /case HTTP/1.1\r\nHost: case.test\r\n\r\n",
    ends: str = "stay",
) -> Rule[AnswerCase]:
    """Make a rule of answer cases that all expect the same."""
    cases = tuple(
        AnswerCase(f"{name}/{variant}", source, raw, expect, tuple(also), asks, ends)
        for variant, raw in variants.items()
    )
    return Rule(name, source, must, cases)


def joined(first: Rule[C], *others: Rule[C]) -> Rule[C]:
    """Make one rule of several that expect different things of one requirement."""
    return replace(first, cases=sum((other.cases for other in others), first.cases))


def raw_bytes(text: str | bytes) -> bytes:
    """Read text in which each character is one byte."""
    return text.encode("latin-1") if isinstance(text, str) else text


def get(*lines: str | bytes, start: str | bytes = "GET /case HTTP/1.1", host: bytes | None = HOST) -> bytes:
    """Make a request of these lines, without a body of its own."""
    own = [] if host is None else [b"Host: " + host]
    return b"\r\n".join([raw_bytes(start), *own, *map(raw_bytes, lines), b"", b""])


def post(*lines: str | bytes, body: bytes = b"", start: str | bytes = "POST /case HTTP/1.1") -> bytes:
    """Make a request of these lines and a body; the lines say how long it is."""
    return get(*lines, start=start) + body


def chunked(body: bytes) -> bytes:
    """Make a request with these bytes behind a head that announces chunks."""
    return post("Transfer-Encoding: chunked", body=body)


def answer(*lines: str | bytes, body: bytes = b"", start: str | bytes = "HTTP/1.1 200 OK") -> bytes:
    """Make an answer of these lines and a body; the lines say how long it is."""
    return b"\r\n".join([raw_bytes(start), *map(raw_bytes, lines), b"", b""]) + body


def byte_name(byte: int) -> str:
    """Name a byte in a case's name."""
    char = chr(byte)
    return f"0x{byte:02x}-{char}" if char.isprintable() and not char.isspace() and byte < 0x7F else f"0x{byte:02x}"


TOKEN_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""RFC 9110 section 5.6.2."""

"""What a backend is told about the client: X-Forwarded-*, Forwarded (RFC 7239), Via (RFC 9110 section 7.6.3).

Whoever holds the connection is the *peer*. Anybody can write these fields, so what stands in them counts only if the
peer is a proxy that the settings trust:

    field               from any other peer           from a trusted proxy
    X-Forwarded-For     the peer                      its list, then the peer
    X-Forwarded-Proto   that of the connection        its own, if sound; else that of the connection
    X-Forwarded-Host    Host                          its own, if sound; else Host
    Forwarded           one element, for the peer     its list, or one made of its X-Forwarded-*, then that element
    X-Real-IP and such  none                          as it came
    Via                 the list that came, then us   the same: it is about the way, not about the client

Names with `_` for `-` are left out whoever sent them: CGI and WSGI cannot tell the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from distributer.wire.elements import (
    MAX_ELEMENTS,
    Field,
    addresses_in,
    client_of,
    forwarded_element,
    forwarded_in,
    vias_in,
)
from distributer.wire.node import UNIX, UNKNOWN, TrustedProxies, is_host, is_scheme, plain

MAX_PASSES = 10
"""A request that has come by here so often goes round in a circle. Clusters in a row that share a name are fewer."""

_PASSED_AS_IT_IS = frozenset(
    {
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
        b"x-real-ip",
    }
)
_TOLD = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via"})


def _spellings(name: bytes) -> list[bytes]:
    """List a name, and what CGI and WSGI take for it."""
    first, *rest = name.split(b"-")
    spellings = [first]
    for part in rest:
        spellings = [before + mark + part for before in spellings for mark in (b"-", b"_")]
    return spellings


UNTRUSTED = frozenset(spelling for name in _TOLD | _PASSED_AS_IT_IS for spelling in _spellings(name))
"""Fields that tell where a request came from, in lower case: taken out of a request's head, and told anew here."""

_HOST_LINE = re.compile(rb"^host:[^\n]*\n", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OriginRules:
    """What is settable about what backends are told."""

    trusted: TrustedProxies = field(default_factory=TrustedProxies)
    adds_forwarded: bool = False
    """Whether they are told in RFC 7239's field too."""
    rewrites_host: bool = False
    """Whether Host is the backend's own authority, and not what the client asked for."""
    via_name: bytes = b"distributer"


MAX_KNOWN = 1024
"""Peers that are remembered, with what is told of them."""


class Origins:
    """Where the requests of one replica come from."""

    __slots__ = ("_known", "_rules")

    def __init__(self, rules: OriginRules) -> None:
        self._rules = rules
        self._known: dict[tuple[str, bytes, bytes], Origin] = {}

    def of(self, peer: str, scheme: bytes, version: bytes = b"1.1") -> Origin:
        """Return what is to be told of a peer: an address, UNIX or UNKNOWN; the scheme and the version it speaks."""
        key = (peer, scheme, version)
        origin = self._known.get(key)
        if origin is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            origin = self._known[key] = Origin(self._rules, peer, scheme, version)
        return origin


class Origin:
    """One peer, and the lines that backends get about its requests: made once, as long as they stay the same."""

    __slots__ = ("_lines", "_lines_host", "_rules", "_scheme", "_version", "is_trusted", "peer", "rewrites_host")

    def __init__(self, rules: OriginRules, peer: str, scheme: bytes, version: bytes = b"1.1") -> None:
        self.peer = peer if peer == UNIX else plain(peer) or UNKNOWN
        self.is_trusted = self.peer in rules.trusted
        self.rewrites_host = rules.rewrites_host
        self._rules = rules
        self._scheme = scheme
        self._version = version
        self._lines_host: bytes | None = None
        self._lines = self._tell(None, (), version)

    def __repr__(self) -> str:
        return f"<Origin {self.peer} {'trusted' if self.is_trusted else 'untrusted'}>"

    def lines(self, host: bytes | None, received: Sequence[Field], *, is_http11: bool = True) -> bytes:
        """Serialise the fields that tell about a request.

        `host` is its Host; `received` are its fields of UNTRUSTED, with lower-case names, in their order.
        """
        if received or not is_http11:
            return self._tell(host, received, self._version if is_http11 else b"1.0")
        if host != self._lines_host:
            self._lines = self._tell(host, (), self._version)
            self._lines_host = host
        return self._lines

    def client(self, received: Sequence[Field]) -> str:
        """Name the client that made a request (`client_of`)."""
        return client_of(self.peer, received, self._rules.trusted) if self.is_trusted else self.peer

    def is_loop(self, received: Sequence[Field]) -> bool:
        """Whether a request has been passed on so often that it must be going round in a circle."""
        vias = vias_in(received)
        ours = self._rules.via_name.lower()
        return len(vias) >= MAX_ELEMENTS or sum(name.lower() == ours for _, name in vias) >= MAX_PASSES

    def _tell(self, host: bytes | None, received: Sequence[Field], version: bytes) -> bytes:
        chain: list[bytes] = []
        elements: list[bytes] = []
        more: list[bytes] = []
        proto = self._scheme
        own_host = asked_host = host if host is not None and is_host(host) else None
        if self.is_trusted and received:
            chain = addresses_in(received)
            elements = forwarded_in(received)
            more = [b"%b: %b\r\n" % (name, value) for name, value in received if name in _PASSED_AS_IT_IS]
            proto = (_only(received, b"x-forwarded-proto", is_scheme) or proto).lower()
            asked_host = _only(received, b"x-forwarded-host", is_host) or own_host
        peer = UNKNOWN if self.peer == UNIX else self.peer
        # Where a proxy names the client, "unknown" for the proxy itself would only be taken for the client.
        seen = chain if chain and peer == UNKNOWN else [*chain, peer.encode()]
        lines = [b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (b", ".join(seen), proto), *more]
        if asked_host is not None:
            lines.append(b"X-Forwarded-Host: %b\r\n" % asked_host)
        if self._rules.adds_forwarded:
            if chain and not elements:  # RFC 7239 section 7.4; how the client asked, only the last proxy can tell
                elements = [forwarded_element(node) for node in chain[:-1]]
                elements.append(forwarded_element(chain[-1], asked_host, proto))
            elements.append(forwarded_element(peer.encode(), own_host, self._scheme))
            lines.append(b"Forwarded: %b\r\n" % b", ".join(elements))
        passed = [element for element, _ in vias_in(received)]
        passed.append(b"%b %b" % (version, self._rules.via_name))
        lines.append(b"Via: %b\r\n" % b", ".join(passed))
        return b"".join(lines)


def _only(received: Sequence[Field], name: bytes, is_sound: Callable[[bytes], bool]) -> bytes | None:
    values = [value.strip(b" \t") for said, value in received if said == name]
    return values[0] if len(values) == 1 and is_sound(values[0]) else None


def without_host(fields: bytes) -> bytes:
    """Take the Host line out of serialised fields."""
    return _HOST_LINE.sub(b"", fields, count=1)

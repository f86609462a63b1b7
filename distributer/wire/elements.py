"""The elements of the lists to which each proxy adds one: X-Forwarded-For, Forwarded (RFC 7239), Via (RFC 9110 7.6.3).

Lists are read from the right, where the peer wrote: of what stands further left it vouches only through those between.
So an element that is malformed goes, and with it all that stands left of it. Via alone keeps what is left of one: it
is about the way, not about the client, and a loop must not hide behind one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from distributer.wire.node import IPV6, PORT, TrustedProxies, is_bare_ipv6, is_host, is_node, is_scheme, name_of

Field = tuple[bytes, bytes]

MAX_ELEMENTS = 64
MAX_LIST_BYTES = 4096
"""Bounds of a list, all its fields together: of a longer one the right end is read."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_IS_TOKEN = re.compile(_TOKEN)


def addresses_in(received: Sequence[Field]) -> list[bytes]:
    """List who X-Forwarded-For says is on the way, in order, as it spells them."""
    return _sound_end(_from_the_right(received, b"x-forwarded-for"), is_node)


def client_of(peer: str, received: Sequence[Field], trusted: TrustedProxies) -> str:
    """Name the client: the last in X-Forwarded-For, with the peer behind it, who is no trusted proxy.

    An address without its port, or what a trusted proxy says instead of one (`unknown`, `_hidden`). If all are trusted,
    the first of them. Where the list is malformed or longer than the bounds, it ends, and the last one read counts.
    """
    client = peer
    if received and client in trusted:
        for node in reversed(addresses_in(received)):
            client = name_of(node) or client
            if client not in trusted:
                break
    return client


def _sound_end(elements: Iterable[bytes], is_sound: Callable[[bytes], bool]) -> list[bytes]:
    """Take elements, given from the right, as far as they are sound; return them in order."""
    kept: list[bytes] = []
    for element in elements:
        if not element:
            continue  # RFC 9110 section 5.6.1.2: an empty one counts for nothing
        if len(kept) == MAX_ELEMENTS or not is_sound(element):
            break
        kept.append(element)
    kept.reverse()
    return kept


def _from_the_right(received: Sequence[Field], name: bytes) -> Iterator[bytes]:
    """Give the elements of all fields of that name, the last one first."""
    for value, is_cut in _ends(received, name):
        elements = _split_from_the_right(value)
        if is_cut:
            elements.pop()
        for element in elements:
            yield element.strip(b" \t")


def _ends(received: Sequence[Field], name: bytes) -> Iterator[tuple[bytes, bool]]:
    """Give all fields of that name, the last one first, up to the bound: and whether it cuts into the field."""
    bytes_left = MAX_LIST_BYTES
    for said, value in reversed(received):
        if said == name:
            yield value[-bytes_left:], len(value) > bytes_left
            bytes_left -= len(value)
            if bytes_left <= 0:
                return


def _split_from_the_right(value: bytes) -> list[bytes]:
    """Split at commas outside quoted strings, the last element first.

    Quotes are paired from the right too, so one that a client left open spoils only what stands left of it.
    """
    if b'"' not in value:
        return value.split(b",")[::-1]
    elements: list[bytes] = []
    end = len(value)
    is_quoted = False
    for mark in reversed([*_QUOTES_AND_COMMAS.finditer(value)]):
        if mark[0] != b",":
            # Behind an odd number of backslashes it is a part of the text.
            is_quoted ^= len(mark[0]) % 2 == 1
        elif not is_quoted:
            elements.append(value[mark.end() : end])
            end = mark.start()
    elements.append(value[:end])
    return elements


_QUOTES_AND_COMMAS = re.compile(rb'\\*"|,')


# Forwarded.

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_PAIR = rb"(?:%b)=(?:%b|%b)" % (_TOKEN, _TOKEN, _QUOTED)
_PAIRS = re.compile(rb"(?:%b)?(?:[ \t]*;[ \t]*(?:%b)?)*" % (_PAIR, _PAIR))
_PARTS = re.compile(rb"(%b)=(?:(%b)|(%b))" % (_TOKEN, _TOKEN, _QUOTED))
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def forwarded_in(received: Sequence[Field]) -> list[bytes]:
    """List the elements of Forwarded, in order, as they came."""
    return _sound_end(_from_the_right(received, b"forwarded"), _is_forwarded)


def forwarded_element(node: bytes, host: bytes | None = None, proto: bytes | None = None) -> bytes:
    """Serialise an element of Forwarded: who asked, for which Host, by which scheme. All must be sound.

    There is no `by`: it would tell the inside, and nothing that Via does not.
    """
    pairs = [b"for=%b" % _value(b"[%b]" % node if is_bare_ipv6(node) else node)]
    if host is not None:
        pairs.append(b"host=%b" % _value(host))
    if proto is not None:
        pairs.append(b"proto=%b" % proto)
    return b";".join(pairs)


def _value(text: bytes) -> bytes:
    """Quote what is no token: an IPv6 address, a port. None of these holds a quote or a backslash."""
    return text if _IS_TOKEN.fullmatch(text) else b'"%b"' % text


def _is_forwarded(element: bytes) -> bool:
    """Whether it is an element of Forwarded (RFC 7239 section 4), and what it says can be so."""
    if not _PAIRS.fullmatch(element):
        return False
    seen: set[bytes] = set()
    for name, token, quoted in _PARTS.findall(element):
        lowered = name.lower()
        is_sound = _CHECKS.get(lowered)
        if lowered in seen or (is_sound is not None and not is_sound(token or _ESCAPED.sub(rb"\1", quoted[1:-1]))):
            return False
        seen.add(lowered)
    return bool(seen)


def _is_bracketed_node(value: bytes) -> bool:
    return is_node(value) and not is_bare_ipv6(value)


_CHECKS: dict[bytes, Callable[[bytes], bool]] = {
    b"for": _is_bracketed_node,
    b"by": _is_bracketed_node,
    b"host": is_host,
    b"proto": is_scheme,
}


# Via.

_VIA = re.compile(rb"(?:%b/)?%b[ \t]+((?:%b|%b)(?:%b)?)" % (_TOKEN, _TOKEN, _TOKEN, IPV6, PORT))
_COMMENT_MARKS = re.compile(rb"\\.|[()]", re.DOTALL)


def is_via_name(name: bytes) -> bool:
    """Whether it can stand in Via for whoever passed a message on."""
    return _IS_TOKEN.fullmatch(name) is not None


def vias_in(received: Sequence[Field]) -> list[tuple[bytes, bytes]]:
    """List the sound elements of Via in order, without their comments: each, and the name in it."""
    found: list[tuple[bytes, bytes]] = []
    for value, is_cut in _ends(received, b"via"):
        elements = _without_comments(value).split(b",")[is_cut:]
        matches = [_VIA.fullmatch(element.strip(b" \t")) for element in elements]
        found[:0] = [(match[0], match[1]) for match in matches if match is not None]
    return found


def _without_comments(value: bytes) -> bytes:
    """Leave out comments, as RFC 9110 section 7.6.3 allows; of one that does not end, all that follows."""
    if b"(" not in value:
        return value
    kept: list[bytes] = []
    depth = start = 0
    for mark in _COMMENT_MARKS.finditer(value):
        if mark[0] == b"(":
            if depth == 0:
                kept.append(value[start : mark.start()])
            depth += 1
        elif mark[0] == b")" and depth > 0:
            depth -= 1
            start = mark.end()
    if depth == 0:
        kept.append(value[start:])
    return b" ".join(kept)

"""What heads of requests and responses share: fields that stop here, the length of a body, how a section is written."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from distributer.wire.elements import Field as Field
from distributer.wire.forwarded import UNTRUSTED

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
PROTECTED = frozenset(
    {b"host", b"content-length", b"cache-control", b"authorization", b"cookie", b"x-request-id", *UNTRUSTED}
)
"""Fields that `Connection:` may not name away: the backend's answer, or our own framing, hangs on them."""

NOT_NAMED_AWAY = PROTECTED | frozenset(
    {b"close", b"expect", b"http2-settings", b"keep-alive", b"max-forwards", b"te", b"upgrade", b""}
)


class Framing(IntEnum):
    """How long a message's body is (RFC 9112 section 6)."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3  # responses only


def tokens_of(value: bytes) -> set[bytes]:
    """Split a list of tokens, in lower case (RFC 9110 section 5.6.1)."""
    return {token.strip(b" \t").lower() for token in value.split(b",")}


def keeps_alive(tokens: set[bytes], *, default: bool) -> bool:
    """Whether the connection goes on behind the message, by the tokens of its Connection."""
    if b"close" in tokens:
        return False
    return default or b"keep-alive" in tokens


def without(lines: list[bytes], names: set[bytes]) -> list[bytes]:
    """Leave out the lines of these fields, whose names are in lower case."""
    if not names:
        return lines
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def is_length(value: bytes) -> bool:
    """Whether it is a number of bytes, and one that means something."""
    return value.isdigit() and len(value) <= 18


def serialised(fields: Iterable[Field]) -> bytes:
    """Make a header section of fields that are apart."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def upgrade_fields(protocols: bytes, *more: bytes) -> bytes:
    """Write the two fields that an offer to switch protocols, or its acceptance, consists of."""
    return b"Connection: %b\r\nUpgrade: %b\r\n" % (b", ".join([b"Upgrade", *more]), protocols)

"""Request and response heads: what is read of them, what is forwarded, and what is left out.

A head is forwarded as it came, in its order, with its spelling and its repeated fields, minus what speaks of one
connection only (RFC 9110 section 7.6.1) and plus what tells the backend about the client. Doors hand over lists of raw
(name, value) pairs; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from distributer.errors import ClientError

Field = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
UNTRUSTED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via"})
"""Fields that tell where a request came from. Those that a client sent count only if it is a trusted proxy."""

PROTECTED = frozenset(
    {b"host", b"content-length", b"cache-control", b"authorization", b"cookie", b"x-request-id", *UNTRUSTED}
)
"""Fields that `Connection:` may not name away: the backend's answer, or our own framing, hangs on them."""

REQUEST_ID_BYTES = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.=+/:@")
MAX_REQUEST_ID_BYTES = 128

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""


class Framing(IntEnum):
    """How long a message's body is (RFC 9112 section 6)."""

    NONE = 0
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3  # responses only


class RequestHead:
    """A request's head, as far as forwarding must know it.

    `fields` holds the end-to-end fields, serialised as they came. `request_id` is the client's if it is sound, else
    None. The `forwarded_*` values are those the client sent, to be believed only from a trusted proxy. `upgrade` lists
    the protocols that are offered to the backend, None if there are none.
    """

    __slots__ = (
        "content_length",
        "expects_continue",
        "fields",
        "forwarded",
        "framing",
        "host",
        "is_http11",
        "keep_alive",
        "method",
        "request_id",
        "target",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, headers: Sequence[Field], *, is_http11: bool = True) -> None:
        """Read a head. Raises ClientError if it is ambiguous or breaks HTTP."""
        self.method = method
        self.target = target
        self.is_http11 = is_http11
        self.keep_alive = is_http11
        self.expects_continue = False
        self.framing = Framing.NONE
        self.content_length = 0
        self.host: bytes | None = None
        self.request_id: bytes | None = None
        self.upgrade: bytes | None = None
        self.forwarded: list[Field] = []
        lines: list[bytes] = []
        special = _SPECIAL
        connection: bytes | None = None
        for name, value in headers:
            lowered = name.lower()
            if lowered not in special:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif lowered == b"host":
                if self.host is not None:
                    raise ClientError("more than one Host field")
                self.host = value
                lines.append(b"%b: %b\r\n" % (name, value))
            elif lowered == b"connection":
                connection = value if connection is None else b"%b,%b" % (connection, value)
            elif lowered == b"content-length":
                self._read_length(value.strip(b" \t"))
                lines.append(b"%b: %b\r\n" % (name, value))
            elif lowered == b"transfer-encoding":
                self._read_coding(value.rstrip(b" "))  # as llhttp does: it takes no tab
            elif lowered == b"x-request-id":
                if self.request_id is None and is_sound_request_id(value):
                    self.request_id = value
            elif lowered == b"expect":
                if value.strip(b" \t").lower() == b"100-continue" and is_http11:
                    self.expects_continue = True
                    lines.append(b"%b: %b\r\n" % (name, value))
            elif lowered == b"upgrade":
                self.upgrade = value if self.upgrade is None else b"%b,%b" % (self.upgrade, value)
            elif lowered in UNTRUSTED:
                self.forwarded.append((lowered, value))
        if self.host is None and is_http11:
            raise ClientError("no Host field")
        if self.upgrade is not None:
            self.upgrade = self._offer(self.upgrade, connection)
        if connection is not None:
            self.keep_alive, named_away = _read_connection(connection, self.keep_alive)
            if named_away:
                lines = [line for line in lines if line.partition(b":")[0].lower() not in named_away]
        self.fields = b"".join(lines)

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target!r} {self.framing.name}>"

    @property
    def is_idempotent(self) -> bool:
        """Whether sending it twice has the effect of sending it once (RFC 9110 section 9.2.2)."""
        return self.method in IDEMPOTENT

    def _offer(self, upgrade: bytes, connection: bytes | None) -> bytes | None:
        """Read what is offered to the backend.

        RFC 9110 section 7.8: in HTTP/1.0, or when Connection does not name it, it counts for nothing. An offer behind
        which a body follows is not passed on: nobody needs it, and where the body ends would hang on the answer.
        """
        if not self.is_http11 or self.framing is not Framing.NONE or not _names_upgrade(connection):
            return None
        offered = [protocol.strip(b" \t") for protocol in upgrade.split(b",")]
        passed_on = [protocol for protocol in offered if protocol.partition(b"/")[0].lower() not in _NOT_OFFERED]
        return b", ".join(passed_on) or None

    def _read_length(self, value: bytes) -> None:
        if self.framing is not Framing.NONE:
            raise ClientError("the length of the body is given more than once")
        if not _is_length(value):
            raise ClientError("Content-Length is not a number of bytes")
        self.framing = Framing.LENGTH
        self.content_length = int(value)

    def _read_coding(self, value: bytes) -> None:
        if self.framing is not Framing.NONE:
            raise ClientError("the length of the body is given more than once")
        if value.lower() != b"chunked":
            raise ClientError("a transfer coding other than chunked", 501, "Not implemented")
        if not self.is_http11:
            raise ClientError("chunked in an HTTP/1.0 request")
        self.framing = Framing.CHUNKED


_NOT_OFFERED = frozenset({b"h2c", b"h2", b"http", b"tls", b""})
"""Protocols in which further requests would go round the routing: HTTP again, or what hides it."""
_NOT_NAMED_AWAY = PROTECTED | {b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings", b""}
_SPECIAL = HOP_BY_HOP | UNTRUSTED | {b"host", b"content-length", b"expect", b"x-request-id", b"http2-settings"}


def _read_connection(value: bytes, keep_alive: bool) -> tuple[bool, set[bytes]]:
    """Read all Connection fields, joined: whether to keep the connection, and which fields stop here."""
    tokens = _tokens(value)
    if b"close" in tokens:
        keep_alive = False
    elif b"keep-alive" in tokens:
        keep_alive = True
    return keep_alive, tokens - _NOT_NAMED_AWAY


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for token in value.split(b",")}


def _names_upgrade(connection: bytes | None) -> bool:
    return connection is not None and b"upgrade" in _tokens(connection)


def _is_length(value: bytes) -> bool:
    """Whether it is a number of bytes, and one that means something."""
    return value.isdigit() and len(value) <= 18


def is_sound_request_id(value: bytes) -> bool:
    """Whether a client's X-Request-ID may be passed on and logged."""
    return 0 < len(value) <= MAX_REQUEST_ID_BYTES and REQUEST_ID_BYTES.issuperset(value)


def upstream_head(head: RequestHead, authority: bytes, origin_fields: bytes, request_id: bytes) -> bytes:
    """Serialise a request's head for a backend.

    `authority` stands in for a Host that an HTTP/1.0 client did not send; `origin_fields` are the lines that tell about
    the client (`origin_fields`), ready made; `request_id` is the client's or a new one.
    """
    host = head.host
    return b"%b %b HTTP/1.1\r\n%b%b%bX-Forwarded-Host: %b\r\nX-Request-ID: %b\r\n%b%b\r\n" % (
        head.method,
        head.target,
        b"" if host is not None else b"Host: %b\r\n" % authority,
        head.fields,
        origin_fields,
        host if host is not None else authority,
        request_id,
        b"Transfer-Encoding: chunked\r\n" if head.framing is Framing.CHUNKED else b"",
        b"" if head.upgrade is None else _upgrade_fields(head.upgrade),
    )


def _upgrade_fields(protocols: bytes) -> bytes:
    return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % protocols


def origin_fields(client_host: bytes, scheme: bytes, version: bytes = b"1.1") -> bytes:
    """Serialise the fields that tell the backend about an untrusted client: the same for all requests of a connection.

    What such a client says of itself (RFC 7239 section 8.1: it can say anything) has been left out of the head.
    """
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nVia: %b distributer\r\n" % (client_host, scheme, version)


class ResponseHead:
    """A response's head: `headers` are the end-to-end fields in their order and spelling.

    `upgrade` lists the protocols to which a 101 switches, or those that a 426 asks for.
    """

    __slots__ = ("content_length", "framing", "headers", "keep_alive", "reason", "status", "upgrade")

    def __init__(
        self,
        status: int,
        reason: bytes,
        headers: Iterable[Field],
        *,
        is_http11: bool = True,
        answers_head: bool = False,
    ) -> None:
        """Read a head. Raises ValueError, saying why, if the message's length is ambiguous (RFC 9112 section 6.3)."""
        if not 100 <= status <= 599:
            raise ValueError(f"{status} is not an HTTP status")  # RFC 9110 section 15: to be treated as a 5xx
        self.status = status
        self.reason = reason
        self.keep_alive = is_http11
        self.content_length = 0
        self.upgrade: bytes | None = None
        kept: list[Field] = []
        connection: bytes | None = None
        length: bytes | None = None
        chunked = False
        for field in headers:
            lowered = field[0].lower()
            if lowered not in _RESPONSE_SPECIAL:
                kept.append(field)
            elif lowered == b"content-length":
                if length is not None:
                    raise ValueError("more than one Content-Length")
                length = field[1].strip(b" \t")
                if status >= 200 and status != 204:  # RFC 9110 section 8.6: no message of those may have one
                    kept.append(field)
            elif lowered == b"transfer-encoding":
                if chunked or field[1].rstrip(b" ").lower() != b"chunked" or not is_http11:
                    raise ValueError("a transfer coding other than chunked")
                chunked = True
            elif lowered == b"connection":
                connection = field[1] if connection is None else b"%b,%b" % (connection, field[1])
            elif lowered == b"upgrade" and status in (101, 426):
                self.upgrade = field[1] if self.upgrade is None else b"%b, %b" % (self.upgrade, field[1])
        if self.upgrade is not None and not _names_upgrade(connection):
            self.upgrade = None
        if chunked and length is not None:
            raise ValueError("both Content-Length and Transfer-Encoding")
        if length is not None:
            if not _is_length(length):
                raise ValueError("Content-Length is not a number of bytes")
            self.content_length = int(length)
        if connection is not None:
            self.keep_alive, named_away = _read_connection(connection, self.keep_alive)
            if named_away:
                kept = [field for field in kept if field[0].lower() not in named_away]
        self.headers = kept
        if answers_head or status in (204, 304) or status < 200:
            self.framing = Framing.NONE
        elif chunked:
            self.framing = Framing.CHUNKED
        elif length is not None:
            self.framing = Framing.LENGTH
        else:
            self.framing = Framing.UNTIL_CLOSE
            self.keep_alive = False

    @property
    def is_websocket(self) -> bool:
        """Whether it speaks of WebSocket, and of nothing else."""
        return self.upgrade is not None and _tokens(self.upgrade) == {b"websocket"}

    def switches_as_offered(self, offer: bytes | None) -> bool:
        """Whether this 101 switches to protocols of an offer, and to none that is not in it."""
        return self.upgrade is not None and offer is not None and _tokens(self.upgrade) <= _tokens(offer)

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} {self.framing.name}>"


_RESPONSE_SPECIAL = HOP_BY_HOP - {b"proxy-authenticate", b"proxy-authorization"} | {b"content-length"}


def downstream_head(head: ResponseHead, *, is_http11: bool, keep_alive: bool) -> bytes:
    """Serialise a response's head for a client.

    A body of unknown length is chunked for HTTP/1.1, and ended by closing for HTTP/1.0, which must not `keep_alive`.
    """
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    lines += [b"%b: %b\r\n" % field for field in head.headers]
    if head.framing >= Framing.CHUNKED and is_http11:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if head.upgrade is not None:
        lines.append(_upgrade_fields(head.upgrade))
    if not keep_alive:
        lines.append(b"Connection: close\r\n")
    elif not is_http11:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk (RFC 9112 section 7.1). Data is never empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"

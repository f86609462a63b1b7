"""Request heads: what is read of them, what is forwarded, and what is left out.

A head is forwarded as it came, line for line, minus what speaks of one connection only (RFC 9110 section 7.6.1) and
plus what tells the backend about the client. Heads and their sections are immutable once read: the parsers keep the
last one of each connection, since the next message's is most often the same bytes.
"""

from __future__ import annotations

from distributer.errors import ClientError
from distributer.wire.fields import (
    HOP_BY_HOP,
    NOT_NAMED_AWAY,
    Field,
    Framing,
    is_length,
    keeps_alive,
    tokens_of,
    upgrade_fields,
    without,
)
from distributer.wire.forwarded import UNTRUSTED, Origin, without_host
from distributer.wire.grammar import (
    ABSOLUTE_FORM,
    CRLF,
    FIELDS,
    HOST,
    IDEMPOTENCY_KEY,
    PROTOCOL,
    why_no_fields,
)

REQUEST_ID_BYTES = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.=+/:@")
MAX_REQUEST_ID_BYTES = 128

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""

_NOT_OFFERED = frozenset({b"h2c", b"h2", b"http", b"tls"})
"""Protocols in which further requests would go round the routing: HTTP again, or what hides it."""
_SPECIAL = frozenset(
    {
        *(b"host", b"content-length", b"expect", b"http2-settings", b"max-forwards", b"x-request-id"),
        *HOP_BY_HOP,
        *UNTRUSTED,
    }
)


class RequestSection:
    """The header section of a request.

    `lines` holds the end-to-end fields, serialised as they came. `request_id` is the client's if it is sound, else
    None. `forwarded` holds the fields of UNTRUSTED, with lower-case names: to be believed only from a trusted proxy.
    `upgrade` lists the protocols that are offered to the backend, None if there are none.
    """

    __slots__ = (
        "content_length",
        "expects_continue",
        "forwarded",
        "framing",
        "host",
        "is_http11",
        "keep_alive",
        "lines",
        "max_forwards",
        "raw",
        "request_id",
        "takes_trailers",
        "told",
        "upgrade",
    )

    def __init__(self, raw: bytes, *, is_http11: bool = True) -> None:
        """Read a section: its lines, each with its CRLF. Raises ClientError if it is ambiguous or breaks HTTP."""
        if FIELDS.fullmatch(raw) is None:
            raise ClientError(why_no_fields(raw))
        self.raw = raw
        self.is_http11 = is_http11
        self.keep_alive = is_http11
        self.expects_continue = False
        self.framing = Framing.NONE
        self.content_length = 0
        self.request_id: bytes | None = None
        self.forwarded: list[Field] = []
        self.takes_trailers = False
        self.max_forwards: int | None = None
        self.upgrade: bytes | None = None
        self.told: tuple[Origin, bytes] | None = None
        kept: list[bytes] = []
        host: bytes | None = None
        connection: bytes | None = None
        offered: bytes | None = None
        special = _SPECIAL
        for line in raw[:-2].split(CRLF) if raw else ():
            name, _, value = line.partition(b":")
            name = name.lower()
            if name not in special:
                kept.append(line)
                continue
            value = value.strip(b" \t")
            if name == b"host":
                if host is not None:
                    raise ClientError("more than one Host field")
                if HOST.fullmatch(value) is None:
                    raise ClientError("Host is not a host, or a host and a port")
                host = value
                kept.append(line)
            elif name == b"connection":
                connection = value if connection is None else b"%b,%b" % (connection, value)
            elif name == b"content-length":
                self._read_length(value)
                kept.append(line)
            elif name == b"transfer-encoding":
                self._read_coding(value)
            elif name == b"x-request-id":
                if self.request_id is None and is_sound_request_id(value):
                    self.request_id = value
            elif name == b"expect":
                if self._read_expect(value):
                    kept.append(line)
            elif name == b"max-forwards":
                if value.isdigit() and len(value) < 10:
                    self.max_forwards = int(value)
                kept.append(line)
            elif name == b"te":
                self.takes_trailers |= b"trailers" in tokens_of(value) and is_http11
            elif name == b"upgrade":
                offered = value if offered is None else b"%b, %b" % (offered, value)
            elif name in UNTRUSTED:
                self.forwarded.append((name, value))
        if host is None and is_http11:
            raise ClientError("no Host field")
        self.host = host
        if connection is not None:
            tokens = tokens_of(connection)
            self.keep_alive = keeps_alive(tokens, default=is_http11)
            if offered is not None and b"upgrade" in tokens:
                self.upgrade = self._offer(offered)
            kept = without(kept, tokens - NOT_NAMED_AWAY)
        self.lines = b"".join([b"%b\r\n" % line for line in kept])

    def _offer(self, protocols: bytes) -> bytes | None:
        """Read what is offered to the backend.

        RFC 9110 section 7.8: in HTTP/1.0 it counts for nothing. An offer behind which a body follows is not passed on:
        nobody needs it, and where the body ends would hang on the answer.
        """
        if not self.is_http11 or self.framing is not Framing.NONE:
            return None
        offered = [protocol.strip(b" \t") for protocol in protocols.split(b",")]
        passed_on = [
            protocol
            for protocol in offered
            if PROTOCOL.fullmatch(protocol) and protocol.partition(b"/")[0].lower() not in _NOT_OFFERED
        ]
        return b", ".join(passed_on) or None

    def _read_length(self, value: bytes) -> None:
        if self.framing is not Framing.NONE:
            raise ClientError("the length of the body is given more than once")
        if not is_length(value):
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

    def _read_expect(self, value: bytes) -> bool:
        """Whether to pass it on. An HTTP/1.0 client's means nothing (RFC 9110 section 10.1.1)."""
        if not self.is_http11:
            return False
        if value.lower() != b"100-continue":
            raise ClientError("Expect is not 100-continue", 417, "Expectation failed")
        self.expects_continue = True
        return True


class RequestHead:
    """A request's head: its line, and its header section.

    `target` is what the backend is asked for: a path with its query, or `*`. `host` is None only for an HTTP/1.0
    request that named none.
    """

    __slots__ = ("framing", "is_http11", "keep_alive", "method", "request_id", "section", "target")

    def __init__(self, method: bytes, target: bytes, section: RequestSection) -> None:
        """Put the head together. Raises ClientError if the target is none, or not one for this method."""
        if method == b"CONNECT":
            raise ClientError("CONNECT is for proxies that a client has chosen", 405, "Method not allowed")
        if target[:1] != b"/":
            target, section = _read_target(method, target, section)
        if section.max_forwards is not None and method in (b"OPTIONS", b"TRACE"):
            section = _one_hop_further(section, section.max_forwards)
        self.method = method
        self.target = target
        self.section = section
        self.is_http11 = section.is_http11
        self.framing = section.framing
        self.keep_alive = section.keep_alive
        self.request_id = section.request_id

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.target!r} {self.framing.name}>"

    @property
    def is_idempotent(self) -> bool:
        """Whether sending it twice has the effect of sending it once (RFC 9110 section 9.2.2)."""
        return self.method in IDEMPOTENT

    @property
    def has_idempotency_key(self) -> bool:
        """Whether the backend is told how to know it again (draft-ietf-httpapi-idempotency-key-header).

        Looked for when it is asked for, which is seldom.
        """
        return IDEMPOTENCY_KEY.search(self.section.lines) is not None

    @property
    def host(self) -> bytes | None:
        """The host that the client asks, as it spelled it."""
        return self.section.host

    @property
    def forwarded(self) -> list[Field]:
        """What the client says of where the request comes from."""
        return self.section.forwarded

    @property
    def content_length(self) -> int:
        """The body's length in bytes, if its framing is LENGTH."""
        return self.section.content_length

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body."""
        return self.section.expects_continue

    @property
    def upgrade(self) -> bytes | None:
        """The protocols that are offered to the backend."""
        return self.section.upgrade

    @property
    def takes_trailers(self) -> bool:
        """Whether the client understands trailers (RFC 9110 section 6.5.1)."""
        return self.section.takes_trailers


def _read_target(method: bytes, target: bytes, section: RequestSection) -> tuple[bytes, RequestSection]:
    """Read a target in another form than the usual one (RFC 9112 section 3.2). Raises ClientError."""
    if target == b"*":
        if method != b"OPTIONS":
            raise ClientError("the target * is for OPTIONS only")
        return target, section
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise ClientError("a target that is neither a path nor an http:// URL")
    authority, path = absolute.groups()
    if HOST.fullmatch(authority) is None or authority[:1] == b":":
        raise ClientError("a target whose authority is not a host, or a host and a port")
    # Section 3.2.2: what Host says does not count beside it, and the backend is sent the other.
    section = RequestSection(_with_field(section.raw, b"Host", authority), is_http11=section.is_http11)
    if not path:
        path = b"*" if method == b"OPTIONS" else b"/"
    return path if path[:1] in b"/*" else b"/" + path, section


def _one_hop_further(section: RequestSection, max_forwards: int) -> RequestSection:
    """Count Max-Forwards down (RFC 9110 section 7.6.2). Raises ClientError if the request may not go any further."""
    if not max_forwards:
        raise ClientError("Max-Forwards ends at this proxy, which has nothing to say itself", 501, "Not implemented")
    raw = _with_field(section.raw, b"Max-Forwards", b"%d" % (max_forwards - 1))
    return RequestSection(raw, is_http11=section.is_http11)


def _with_field(raw: bytes, name: bytes, value: bytes) -> bytes:
    """Put a field in front of a section, instead of those of its name."""
    lines = [line for line in raw.split(CRLF) if line.partition(b":")[0].lower() != name.lower()]
    return CRLF.join([b"%b: %b" % (name, value), *lines])


def is_sound_request_id(value: bytes) -> bool:
    """Whether a client's X-Request-ID may be passed on and logged."""
    return 0 < len(value) <= MAX_REQUEST_ID_BYTES and REQUEST_ID_BYTES.issuperset(value)


def upstream_head(head: RequestHead, authority: bytes, origin: Origin, request_id: bytes) -> bytes:
    """Serialise a request's head for a backend.

    `authority`, the backend's, stands in for a Host that an HTTP/1.0 client did not send, or for any, as the settings
    have it; `origin` tells about the client; `request_id` is the client's or a new one.
    """
    section = head.section
    told = section.told
    if told is None or told[0] is not origin:
        told = section.told = (origin, _told(section, origin))
    if section.host is None or origin.rewrites_host:
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%bX-Request-ID: %b\r\n\r\n" % (
            head.method,
            head.target,
            authority,
            told[1],
            request_id,
        )
    return b"%b %b HTTP/1.1\r\n%bX-Request-ID: %b\r\n\r\n" % (head.method, head.target, told[1], request_id)


def _told(section: RequestSection, origin: Origin) -> bytes:
    """Put together what a backend is told with each request that has this section and comes from there."""
    connection = b""
    if section.upgrade is not None:
        connection = upgrade_fields(section.upgrade, *([b"TE"] if section.takes_trailers else []))
    elif section.takes_trailers:
        connection = b"Connection: TE\r\n"
    return b"%b%b%b%b%b" % (
        without_host(section.lines) if origin.rewrites_host else section.lines,
        origin.lines(section.host, section.forwarded, is_http11=section.is_http11),
        b"Transfer-Encoding: chunked\r\n" if section.framing is Framing.CHUNKED else b"",
        connection,
        b"TE: trailers\r\n" if section.takes_trailers else b"",
    )

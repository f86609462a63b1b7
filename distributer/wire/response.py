"""Response heads: what is read of them, and what clients get. Immutable once read, as those of requests."""

from __future__ import annotations

from collections.abc import Iterable

from distributer.wire.fields import (
    HOP_BY_HOP,
    NOT_NAMED_AWAY,
    Field,
    Framing,
    is_length,
    keeps_alive,
    serialised,
    tokens_of,
    upgrade_fields,
    without,
)
from distributer.wire.grammar import CRLF, FIELDS, why_no_fields


class ResponseHead:
    """A response's head: `lines` are the end-to-end fields, serialised as they came.

    `upgrade` lists the protocols to which a 101 switches, or those that a 426 asks for.
    """

    __slots__ = (
        "_headers",
        "_lowered",
        "_wire",
        "content_length",
        "framing",
        "is_dated",
        "keep_alive",
        "lines",
        "reason",
        "status",
        "upgrade",
    )

    def __init__(
        self,
        status: int,
        reason: bytes,
        lines: bytes,
        framing: Framing,
        *,
        content_length: int = 0,
        keep_alive: bool = True,
        is_dated: bool = False,
        upgrade: bytes | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.lines = lines
        self.framing = framing
        self.content_length = content_length
        self.keep_alive = keep_alive
        self.is_dated = is_dated
        self.upgrade = upgrade
        self._headers: list[Field] | None = None
        self._lowered: tuple[frozenset[bytes], list[Field]] | None = None
        self._wire: tuple[bytes, bytes] | None = None

    @classmethod
    def read(
        cls, status: int, reason: bytes, section: bytes, *, is_http11: bool = True, answers_head: bool = False
    ) -> ResponseHead:
        """Read a head. Raises ValueError, saying why, if it breaks HTTP or the message's length is ambiguous.

        RFC 9112 section 6.3.
        """
        if FIELDS.fullmatch(section) is None:
            raise ValueError(why_no_fields(section))
        if not 100 <= status <= 599:
            raise ValueError(f"{status} is not an HTTP status")  # RFC 9110 section 15: to be treated as a 5xx
        keep_alive = is_http11
        is_dated = chunked = False
        kept: list[bytes] = []
        connection: bytes | None = None
        upgrade: bytes | None = None
        length: bytes | None = None
        for line in section[:-2].split(CRLF) if section else ():
            name, _, value = line.partition(b":")
            name = name.lower()
            if name not in _RESPONSE_SPECIAL:
                kept.append(line)
                continue
            value = value.strip(b" \t")
            if name == b"date":
                is_dated = True
                kept.append(line)
            elif name == b"content-length":
                if length is not None:
                    raise ValueError("more than one Content-Length")
                length = value
                if status >= 200 and status != 204:  # RFC 9110 section 8.6: no message of those may have one
                    kept.append(line)
            elif name == b"transfer-encoding":
                if chunked or value.lower() != b"chunked" or not is_http11:
                    raise ValueError("a transfer coding other than chunked")
                chunked = True
            elif name == b"connection":
                connection = value if connection is None else b"%b,%b" % (connection, value)
            elif name == b"upgrade" and status in (101, 426):
                upgrade = value if upgrade is None else b"%b, %b" % (upgrade, value)
        if chunked and length is not None:
            raise ValueError("both Content-Length and Transfer-Encoding")
        if length is not None and not is_length(length):
            raise ValueError("Content-Length is not a number of bytes")
        names_upgrade = False
        if connection is not None:
            tokens = tokens_of(connection)
            keep_alive = keeps_alive(tokens, default=is_http11)
            names_upgrade = b"upgrade" in tokens
            kept = without(kept, tokens - NOT_NAMED_AWAY)
        if answers_head or status in (204, 304) or status < 200:
            framing = Framing.NONE
        elif chunked:
            framing = Framing.CHUNKED
        elif length is not None:
            framing = Framing.LENGTH
        else:
            framing = Framing.UNTIL_CLOSE
            keep_alive = False
        return cls(
            status,
            reason,
            b"".join([b"%b\r\n" % line for line in kept]),
            framing,
            content_length=0 if length is None else int(length),
            keep_alive=keep_alive,
            is_dated=is_dated,
            upgrade=upgrade if names_upgrade else None,
        )

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} {self.framing.name}>"

    @classmethod
    def of(
        cls,
        status: int,
        reason: bytes,
        fields: Iterable[Field],
        *,
        is_http11: bool = True,
        answers_head: bool = False,
    ) -> ResponseHead:
        """Make a head of fields that are apart."""
        return cls.read(status, reason, serialised(fields), is_http11=is_http11, answers_head=answers_head)

    @property
    def is_websocket(self) -> bool:
        """Whether it speaks of WebSocket, and of nothing else."""
        return self.upgrade is not None and tokens_of(self.upgrade) == {b"websocket"}

    def switches_as_offered(self, offer: bytes | None) -> bool:
        """Whether this 101 switches to protocols of an offer, and to none that is not in it."""
        return self.upgrade is not None and offer is not None and tokens_of(self.upgrade) <= tokens_of(offer)

    @property
    def headers(self) -> list[Field]:
        """The end-to-end fields as pairs, in their order and spelling."""
        headers = self._headers
        if headers is None:
            parts = [line.partition(b":") for line in self.lines[:-2].split(CRLF)] if self.lines else []
            headers = self._headers = [(name, value.strip(b" \t")) for name, _, value in parts]
        return headers

    def lowered(self, left_out: frozenset[bytes]) -> list[Field]:
        """List the fields with their names in lower case, as ASGI and HTTP/2 have them, without those named.

        A new list each time, for whoever gets it may change it; made of one that is kept for the last `left_out`.
        """
        kept = self._lowered
        if kept is None or kept[0] is not left_out:
            fields = [(name.lower(), value) for name, value in self.headers]
            kept = self._lowered = (left_out, [field for field in fields if field[0] not in left_out])
        return list(kept[1])

    def with_fields(self, fields: Iterable[Field], *, instead_of: frozenset[bytes]) -> ResponseHead:
        """Return the head with these fields behind its own, less those of the names given in lower case."""
        kept = [line for line in self.lines.split(CRLF)[:-1] if line.partition(b":")[0].lower() not in instead_of]
        return ResponseHead(
            self.status,
            self.reason,
            b"".join([b"%b\r\n" % line for line in kept]) + serialised(fields),
            self.framing,
            content_length=self.content_length,
            keep_alive=self.keep_alive,
            is_dated=self.is_dated,
            upgrade=self.upgrade,
        )


_RESPONSE_SPECIAL = HOP_BY_HOP - {b"proxy-authenticate", b"proxy-authorization"} | {b"content-length", b"date"}


def downstream_head(head: ResponseHead, *, is_http11: bool, keep_alive: bool, date: bytes = b"") -> bytes:
    """Serialise a response's head for a client.

    A body of unknown length is chunked for HTTP/1.1, and ended by closing for HTTP/1.0, which must not `keep_alive`.
    `date` is for a head that has none (RFC 9110 section 6.6.1).
    """
    if head.is_dated:
        date = b""
    if not (is_http11 and keep_alive):
        return _wire(head, is_http11, keep_alive, date)
    made = head._wire
    if made is None or made[0] != date:
        made = head._wire = (date, _wire(head, is_http11, keep_alive, date))
    return made[1]


def _wire(head: ResponseHead, is_http11: bool, keep_alive: bool, date: bytes) -> bytes:
    connection = b""
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif not is_http11:
        connection = b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\n%b%b%b%b%b\r\n" % (
        head.status,
        head.reason,
        head.lines,
        b"Date: %b\r\n" % date if date else b"",
        b"" if head.upgrade is None else upgrade_fields(head.upgrade),
        b"Transfer-Encoding: chunked\r\n" if head.framing >= Framing.CHUNKED and is_http11 else b"",
        connection,
    )

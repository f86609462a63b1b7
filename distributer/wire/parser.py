"""Bytes → events: requests of a client, responses of a backend.

    HEAD ──blank line──► BODY ──its end──► HEAD …        framing by length, chunked, or until close

Written for two ends. Strict: what the grammar of the RFCs does not derive is refused, and nothing is guessed. Fast: a
head is cut out with one search and checked with one regular expression; and when its fields are those of the message
before on the same connection, byte for byte, what was read of them then holds again, and is used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from distributer.errors import ClientError
from distributer.wire.body import ChunkedBody
from distributer.wire.fields import Framing
from distributer.wire.grammar import (
    CRLF,
    END_OF_HEAD,
    REQUEST_LINE,
    STATUS_LINE,
    illegal_byte,
    why_no_request_line,
)
from distributer.wire.request import RequestHead, RequestSection
from distributer.wire.response import ResponseHead

MAX_REMEMBERED_BYTES = 4 * 1024
"""The largest header section that is kept for the next message: thousands of connections may each keep one."""
ROOM_IN_LINE_BYTES = 64
"""For method and version, beside the target."""
MAX_INTERIM = 32
"""How many 1xx may come before an answer."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on a head, in bytes and fields."""

    max_head_bytes: int = 32 * 1024
    max_fields: int = 100
    max_target_bytes: int = 8 * 1024

    def check_section(self, raw: bytes) -> None:
        """Raise ClientError if a header section holds too many fields."""
        if raw.count(CRLF) > self.max_fields:
            raise ClientError(f"more than {self.max_fields} fields", 431, "Request header fields too large")

    def check_head(self, size: int) -> None:
        """Raise ClientError if a head of so many bytes is too large."""
        if size >= self.max_head_bytes:
            raise ClientError("the head is too large", 431, "Request header fields too large")

    def check_target(self, size: int) -> None:
        """Raise ClientError if a target of so many bytes is too long."""
        if size > self.max_target_bytes:
            raise ClientError("the target is too long", 414, "URI too long")


HEAD_LIMITS = HeadLimits()
RESPONSE_LIMITS = HeadLimits(max_head_bytes=64 * 1024, max_fields=400)
"""Backends are trusted further than clients are."""


class RequestSink(Protocol):
    """Takes the events of requests, in order."""

    def request_started(self, head: RequestHead) -> None: ...
    def request_data(self, data: bytes) -> None: ...
    def request_finished(self) -> None: ...


class ResponseSink(Protocol):
    """Takes the events of responses, in order."""

    def response_started(self, head: ResponseHead) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_finished(self) -> None: ...


# Where a parser is in its message. Plain numbers, and the framings by names of this module: up to Python 3.11 each look
# at a member through its Enum costs more than the comparison it is for.
_HEAD: Final = 0
_LENGTH: Final = 1
_CHUNKED: Final = 2
_UNTIL_CLOSE: Final = 3
_ENDED: Final = 4  # responses: nothing more is expected

_BY_NONE: Final = Framing.NONE
_BY_LENGTH: Final = Framing.LENGTH
_BY_CHUNKS: Final = Framing.CHUNKED
_BY_CLOSE: Final = Framing.UNTIL_CLOSE


class RequestParser:
    """Requests of one client connection. After an error it is of no more use."""

    __slots__ = (
        "_chunks",
        "_has_skipped",
        "_is_line_sound",
        "_kept",
        "_left",
        "_limits",
        "_section",
        "_sink",
        "_state",
        "refused_head",
        "trailers",
    )

    def __init__(self, sink: RequestSink, limits: HeadLimits = HEAD_LIMITS) -> None:
        self.trailers = b""
        """The trailer section of the request that has just finished, serialised."""
        self.refused_head = False
        """Whether what was refused looks like a HEAD, whose answer has no body."""
        self._sink = sink
        self._limits = limits
        self._state: int = _HEAD
        self._kept = b""  # of a head that is not complete
        self._is_line_sound = False
        self._has_skipped = False
        self._section: RequestSection | None = None
        self._left = 0
        self._chunks: ChunkedBody | None = None

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a further request has come."""
        return self._state == _HEAD and not self._kept

    @property
    def has_more(self) -> bool:
        """Whether the last feed has stopped before its end: feed nothing, when others have had their turn."""
        return self._chunks is not None and self._chunks.has_more

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes. Raises ClientError.

        Returns None, or, after a request without a body that offers another protocol, the bytes behind it: what they
        are depends on the answer.
        """
        while True:
            state = self._state
            if state == _HEAD:
                checked = len(self._kept)
                if checked:
                    data, self._kept = self._kept + data, b""
                if data[:1] == b"\r":
                    data, checked = self._skip_line(data, checked)
                end = data.find(END_OF_HEAD, max(checked - 3, 0), self._limits.max_head_bytes)
                try:
                    if end < 0:
                        self._keep(data, checked)
                        return None
                    head = self._read_head(data, end)
                except ClientError:
                    self.refused_head = data[:5] == b"HEAD "
                    raise
                data = data[end + 4 :]
                self._sink.request_started(head)
                if head.framing is _BY_NONE:
                    self._sink.request_finished()
                    if head.section.upgrade is not None:
                        return data
                elif head.framing is _BY_LENGTH:
                    self._left = head.section.content_length
                    self._state = _LENGTH
                    if not self._left:
                        self._finish()
                else:
                    self._chunks = ChunkedBody()
                    self._state = _CHUNKED
            elif state == _LENGTH:
                left = self._left
                if len(data) < left:
                    self._left = left - len(data)
                    if data:
                        self._sink.request_data(data)
                    return None
                self._sink.request_data(data if len(data) == left else data[:left])
                data = data[left:]
                self._finish()
            else:
                rest = self._feed_chunks(data)
                if rest is None:
                    return None
                data = rest
            if not data:
                return None

    def _feed_chunks(self, data: bytes) -> bytes | None:
        chunks = self._chunks
        assert chunks is not None
        try:
            rest = chunks.feed(data)
        except ValueError as error:
            raise ClientError(str(error)) from error
        finally:
            if chunks.content:
                self._sink.request_data(chunks.content)
        if rest is not None:
            self.trailers = chunks.trailers
            self._chunks = None
            self._finish()
            self.trailers = b""
        return rest

    def _finish(self) -> None:
        self._state = _HEAD
        self._sink.request_finished()

    def _read_head(self, data: bytes, end: int) -> RequestHead:
        line_end = data.find(CRLF)
        method, target, is_http11 = self._read_line(data, line_end)
        self._has_skipped = self._is_line_sound = False
        raw = data[line_end + 2 : end + 2]
        section = self._section
        if section is None or raw != section.raw or is_http11 is not section.is_http11:
            self._limits.check_section(raw)
            section = RequestSection(raw, is_http11=is_http11)
            self._section = section if len(raw) <= MAX_REMEMBERED_BYTES else None
        return RequestHead(method, target, section)

    def _keep(self, data: bytes, checked: int) -> None:
        """Keep a head that is not complete, unless it can't become a legal one."""
        if not self._is_line_sound:
            line_end = data.find(CRLF)
            if line_end >= 0:
                self._read_line(data, line_end)
                self._is_line_sound = True
            else:
                self._limits.check_target(len(data) - ROOM_IN_LINE_BYTES)
        if (illegal := illegal_byte(data, max(checked - 1, 0))) is not None:
            raise ClientError(f"{illegal} in the head")
        self._limits.check_head(len(data))
        self._kept = data

    def _read_line(self, data: bytes, end: int) -> tuple[bytes, bytes, bool]:
        self._limits.check_target(end - ROOM_IN_LINE_BYTES)
        found = REQUEST_LINE.fullmatch(data, 0, end)
        if found is None:
            raise ClientError(why_no_request_line(data[:end]))
        method, target, version = found.groups()
        if len(target) > self._limits.max_target_bytes:
            self._limits.check_target(len(target))
        return method, target, version == b"HTTP/1.1" or _is_http11(version)

    def _skip_line(self, data: bytes, checked: int) -> tuple[bytes, int]:
        """Skip one empty line before a request (RFC 9112 section 2.2): an old client's, behind the body before."""
        if self._has_skipped or data[:2] != CRLF:
            return data, checked
        self._has_skipped = True
        return data[2:], 0


def _is_http11(version: bytes) -> bool:
    """Whether to treat a request as HTTP/1.1, and not 1.0. Raises ClientError.

    RFC 9110 section 2.5: a higher minor version is treated as the highest that is known.
    """
    if version[5:6] != b"1":
        raise ClientError(version.decode(), 505, "HTTP version not supported")
    return version != b"HTTP/1.0"


class ResponseParser:
    """Responses of one backend connection, one `expect` for each."""

    __slots__ = (
        "_answers_head",
        "_chunks",
        "_head",
        "_interim",
        "_kept",
        "_left",
        "_raw",
        "_sink",
        "_state",
        "trailers",
    )

    def __init__(self, sink: ResponseSink) -> None:
        self.trailers = b""
        """The trailer section of the response that has just finished, serialised."""
        self._sink = sink
        self._state: int = _ENDED
        self._answers_head = False
        self._kept = b""
        self._raw = b""  # of the last head
        self._head: ResponseHead | None = None
        self._interim = 0
        self._left = 0
        self._chunks: ChunkedBody | None = None

    def expect(self, *, answers_head: bool) -> None:
        """Say what the next response answers: one to HEAD has no body, whatever its head says."""
        if answers_head is not self._answers_head:
            self._answers_head = answers_head
            self._head = None
        self._interim = 0
        self._state = _HEAD

    @property
    def has_more(self) -> bool:
        """Whether the last feed has stopped before its end: feed nothing, when others have had their turn."""
        return self._chunks is not None and self._chunks.has_more

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes. Raises ValueError, saying why, if they are not the response that is expected.

        Returns None, or, behind a 101, the bytes that follow it: those of the other protocol.
        """
        while True:
            state = self._state
            if state == _HEAD:
                if self._kept:
                    data, self._kept = self._kept + data, b""
                end = data.find(END_OF_HEAD, 0, RESPONSE_LIMITS.max_head_bytes)
                if end < 0:
                    self._keep(data)
                    return None
                head = self._read_head(data[: end + 2])
                data = data[end + 4 :]
                self._begin(head)
                if head.status == 101:
                    return data
            elif state == _LENGTH:
                left = self._left
                if len(data) < left:
                    self._left = left - len(data)
                    if data:
                        self._sink.response_data(data)
                    return None
                self._sink.response_data(data if len(data) == left else data[:left])
                data = data[left:]
                self._finish()
            elif state == _CHUNKED:
                rest = self._feed_chunks(data)
                if rest is None:
                    return None
                data = rest
            elif state == _UNTIL_CLOSE:
                if data:
                    self._sink.response_data(data)
                return None
            elif data:
                raise ValueError("something follows the answer")
            if not data:
                return None

    def _begin(self, head: ResponseHead) -> None:
        framing = head.framing
        if head.status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ValueError(f"more than {MAX_INTERIM} interim answers")
            self._state = _ENDED if head.status == 101 else _HEAD
            self._sink.response_started(head)
        elif framing is _BY_LENGTH and head.content_length:
            self._left = head.content_length
            self._state = _LENGTH
            self._sink.response_started(head)
        elif framing is _BY_CHUNKS:
            self._chunks = ChunkedBody()
            self._state = _CHUNKED
            self._sink.response_started(head)
        elif framing is _BY_CLOSE:
            self._state = _UNTIL_CLOSE
            self._sink.response_started(head)
        else:
            self._sink.response_started(head)
            self._finish()

    def _feed_chunks(self, data: bytes) -> bytes | None:
        chunks = self._chunks
        assert chunks is not None
        try:
            rest = chunks.feed(data)
        finally:
            if chunks.content:
                self._sink.response_data(chunks.content)
        if rest is not None:
            self.trailers = chunks.trailers
            self._chunks = None
            self._finish()
            self.trailers = b""
        return rest

    def _finish(self) -> None:
        self._state = _ENDED
        self._sink.response_finished()

    def _read_head(self, raw: bytes) -> ResponseHead:
        if raw == self._raw and self._head is not None:
            return self._head
        line_end = raw.find(CRLF)
        found = STATUS_LINE.fullmatch(raw, 0, line_end)
        if found is None:
            raise ValueError("not an answer in HTTP/1.1")
        version, status, reason = found.groups()
        if version[5:6] != b"1":
            raise ValueError(f"an answer in {version.decode()}")
        if raw.count(CRLF) > RESPONSE_LIMITS.max_fields:
            raise ValueError(f"more than {RESPONSE_LIMITS.max_fields} fields")
        head = ResponseHead.read(
            int(status),
            reason or b"",
            raw[line_end + 2 :],
            is_http11=version != b"HTTP/1.0",
            answers_head=self._answers_head,
        )
        if len(raw) <= MAX_REMEMBERED_BYTES:
            self._raw, self._head = raw, head
        return head

    def _keep(self, data: bytes) -> None:
        if len(data) >= RESPONSE_LIMITS.max_head_bytes:
            raise ValueError("its head is too large")
        if not b"HTTP/1.".startswith(data[:7]):
            raise ValueError("not an answer in HTTP/1.1")
        if (illegal := illegal_byte(data)) is not None:
            raise ValueError(f"{illegal} in its head")
        self._kept = data

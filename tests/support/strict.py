"""A second opinion: HTTP/1.1 by the letter, to judge what a proxy sends either way. Pure; shares no code with it.

`Requests` and `Answers` take bytes as they come and list the messages that they hold; `wrong` says what is not by the
grammar of RFC 9112, after which nothing more is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)")
_VISIBLE = rb"[\x21-\x7e\x80-\xff]"
_FIELD = re.compile(
    rb"(" + TOKEN + rb"):[\t ]*(" + _VISIBLE + rb"(?:[\t \x21-\x7e\x80-\xff]*" + _VISIBLE + rb")?|)[\t ]*"
)
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t ]*" + TOKEN + rb"(?:[\t ]*=[\t ]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
_HOST = re.compile(
    rb"(?:\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?"
)
MAX_LINE_BYTES = 1 << 20


class Wrong(Exception):
    """The bytes break the grammar."""


@dataclass
class Message:
    """A head and a body. `ended_by_close`: its body ended with the connection."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended_by_close: bool = False

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """List the values of all fields of that name, in order."""
        return tuple(value for key, value in self.fields if key.lower() == name)

    def tokens(self, name: bytes) -> set[bytes]:
        """List the lower-cased elements of a list field."""
        return {part.strip(b" \t").lower() for value in self.values(name) for part in value.split(b",")} - {b""}

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def is_http10(self) -> bool:
        """Whether it says so of itself."""
        return b"HTTP/1.0" in (self.start[:8], self.start[-8:])


class _Cursor:
    """A place in bytes that may not have all come yet: Short is raised where they end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        line = self.data[self.at : len(self.data) if end < 0 else end + 1]
        if end < 0:
            if len(line) > MAX_LINE_BYTES:
                raise Wrong("a line without end")
            raise Short
        self.at = end + 1
        if not line.endswith(b"\r\n"):
            raise Wrong(f"a line ends with a bare LF: {line[-60:]!r}")
        return line[:-2]

    def take(self, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise Short
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken


class Short(Exception):
    """The message goes on behind what has come."""


def _match(pattern: re.Pattern[bytes], line: bytes, what: str) -> re.Match[bytes]:
    found = pattern.fullmatch(line)
    if found is None:
        raise Wrong(f"{what}: {line[:120]!r}")
    return found


def _fields(cursor: _Cursor) -> list[tuple[bytes, bytes]]:
    fields = []
    while line := cursor.line():
        found = _match(_FIELD, line, "a field line")
        fields.append((found[1], found[2]))
    return fields


def _length(message: Message) -> int | None:
    """How long the body is; -1: chunked, None: nothing says it."""
    lengths, codings = message.values(b"content-length"), message.values(b"transfer-encoding")
    if codings:
        if lengths:
            raise Wrong("both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked" or message.is_http10:
            raise Wrong(f"a transfer coding: {codings!r} in {message.start!r}")
        return -1
    if lengths:
        if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise Wrong(f"a length: {lengths!r}")
        return int(lengths[0])
    return None


def _chunks(cursor: _Cursor, message: Message) -> None:
    parts = []
    while True:
        size = int(_match(_CHUNK_LINE, cursor.line(), "a chunk's size line")[1], 16)
        if size == 0:
            break
        parts.append(cursor.take(size))
        if cursor.take(2) != b"\r\n":
            raise Wrong("no CRLF behind a chunk's data")
    message.body = b"".join(parts)
    message.trailers = _fields(cursor)


class _Reader:
    """What has come, and the messages in it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.wrong = ""
        self._data = b""
        self._begun: Message | None = None

    def feed(self, data: bytes) -> list[Message]:
        """Take more bytes; return the messages that they complete."""
        if self.wrong:
            return []
        self._data += data
        before = len(self.messages)
        try:
            while self._data:
                cursor = _Cursor(self._data)
                self._begun = None
                self.messages.append(self._read(cursor))
                self._begun = None
                self._data = self._data[cursor.at :]
        except Short:
            pass
        except Wrong as error:
            self.wrong = str(error)
        return self.messages[before:]

    @property
    def rest(self) -> bytes:
        """What has come behind the last complete message."""
        return self._data

    @property
    def begun(self) -> Message | None:
        """The message whose head has come, and whose body has not ended."""
        return self._begun

    def _read(self, cursor: _Cursor) -> Message:
        raise NotImplementedError


class Requests(_Reader):
    """The requests of one connection. A server may pass over empty lines before one; a client sends none."""

    def __init__(self, *, skips_empty_lines: bool = False) -> None:
        super().__init__()
        self._skips_empty_lines = skips_empty_lines

    def _read(self, cursor: _Cursor) -> Message:
        line = cursor.line()
        while not line and self._skips_empty_lines:
            line = cursor.line()
        _match(_REQUEST_LINE, line, "a request line")
        message = Message(line, _fields(cursor))
        hosts = message.values(b"host")
        if len(hosts) > 1 or (not hosts and not message.is_http10) or (hosts and not _HOST.fullmatch(hosts[0])):
            raise Wrong(f"Host: {hosts!r}")
        length = _length(message)
        self._begun = message
        if length == -1:
            _chunks(cursor, message)
        elif length is not None:
            message.body = cursor.take(length)
        return message


class Answers(_Reader):
    """The answers of one connection. `answers_head(n)`: whether the n-th final one answers a HEAD request."""

    def __init__(self, answers_head: Callable[[int], bool] = lambda _number: False) -> None:
        super().__init__()
        self._answers_head = answers_head
        self._until_close: Message | None = None

    @property
    def final(self) -> list[Message]:
        """The answers without the 1xx."""
        return [message for message in self.messages if message.status >= 200]

    def close(self, *, is_clean: bool = True) -> None:
        """The connection has ended; `is_clean`: not by a reset."""
        message = self._until_close
        if message is not None and is_clean and not self.wrong:
            self._until_close = self._begun = None
            message.body, self._data = self._data[self._body_at :], b""
            message.ended_by_close = True
            self.messages.append(message)

    def _read(self, cursor: _Cursor) -> Message:
        line = cursor.line()
        _match(_STATUS_LINE, line, "a status line")
        message = Message(line, _fields(cursor))
        if message.status < 200:
            if _length(message) is not None:
                raise Wrong("a length in a 1xx answer")
            return message
        if message.status in (204, 304) or self._answers_head(len(self.final)):
            return message
        length = _length(message)
        self._begun = message
        if length == -1:
            _chunks(cursor, message)
        elif length is not None:
            message.body = cursor.take(length)
        else:
            self._until_close = message
            self._body_at = cursor.at
            raise Short
        return message


def requests_in(data: bytes) -> Requests:
    """Read all requests in these bytes."""
    reader = Requests()
    reader.feed(data)
    return reader

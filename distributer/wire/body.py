"""The chunked coding (RFC 9112 section 7.1): strict, incremental, bounded.

    SIZE ──"5;ext\\r\\n"──► DATA ──5 bytes──► DATA_END ──"\\r\\n"──► SIZE …
      └──"0\\r\\n"──► TRAILERS ──blank line──► the end

Extensions are checked and dropped: they speak of one connection only. Trailers are kept, without those that would
change how the message is framed, routed or authenticated (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

from typing import Final

from distributer.wire.forwarded import UNTRUSTED
from distributer.wire.grammar import CHUNK_LINE, CRLF, END_OF_HEAD, FIELDS, illegal_byte, why_no_fields

MAX_CHUNK_LINE_BYTES = 1024
MAX_EXTENSION_BYTES = 16 * 1024
"""Of one message. More is an attempt to make us read much for little."""
MAX_TRAILER_BYTES = 16 * 1024
MAX_CHUNKS_AT_ONCE = 512
"""A read may hold tens of thousands of chunks, whose taking apart would hold up all others for a tenth of a second."""

NO_TRAILERS = UNTRUSTED | frozenset(
    {
        b"authorization", b"cache-control", b"connection", b"content-encoding", b"content-length", b"content-range",
        b"content-type", b"cookie", b"date", b"expect", b"host", b"keep-alive", b"max-forwards",
        b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"range", b"set-cookie", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"www-authenticate", b"x-request-id",
    }
)  # fmt: skip
"""Fields that mean nothing at the end, and harm where somebody believes them."""


# Where it is in the body: plain numbers, as in the parser.
_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3


class ChunkedBody:
    """Takes a chunked body apart."""

    __slots__ = ("_extension_bytes", "_kept", "_left", "_state", "content", "has_more", "trailers")

    def __init__(self) -> None:
        self.content = b""
        """What the last feed held of the content."""
        self.trailers = b""
        """The trailer section, serialised, once the body has ended."""
        self.has_more = False
        """Whether the last feed has stopped before its end: feed nothing, when others have had their turn."""
        self._state: int = _SIZE
        self._left = 0
        self._kept = b""  # of a line that has not ended
        self._extension_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Decode data; `content` is what it held, up to the end or the error.

        Returns None while the body has not ended, then what follows it. Raises ValueError, saying what is wrong.
        """
        if self._kept:
            data, self._kept = self._kept + data, b""
        pieces: list[bytes] = []
        try:
            return self._decode(data, pieces)
        finally:
            self.content = pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _decode(self, data: bytes, pieces: list[bytes]) -> bytes | None:
        at, size = 0, len(data)
        self.has_more = False
        while True:
            state = self._state
            if state == _DATA:
                left = self._left
                if size - at < left:
                    if at < size:
                        pieces.append(data[at:])
                        self._left = left - (size - at)
                    return None
                pieces.append(data[at : at + left])
                at += left
                self._state = _DATA_END
            elif state == _DATA_END:
                ending = data[at : at + 2]
                if ending != CRLF:
                    if ending not in (b"", b"\r"):
                        raise ValueError("a chunk that is longer than its size says")
                    self._kept = ending
                    return None
                at += 2
                self._state = _SIZE
            elif state == _SIZE:
                if len(pieces) >= MAX_CHUNKS_AT_ONCE and at < size:
                    self._kept = data[at:]
                    self.has_more = True
                    return None
                end = data.find(CRLF, at, at + MAX_CHUNK_LINE_BYTES)
                if end < 0:
                    self._keep_line(data[at:])
                    return None
                self._left = left = self._size_of(data, at, end)
                at = end + 2
                self._state = _DATA if left else _TRAILERS
            else:
                return self._end(data, at)

    def _size_of(self, data: bytes, at: int, end: int) -> int:
        line = CHUNK_LINE.fullmatch(data, at, end)
        if line is None:
            raise ValueError("a chunk without a sound size or extension")
        digits = line.group(1)
        self._extension_bytes += end - at - len(digits)
        if self._extension_bytes > MAX_EXTENSION_BYTES:
            raise ValueError("too much in chunk extensions")
        return int(digits, 16)

    def _keep_line(self, line: bytes) -> None:
        if len(line) >= MAX_CHUNK_LINE_BYTES:
            raise ValueError("the line with a chunk's size is too long")
        if (illegal := illegal_byte(line)) is not None:
            raise ValueError(f"{illegal} in the line with a chunk's size")
        self._kept = line

    def _end(self, data: bytes, at: int) -> bytes | None:
        if data.startswith(CRLF, at):
            return data[at + 2 :]
        end = data.find(END_OF_HEAD, at, at + MAX_TRAILER_BYTES)
        if end < 0:
            if len(data) - at >= MAX_TRAILER_BYTES:
                raise ValueError("the trailer section is too large")
            if (illegal := illegal_byte(data, at)) is not None:
                raise ValueError(f"{illegal} in the trailer section")
            self._kept = data[at:]
            return None
        section = data[at : end + 2]
        if FIELDS.fullmatch(section) is None:
            raise ValueError(f"{why_no_fields(section)}, in the trailer section")
        lines = section[:-2].split(CRLF)
        self.trailers = b"".join(
            b"%b\r\n" % line for line in lines if line.partition(b":")[0].lower() not in NO_TRAILERS
        )
        return data[end + 4 :]


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk. Data is never empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def last_chunk(trailers: bytes) -> bytes:
    """End a body with trailers, serialised lines or none."""
    return b"0\r\n%b\r\n" % trailers

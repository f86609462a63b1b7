"""Where a WebSocket's messages begin and end (RFC 6455 section 5.2), and no more than that.

A tunnel passes a WebSocket's bytes on unread. Only to close one properly must it know when a direction stands between
two messages: there a Close frame of its own may go in. (Between the fragments of one, section 5.4 allows it as well,
but clients take it for an error: the message will never be whole.) So this follows headers and skips payloads by their
length.

     byte 0         byte 1          then
    ┌─┬───┬────────┬─┬──────────┬──────────────────────────┬─────────────────┬─────────────
    │F│RSV│ opcode │M│  length  │ its 2 or 8 bytes, if the │ mask key, 4, if │ payload
    │ │   │        │ │ 126, 127 │ length is 126 or 127     │ M (from clients)│
    └─┴───┴────────┴─┴──────────┴──────────────────────────┴─────────────────┴─────────────
"""

from __future__ import annotations

import os

GOING_AWAY = 1001
"""Status code of a Close frame (RFC 6455 section 7.4.1): this end leaves, here after too long a silence."""
SERVICE_RESTART = 1012
"""Status code (registered with IANA for RFC 6455 section 11.7): come again, another serves. 1001 would do as well by
the letter, but says nothing of coming again; uvicorn too sends 1012 when it stops."""

BAD_GATEWAY = 1014
"""Status code (IANA): a gateway got no proper answer from what is behind it, as 502."""

_CLOSE = 0x8
_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_MASK_BYTES = 4


class FrameFollower:
    """Follows the frames of one direction, however its bytes are split: control frames, and those of messages."""

    __slots__ = ("_header", "_is_close", "_is_fragmented", "_left", "is_closed", "is_lost", "is_masked")

    def __init__(self, *, is_masked: bool) -> None:
        """`is_masked`: whether it is the direction from client to server (RFC 6455 section 5.1)."""
        self.is_masked = is_masked
        self._header = b""  # of a frame whose header has not come whole
        self._left = 0  # bytes of the frame under way that are still to come: its payload and mask key
        self._is_close = False  # of the frame under way
        self._is_fragmented = False  # the message under way goes on behind this frame
        self.is_closed = False
        """Whether a Close frame has passed: no other may follow it."""
        self.is_lost = False
        """Whether what passed are no frames: nobody knows where the next one begins."""

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "closed" if self.is_closed else "between" if self.is_between else "within"
        return f"<FrameFollower {state}, left: {self._left}>"

    @property
    def is_between(self) -> bool:
        """Whether it stands between two messages."""
        return not self._left and not self._header and not self._is_fragmented and not self.is_lost

    def follow(self, data: bytes, *, to_boundary: bool = False) -> int:
        """Take bytes that pass. Returns how many: all, or `to_boundary`, those of the message under way."""
        size = len(data)
        if self._left > size:
            self._left -= size
            return size
        if to_boundary and self.is_between:
            return 0
        at = 0
        while at < size and not self.is_lost and not self.is_closed:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            else:
                at = self._read_header(data, at)
            if not self._left and not self._header and not self.is_lost:
                self.is_closed = self._is_close
                if to_boundary and not self._is_fragmented:
                    return at
        return size

    def _read_header(self, data: bytes, at: int) -> int:
        """Read a header, or what there is of it. Returns where it ends."""
        kept = len(self._header)
        header = self._header + data[at : at + 10 - kept] if kept else data[at : at + 10]
        self._header = b""
        if len(header) >= 2:
            first, second = header[0], header[1]
            length = second & 0x7F
            is_control = first & 0x08
            if (
                first & 0x0F not in _OPCODES
                or (second >= 0x80) is not self.is_masked
                or (is_control and (length > 125 or first < 0x80))
            ):
                self.is_lost = True
                return len(data)
            extended = 2 if length == 126 else 8 if length == 127 else 0
            if len(header) >= 2 + extended:
                if extended:
                    length = int.from_bytes(header[2 : 2 + extended], "big")
                self._left = length + _MASK_BYTES if self.is_masked else length
                if not is_control:
                    self._is_fragmented = first < 0x80
                self._is_close = first & 0x0F == _CLOSE
                return at + 2 + extended - kept
        self._header = header
        return len(data)


def close_frame(code: int, *, is_masked: bool) -> bytes:
    """Make a Close frame without a reason (RFC 6455 section 5.5.1)."""
    payload = code.to_bytes(2, "big")
    if not is_masked:
        return bytes((0x80 | _CLOSE, len(payload))) + payload
    key = os.urandom(_MASK_BYTES)
    masked = bytes(byte ^ mask for byte, mask in zip(payload, key, strict=False))
    return bytes((0x80 | _CLOSE, 0x80 | len(payload))) + key + masked

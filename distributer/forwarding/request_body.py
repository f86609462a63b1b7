"""A request's body on its way to a backend."""

from __future__ import annotations

from distributer.wire.body import chunk, last_chunk

KEPT_BODY_BYTES = 64 * 1024
"""How much of a body is kept to be sent again, and is taken before there is a connection."""


class RequestBody:
    """Frames what comes of a body as the backend gets it, and keeps the beginning, so that it can be sent again."""

    __slots__ = ("_frames", "_is_chunked", "_size", "is_kept")

    def __init__(self, *, is_chunked: bool) -> None:
        self._is_chunked = is_chunked
        self._frames: list[bytes] = []
        self._size = 0
        self.is_kept = True
        """Whether all that has come is still here."""

    @property
    def is_long(self) -> bool:
        """Whether as much has come as is kept."""
        return self._size > KEPT_BODY_BYTES

    @property
    def kept(self) -> bytes:
        """All that has come, framed."""
        return b"".join(self._frames)

    def take(self, data: bytes) -> bytes:
        """Take some of the body, never none; return it framed."""
        return self._add(chunk(data) if self._is_chunked else data)

    def end(self, trailers: bytes) -> bytes:
        """End the body; return what the backend must get for that, if anything."""
        return self._add(last_chunk(trailers)) if self._is_chunked else b""

    def forget(self) -> None:
        """Keep nothing of it any more."""
        self.is_kept = False
        self._frames = []

    def _add(self, frame: bytes) -> bytes:
        if self.is_kept:
            self._frames.append(frame)
            self._size += len(frame)
        return frame

"""Whether a request's body comes fast enough."""

from __future__ import annotations

from typing import Protocol

from distributer.errors import ClientError

MIN_BODY_BYTES = 1024
"""How much of a body, or all of its rest, must come within each span."""


class Receiving(Protocol):
    """A request whose body is on its way."""

    body_bytes: int
    """How much of it has come."""


class BodyPace:
    """Watches one body, span by span. Begin anew whenever the client was held back: that time is not its own."""

    __slots__ = ("_bytes_before", "_request", "_span_s", "deadline")

    def __init__(self, request: Receiving, span_s: float, now: float) -> None:
        self._request = request
        self._span_s = span_s
        self.restart(now)

    def restart(self, now: float) -> None:
        """Begin a span at coarse time `now`, in seconds."""
        self.deadline = now + self._span_s
        self._bytes_before = self._request.body_bytes

    def is_too_slow(self, now: float) -> bool:
        """Whether a span has ended in which too little came. Asked only while the body is not complete."""
        if now < self.deadline:
            return False
        if self._request.body_bytes - self._bytes_before < MIN_BODY_BYTES:
            return True
        self.restart(now)
        return False


def body_too_slow(span_s: float) -> ClientError:
    """Make the error of a body in which too little came within a span."""
    detail = f"less than {MIN_BODY_BYTES} bytes of the body came within {span_s:g} s"
    return ClientError(detail, 408, "Request timeout")

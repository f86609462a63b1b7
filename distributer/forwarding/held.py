"""An answer that must not go out yet."""

from __future__ import annotations

from collections.abc import Callable

from distributer.errors import RequestError
from distributer.forwarding.downstream import Downstream
from distributer.forwarding.tunnel import End
from distributer.wire.response import ResponseHead


class HeldAnswer:
    """Stands in for the client: records an answer, and replays it once it may go out.

    Beyond `bound_bytes` it calls `hold_back`, for the backend to be paused.
    """

    __slots__ = ("_bound_bytes", "_bytes", "_events", "_hold_back", "_trailers", "to")

    def __init__(self, to: Downstream, bound_bytes: int, hold_back: Callable[[], None]) -> None:
        self.to = to
        """Whom it is for. May be changed until it is replayed: the client may leave."""
        self._bound_bytes = bound_bytes
        self._hold_back = hold_back
        self._events: list[ResponseHead | bytes | RequestError | None] = []
        self._bytes = 0
        self._trailers = b""

    def replay(self) -> None:
        """Let out what has come. What comes next goes to `to` itself."""
        to = self.to
        for event in self._events:
            if event is None:
                to.finish(self._trailers)
                return
            if isinstance(event, bytes):
                to.write(event)
            elif isinstance(event, ResponseHead):
                to.start(event)
            else:
                to.abort(event)
                return
        to.flush()

    def interim(self, head: ResponseHead) -> None:
        """None follows the head that it is held by."""

    def start(self, head: ResponseHead) -> None:
        self._events.append(head)

    def write(self, data: bytes) -> None:
        self._events.append(data)
        self._bytes += len(data)
        if self._bytes > self._bound_bytes:
            self._hold_back()

    def flush(self) -> None: ...

    def withdraw(self) -> None:
        """Never: by the head that it is held by, what happened has been told to the shared state."""
        raise AssertionError("an answer that is held is not withdrawn")

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        raise ValueError("it switched to another protocol behind its answer")

    def finish(self, trailers: bytes = b"") -> None:
        self._trailers = trailers
        self._events.append(None)

    def abort(self, error: RequestError) -> None:
        self._events.append(error)

    def pause_reading(self) -> None:
        self.to.pause_reading()

    def resume_reading(self) -> None:
        self.to.resume_reading()

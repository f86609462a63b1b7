"""The side of the client, as an exchange sees it."""

from __future__ import annotations

from typing import Protocol

from distributer.errors import RequestError
from distributer.forwarding.tunnel import End
from distributer.wire.response import ResponseHead


class Downstream(Protocol):
    """The side of the client: what a door gives the exchange. `abort` or `finish` is the last call."""

    def interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx answer; another follows."""

    def start(self, head: ResponseHead) -> None:
        """Begin the answer."""

    def write(self, data: bytes) -> None:
        """Go on with its body. May be gathered until `flush`."""

    def flush(self) -> None:
        """Let out what was gathered. Until then, nothing of the answer has gone out."""

    def withdraw(self) -> None:
        """Forget an answer that was begun, and of which nothing was let out: another follows."""

    def finish(self, trailers: bytes = b"") -> None:
        """End the answer. `trailers`: its trailer section, serialised, of a client that takes them."""

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        """Pass on a 101. Returns the client's end of the tunnel, and the bytes that have come behind the request.

        Raises ValueError if the backend's 101 is wrong for what the client asked.
        """

    def abort(self, error: RequestError) -> None:
        """Answer with the error, or cut the connection if an answer has begun: never a clean end."""

    def pause_reading(self) -> None:
        """Take no more of the request's body for now."""

    def resume_reading(self) -> None:
        """Take more again."""


class Nobody:
    """Stands in for a client that left before the outcome of its create or delete was known."""

    def interim(self, head: ResponseHead) -> None: ...
    def start(self, head: ResponseHead) -> None: ...
    def write(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def withdraw(self) -> None: ...
    def finish(self, trailers: bytes = b"") -> None: ...

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        raise ValueError("nobody is left to speak another protocol")

    def abort(self, error: RequestError) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


NOBODY = Nobody()

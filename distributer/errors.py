"""Every error of distributer: who broke the rule, what the client is told, and whether anything was sent.

Library exceptions are translated once, where the library is called, with `raise ... from`.
"""

from __future__ import annotations


class DistributerError(Exception):
    """The base of all errors here. Never raised itself."""


class ConfigError(DistributerError):
    """A setting is missing or wrong. The message names the setting; the exit status is 2."""


class StartupError(DistributerError):
    """The settings are fine, but the surroundings are not: a port in use, no Redis. The exit status is 1."""


class ChangeRefusedError(DistributerError):
    """A change of the cluster that cannot be made; the message says why. Nothing has changed."""


class StateError(DistributerError):
    """Redis is away, late, or refuses us; or it answered with what this schema does not hold."""

    detail = ""
    """What Redis or the system said, word for word: for operators, not for clients."""


class RequestError(DistributerError):
    """An error that ends one exchange, as the client sees it.

    `status` is the HTTP status, `title` a constant phrase for that kind of error, and `detail` what the client is told
    besides. The message (`str(error)`) is for the log: it may name backends, and what Redis said. `retry_after_s`
    becomes a Retry-After field.
    """

    status = 500
    title = "Internal error"
    retry_after_s: int | None = None

    @property
    def detail(self) -> str:
        """What the client is told: nothing about the inside."""
        return str(self)


class ClientError(RequestError):
    """The client broke a rule of HTTP or a bound. 4xx; its connection is closed."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, status: int = 400, title: str = "Bad request") -> None:
        super().__init__(detail)
        self.status = status
        self.title = title


class ClientGone(RequestError):
    """The client left before its answer was complete. Nobody reads this; it is counted (499, as nginx does)."""

    status = 499
    title = "Client closed the connection"


class UpstreamError(RequestError):
    """A backend failed. `sent`: whether any byte of the request may have reached it."""

    status = 502
    title = "Backend failed"
    told = "the backend gave no answer that could be passed on"
    """What clients are told of all errors of this kind."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent

    @property
    def detail(self) -> str:
        return self.told


class ConnectFailed(UpstreamError):
    """No connection to the backend could be made. Nothing was sent, so another try is always safe."""

    title = "Backend refused the connection"
    told = "no connection to the backend could be made"

    def __init__(self, reason: str) -> None:
        super().__init__(reason, sent=False)


class ConnectionLost(UpstreamError):
    """The connection was closed after the request was sent, and before the answer was complete."""


class ConnectionStale(ConnectionLost):
    """A reused connection turned out to be closed before any byte of the answer."""

    title = "Backend closed the connection"
    told = "the backend closed the connection before it answered"


class UpstreamTimeout(UpstreamError):
    """The backend did not answer, or stopped answering, within the time allowed."""

    status = 504
    title = "Backend timed out"
    told = "the backend took too long to answer"


class LoopDetected(RequestError):
    """The request has come by here so often that it must be going round in a circle (RFC 5842 section 7.2)."""

    status = 508
    title = "Loop detected"


class Unroutable(RequestError):
    """There is no place to send the request now; later there may be."""

    status = 503
    title = "No backend available"

    def __init__(
        self, reason: str, retry_after_s: int = 1, title: str = "No backend available", detail: str | None = None
    ) -> None:
        """`detail`: what the client is told, if the reason is not for it."""
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.title = title
        self._detail = reason if detail is None else detail

    @property
    def detail(self) -> str:
        return self._detail

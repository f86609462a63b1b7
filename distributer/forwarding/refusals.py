"""Why clients did not get what they asked for, in the log.

Each error that a client sees is a line at level info, or at level debug once there are many: an attack, or a backend
that is down, must not fill a disk. The number of those is a line at level info as well.
"""

from __future__ import annotations

import logging

from distributer.errors import ClientError, RequestError
from distributer.log import Limiter
from distributer.wire.request import RequestHead

TURNED_AWAY = "turned away"
LINES_PER_SPAN = 20
"""Of each kind. Of connections that were turned away there is one: they are all the same."""
SPAN_S = 10.0
MAX_TARGET_CHARACTERS = 256

log = logging.getLogger("distributer.requests")


class Refusals:
    """Logs errors that clients see. Kinds are limited apart, so that a flood of one does not hide the others."""

    __slots__ = ("_limiters",)

    def __init__(self) -> None:
        self._limiters: dict[str, Limiter] = {}

    def note(self, error: RequestError, client: bytes, head: RequestHead | None, now: float) -> None:
        """Log an error that a client is told of, or cut off for. `head` is None if it sent none that can be read."""
        self._line("refused" if isinstance(error, ClientError) else "failed", error, client, head, now)

    def turned_away(self, error: RequestError, client: bytes, now: float) -> None:
        """Log a connection that was not let in."""
        self._line(TURNED_AWAY, error, client, None, now)

    def check(self, now: float) -> None:
        """Log how many lines were left out. Called on each tick."""
        for kind, limiter in self._limiters.items():
            missed = limiter.missed(now)
            if missed:
                log.info("%s: %d more in %g s", kind, missed, SPAN_S)

    def _line(self, kind: str, error: RequestError, client: bytes, head: RequestHead | None, now: float) -> None:
        limiter = self._limiters.get(kind)
        if limiter is None:
            lines = 1 if kind is TURNED_AWAY else LINES_PER_SPAN
            limiter = self._limiters[kind] = Limiter(lines, SPAN_S)
        level = logging.INFO if limiter.passes(now) else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        pairs: dict[str, object] = {"status": error.status, "client": client.decode("latin-1")}
        if head is not None:
            pairs["method"] = head.method.decode("latin-1")
            pairs["target"] = head.target[:MAX_TARGET_CHARACTERS].decode("latin-1")
        log.log(level, "%s: %s", kind, error, extra=pairs)

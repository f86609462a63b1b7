"""Attempts that failed, in the log: whether another one was made, or the client came to see it.

Of each kind of failure of each backend there is a line in ten seconds, with the reason; of the others, their number. A
backend that dies under load fails hundreds of attempts in the same way.
"""

from __future__ import annotations

import logging

from distributer.errors import UpstreamError
from distributer.log import Limiter
from distributer.model import Backend

SPAN_S = 10.0

log = logging.getLogger("distributer.backends")


class FailedAttempts:
    """Logs attempts that failed."""

    __slots__ = ("_limiters",)

    def __init__(self) -> None:
        self._limiters: dict[tuple[str, str], Limiter] = {}

    def note(self, backend: Backend, error: UpstreamError, now: float) -> None:
        """Log one attempt. `now`: coarse time, in seconds."""
        kind = (backend.id, error.title)
        limiter = self._limiters.get(kind)
        if limiter is None:
            limiter = self._limiters[kind] = Limiter(1, SPAN_S)
        level = logging.WARNING if limiter.passes(now) else logging.DEBUG
        log.log(level, "%s: %s", error.title, error, extra={"backend": backend.id})

    def check(self, now: float) -> None:
        """Log how many lines were left out. Called on each tick."""
        for (backend_id, title), limiter in self._limiters.items():
            missed = limiter.missed(now)
            if missed:
                log.warning("%s: %d more in %g s", title, missed, SPAN_S, extra={"backend": backend_id})

"""What keeps a background task from its work, said once."""

from __future__ import annotations

import logging

from distributer.errors import StateError
from distributer.state.trouble import RedisTrouble, Trouble

_OF_ONE_KEY = frozenset({Trouble.MISUSED, Trouble.FORBIDDEN, Trouble.FAULTY})
"""Of all else that can be wrong with Redis, the store tells, for all of the replica."""


class Complaint:
    """One task's: a line when Redis refuses what it does, and none again until it has worked."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        """`what`: that is not done then."""
        self._log = log
        self._what = what
        self._is_made = False

    def failed(self, error: StateError) -> None:
        """Note that it could not be done."""
        if not isinstance(error, RedisTrouble) or error.kind not in _OF_ONE_KEY or self._is_made:
            self._log.debug("%s: %s", self._what, error.detail or error)
            return
        self._is_made = True
        self._log.warning("%s", self._what, extra={"reason": str(error), "redis_said": error.detail})

    def worked(self) -> None:
        """Note that it could."""
        self._is_made = False

"""How long to wait before the next try."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double, from `first_s` to `last_s`, with jitter, so that a cluster does not come back as one.

    They begin anew only when what was tried has held for `steady_s`: one that succeeds and fails at once is no success.
    """

    def __init__(self, first_s: float, last_s: float, steady_s: float) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._steady_s = steady_s
        self._next_s = first_s

    def next_s(self, held_s: float = 0.0) -> float:
        """Return the next wait, after a try whose success held for `held_s`; 0 for one that failed."""
        if held_s >= self._steady_s:
            self._next_s = self._first_s
        wait_s = self._next_s
        self._next_s = min(self._last_s, 2 * wait_s)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

"""Which core runs what: the proxy has one to itself, all else shares another."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CoreSet = frozenset[int] | None
"""Where a process may run; None: anywhere."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that we may use, in order; none where processes can't be pinned."""

    allowed: tuple[int, ...] = ()

    @classmethod
    def find(cls) -> Cores:
        """Take the cores that we may use. With a single one, or off Linux, nothing is pinned."""
        if sys.platform == "linux":
            allowed = sorted(os.sched_getaffinity(0))
            if len(allowed) > 1:
                return cls(tuple(allowed))
        return cls()

    def proxy(self, workers: int) -> CoreSet:
        """Return a core for each worker, from the first on."""
        return frozenset(self.allowed[:workers]) if self.allowed else None

    @property
    def load(self) -> CoreSet:
        """The core of load, backends and Redis: the third, or where there are two, the second.

        There two workers share it with the load.
        """
        return frozenset(self.allowed[:3][-1:]) if self.allowed else None

    def __str__(self) -> str:
        if not self.allowed:
            return "not pinned"
        load = self.allowed[:3][-1]
        text = f"proxy pinned to core {self.allowed[0]}, load, backends and Redis to core {load}"
        shared = ", the second shared with them" if load == self.allowed[1] else ""
        return f"{text}; two workers of a proxy to cores {self.allowed[0]} and {self.allowed[1]}{shared}"


@contextmanager
def on_cores(cores: CoreSet) -> Iterator[None]:
    """Move this process to some cores for as long as the block lasts: what it starts inside stays there.

    A child inherits our cores, so it has no moment, and no thread, outside them.
    """
    if sys.platform != "linux" or cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

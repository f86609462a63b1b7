"""Which core runs what: the proxy has one to itself, all else shares another."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """The proxy's core and the one for load, backends and Redis; None where processes can't be pinned."""

    proxy: int | None = None
    load: int | None = None

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores that we may use. With a single one, or off Linux, nothing is pinned."""
        if sys.platform == "linux":
            allowed = sorted(os.sched_getaffinity(0))
            if len(allowed) > 1:
                return cls(allowed[0], allowed[1])
        return cls()

    def __str__(self) -> str:
        if self.proxy is None:
            return "not pinned"
        return f"proxy pinned to core {self.proxy}, load, backends and Redis to core {self.load}"


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Move this process to a core for as long as the block lasts: what it starts inside stays there.

    A child inherits our core, so it has no moment, and no thread, outside it.
    """
    if sys.platform != "linux" or core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

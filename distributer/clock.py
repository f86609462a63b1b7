"""One coarse clock for all the timeouts of a process.

Thousands of exchanges a second each have deadlines that nearly never pass. A timer for each costs more than the rest
of its bookkeeping, so all of them are plain numbers, compared with `now` on each tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

TICK_S = 0.1
"""The resolution of every timeout kept here. uvicorn's own main loop wakes up as often."""


class Clock:
    """Coarse monotonic time, in seconds. `tick` moves it on and calls the watchers; tests call it by hand."""

    __slots__ = ("_date_of", "_handle", "_source", "_watchers", "date", "now")

    def __init__(self, source: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._watchers: list[Callable[[float], None]] = []
        self._handle: asyncio.TimerHandle | None = None
        self.now = source()
        self._date_of = 0
        self.date = b""
        """The time of day, to the second, as a Date field has it (RFC 9110 section 5.6.7)."""
        self._set_date()

    def read(self) -> float:
        """Return the time as it is now, not as it was on the last tick: a process that was held up has missed some."""
        return self._source()

    def watch(self, watcher: Callable[[float], None]) -> None:
        """Call watcher with the time, in seconds, on each tick."""
        self._watchers.append(watcher)

    def tick(self) -> None:
        """Move the clock on."""
        self.now = now = self._source()
        self._set_date()
        for watcher in self._watchers:
            watcher(now)

    def _set_date(self) -> None:
        second = int(time.time())
        if second != self._date_of:
            self._date_of = second
            self.date = formatdate(second, usegmt=True).encode()

    def start(self) -> None:
        """Tick every TICK_S seconds on the running loop, until `stop`."""
        loop = asyncio.get_running_loop()

        def again() -> None:
            self._handle = loop.call_later(TICK_S, again)
            self.tick()

        again()

    def stop(self) -> None:
        """Tick no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

"""Telling the cluster of the failures that this replica sees, in the background: no request waits for it."""

from __future__ import annotations

import asyncio
import logging

from distributer.control.record import Record
from distributer.errors import StateError
from distributer.forwarding.failures import Failures

SPACING_S = 0.05
"""The least time between two reports: what is seen meanwhile is told in one."""

log = logging.getLogger("distributer.reporter")


class Reporter:
    """Reports one replica's failures, one report at a time."""

    def __init__(self, failures: Failures, record: Record, threshold: int) -> None:
        self._failures = failures
        self._record = record
        self._threshold = threshold

    async def run(self) -> None:
        """Report until cancelled."""
        news = asyncio.Event()
        self._failures.on_news = news.set
        while True:
            await news.wait()
            news.clear()
            try:
                await self._record.report(self._failures.take(), self._threshold)
            except StateError as error:
                # The next failures make another row, and a count that should be over is ended by the next answer.
                log.debug("no report of failures: %s", error)
            await asyncio.sleep(SPACING_S)

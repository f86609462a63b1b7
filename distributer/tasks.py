"""Ending background tasks, so that they have really ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

INSIST_S = 0.1


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended, however they end.

    Once is not enough: below Python 3.12 `asyncio.wait_for`, through which redis-py sends, loses a cancellation that
    comes in the moment in which it succeeds, and the task would go on for ever.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=INSIST_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # looked at, so that asyncio does not complain of it later

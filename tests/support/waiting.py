"""Waiting for what another process or task will bring about: for the fact itself, with a deadline, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL_S = 0.01


class TooLateError(AssertionError):
    """What was waited for did not come about in time."""


def wait_until(claim: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """Call claim until it returns something true, and return that. Raises TooLateError, with the last value."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := claim()):
        _check(deadline_s, what, timeout_s, value)
        time.sleep(_INTERVAL_S)
    return value


async def wait_until_async(claim: Callable[[], Awaitable[T]], what: str, timeout_s: float = 10.0) -> T:
    """Await claim's answers until one is true, and return that. Raises TooLateError, with the last answer."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := await claim()):
        _check(deadline_s, what, timeout_s, value)
        await asyncio.sleep(_INTERVAL_S)
    return value


def _check(deadline_s: float, what: str, timeout_s: float, value: object) -> None:
    if time.monotonic() >= deadline_s:
        raise TooLateError(f"not within {timeout_s:g} s: {what} (last: {value!r})")

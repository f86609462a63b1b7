"""The tables run over the doors.

    python -m tests.conformance.doors [express] [asgi]

prints each case that fails, and why.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import warnings
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any, TypeVar

from tests.conformance.cases import CASES
from tests.conformance.cases.server_decides import server_decides
from tests.conformance.judge import complaint
from tests.conformance.lane import Lane, Origin, Outcome, run
from tests.support.cluster import DOORS, SharedRedis, distributers

LANES = 12

T = TypeVar("T")


@asynccontextmanager
async def lanes_of(door: str, count: int = LANES) -> AsyncIterator[Sequence[Lane]]:
    """Run replicas behind a door, each with an origin of its own."""
    async with AsyncExitStack() as stack:

        async def lane() -> Lane:
            origin = await stack.enter_async_context(Origin().running())
            shared = SharedRedis(None)
            settings = shared.settings([origin.port])
            ports = await stack.enter_async_context(distributers(door, settings, shared, 1))
            return Lane(ports[0], origin)

        yield [await lane() for _ in range(count)]


async def run_door(door: str) -> dict[str, Outcome]:
    """Run all cases over a door."""
    hasty = {case.name for case in CASES if door == "asgi" and server_decides(case.name)}
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # it has something to say of every bad request
    try:
        async with lanes_of(door) as lanes:
            return await run(lanes, CASES, hasty)
    finally:
        logger.setLevel(before)


def run_apart(main: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own. What a server in it did not close when it was stopped is not another test's fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return asyncio.run(main)
        finally:
            gc.collect()


@cache
def outcomes_of(door: str) -> dict[str, Outcome]:
    """Run all cases over a door, once in a process."""
    return run_apart(run_door(door))


def failures(door: str) -> dict[str, str]:
    """Say of each case that fails over a door why it does."""
    outcomes = outcomes_of(door)
    complaints = {case.name: complaint(case, outcomes[case.name]) for case in CASES}
    return {name: why for name, why in complaints.items() if why}


if __name__ == "__main__":
    for name in sys.argv[1:] or DOORS:
        for case, why in failures(name).items():
            note = ", by the server" if name == "asgi" and server_decides(case) else ""
            print(f"{name}{note}: {case}: {why}")

"""Background tasks that are ended have ended."""

from __future__ import annotations

import asyncio

from distributer.tasks import end


async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    lost = 0
    started = asyncio.Event()

    async def deaf() -> None:
        nonlocal lost
        while True:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    task = asyncio.create_task(deaf())
    await started.wait()
    await asyncio.wait_for(end([task]), 5)
    assert task.cancelled()
    assert lost == 2


async def test_a_task_that_failed_does_not_stop_the_others_from_ending() -> None:
    async def fail() -> None:
        raise ValueError

    tasks = [asyncio.create_task(fail()), asyncio.create_task(asyncio.Event().wait())]
    await asyncio.wait_for(end(tasks), 5)
    assert all(task.done() for task in tasks)

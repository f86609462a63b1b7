"""The coarse clock: it moves when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from distributer.clock import Clock


class Time:
    """A source of time that stands still until it is set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_time_stands_still_between_ticks() -> None:
    time = Time(100.0)
    clock = Clock(time)
    time.now = 105.0
    assert clock.now == 100.0
    clock.tick()
    assert clock.now == 105.0


def test_each_tick_tells_all_watchers_the_time_in_the_order_in_which_they_came() -> None:
    time = Time(0.0)
    clock = Clock(time)
    told: list[tuple[str, float]] = []
    clock.watch(lambda now: told.append(("first", now)))
    clock.watch(lambda now: told.append(("second", now)))
    assert told == []
    for time.now in (1.0, 2.0):
        clock.tick()
    assert told == [("first", 1.0), ("second", 1.0), ("first", 2.0), ("second", 2.0)]


def test_watchers_that_read_the_clock_see_the_new_time() -> None:
    time = Time(0.0)
    clock = Clock(time)
    seen: list[float] = []
    clock.watch(lambda _: seen.append(clock.now))
    time.now = 1.0
    clock.tick()
    assert seen == [1.0]


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributer.clock.TICK_S", 0.0)


async def turns_of_the_loop(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("no_wait")
async def test_a_started_clock_ticks_at_once_and_goes_on_until_it_is_stopped() -> None:
    time = Time(0.0)
    clock = Clock(time)
    ticks: list[float] = []
    clock.watch(ticks.append)
    time.now = 7.0
    clock.start()
    assert ticks == [7.0]
    time.now = 8.0
    await turns_of_the_loop(5)
    assert ticks[-1] == 8.0
    clock.stop()
    clock.stop()  # once more is no harm
    before = len(ticks)
    await turns_of_the_loop(5)
    assert len(ticks) == before


async def test_a_clock_that_was_not_started_can_be_stopped() -> None:
    Clock(Time(0.0)).stop()

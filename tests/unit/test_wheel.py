"""The wheel of deadlines: everything is looked at when its time has come, once, and nothing before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distributer.clock import TICK_S
from distributer.forwarding.wheel import Wheel


class It:
    """Something watched, that writes down when it was looked at."""

    def __init__(self, wheel: Wheel, again: float = 0.0) -> None:
        self.slot = 0
        self.looks: list[float] = []
        self._wheel = wheel
        self._again = again

    def check(self, now: float) -> float:
        self.looks.append(now)
        return now + self._again if self._again else 0.0


def turn_until(wheel: Wheel, start: float, end: float) -> None:
    ticks = round((end - start) / TICK_S)
    for tick in range(1, ticks + 1):
        wheel.turn(start + tick * TICK_S)


def test_a_look_is_not_early_and_late_by_two_ticks_at_most() -> None:
    wheel = Wheel(100.0)
    its = [It(wheel) for _ in range(50)]
    for number, it in enumerate(its):
        wheel.watch(it, 100.0 + number * 0.037)
    turn_until(wheel, 100.0, 105.0)
    for number, it in enumerate(its):
        due = 100.0 + number * 0.037
        [look] = it.looks
        assert due <= look + 1e-9
        assert look <= due + 2 * TICK_S + 1e-9
    assert len(wheel) == 0


def test_the_earlier_of_two_deadlines_counts_and_looks_once() -> None:
    wheel = Wheel(0.0)
    it = It(wheel)
    wheel.watch(it, 10.0)
    wheel.watch(it, 2.0)
    wheel.watch(it, 5.0)
    assert len(wheel) == 1
    turn_until(wheel, 0.0, 20.0)
    [look] = it.looks
    assert 2.0 <= look <= 2.3


def test_what_is_forgotten_is_not_kept_and_not_looked_at() -> None:
    wheel = Wheel(0.0)
    it = It(wheel)
    wheel.watch(it, 1.0)
    wheel.forget(it)
    wheel.forget(it)
    assert len(wheel) == 0
    assert wheel._slots == {}
    turn_until(wheel, 0.0, 3.0)
    assert it.looks == []


def test_a_look_may_ask_for_the_next() -> None:
    wheel = Wheel(0.0)
    it = It(wheel, again=1.0)
    wheel.watch(it, 1.0)
    turn_until(wheel, 0.0, 5.5)
    assert len(it.looks) in (4, 5)
    assert all(0.99 <= later - earlier <= 1.21 for earlier, later in zip(it.looks, it.looks[1:], strict=False))


def test_a_look_may_take_another_out_of_the_same_slot() -> None:
    wheel = Wheel(0.0)
    looked: list[int] = []

    class Killer(It):
        def check(self, now: float) -> float:
            looked.append(1)
            for other in its:
                wheel.forget(other)
            return 0.0

    its = [Killer(wheel) for _ in range(5)]
    for it in its:
        wheel.watch(it, 1.0)
    turn_until(wheel, 0.0, 2.0)
    assert looked == [1]
    assert len(wheel) == 0


def test_a_pause_of_the_process_delays_looks_and_loses_none() -> None:
    wheel = Wheel(0.0)
    its = [It(wheel) for _ in range(10)]
    for number, it in enumerate(its):
        wheel.watch(it, float(number * 500))
    wheel.turn(10_000.0)
    assert [it.looks for it in its] == [[10_000.0]] * 10


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 50), st.booleans()), max_size=40))
def test_each_stands_in_the_wheel_once_at_most(steps: list[tuple[int, float, bool]]) -> None:
    wheel = Wheel(0.0)
    its = [It(wheel) for _ in range(5)]
    due: dict[int, float] = {}
    for which, at, is_forgotten in steps:
        if is_forgotten:
            wheel.forget(its[which])
            due.pop(which, None)
        else:
            wheel.watch(its[which], at)
            due[which] = min(at, due.get(which, at))
    assert len(wheel) == len(due)
    wheel.turn(100.0)
    assert {number for number, it in enumerate(its) if it.looks} == set(due)
    assert all(len(it.looks) <= 1 for it in its)

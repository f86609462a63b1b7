"""Those who wait for a backend to come back: tried for all of them, and not too often."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distributer.forwarding.absence import FIRST_S, LONGEST_S, Absence, Waiter


def ignore(_result: Any) -> None: ...


def tries(absence: Absence, began: float, until: float) -> list[float]:
    """When it is tried, if looked at every 10 ms."""
    found = []
    for step in range(int((until - began) * 100)):
        now = began + step / 100
        if absence.is_due(now):
            found.append(now)
    return found


def test_it_is_tried_soon_then_ever_more_seldom_down_to_once_a_second() -> None:
    absence = Absence()
    absence.join(ignore, 1e9, 100.0)
    at = [100.0, *tries(absence, 100.0, 110.0)]
    gaps = [later - sooner for sooner, later in itertools.pairwise(at)]
    for gap, most in zip(gaps, [FIRST_S, 0.2, 0.4, 0.8, *[LONGEST_S] * 20], strict=False):
        assert 0.7 * most - 0.011 <= gap <= most + 0.011
    assert 10 <= len(gaps) <= 17


def test_as_many_as_may_wait_are_tried_for_once_and_one_who_joins_later_does_not_begin_anew() -> None:
    absence = Absence()
    absence.join(ignore, 1e9, 100.0)
    before = tries(absence, 100.0, 103.0)
    for _ in range(50):
        absence.join(ignore, 1e9, 103.0)
    assert len(before) <= 8
    assert len(tries(absence, 103.0, 106.0)) <= 6


def test_nobody_is_tried_for_when_all_have_left_and_the_next_begins_anew() -> None:
    absence = Absence()
    waiter = absence.join(ignore, 1e9, 100.0)
    tries(absence, 100.0, 105.0)
    waiter.cancel()
    assert tries(absence, 105.0, 107.0) == []
    absence.join(ignore, 1e9, 107.0)
    assert tries(absence, 107.0, 108.0)[0] <= 107.0 + FIRST_S + 0.011


def test_who_has_waited_for_long_enough_is_taken_out_and_the_others_stay() -> None:
    absence = Absence()
    first, second, third = (absence.join(ignore, until, 100.0) for until in (101.0, 102.0, 101.0))
    gone = []
    for waiter in absence.expired(101.0):
        gone.append(waiter)
        third.cancel()  # it leaves while the first is being told
    assert gone == [first]
    assert len(absence) == 1
    assert list(absence.expired(102.0)) == [second]
    assert not absence


@given(st.integers(0, 5), st.integers(0, 5))
def test_when_it_is_back_all_stand_in_line_in_their_order(in_line: int, absent: int) -> None:
    line: OrderedDict[Waiter, None] = OrderedDict()
    waiters = [Waiter(ignore, 1.0, line) for _ in range(in_line)]
    absence = Absence()
    waiters += [absence.join(ignore, 1e9, 100.0) for _ in range(absent)]
    absence.end(line, 7.0)
    assert list(line) == waiters
    assert not absence
    for waiter in waiters:
        waiter.cancel()
    assert not line

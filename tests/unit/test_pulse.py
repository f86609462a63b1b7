"""Signs of life: who has given none for too long, however time has passed for whoever watches."""

from __future__ import annotations

import math

from distributer.process.child_process import Pulse


def checks_until_stopped(pulse: Pulse, at_most: int = 100) -> int | None:
    return next((count for count in range(1, at_most + 1) if pulse.has_stopped()), None)


def test_a_silence_that_is_longer_than_the_limit_is_told_once() -> None:
    pulse = Pulse(limit_s=10, every_s=1)
    assert checks_until_stopped(pulse) == 11
    assert checks_until_stopped(pulse) is None


def test_the_limit_need_be_no_whole_number_of_checks() -> None:
    assert checks_until_stopped(Pulse(limit_s=1.1, every_s=0.275)) in (5, 6)
    assert checks_until_stopped(Pulse(limit_s=2.5, every_s=1)) == 3


def test_each_sign_begins_the_count_anew() -> None:
    pulse = Pulse(limit_s=2, every_s=1)
    for _ in range(100):
        assert not pulse.has_stopped()
        assert not pulse.has_stopped()
        pulse.beat()
    assert checks_until_stopped(pulse) == 3


def test_without_a_limit_none_is_too_long() -> None:
    assert checks_until_stopped(Pulse(limit_s=math.inf, every_s=1)) is None

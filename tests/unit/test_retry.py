"""What follows a failed attempt, and the budget for what is sent again."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.routing.retry import (
    MAX_RESENDS,
    SPAN_S,
    SPANS,
    Again,
    Attempt,
    Failure,
    RetryBudget,
    may_roam,
    next_of,
)

HERE, ELSEWHERE, OWNER_DOWN, NEVER = Again.HERE, Again.ELSEWHERE, Again.OWNER_DOWN, Again.NEVER
CONNECT, STALE, RESET = Failure.CONNECT, Failure.STALE, Failure.RESET
ROTATED = {"has_owner": False, "is_repeatable": True}
OWNED = {"has_owner": True, "is_repeatable": True}


@pytest.mark.parametrize(
    ("failure", "request_", "again"),
    [
        # Rotated: another backend.
        (CONNECT, ROTATED, ELSEWHERE),
        (CONNECT, {**ROTATED, "is_repeatable": False}, ELSEWHERE),  # nothing was sent
        (RESET, ROTATED, ELSEWHERE),
        (RESET, {**ROTATED, "is_repeatable": False}, NEVER),
        (RESET, {**ROTATED, "resends": MAX_RESENDS}, NEVER),
        (RESET, {**ROTATED, "has_others": False}, HERE),
        (RESET, {**ROTATED, "has_others": False, "was_resent_here": True}, NEVER),
        (STALE, ROTATED, HERE),
        (STALE, {**ROTATED, "was_resent_here": True}, ELSEWHERE),
        (STALE, {**ROTATED, "is_repeatable": False}, NEVER),
        (STALE, {**ROTATED, "resends": MAX_RESENDS}, NEVER),
        # Rotated, and it may bring an item about: on one backend at most.
        (CONNECT, {**ROTATED, "may_roam": False}, ELSEWHERE),
        (CONNECT, {**ROTATED, "may_roam": False, "resends": 1, "was_resent_here": True}, NEVER),
        (RESET, {**ROTATED, "may_roam": False}, HERE),
        (RESET, {**ROTATED, "may_roam": False, "was_resent_here": True}, NEVER),
        # For an item that one backend has: there, or nowhere.
        (CONNECT, OWNED, OWNER_DOWN),
        (CONNECT, {**OWNED, "is_repeatable": False}, OWNER_DOWN),
        (RESET, OWNED, HERE),
        (RESET, {**OWNED, "was_resent_here": True}, NEVER),
        (RESET, {**OWNED, "is_repeatable": False}, NEVER),
        (STALE, OWNED, HERE),
        (STALE, {**OWNED, "was_resent_here": True, "resends": 1}, HERE),
        (STALE, {**OWNED, "resends": MAX_RESENDS}, NEVER),
        # A create that bound its item itself, and was sent nowhere.
        (CONNECT, {**OWNED, "is_own_binding": True, "is_repeatable": False}, ELSEWHERE),
    ],
)
def test_where_an_attempt_is_made_again(failure: Failure, request_: dict[str, bool], again: Again) -> None:
    assert next_of(Attempt(failure, **request_)) is again


ATTEMPTS = st.builds(
    Attempt,
    st.sampled_from(Failure),
    has_owner=st.booleans(),
    is_own_binding=st.just(False),
    may_roam=st.booleans(),
    is_repeatable=st.booleans(),
    resends=st.integers(0, MAX_RESENDS + 1),
    was_resent_here=st.booleans(),
    has_others=st.booleans(),
)


@given(ATTEMPTS)
def test_what_was_sent_is_sent_again_only_if_it_may_be_repeated_and_what_has_an_owner_goes_nowhere_else(
    attempt: Attempt,
) -> None:
    again = next_of(attempt)
    if attempt.failure is not CONNECT and not attempt.is_repeatable:
        assert again is NEVER
    if attempt.has_owner:
        assert again is not ELSEWHERE
    if not attempt.may_roam and (attempt.failure is not CONNECT or attempt.resends):
        assert again is not ELSEWHERE
    assert (again is OWNER_DOWN) is (attempt.failure is CONNECT and attempt.has_owner)


@given(ATTEMPTS, st.lists(st.sampled_from([STALE, RESET])))
def test_a_request_is_sent_again_so_often_and_no_more_however_it_fails(
    attempt: Attempt, failures: list[Failure]
) -> None:
    resends = 0
    for failure in failures:
        attempt = replace(attempt, failure=failure, resends=resends)
        if next_of(attempt) is NEVER:
            break
        resends += 1
    assert resends <= MAX_RESENDS


@pytest.mark.parametrize(
    ("method", "has_item", "roams"),
    [
        (b"GET", True, True),
        (b"HEAD", True, True),
        (b"DELETE", True, True),
        (b"PUT", True, False),
        (b"POST", True, False),
        (b"PATCH", True, False),
        (b"get", True, False),
        (b"PUT", False, True),
        (b"POST", False, True),
    ],
)
def test_what_may_bring_an_item_about_does_not_go_from_one_backend_to_another(
    method: bytes, has_item: bool, roams: bool
) -> None:
    assert may_roam(method, has_item=has_item) is roams


# The budget.


def test_the_floor_is_there_without_any_requests_and_a_share_of_nothing_turns_it_off() -> None:
    budget = RetryBudget(0.2, 3.0, 100.0)
    assert [budget.take(0) for _ in range(31)] == [True] * 30 + [False]
    assert not RetryBudget(0.0, 3.0, 100.0).take(1_000_000)


def test_a_share_of_the_requests_of_the_window_may_be_sent_again() -> None:
    budget = RetryBudget(0.2, 0.0, 100.0)
    assert [budget.take(10) for _ in range(3)] == [True, True, False]
    assert budget.take(15)


def test_what_was_sent_again_and_what_was_asked_are_forgotten_together_when_the_window_has_passed() -> None:
    budget = RetryBudget(0.5, 0.0, 100.0)
    assert [budget.take(2), budget.take(2)] == [True, False]
    budget.turn(100.0 + SPAN_S * (SPANS - 1), 2)
    assert not budget.take(2)
    budget.turn(100.0 + SPAN_S * SPANS, 2)
    assert not budget.take(2), "there have been no requests in the window"
    assert budget.take(4)


@pytest.mark.parametrize("leap_s", [1e6, 1e9])
def test_a_leap_of_the_clock_empties_the_window_at_once(leap_s: float) -> None:
    budget = RetryBudget(0.2, 3.0, 100.0)
    while budget.take(0):
        pass
    budget.turn(100.0 + leap_s, 0)
    assert [budget.take(0) for _ in range(31)] == [True] * 30 + [False]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("requests"), st.integers(1, 50)),
        st.tuples(st.just("again"), st.integers(1, 20)),
        st.tuples(st.just("time"), st.integers(1, 4)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([0.05, 0.2, 1.0]), st.sampled_from([0.0, 0.5, 3.0]))
def test_no_window_has_more_than_the_budget_and_none_is_refused_what_it_has(
    steps: list[tuple[str, int]], share: float, floor_per_s: float
) -> None:
    budget = RetryBudget(share, floor_per_s, 0.0)
    requests = 0
    asked: deque[int] = deque([0] * SPANS, SPANS)  # the reference: what each span of the window has seen
    granted: deque[int] = deque([0] * SPANS, SPANS)
    now = 0.0
    for what, count in steps:
        if what == "requests":
            requests += count
            asked[-1] += count
        elif what == "time":
            now += count * SPAN_S
            budget.turn(now, requests)
            asked.extend([0] * count)
            granted.extend([0] * count)
        else:
            for _ in range(count):
                allowed = floor_per_s * SPANS * SPAN_S + share * sum(asked)
                is_granted = budget.take(requests)
                assert is_granted is (sum(granted) + 1 <= allowed)
                granted[-1] += is_granted

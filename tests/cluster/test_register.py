"""The checker of one item: histories known to be right, known to be wrong, and small ones against plain permutation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.cluster.history import Kind, Operation, Result, Wipe
from tests.cluster.register import Act, State, Step, after, explain, steps_of

DONE, EXISTS, MISSING, NOT_SENT, UNKNOWN = Result


def create(value: int, start: float, end: float, result: Result = DONE, backend: str | None = "a") -> Operation:
    return Operation(0, 7, Kind.CREATE, value, start, end, result, backend if result is not UNKNOWN else None)


def put(value: int, start: float, end: float, result: Result = DONE, backend: str | None = "a") -> Operation:
    return Operation(0, 7, Kind.PUT, value, start, end, result, backend if result is not UNKNOWN else None)


def read(value: int | None, start: float, end: float, backend: str = "a") -> Operation:
    return Operation(0, 7, Kind.READ, value, start, end, MISSING if value is None else DONE, backend)


def delete(start: float, end: float, result: Result = DONE, backend: str | None = "a") -> Operation:
    return Operation(0, 7, Kind.DELETE, None, start, end, result, backend if result is not UNKNOWN else None)


History = tuple[list[Operation], list[Wipe]]

RIGHT: dict[str, History] = {
    "nothing": ([], []),
    "a life": ([create(1, 0, 1), read(1, 2, 3), put(2, 4, 5), read(2, 6, 7), delete(8, 9), read(None, 10, 11)], []),
    "a read beside a create may miss it": ([create(1, 0, 5), read(None, 1, 2), read(1, 3, 4)], []),
    "of two creates one finds the other": ([create(1, 0, 5), create(2, 1, 4, EXISTS), read(1, 6, 7)], []),
    "a create that follows a delete under way": ([create(1, 0, 1), delete(2, 9), create(2, 3, 4), read(2, 10, 11)], []),
    "an unknown create took effect": ([create(1, 0, 1, UNKNOWN), read(1, 2, 3)], []),
    "an unknown create took effect late": ([create(1, 0, 1, UNKNOWN), read(None, 2, 3), read(1, 4, 5)], []),
    "an unknown create never took effect": ([create(1, 0, 1, UNKNOWN), create(2, 2, 3), read(2, 4, 5)], []),
    "an unknown delete": ([create(1, 0, 1), delete(2, 3, UNKNOWN), read(1, 4, 5), read(None, 6, 7)], []),
    "an unknown put": ([create(1, 0, 1), put(2, 2, 3, UNKNOWN), read(1, 4, 5), read(2, 6, 7)], []),
    "nothing was sent": ([create(1, 0, 1, NOT_SENT), read(None, 2, 3), create(2, 4, 5)], []),
    "its backend was killed": ([create(1, 0, 1), read(None, 4, 5)], [Wipe("a", 2, 3)]),
    "seen until the kill is over": ([create(1, 0, 1), read(1, 2, 3), read(None, 4, 5)], [Wipe("a", 2, 3)]),
    "created before or after the kill": ([create(1, 0, 9), read(1, 4, 5)], [Wipe("a", 2, 3)]),
    "another backend was killed": ([create(1, 0, 1), read(1, 4, 5)], [Wipe("b", 2, 3)]),
    "a kill of where it may be": ([create(1, 0, 1, UNKNOWN), read(None, 4, 5)], [Wipe("b", 2, 3)]),
    "elsewhere after a delete": ([create(1, 0, 1), delete(2, 3), create(2, 4, 5, backend="b"), read(2, 6, 7, "b")], []),
    "a 404 by any backend": ([read(None, 0, 1, "c"), create(1, 2, 3), delete(4, 5), read(None, 6, 7, "b")], []),
    "touching is overlapping": ([create(1, 0, 1), read(None, 1, 2)], []),
}

WRONG: dict[str, History] = {
    "a lost create": ([create(1, 0, 1), read(None, 2, 3)], []),
    "a lost create, found by the next": ([create(1, 0, 1), create(2, 2, 3)], []),
    "a lost put": ([create(1, 0, 1), put(2, 2, 3), read(1, 4, 5)], []),
    "an old value": ([create(1, 0, 1), put(2, 2, 3), read(2, 4, 5), read(1, 6, 7)], []),
    "an old value beside an open put": ([create(1, 0, 1), put(2, 2, 9), read(2, 3, 4), read(1, 5, 6)], []),
    "resurrected": ([create(1, 0, 1), delete(2, 3), read(1, 4, 5)], []),
    "resurrected by a restart": ([create(1, 0, 1), read(1, 4, 5)], [Wipe("a", 2, 3)]),
    "never written": ([create(1, 0, 1), read(9, 2, 3)], []),
    "deleted from nothing": ([delete(0, 1)], []),
    "deleted twice": ([create(1, 0, 1), delete(2, 3), delete(4, 5)], []),
    "put into nothing": ([put(1, 0, 1)], []),
    "exists without a create": ([create(1, 0, 1, EXISTS)], []),
    "on two backends": ([create(1, 0, 1), read(1, 2, 3, "b")], []),
    "created twice": ([create(1, 0, 1), create(2, 2, 3, backend="b"), read(1, 4, 5)], []),
    "moved": ([create(1, 0, 1), put(2, 2, 3, backend="b")], []),
    "a refusal that took effect": ([create(1, 0, 1, NOT_SENT), read(1, 2, 3)], []),
    "an unknown create that took effect twice": (
        [create(1, 0, 1, UNKNOWN), read(1, 2, 3), delete(4, 5), read(None, 6, 7), read(1, 8, 9)],
        [],
    ),
    "a kill of another took it": ([create(1, 0, 1), read(None, 4, 5)], [Wipe("b", 2, 3)]),
    "lost beside a slow create": ([create(1, 0, 1), create(2, 0, 9, EXISTS), read(None, 2, 3), read(1, 4, 5)], []),
}

ONLY_BY_A_REPEAT: dict[str, History] = {
    "a delete took the next create along": (
        [create(1, 0, 1), delete(2, 9), create(2, 3, 4), read(None, 10, 11)],
        [],
    ),
    "a put came twice": ([create(1, 0, 1), put(2, 2, 9), read(2, 3, 4), put(3, 5, 6), read(2, 10, 11)], []),
    "a put found nothing the second time": ([create(1, 0, 1), put(2, 2, 9, MISSING), read(2, 3, 4), delete(5, 6)], []),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_register_may_do_is_explained(name: str) -> None:
    assert explain(steps_of(*RIGHT[name])) is None


@pytest.mark.parametrize("name", WRONG)
def test_what_no_register_does_is_not_explained_nor_by_repeats(name: str) -> None:
    assert explain(steps_of(*WRONG[name])) is not None
    assert explain(steps_of(*WRONG[name], with_repeats=True)) is not None


@pytest.mark.parametrize("name", ONLY_BY_A_REPEAT)
def test_a_put_or_delete_that_was_sent_twice_is_explained_by_that_alone(name: str) -> None:
    assert explain(steps_of(*ONLY_BY_A_REPEAT[name])) is not None
    assert explain(steps_of(*ONLY_BY_A_REPEAT[name], with_repeats=True)) is None


def test_behind_the_horizon_nothing_takes_effect_any_more() -> None:
    late = [create(1, 0, 1, UNKNOWN), read(None, 12, 13), read(1, 14, 15)]
    assert explain(steps_of(late)) is None
    assert explain(steps_of(late, horizon_s=10)) is not None
    assert explain(steps_of(late, horizon_s=13.5)) is None


def test_what_cannot_be_explained_names_the_answer_and_the_states_before_it() -> None:
    fault = explain(steps_of([create(1, 0, 1), put(2, 2, 3, UNKNOWN), read(None, 4, 5)]))
    assert fault is not None
    assert "client 0: read 7: missing by a: impossible" in str(fault)
    assert "1 on a" in str(fault)


def test_many_writes_without_an_answer_are_no_burden() -> None:
    """If each were taken or not, in each order, there would be no end to it."""
    lost = [write for n in range(60) for write in (put(100 + n, n, n + 0.1, UNKNOWN), create(200 + n, n, n, UNKNOWN))]
    lost += [delete(n, n + 0.1, UNKNOWN) for n in range(60)]
    reads = [read(1, n + 0.5, n + 0.6) for n in range(60)]
    assert explain(steps_of([create(1, -2, -1), *lost, *reads])) is None
    assert explain(steps_of([create(1, -2, -1), *lost, *reads, read(2, 70, 71)])) is not None
    assert explain(steps_of([create(1, -2, -1), *lost, *reads, read(2, 70, 71)], with_repeats=True)) is not None


# Against plain permutation.


def naive(steps: Sequence[Step]) -> bool:
    """Try every subset of the optional steps, in every order that time allows."""
    needed = [step for step in steps if not step.is_optional]
    optional = [step for step in steps if step.is_optional]
    for count in range(len(optional) + 1):
        for taken in itertools.combinations(optional, count):
            for order in itertools.permutations([*needed, *taken]):
                if not any(b.end < a.start for a, b in itertools.combinations(order, 2)) and _runs(order):
                    return True
    return False


def _runs(order: Sequence[Step]) -> bool:
    states: set[State] = {None}
    for step in order:
        states = {state for before in states for state in after(step, before)}
    return bool(states)


backends = st.sampled_from(["a", "b", None])


@st.composite
def small_steps(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, 7))
        end = start + draw(st.integers(0, 4))
        act = draw(st.sampled_from(Act))
        if act is Act.WIPE:
            steps.append(Step(act, start, end, backend=draw(st.sampled_from("ab"))))
            continue
        value = None
        if act in (Act.CREATE, Act.PUT):
            value = number
        elif act is Act.READ:
            value = draw(st.integers(0, 4))
        may_be_lost = act in (Act.CREATE, Act.PUT, Act.DELETE)
        is_optional = may_be_lost and draw(st.booleans())
        until = math.inf if is_optional and draw(st.booleans()) else end
        steps.append(Step(act, start, until, value, None if is_optional else draw(backends), is_optional))
    return steps


@hypothesis_settings(max_examples=1_500)
@given(small_steps())
def test_small_histories_are_decided_as_by_trying_all_orders(steps: list[Step]) -> None:
    assert (explain(steps) is None) is naive(steps)

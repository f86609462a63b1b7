"""Linearizability of one item: is there an order of its operations that a single register would have given?

After Wing and Gong, in Lowe's "just in time" form. The operations' beginnings and ends are walked through in the order
of time. A *configuration* is a state that the item may be in, with the operations that are still under way but have
taken effect already. When an answer comes, each configuration is brought by some order of pending operations to where
the answered one has taken effect; a configuration that cannot is dropped. When none is left, no order explains the
answer. Equal configurations are one, so what is kept grows with the operations that overlap, not with the history.

An operation whose outcome is unknown is *optional*: it may take effect within its span, or never. Of two configurations
that differ only in the optional operations that they have used up, the one that has used fewer allows all that the
other does, so the other is dropped. Optional operations that do the same are one as good as the other, so the one that
expires first is used first; and an optional put whose value nobody reads (any more) could only do harm.

The state also says where the item lives: an answer from another backend than the one that holds it explains nothing. A
backend that is killed takes its items along, by an operation of its own that must take effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tests.cluster.history import Kind, Operation, Result, Wipe

MOST_CONFIGURATIONS = 100_000
UNREAD = -1
"""Stands for every value that nobody reads."""


class Held(NamedTuple):
    """An item that exists: its value, and where it lives; None where no answer has told."""

    value: int
    backend: str | None


State = Held | None


class Act(Enum):
    """What a step does to the state."""

    CREATE = "create"
    FIND_TO_EXIST = "find to exist"
    READ = "read"
    PUT = "put"
    DELETE = "delete"
    FIND_TO_BE_MISSING = "find to be missing"
    WIPE = "wipe"


class Step(NamedTuple):
    """One thing that must take effect within its span; or may, if it is optional."""

    act: Act
    start: float
    end: float
    value: int | None = None
    backend: str | None = None
    is_optional: bool = False
    source: Operation | Wipe | None = None


_OF_ANSWER = {
    (Kind.CREATE, Result.DONE): Act.CREATE,
    (Kind.CREATE, Result.EXISTS): Act.FIND_TO_EXIST,
    (Kind.READ, Result.DONE): Act.READ,
    (Kind.PUT, Result.DONE): Act.PUT,
    (Kind.DELETE, Result.DONE): Act.DELETE,
    (Kind.READ, Result.MISSING): Act.FIND_TO_BE_MISSING,
    (Kind.PUT, Result.MISSING): Act.FIND_TO_BE_MISSING,
    (Kind.DELETE, Result.MISSING): Act.FIND_TO_BE_MISSING,
}
_OF_WRITE = {Kind.CREATE: Act.CREATE, Kind.PUT: Act.PUT, Kind.DELETE: Act.DELETE}


def steps_of(
    operations: Iterable[Operation],
    wipes: Iterable[Wipe] = (),
    *,
    horizon_s: float = math.inf,
    with_repeats: bool = False,
) -> list[Step]:
    """Say what operations on one item, and kills of backends, do to its state.

    A write without an answer may take effect until `horizon_s` after its start. `with_repeats`: puts and deletes, which
    are idempotent and may be sent once more when a connection breaks, may take effect once more within their span.
    """
    steps = [Step(Act.WIPE, wipe.start, wipe.end, backend=wipe.backend, source=wipe) for wipe in wipes]
    for it in operations:
        if it.result is Result.NOT_SENT:
            continue
        if it.result is not Result.UNKNOWN:
            act = _OF_ANSWER[it.kind, it.result]
            steps.append(Step(act, it.start, it.end, it.value, it.backend, source=it))
        elif it.kind in _OF_WRITE:
            until = max(it.end, it.start + horizon_s)
            steps.append(Step(_OF_WRITE[it.kind], it.start, until, it.value, is_optional=True, source=it))
        if with_repeats and it.kind in (Kind.PUT, Kind.DELETE):
            steps.append(Step(_OF_WRITE[it.kind], it.start, it.end, it.value, is_optional=True, source=it))
    return steps


def after(step: Step, state: State) -> tuple[State, ...]:
    """Name the states that a step may leave; none, if it cannot have happened in this one."""
    act = step.act
    if act is Act.WIPE:
        if state is None or (state.backend is not None and state.backend != step.backend):
            return (state,)
        return (None,) if state.backend is not None else (None, state)
    if state is None:
        if act is Act.CREATE:
            assert step.value is not None
            return (Held(step.value, step.backend),)
        return (None,) if act is Act.FIND_TO_BE_MISSING else ()
    if act in (Act.CREATE, Act.FIND_TO_BE_MISSING):
        return ()
    if step.backend is not None and state.backend is not None and step.backend != state.backend:
        return ()
    if act is Act.DELETE:
        return (None,)
    if act is Act.READ and step.value != state.value:
        return ()
    value = step.value if act is Act.PUT else state.value
    assert value is not None
    return (Held(value, state.backend or step.backend),)


@dataclass(frozen=True)
class Unexplained:
    """An answer, or a kill, that no order explains; and the states that were possible before it."""

    step: Step
    states: Sequence[State]

    def __str__(self) -> str:
        states = ", ".join(
            "absent" if it is None else f"{it.value} on {it.backend or 'some backend'}" for it in self.states
        )
        return f"{self.step.source or self.step}: impossible; the item was: {states}"


class UndecidedError(Exception):
    """There are too many orders to go through."""


_Configuration = tuple[State, frozenset[int]]


def explain(steps: Sequence[Step], initially: State = None) -> Unexplained | None:
    """Look for an order that explains all steps: None if there is one, else where that fails.

    Raises UndecidedError if there are too many.
    """
    steps = _relevant(steps)
    events: list[tuple[float, bool, int]] = []
    for number, step in enumerate(steps):
        events.append((step.start, False, number))
        if step.end < math.inf:
            events.append((step.end, True, number))
    events.sort()  # at the same time, beginnings first: the two overlap
    configurations: set[_Configuration] = {(initially, frozenset())}
    pending: set[int] = set()
    for _, is_end, number in events:
        if not is_end:
            pending.add(number)
            continue
        if steps[number].is_optional:
            # It has taken effect by now, or it never will.
            reached = _reach(steps, pending, number, configurations)
            configurations = reached | {pair for pair in configurations if number not in pair[1]}
        else:
            reached = _reach(steps, pending, number, configurations)
            if not reached:
                states = list(dict.fromkeys(state for state, _ in configurations))
                return Unexplained(steps[number], states)
            configurations = reached
        pending.discard(number)
        if len(configurations) > 1:
            configurations = _undominated(steps, configurations)
    return None


def _relevant(steps: Sequence[Step]) -> list[Step]:
    """Leave out what explains nothing, and give all values that nobody reads one name."""
    last_read: dict[int | None, float] = {}
    for step in steps:
        if step.act is Act.READ:
            last_read[step.value] = max(step.end, last_read.get(step.value, 0.0))
    relevant: list[Step] = []
    for step in steps:
        if step.act is Act.PUT and step.is_optional:
            until = min(step.end, last_read.get(step.value, -math.inf))
            if until >= step.start:
                relevant.append(step._replace(end=until))
        elif step.act in (Act.PUT, Act.CREATE) and step.value not in last_read:
            relevant.append(step._replace(value=UNREAD))
        else:
            relevant.append(step)
    return relevant


def _reach(
    steps: Sequence[Step], pending: set[int], goal: int, configurations: set[_Configuration]
) -> set[_Configuration]:
    """Bring each configuration to where the goal has taken effect, by every order of pending steps that leads there."""
    reached: set[_Configuration] = set()
    seen = set(configurations)
    left = list(configurations)
    in_order = sorted(pending, key=lambda number: steps[number].end)
    while left:
        state, done = left.pop()
        if goal in done:
            reached.add((state, done - {goal}))
            continue
        tried: set[tuple[Act, int | None]] = set()
        for number in in_order:
            if number in done:
                continue
            step = steps[number]
            if step.is_optional:
                if (step.act, step.value) in tried:
                    continue
                tried.add((step.act, step.value))
            for state_after in after(step, state):
                if step.is_optional and state_after == state:
                    continue
                configuration = (state_after, done | {number})
                if configuration not in seen:
                    seen.add(configuration)
                    left.append(configuration)
        if len(seen) > MOST_CONFIGURATIONS:
            raise UndecidedError
    return reached


def _undominated(steps: Sequence[Step], configurations: set[_Configuration]) -> set[_Configuration]:
    groups: dict[tuple[State, frozenset[int]], list[frozenset[int]]] = {}
    for state, done in configurations:
        used = frozenset(number for number in done if steps[number].is_optional)
        groups.setdefault((state, done - used), []).append(used)
    kept: set[_Configuration] = set()
    for (state, needed), choices in groups.items():
        choices.sort(key=len)
        least: list[frozenset[int]] = []
        for used in choices:
            if not any(other <= used for other in least):
                least.append(used)
                kept.add((state, needed | used))
    return kept

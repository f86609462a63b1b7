"""The checker of whole histories: what each promise calls a violation, and what it lets pass."""

from __future__ import annotations

import dataclasses

import pytest

from tests.cluster.checker import Verdict, check
from tests.cluster.history import History, Kind, Operation, Ping, Rest, Result, Span, Wipe
from tests.cluster.stage import degraded_spans

A, B = "http://a", "http://b"


def rest(a: dict[int, int], b: dict[int, int], sticky: dict[int, str], claims: int = 0, rotation: int = 100) -> Rest:
    return Rest({A: a, B: b}, sticky, claims, rotation, at=100.0)


def created(item: int, value: int, start: float, backend: str, ticket: int | None = None) -> Operation:
    return Operation(0, item, Kind.CREATE, value, start, start + 1, Result.DONE, backend, ticket)


def ping(start: float, ticket: int | None, backend: str = A) -> Ping:
    return Ping(start, start + 0.1, True, True, backend, ticket)


def promises(verdict: Verdict) -> list[str]:
    return [violation.promise for violation in verdict.violations]


RIGHT = History(
    operations=[created(1, 10, 0, A, 1), created(2, 20, 0, B, 2)],
    pings=[ping(3, 3), ping(4, 4, B)],
    rest=rest({1: 10}, {2: 20}, {1: A, 2: B, 3: B}),
)
"""Item 3's binding is stale, which is harmless."""


def test_a_history_that_is_right_is_clean() -> None:
    verdict = check(RIGHT)
    assert verdict.is_clean
    assert (verdict.items, verdict.tickets) == (2, 4)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"rest": rest({1: 10}, {}, {1: A, 2: B})}, ["register"]),
        ({"rest": rest({1: 10}, {2: 21}, {1: A, 2: B})}, ["register"]),
        ({"rest": rest({1: 10, 2: 20}, {}, {1: A, 2: A})}, ["register"]),
        ({"rest": rest({1: 10, 5: 50}, {2: 20}, {1: A, 2: B, 5: A})}, ["register"]),
        ({"rest": rest({1: 10}, {1: 10, 2: 20}, {1: A, 2: B})}, ["register", "copies", "map"]),
        ({"rest": rest({1: 10}, {2: 20}, {1: A})}, ["map"]),
        ({"rest": rest({1: 10}, {2: 20}, {1: A, 2: A})}, ["map"]),
        ({"rest": rest({1: 10}, {2: 20}, {1: A, 2: B}, claims=1)}, ["map"]),
        ({"rest": rest({1: 10}, {2: 20}, {1: A, 2: B}, rotation=3)}, ["tickets"]),
        ({"pings": [ping(3, 3), ping(9, 3)]}, ["tickets"]),
        ({"pings": [ping(3, 2)]}, ["tickets"]),
        ({"odd": ["create 1: 418"]}, ["odd"]),
    ],
    ids=[
        "lost", "another value", "moved", "from nowhere", "on two backends", "bound to nothing", "bound elsewhere",
        "claims left", "tickets beyond the counter", "a ticket used twice", "a ticket used twice, by a create", "odd",
    ],
)  # fmt: skip
def test_each_broken_promise_is_found(change: dict[str, object], found: list[str]) -> None:
    assert promises(check(dataclasses.replace(RIGHT, **change))) == found  # type: ignore[arg-type]


def test_items_of_a_backend_that_was_killed_are_gone() -> None:
    gone = dataclasses.replace(RIGHT, rest=rest({}, {2: 20}, {1: A, 2: B}))
    assert promises(check(gone)) == ["register"]
    assert check(dataclasses.replace(gone, wipes=[Wipe(A, 5, 6)])).is_clean
    assert promises(check(dataclasses.replace(gone, wipes=[Wipe(B, 5, 6)]))) == ["register", "register"]


@pytest.mark.parametrize(
    ("kind", "is_excused"), [(Kind.READ, True), (Kind.PUT, True), (Kind.DELETE, False)], ids=lambda it: str(it)
)
def test_a_404_by_memory_says_nothing_unless_it_is_a_deletes(kind: Kind, is_excused: bool) -> None:
    wrong = Operation(1, 1, kind, 5 if kind is Kind.PUT else None, 10, 11, Result.MISSING, B)
    history = dataclasses.replace(RIGHT, operations=[*RIGHT.operations, wrong])
    assert promises(check(history)) == ["register"]
    by_memory = wrong._replace(is_remembered=True)
    verdict = check(dataclasses.replace(RIGHT, operations=[*RIGHT.operations, by_memory]))
    assert (promises(verdict), verdict.excused) == (([], 1) if is_excused else (["register"], 0))


def test_tickets_that_a_degraded_replica_dealt_itself_are_none_of_the_shared_ones() -> None:
    history = dataclasses.replace(RIGHT, pings=[ping(3, 3), ping(9, 3)], degraded=[Span(8, 10)])
    assert check(history).is_clean
    assert promises(check(history, are_local_tickets_marked=True)) == ["tickets"]


def test_in_a_quiet_span_backends_are_level_but_for_its_edges() -> None:
    pings = [ping(n / 1000, n, A if n % 2 else B) for n in range(1, 1_001)]
    assert check(History(pings=pings), quiet=[Span(0, 2)]).unevenness == 0
    uneven = [ping(n / 1000, n, A if n % 3 else B) for n in range(1, 1_001)]
    verdict = check(History(pings=uneven), quiet=[Span(0, 2)], clients=64)
    assert promises(verdict) == ["level"]
    assert check(History(pings=uneven), quiet=[Span(5, 6)], clients=64).is_clean


def test_what_is_explained_by_a_repeat_is_counted_and_is_no_violation() -> None:
    deleted = Operation(1, 1, Kind.DELETE, None, 2, 9, Result.DONE, A)
    history = History(
        operations=[created(1, 10, 0, A), deleted, created(1, 11, 3, A)],
        rest=rest({}, {}, {}),
    )
    verdict = check(history)
    assert (verdict.violations, verdict.repeats) == ([], [1])


def test_degraded_spans_are_read_from_the_log() -> None:
    def line(second: int, event: str, source: str | None = None) -> dict[str, str]:
        return {
            "time": f"1970-01-01T00:01:{second:02}.500000Z",
            "event": event,
            **({"source": source} if source else {}),
        }

    lines = [
        line(0, "shared state is away; serving degraded", "replica 1"),
        line(1, "shared state is away; serving degraded", "replica 2"),
        line(2, "shared state is back", "replica 1"),
        line(3, "replica 2 ended (killed by SIGKILL); starting it again in 0.1 s"),
        line(4, "shared state is away; serving degraded", "replica 3"),
        line(5, "replica 3 of 3 replaced"),
        line(6, "shared state is away; serving degraded", "replica 3"),
    ]
    spans = [(round(span.start, 3), round(span.end, 3)) for span in degraded_spans(lines, offset_s=60.0, until=9.0)]
    assert spans == [(0.3, 2.7), (1.3, 3.7), (4.3, 5.7), (6.3, 9.2)]

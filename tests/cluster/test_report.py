"""What a report says of a run: shares, gaps, recoveries."""

from __future__ import annotations

import json

from tests.cluster.chaos import Options, Outcome
from tests.cluster.checker import check
from tests.cluster.history import History, Kind, Operation, Ping, Result, Staged
from tests.cluster.report import availability, into_page, longest_gap_s, recoveries, to_json, to_markdown

A, B = "http://a", "http://b"


def ping(start: float, backend: str | None = A, *, at_first: bool = True, why: str = "") -> Ping:
    return Ping(start, start + 0.5, at_first, backend is not None, backend, None, why)


def test_availability_counts_every_request_and_the_retry_only_where_it_was_made() -> None:
    pings = [ping(1), ping(2, at_first=False, why="closed"), ping(3, None, at_first=False, why="502"), ping(4)]
    assert availability(pings) == 0.5
    assert availability(pings, with_retry=True) == 0.75
    assert availability([]) == 1.0


def test_the_longest_gap_is_between_answers_that_were_served() -> None:
    assert longest_gap_s([ping(1), ping(9), ping(5, None, at_first=False), ping(2)]) == 7
    assert longest_gap_s([]) == 0


def test_a_recovery_is_from_the_end_of_a_fault_to_the_first_answer_that_needed_its_target() -> None:
    history = History(
        operations=[Operation(0, 1, Kind.CREATE, 1, 13, 14, Result.DONE, A)],
        pings=[ping(5, A), ping(11, A), ping(12, B), ping(15, B)],
        backends=[B, A],
        staged=[
            Staged("kill", "backend 0", 4, 10),
            Staged("kill", "redis", 4, 12),
            Staged("pause", "backend 1", 4, 10),
            Staged("pause", "backend 1", 10.5, 14),  # the first one's recovery cannot be told from this one's
            Staged("kill", "replicas", 4, 10),
        ],
    )
    assert recoveries(history) == {
        "backend kill": {"times": 1, "median": 2, "longest": 2},
        "redis kill": {"times": 1, "median": 1, "longest": 1},
    }


def test_numbers_and_page_tell_of_violations() -> None:
    history = History(odd=["create 1: 418"], pings=[ping(1)], backends=[A])
    outcome = Outcome(Options(), history, check(history), seconds=10.0, rest_s=1.0, check_s=0.1)
    assert json.loads(to_json(outcome))["violations"] == ["odd: create 1: 418"]
    assert "**1 violation**" in to_markdown(outcome)
    assert "odd: create 1: 418" in to_markdown(outcome)


def test_a_section_takes_the_place_of_an_earlier_one() -> None:
    page = into_page("# A page\n\n", "## One\n")
    assert page.startswith("# A page\n\n<!-- ")
    assert page.endswith("-->\n\n## One\n")
    assert into_page(page, "## Two\n") == page.replace("One", "Two")

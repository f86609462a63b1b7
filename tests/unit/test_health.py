"""The verdict on one backend: probes, failures and time, as a table, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.model import Health, HealthStatus
from distributer.routing.health import (
    NOT_PROBED,
    TRANSITIONS,
    HealthEvent,
    HealthRules,
    Standing,
    at,
    failing,
    new,
    parse_statuses,
    probed,
    unknown,
)

RULES = HealthRules()
UP, DOWN, EJECTED = HealthStatus.UP, HealthStatus.DOWN, HealthStatus.EJECTED
WRONG = "it answered 500"


def standing(status: HealthStatus, *, since: float = 100.0, times: int = 0) -> Standing:
    return Standing(Health(status, since, "test", since + 30 if status is EJECTED else None, times))


def after(first: Standing, probes: str, now: float = 200.0, rules: HealthRules = RULES) -> Standing:
    """Judge by probes: `+` passed, `-` failed."""
    for probe in probes:
        first = probed(first, None if probe == "+" else WRONG, now, rules)
    return first


def test_the_table_is_all_that_changes_a_status() -> None:
    ends = {"rose": lambda it: after(it, "++"), "fell": lambda it: after(it, "---")}
    ends["failing"] = lambda it: failing(it, 5, "502", 200.0, RULES, is_last=False)
    ends["time up"] = lambda it: at(it, 200.0)
    for status in HealthStatus:
        for event in HealthEvent:
            expected = TRANSITIONS.get((status, event), status)
            assert ends[event.value](standing(status)).health.status is expected, (status, event)


@pytest.mark.parametrize(
    ("status", "probes", "becomes"),
    [
        (UP, "--", UP),
        (UP, "---", DOWN),
        (UP, "--+--", UP),
        (UP, "--+---", DOWN),
        (DOWN, "+", DOWN),
        (DOWN, "++", UP),
        (DOWN, "+-+", DOWN),
        (DOWN, "-++", UP),
        (EJECTED, "+++++", EJECTED),
        (EJECTED, "--+--", EJECTED),
        (EJECTED, "---", DOWN),
        (EJECTED, "---++", UP),
    ],
)
def test_so_many_probes_in_a_row_change_the_verdict(status: HealthStatus, probes: str, becomes: HealthStatus) -> None:
    assert after(standing(status), probes).health.status is becomes


def test_a_verdict_says_why_and_since_when() -> None:
    down = after(standing(UP), "---", now=150.0)
    assert down.health == Health(DOWN, 150.0, "3 probes in a row failed: it answered 500")
    assert after(down, "-", now=160.0) is down, "more of the same changes nothing"
    assert after(down, "++", now=170.0).health == Health(UP, 170.0, "2 probes in a row passed")


def test_of_a_backend_that_nobody_knows_the_first_probe_decides() -> None:
    assert unknown(RULES).health is NOT_PROBED
    assert after(unknown(RULES), "+", now=7.0).health == Health(UP, 7.0, "the first probe passed")
    assert after(unknown(RULES), "-").health == Health(DOWN, 200.0, "the first probe failed: it answered 500")
    assert after(unknown(RULES), "+--").health.status is UP, "known, it has the credit of all"


def test_a_new_backend_is_down_until_its_first_probes_have_passed() -> None:
    first = new(50.0, RULES)
    assert first.health == Health(DOWN, 50.0, "new: 2 probes in a row must pass first")
    assert [after(first, probes).is_up for probes in ("", "+", "+-+", "++")] == [False, False, False, True]


@pytest.mark.parametrize(
    ("failures", "rules", "is_last", "is_ejected"),
    [
        (4, RULES, False, False),
        (5, RULES, False, True),
        (500, RULES, False, True),
        (500, RULES, True, False),
        (1, replace(RULES, ejection_failures=1), False, True),
        (500, replace(RULES, ejection_failures=0), False, False),
    ],
)
def test_so_many_failures_eject_any_but_the_last(
    failures: int, rules: HealthRules, is_last: bool, is_ejected: bool
) -> None:
    before = standing(UP)
    judged = failing(before, failures, "it answered 502", 200.0, rules, is_last=is_last)
    if is_ejected:
        reason = f"{failures} requests in a row failed; the last: it answered 502"
        assert judged.health == Health(EJECTED, 200.0, reason, until=230.0, times=1)
    else:
        assert judged is before


def test_each_ejection_is_longer_up_to_the_longest_and_probation_does_not_forget() -> None:
    now, it, lengths = 1000.0, standing(UP), []
    for _ in range(12):
        it = failing(it, 5, "502", now, RULES, is_last=False)
        assert it.health.until is not None
        lengths.append(it.health.until - now)
        assert at(it, it.health.until - 0.01) is it
        now = it.health.until
        it = at(it, now)
        assert it.is_up
        assert it.health.until is None
    assert lengths == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]


@pytest.mark.parametrize(("good_s", "times"), [(0, 4), (299, 4), (300, 3), (601, 2), (900, 1), (1e9, 1)])
def test_a_long_good_time_makes_up_for_ejections(good_s: float, times: int) -> None:
    judged = failing(standing(UP, times=3), 5, "502", 100.0 + good_s, RULES, is_last=False)
    assert judged.health.times == times


def test_a_good_time_counts_though_probes_fail_afterwards_and_a_bad_one_does_not() -> None:
    down = after(standing(UP, times=3), "---", now=100.0 + 600)
    assert down.health.times == 1
    assert after(down, "++", now=100_000.0).health.times == 1


def test_a_clock_that_falls_back_forgets_nothing() -> None:
    assert failing(standing(UP, times=3), 5, "502", 50.0, RULES, is_last=False).health.times == 4


EVENTS = st.lists(
    st.one_of(st.sampled_from(["+", "-"]), st.tuples(st.integers(0, 9), st.booleans()), st.floats(0.1, 400.0)),
    max_size=60,
)
SOME_RULES = st.builds(
    HealthRules,
    rise=st.integers(1, 4),
    fall=st.integers(1, 4),
    ejection_failures=st.integers(0, 6),
    ejection_s=st.floats(1.0, 60.0),
    ejection_max_s=st.floats(1.0, 300.0),
)


@given(EVENTS, SOME_RULES)
def test_whatever_happens_the_verdict_follows_from_it(
    events: list[str | tuple[int, bool] | float], rules: HealthRules
) -> None:
    now, it, run = 1000.0, standing(UP), ""
    for event in events:
        before = it
        if isinstance(event, float):
            now += event
            it = at(it, now)
        elif isinstance(event, str):
            run = run + event if run.endswith(event) else event
            it = probed(it, None if event == "+" else WRONG, now, rules)
        else:
            failures, is_last = event
            it = failing(it, failures, "502", now, rules, is_last=is_last)
            if is_last:
                assert it is before
            if it is not before:
                assert 0 < rules.ejection_failures <= failures
        old, health = before.health, it.health
        assert (health.until is not None) is (health.status is EJECTED)
        if health is old:
            continue
        assert health.since == now
        assert health.status is not old.status
        if health.status is DOWN:
            assert len(run) >= rules.fall
            assert set(run) == {"-"}
        elif health.status is EJECTED:
            assert old.status is UP
            assert health.until is not None
            assert 0 < health.until - now <= max(rules.ejection_s, rules.ejection_max_s)
        elif old.status is EJECTED:
            assert old.until is not None
            assert old.until <= now
        else:
            assert len(run) >= rules.rise
            assert set(run) == {"+"}


@pytest.mark.parametrize(
    ("text", "some", "count"),
    [("200-399", 304, 200), ("200", 200, 1), ("200,204, 301-302", 302, 4), ("200-599", 599, 400)],
)
def test_statuses_are_numbers_and_ranges(text: str, some: int, count: int) -> None:
    found = parse_statuses(text)
    assert some in found
    assert len(found) == count


@pytest.mark.parametrize("text", ["", ",", "2xx", "100", "600", "200-", "-299", "300-200", "200-300-400", "٢٠٠"])
def test_anything_else_is_no_status(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no status|ends before it begins"):
        parse_statuses(text)

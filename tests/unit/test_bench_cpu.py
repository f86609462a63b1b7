"""bench.cpu: reading the process table."""

from __future__ import annotations

import pytest

from bench.cpu import ProcessTime, parse_ps, parse_stat, time_of_tree


def test_the_time_of_a_tree_is_that_of_all_descendants() -> None:
    table = [ProcessTime(1, 0, 100.0), ProcessTime(10, 1, 1.0), ProcessTime(12, 11, 4.0), ProcessTime(11, 10, 2.0)]
    assert time_of_tree(10, table) == 7.0
    assert time_of_tree(12, table) == 4.0


def test_a_process_that_is_gone_has_no_time() -> None:
    assert time_of_tree(5, [ProcessTime(1, 0, 1.0)]) is None


def test_stat_is_read_past_a_name_with_brackets_and_counts_reaped_children() -> None:
    fields = "S 7 42 42 0 -1 4194560 1000 0 0 0 150 50 30 20 20 0 1 0 12345 1000000 500"
    assert parse_stat(f"42 (a) b (c) {fields}", ticks_per_s=100) == ProcessTime(42, 7, 2.5)


@pytest.mark.parametrize(
    ("time", "seconds"), [("0:01.25", 1.25), ("12:30.00", 750.0), ("01:02:03", 3723.0), ("2-00:00:01", 172801.0)]
)
def test_ps_times_are_read_in_each_of_their_forms(time: str, seconds: float) -> None:
    assert parse_ps(f"  42   7 {time}") == ProcessTime(42, 7, seconds)

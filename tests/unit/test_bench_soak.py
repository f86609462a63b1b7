"""bench.soak: what is asked, and what breaks a bound."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.soak.finding import Finding, table_of
from bench.soak.slow import Window, judge
from bench.soak.steady import flatness, mixture
from bench.soak.worker import Memory


def test_the_mixture_makes_items_before_it_reads_or_deletes_them() -> None:
    made: set[bytes] = set()
    for n in range(5_000):
        made.add(mixture(n).partition(b"item_id=")[2].partition(b" ")[0])
    kinds: Counter[bytes] = Counter()
    for n in range(5_000, 29_000):
        method, target, _ = mixture(n).split(b" ", 2)
        kinds[method] += 1
        if method == b"GET" and target.startswith(b"/items/"):
            assert target.removeprefix(b"/items/") in made
    assert kinds == {b"GET": 15_000, b"POST": 6_000, b"DELETE": 3_000}


def test_the_items_of_the_mixture_are_never_more_than_those_it_began_with_and_a_thousand() -> None:
    made: set[bytes] = set()
    most = 0
    for n in range(60_000):
        request = mixture(n)
        if b"item_id=" in request:
            made.add(request.partition(b"item_id=")[2].partition(b" ")[0])
        elif request.startswith(b"DELETE"):
            made.discard(request.split(b" ", 2)[1].removeprefix(b"/items/"))
        most = max(most, len(made))
    assert most <= 6_000


@pytest.mark.parametrize(("sizes", "is_held"), [([50, 90, 100, 101], True), ([100, 100, 100, 103], False)])
def test_only_the_last_half_of_the_requests_must_be_flat(sizes: list[int], is_held: bool) -> None:
    samples = [(1_000 * n, [Memory(size * 1024, n, size * 1024)]) for n, size in enumerate(sizes)]
    assert [finding.is_held for finding in flatness(samples) if finding.bound] == [is_held] * 2


@pytest.mark.parametrize(("during_us", "is_held"), [(50.0, True), (62.0, False)])
def test_slow_clients_may_cost_the_working_ones_no_more_than_their_own_work(during_us: float, is_held: bool) -> None:
    calm, alone = Window(10_000, 0.5, 1.0), Window(0, 0.05, 1.0)
    during = Window(10_000, during_us / 100, 1.0)
    (finding,) = [each for each in judge(calm, during, calm, alone) if each.bound]
    assert finding.is_held is is_held


def test_a_broken_bound_stands_out() -> None:
    drawn = table_of([Finding("size", "5 MiB", "4 MiB", is_held=False), Finding("time", "1 s")])
    assert "| BROKEN |" in drawn

"""bench.summary, bench.table and bench.report: from measurements to a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plot, report, table
from bench.goals import Basis, Goal, Verdict
from bench.peers import PEERS
from bench.peers.peer import Unavailable
from bench.plan import HEADLINE, Plan
from bench.rounds import Results
from bench.summary import Spread, Summary, cpu_us_per_request, ratio, requests_per_s
from distributer.load.histogram import Histogram
from distributer.load.measurement import Measurement


def measured(
    answers: int,
    *,
    cpu_s: float | None = None,
    errors: dict[str, int] | None = None,
    backends: dict[str, int] | None = None,
) -> Measurement:
    return Measurement(
        window_s=1.0,
        latencies=Histogram.of([100] * answers),
        proxy_cpu_s=cpu_s,
        errors=errors or {},
        backends=backends or {},
    )


def summed(*measurements: Measurement) -> Summary:
    summary = Summary.of(measurements)
    assert summary is not None
    return summary


def test_a_table_lines_up_its_columns() -> None:
    assert table.render(["peer", "n"], [["a", "1"], ["long name", "1,000"]]).splitlines() == [
        "| peer      |     n |",
        "| --------- | ----: |",
        "| a         |     1 |",
        "| long name | 1,000 |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (31204.4, "31,204"),
        (100, "100"),
        (99.94, "99.9"),
        (26.06, "26.1"),
        (1.5, "1.50"),
        (0.0214, "0.021"),
        (0, "0.000"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert table.number(value) == text


def test_the_spread_of_rounds_is_median_least_and_greatest() -> None:
    summary = summed(measured(300), measured(100), measured(200))
    assert summary.requests_per_s == Spread(200, 100, 300)
    assert table.spread(summary.requests_per_s) == "200 (100-300)"


def test_errors_of_all_rounds_add_up() -> None:
    summary = summed(measured(1, errors={"reset": 1}), measured(1, errors={"reset": 2, "timeout": 1}))
    assert summary.errors == {"reset": 3, "timeout": 1}


def test_unevenness_is_that_of_the_worst_round() -> None:
    assert summed(measured(1, backends={"1": 7, "2": 8}), measured(1, backends={"1": 5, "2": 9})).unevenness == 4
    assert summed(measured(1)).unevenness is None


def test_no_rounds_have_no_summary() -> None:
    assert Summary.of([]) is None


def test_ratios_say_how_many_times_better_a_peer_is() -> None:
    drawn = table.of_peers({"ours": {1: measured(1000, cpu_s=0.5)}, "theirs": {1: measured(200, cpu_s=1.0)}}, "theirs")
    headers, ours, theirs = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in drawn.splitlines() if "--" not in line
    )
    against = [place for place, name in enumerate(headers) if name == "vs theirs"]
    assert [ours[place] for place in against] == ["5.00x (5.00-5.00)", "10.0x (10.0-10.0)"]
    assert [theirs[place] for place in against] == ["1.00x (1.00-1.00)", "1.00x (1.00-1.00)"]
    assert ours[headers.index("core busy")] == "50%"


def test_a_ratio_compares_each_round_with_itself() -> None:
    ours = {1: measured(200), 2: measured(20), 4: measured(70)}
    theirs = {1: measured(100), 2: measured(10), 3: measured(1)}
    assert ratio(ours, theirs, requests_per_s) == Spread(2, 2, 2)
    assert ratio(ours, {3: measured(1)}, requests_per_s) is None
    assert ratio(ours, theirs, cpu_us_per_request) is None


@pytest.mark.parametrize(
    ("our_cpu_s", "basis", "is_held"), [(0.95, Basis.REQUESTS, False), (0.4, Basis.CPU, True)], ids=["busy", "idle"]
)
def test_a_goal_is_judged_by_cpu_time_where_a_core_was_not_used_up(
    our_cpu_s: float, basis: Basis, is_held: bool
) -> None:
    goal = Goal("express", "envoy", 2.0, HEADLINE)
    verdict = Verdict.of(goal, {1: measured(190, cpu_s=our_cpu_s)}, {1: measured(100, cpu_s=1.0)})
    assert (verdict.basis, verdict.is_held) == (basis, is_held)


def test_a_goal_for_latency_is_judged_by_the_median() -> None:
    goal = Goal("express", "envoy", 1.0, HEADLINE, is_latency=True)
    verdict = Verdict.of(goal, {1: measured(100, cpu_s=1.0)}, {1: measured(100, cpu_s=1.0)})
    assert (verdict.basis, verdict.is_held) == (Basis.LATENCY, True)
    assert Verdict.of(goal, {}, {}).is_held is None


def results_of(**rounds: Measurement) -> Results:
    return Results({(HEADLINE, name): {1: measurement} for name, measurement in rounds.items()})


def plan_of(*peers: str) -> Plan:
    return Plan(
        peers=tuple(PEERS[name] for name in peers),
        cells=(HEADLINE,),
        rounds=1,
        seconds=1.0,
        warmup_s=0.0,
        reference=peers[0],
    )


def test_a_page_names_the_peers_that_were_skipped_and_why() -> None:
    results = results_of(direct=measured(100, errors={"reset": 3}))
    results.skipped["express"] = "needs Redis"
    page = report.page(plan_of("direct", "express"), results, {"CPU": "one of them"})
    assert "- express: distributer serve. Skipped: needs Redis" in page
    assert "- CPU: one of them" in page
    assert "## ping, 64 connections\n" in page
    assert "3 reset" in page
    assert results.has_errors()


def test_a_page_begins_with_the_goals() -> None:
    results = results_of(express=measured(300, cpu_s=1.0), nginx=measured(200, cpu_s=1.0))
    page = report.page(plan_of("express", "nginx"), results, {}, plot="benchmark.svg")
    goals = [line.split("|") for line in page.splitlines() if line.startswith("| express: speed at least 0.7 x nginx,")]
    assert [cell.strip() for cell in goals[0][2:-1]] == [
        "1.50x (1.50-1.50)",
        "1.50x (1.50-1.50)",
        "-",
        "requests/s",
        "held",
    ]
    assert "](benchmark.svg)" in page


def test_the_same_results_draw_the_same_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = results_of(express=measured(300, cpu_s=1.0), nginx=measured(200, cpu_s=1.0))
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for path in pictures:
        plot.draw(plan_of("express", "nginx"), results, [HEADLINE], path)
    one, two = (path.read_bytes() for path in pictures)
    assert one == two
    assert b"nginx" in one
    with pytest.raises(Unavailable, match="nothing was measured"):
        plot.draw(plan_of("express"), Results(), [HEADLINE], pictures[0])

"""bench.summary, bench.table and bench.report: from measurements to a page."""

from __future__ import annotations

import pytest

from bench import report, table
from bench.peers import PEERS
from bench.plan import Cell, Plan
from bench.rounds import Results
from bench.scenarios import SCENARIOS
from bench.summary import Spread, Summary
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
    drawn = table.of_summaries(
        [("ours", summed(measured(1000, cpu_s=0.5))), ("theirs", summed(measured(200, cpu_s=1.0)))], "theirs"
    )
    headers, ours, theirs = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in drawn.splitlines() if "--" not in line
    )
    assert [text for name, text in zip(headers, ours, strict=True) if name == "vs theirs"] == ["5.00x", "10.0x"]
    assert [text for name, text in zip(headers, theirs, strict=True) if name == "vs theirs"] == ["1.00x", "1.00x"]
    assert ours[headers.index("core busy")] == "50%"


def test_a_page_names_the_peers_that_were_skipped_and_why() -> None:
    plan = Plan(
        peers=(PEERS["direct"], PEERS["express"]),
        scenarios=(SCENARIOS["ping"],),
        connections=(1,),
        rounds=1,
        seconds=1.0,
        warmup_s=0.0,
        reference="direct",
    )
    results = Results(skipped={"express": "needs Redis"})
    results.measurements[Cell(SCENARIOS["ping"], 1), "direct"] = [measured(100, errors={"reset": 3})]
    page = report.page(plan, results, {"CPU": "one of them"})
    assert "- express: distributer serve, one replica. Skipped: needs Redis" in page
    assert "- CPU: one of them" in page
    assert "## ping, 1 connection\n" in page
    assert "3 reset" in page
    assert results.has_errors()

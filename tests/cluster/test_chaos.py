"""`make chaos` in its short form: the same faults, for some seconds."""

from __future__ import annotations

import pytest

from tests.cluster import chaos, report
from tests.cluster.schedule import REDIS, REPLICAS

pytestmark = pytest.mark.redis

SHORT = chaos.Options(seed=378, seconds=6.0, mean_gap_s=0.3, items=120, rate=400.0)
KILLED = {"backend", REDIS, REPLICAS}


async def test_under_kills_pauses_and_broken_links_nothing_is_lost_and_nobody_misrouted() -> None:
    outcome = await chaos.run(SHORT)
    history, verdict = outcome.history, outcome.verdict
    assert verdict.is_clean, "\n".join(map(str, verdict.violations))
    # It was a test: what should have been staged was, and the clients got on.
    assert {it.target.split()[0] for it in history.staged if it.kind == "kill"} == KILLED
    assert len(history.operations) > 500
    assert verdict.tickets > 200
    assert report.availability(history.pings, with_retry=True) > 0.9
    assert "**No violations**" in report.to_markdown(outcome)

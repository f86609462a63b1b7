"""Whatever dies, is lost, comes late or comes twice: what must hold does (`truth.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest

from distributer.routing import claim as claims
from distributer.routing.claim import ItemState
from tests.simulation.__main__ import explain, results
from tests.simulation.faults import PROFILES

SCHEDULES = 2_000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_no_schedule_falls(first: int) -> None:
    fallen = [result for result in results(first, CHUNK) if result.violation]
    assert not fallen, "\n".join(map(explain, fallen))


def test_the_schedules_reach_every_rule_of_the_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: Counter[object] = Counter()

    def noted(key: object, rule: Callable[..., ItemState], *arguments: object) -> ItemState:
        reached[key] += 1
        return rule(*arguments)

    rules = {key: partial(noted, key, rule) for key, rule in claims.SETTLING.items()}
    monkeypatch.setattr(claims, "SETTLING", rules)
    resolved: Counter[bool] = Counter()

    def resolve(*arguments: object, exists: bool, now_us: int) -> object:
        state, is_resolved = original(*arguments, exists=exists, now_us=now_us)  # type: ignore[arg-type]
        resolved[exists] += is_resolved
        return state, is_resolved

    original = claims.resolve
    profiles: set[str] = set()
    with patch.object(claims, "resolve", resolve):
        for result in results(0, SCHEDULES):
            profiles.add(result.profile)
            if reached.keys() == rules.keys() and resolved[True] and resolved[False] and len(profiles) == len(PROFILES):
                return
    pytest.fail(f"reached: {[*reached]}, {resolved}, {profiles}")

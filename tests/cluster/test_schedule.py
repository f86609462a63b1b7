"""The plan of faults: the same for the same seed, and nothing that no cluster survives."""

from __future__ import annotations

import pytest

from tests.cluster.schedule import LONGEST_PAUSE_S, MOST_BACKENDS_IN_TROUBLE, Staging, plan


def over(staging: Staging) -> float:
    return staging.at + staging.lasts_s


def test_a_seed_makes_the_same_plan_each_time() -> None:
    assert plan(7, 100.0) == plan(7, 100.0)
    assert plan(7, 100.0) != plan(8, 100.0)


def test_a_long_run_has_every_kind_of_fault() -> None:
    kinds = {(staging.target.split()[0], staging.kind) for staging in plan(1, 600.0).stagings}
    links = {"reset", "delay", "half-open", "blackhole", "truncate", "refuse"}
    assert {kind for target, kind in kinds if target == "backend"} == links | {"kill", "pause"}
    assert {kind for target, kind in kinds if target == "redis"} == links | {"kill", "pause"}
    assert {kind for target, kind in kinds if target == "replicas"} == {"kill", "pause", "rolling restart"}


@pytest.mark.parametrize("seed", range(20))
def test_a_target_has_one_fault_at_a_time_and_lulls_and_two_backends_have_none(seed: int) -> None:
    it = plan(seed, 200.0)
    assert it.lulls
    for staging in it.stagings:
        beside = [other for other in it.stagings if other is not staging and other.at <= staging.at < over(other)]
        assert staging.target not in {other.target for other in beside}
        assert sum(other.target.startswith("backend") for other in beside) <= MOST_BACKENDS_IN_TROUBLE
        assert staging.kind != "pause" or staging.lasts_s <= LONGEST_PAUSE_S
        assert not any(lull.overlaps(staging.at, over(staging)) for lull in it.lulls)
        assert over(staging) <= it.seconds

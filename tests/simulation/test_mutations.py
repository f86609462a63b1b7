"""Each safeguard is needed: without it, a schedule falls."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.simulation.determinism import simulated
from tests.simulation.faults import BY_NAME
from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.schedule import run


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulated():
        yield
    gc.collect()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_schedule_falls(mutation: Mutation) -> None:
    result = mutation.hunt()
    assert result is not None, "it survives: the schedules do not reach it, or nobody looks"
    assert result.violation.startswith(mutation.caught_by), "it falls for another reason than expected"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_with_the_safeguard_the_same_schedule_stands(mutation: Mutation) -> None:
    assert run(mutation.seed, BY_NAME[mutation.profile]).violation == ""

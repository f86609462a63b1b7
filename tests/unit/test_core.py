"""What all exchanges of a replica share: which backends it believes to be reachable."""

from __future__ import annotations

import pytest

from distributer.clock import Clock
from distributer.forwarding.core import UNREACHABLE_S, ForwardingCore
from distributer.model import Backend
from distributer.state.memory import MemoryStore

BACKENDS = [Backend.from_url(f"http://127.0.0.1:{port}") for port in (8000, 8001)]


class Time:
    """A clock's source, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def core_at(time: Time) -> ForwardingCore:
    return ForwardingCore(BACKENDS, MemoryStore(), clock=Clock(time))


def test_a_backend_that_refused_is_out_of_the_rotation_at_once_and_back_after_a_while() -> None:
    time = Time()
    core = core_at(time)
    core.note_unreachable(BACKENDS[0], "refused")
    assert core.ring.down == {BACKENDS[0]}
    time.now += UNREACHABLE_S * 0.9
    core.clock.tick()
    assert core.ring.down == {BACKENDS[0]}
    time.now += UNREACHABLE_S * 0.2
    core.clock.tick()
    assert core.ring.down == frozenset()


def test_a_backend_that_answers_is_back_at_once() -> None:
    core = core_at(Time())
    core.note_unreachable(BACKENDS[0], "refused")
    core.note_reached(BACKENDS[0], 200)
    assert core.ring.down == frozenset()


@pytest.mark.parametrize(
    ("statuses", "failures"),
    [([502], 1), ([503, 504], 2), ([500], None), ([505], None), ([200], None), ([502, 500], 0), ([502, 404, 503], 1)],
)
def test_answers_of_gateways_are_failures_and_all_others_end_a_row(statuses: list[int], failures: int | None) -> None:
    core = core_at(Time())
    for status in statuses:
        core.note_reached(BACKENDS[0], status)
    told = core.failures.take()
    assert (told[BACKENDS[0].id].failures if told else None) == failures
    assert BACKENDS[1].id not in told


def test_an_unreachable_backend_whose_time_is_over_has_not_answered() -> None:
    time = Time()
    core = core_at(time)
    core.note_unreachable(BACKENDS[0], "refused")
    time.now += UNREACHABLE_S * 1.1
    core.clock.tick()
    assert core.failures.take()[BACKENDS[0].id].failures == 1


def test_ids_are_made_once() -> None:
    core = core_at(Time())
    made = [core.new_claim_id() for _ in range(100)] + [core.new_request_id().decode() for _ in range(100)]
    assert len(set(made)) == 200

"""What all exchanges of a replica share: which backends it believes to be reachable."""

from __future__ import annotations

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


def test_ids_are_made_once() -> None:
    core = core_at(Time())
    made = [core.new_claim_id() for _ in range(100)] + [core.new_request_id().decode() for _ in range(100)]
    assert len(set(made)) == 200

"""Counters and histograms."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.forwarding.metrics import LATENCY_BOUNDS_S, BackendMetrics, Metrics
from distributer.routing.retry import Failure

STATUSES = st.integers(100, 599)
LATENCIES = st.floats(0, 1_000)


@pytest.mark.parametrize(("status", "hundreds"), [(100, 1), (200, 2), (299, 2), (304, 3), (404, 4), (500, 5), (599, 5)])
def test_answers_are_counted_by_hundreds(status: int, hundreds: int) -> None:
    metrics = BackendMetrics()
    metrics.answered(status, 0.001)
    assert metrics.by_class == [int(place == hundreds) for place in range(6)]


BUCKETS = [
    (0.0, 0),
    (0.000_05, 0),
    (LATENCY_BOUNDS_S[0], 0),  # a bound is part of its bucket
    (LATENCY_BOUNDS_S[0] * 1.01, 1),
    (0.001, LATENCY_BOUNDS_S.index(0.001)),
    (LATENCY_BOUNDS_S[-1], len(LATENCY_BOUNDS_S) - 1),
    (LATENCY_BOUNDS_S[-1] + 1, len(LATENCY_BOUNDS_S)),
    (1e9, len(LATENCY_BOUNDS_S)),
]


@pytest.mark.parametrize(("latency_s", "bucket"), BUCKETS)
def test_a_latency_falls_into_the_first_bucket_whose_bound_it_does_not_exceed(latency_s: float, bucket: int) -> None:
    metrics = BackendMetrics()
    metrics.answered(200, latency_s)
    assert metrics.latencies == [int(place == bucket) for place in range(len(LATENCY_BOUNDS_S) + 1)]


@given(st.lists(st.tuples(STATUSES, LATENCIES)))
def test_every_answer_is_counted_once_everywhere(answers: list[tuple[int, float]]) -> None:
    metrics = BackendMetrics()
    for status, latency_s in answers:
        metrics.answered(status, latency_s)
    assert sum(metrics.by_class) == sum(metrics.latencies) == len(answers)
    assert metrics.latency_sum_s == pytest.approx(sum(latency_s for _, latency_s in answers))


def test_bounds_rise() -> None:
    assert list(LATENCY_BOUNDS_S) == sorted(set(LATENCY_BOUNDS_S))


def test_a_backend_has_one_set_of_counters() -> None:
    metrics = Metrics()
    metrics.backend("127.0.0.1:8000").requests += 1
    metrics.backend("127.0.0.1:8000").requests += 1
    metrics.backend("127.0.0.1:8001").in_flight += 1
    assert {name: (one.requests, one.in_flight) for name, one in metrics.backends.items()} == {
        "127.0.0.1:8000": (2, 0),
        "127.0.0.1:8001": (0, 1),
    }


def test_a_snapshot_is_json_and_does_not_change_with_the_counters() -> None:
    metrics = Metrics()
    metrics.client_connections, metrics.connections_refused = 6, 7
    metrics.requests, metrics.degraded, metrics.retries_refused, metrics.tickets_exchanged, metrics.rebound = (
        5,
        1,
        4,
        3,
        8,
    )
    metrics.retries[Failure.STALE] += 2
    metrics.tunnels, metrics.tunnels_open, metrics.tunnel_bytes_up, metrics.tunnel_bytes_down = 3, 2, 10, 20
    metrics.askings, metrics.located = 12, 11
    metrics.probes_passed, metrics.probes_failed, metrics.ejections = 9, 8, 1
    for status in (503, 404, 503):
        metrics.refused(status)
    first, second = metrics.backend("127.0.0.1:8000"), metrics.backend("127.0.0.1:8001")
    first.requests, first.in_flight, first.failures, first.waits, second.in_flight = 4, 2, 1, 3, 1
    first.answered(204, 0.002)

    snapshot = metrics.snapshot()
    first.answered(204, 0.002)
    metrics.refused(404)
    assert snapshot == {
        "client_connections": 6,
        "connections_refused": 7,
        "requests": 5,
        "degraded": 1,
        "retries": {"connect": 0, "stale": 2, "reset": 0, "timeout": 0},
        "retries_refused": 4,
        "rebound": 8,
        "tickets_exchanged": 3,
        "askings": 12,
        "located": 11,
        "tunnels": {"total": 3, "open": 2, "bytes_up": 10, "bytes_down": 20},
        "probes": {"passed": 9, "failed": 8},
        "ejections": 1,
        "refusals": {"404": 1, "503": 2},
        "in_flight": 3,
        "backends": {
            "127.0.0.1:8000": {"requests": 4, "in_flight": 2, "failures": 1, "waits": 3, "by_class": [0, 1, 0, 0, 0]},
            "127.0.0.1:8001": {"requests": 0, "in_flight": 1, "failures": 0, "waits": 0, "by_class": [0, 0, 0, 0, 0]},
        },
    }
    assert json.loads(json.dumps(snapshot)) == snapshot

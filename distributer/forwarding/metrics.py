"""Counters and histograms of one replica: plain ints, added to on the hot path, read by whoever reports them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from distributer.routing.retry import Failure

LATENCY_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the latency histogram's buckets, in seconds; one more bucket takes what is above."""


class BackendMetrics:
    """What one replica counted of one backend."""

    __slots__ = ("by_class", "failures", "in_flight", "latencies", "latency_sum_s", "requests", "waits")

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.failures = 0
        self.waits = 0
        """Requests that found as many in flight as may be, and had to wait in line."""
        self.by_class = [0] * 6
        """Answers by hundreds of the status: by_class[2] counts 2xx."""
        self.latencies = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self.latency_sum_s = 0.0

    def answered(self, status: int, latency_s: float) -> None:
        """Count a complete answer."""
        self.by_class[status // 100] += 1
        self.latencies[bisect_left(LATENCY_BOUNDS_S, latency_s)] += 1
        self.latency_sum_s += latency_s

    def snapshot(self) -> dict[str, Any]:
        """Return the counters as JSON-ready values."""
        return {
            "requests": self.requests,
            "in_flight": self.in_flight,
            "failures": self.failures,
            "waits": self.waits,
            "by_class": self.by_class[1:],
        }


class Metrics:
    """What one replica counted."""

    __slots__ = (
        "askings",
        "backends",
        "client_connections",
        "connections_refused",
        "degraded",
        "ejections",
        "located",
        "probes_failed",
        "probes_passed",
        "rebound",
        "refusals",
        "requests",
        "retries",
        "retries_refused",
        "tickets_exchanged",
        "tunnel_bytes_down",
        "tunnel_bytes_up",
        "tunnels",
        "tunnels_open",
    )

    def __init__(self) -> None:
        self.backends: dict[str, BackendMetrics] = {}
        self.client_connections = 0
        """Connections of clients that are open now (express door)."""
        self.connections_refused = 0
        """Connections that were turned away, for there were too many."""
        self.requests = 0
        self.degraded = 0
        """Requests served without Redis."""
        self.askings = 0
        """How often all backends were asked for an item that was bound nowhere, and how often one had it."""
        self.located = 0
        self.retries = dict.fromkeys(Failure, 0)
        """Attempts that were made again, by why."""
        self.retries_refused = 0
        """Attempts that would have been made again, had the budget allowed."""
        self.rebound = 0
        """Items that were given to another backend, for their owner was down."""
        self.tickets_exchanged = 0
        self.probes_passed = 0
        """Probes of backends, made while this replica held the lease; and the ejections that it then ordered."""
        self.probes_failed = 0
        self.ejections = 0
        self.tunnels = 0
        """Connections that have switched to another protocol, ever; of those, the ones that still stand."""
        self.tunnels_open = 0
        self.tunnel_bytes_up = 0
        """Bytes that tunnels carried to the backends, and to the clients."""
        self.tunnel_bytes_down = 0
        self.refusals: dict[int, int] = {}
        """Answers that distributer gave itself, by status: 408 for slow heads and bodies, 413 for large bodies …"""

    def backend(self, backend_id: str) -> BackendMetrics:
        """Return the counters of one backend."""
        metrics = self.backends.get(backend_id)
        if metrics is None:
            metrics = self.backends[backend_id] = BackendMetrics()
        return metrics

    def refused(self, status: int) -> None:
        """Count an answer that distributer gave itself."""
        self.refusals[status] = self.refusals.get(status, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Return all counters as JSON-ready values."""
        return {
            "client_connections": self.client_connections,
            "connections_refused": self.connections_refused,
            "requests": self.requests,
            "degraded": self.degraded,
            "askings": self.askings,
            "located": self.located,
            "retries": {failure.value: count for failure, count in self.retries.items()},
            "retries_refused": self.retries_refused,
            "rebound": self.rebound,
            "tickets_exchanged": self.tickets_exchanged,
            "tunnels": {
                "total": self.tunnels,
                "open": self.tunnels_open,
                "bytes_up": self.tunnel_bytes_up,
                "bytes_down": self.tunnel_bytes_down,
            },
            "probes": {"passed": self.probes_passed, "failed": self.probes_failed},
            "ejections": self.ejections,
            "refusals": {str(status): count for status, count in sorted(self.refusals.items())},
            "in_flight": sum(backend.in_flight for backend in self.backends.values()),
            "backends": {backend_id: backend.snapshot() for backend_id, backend in self.backends.items()},
        }

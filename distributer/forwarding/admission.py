"""Which client connections are let in."""

from __future__ import annotations

from distributer.forwarding.limits import ClientLimits
from distributer.forwarding.metrics import Metrics

MAX_LINGERING = 128
"""How many of those turned away may linger until they have read why. The others are closed at once: a flood of them
must not take up the descriptors that the bound keeps free."""


class Admission:
    """Counts the client connections of a replica, and of each address if that is bounded."""

    __slots__ = ("_by_address", "_limits", "_metrics", "lingering")

    def __init__(self, limits: ClientLimits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._by_address: dict[bytes, int] = {}
        self.lingering = 0
        """Connections that were turned away and are not closed yet."""

    def admit(self, address: bytes) -> str | None:
        """Let a connection in, and return None; or say why not."""
        limits, metrics = self._limits, self._metrics
        if metrics.client_connections >= limits.max_connections:
            metrics.connections_refused += 1
            return f"this replica has {limits.max_connections} client connections, as many as it may"
        if limits.max_connections_per_address:
            count = self._by_address.get(address, 0)
            if count >= limits.max_connections_per_address:
                metrics.connections_refused += 1
                return f"your address has {count} connections to this replica, as many as it may"
            self._by_address[address] = count + 1
        metrics.client_connections += 1
        return None

    def leave(self, address: bytes) -> None:
        """Count a connection out that was let in."""
        self._metrics.client_connections -= 1
        if self._limits.max_connections_per_address:
            count = self._by_address[address] - 1
            if count:
                self._by_address[address] = count
            else:
                del self._by_address[address]

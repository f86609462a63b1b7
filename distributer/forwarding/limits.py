"""Bounds on the way to a backend."""

from __future__ import annotations

from dataclasses import dataclass

HIGH_WATER_BYTES = 64 * 1024
"""How much is buffered on one side before the other is held back."""


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """Bounds on the way to a backend. Times in seconds; counts per backend and replica."""

    connect_timeout_s: float = 2.0
    first_byte_timeout_s: float = 60.0
    idle_timeout_s: float = 60.0
    keep_alive_s: float = 4.0
    max_connections: int = 512
    max_waiting: int = 1024
    wait_timeout_s: float = 5.0

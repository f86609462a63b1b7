"""Bounds: on what clients may take up, and on the way to a backend. docs/limits.md has all of them in one table."""

from __future__ import annotations

import sys
from dataclasses import dataclass

HIGH_WATER_BYTES = 64 * 1024
"""How much is buffered on one side before the other is held back."""

LARGE_READ_BYTES = 64 * 1024
"""Behind a read of that size there is most likely another, and the event loop would take up to 32 of them at once: then
others have their turn first."""

HELD_ANSWER_BYTES = 64 * 1024
"""An answer whose body is that long at most is let out whole, if it comes within a tick of the clock, or two: until
then, the request may have another."""

NO_BOUND = sys.maxsize


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds on what clients may take up. Times in seconds; counts per replica."""

    idle_timeout_s: float = 75.0
    """A connection between requests is kept for so long. Also: the longest that a client may take nothing of what it
    is sent."""
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    max_body_bytes: int = 1 << 30
    answer_buffer_bytes: int = 256 * 1024
    """How much of an answer is taken from the backend beyond what the client's transport takes."""
    max_connections: int = 10_000
    max_connections_per_address: int = 0
    """0: no bound."""


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """Bounds on the way to a backend. Times in seconds; counts per backend and replica."""

    connect_timeout_s: float = 2.0
    first_byte_timeout_s: float = 60.0
    idle_timeout_s: float = 60.0
    keep_alive_s: float = 4.0
    lifetime_s: float = 300.0
    """A connection that is older is not used again; `inf`: none is too old."""
    max_in_flight: int = 512
    max_waiting: int = 1024
    wait_timeout_s: float = 2.0

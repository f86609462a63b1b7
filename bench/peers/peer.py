"""What the benchmark must know of a proxy to start it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Unavailable(Exception):
    """Say why something can't be measured on this machine: no fault, so it is left out by name with this reason."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a peer is given to run with."""

    port: int
    """It must listen here, on 127.0.0.1."""
    backends: tuple[str, ...]
    """Base URLs, in the order of the rotation."""
    folder: Path
    """Empty and its own: the working directory, and the place for a configuration file."""
    spare_port: int
    """For an admin interface that can't be turned off."""
    redis_url: str | None
    workers: int = 1
    """Processes, or threads, to serve with."""

    def redis(self) -> str:
        """Return the URL of Redis. Raises Unavailable if there is none."""
        if self.redis_url is None:
            raise Unavailable("needs Redis, and no server could be started")
        return self.redis_url


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that runs in the foreground and ends at SIGTERM."""

    argv: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


Launcher = Callable[[Site], Launch]


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table.

    `launch` raises Unavailable where the peer isn't installed. None: the load goes straight to a backend.
    """

    name: str
    about: str
    launch: Launcher | None
    tickets_key: str | None = None
    """The Redis counter of the shared rotation: the benchmark checks that each request took a ticket from it."""
    scales: bool = True
    """It can serve with several workers."""
    is_slow: bool = False
    """One cell tells all, and the others would take the time of those who are near each other."""

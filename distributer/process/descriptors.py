"""How many connections a worker may have open: each takes a descriptor (RLIMIT_NOFILE)."""

from __future__ import annotations

import logging
import resource
from contextlib import suppress

from distributer.config import Settings
from distributer.errors import StartupError
from distributer.forwarding.admission import MAX_LINGERING

OWN = 64 + MAX_LINGERING
"""Descriptors that are kept for what is neither a client nor a backend: the listening socket, Redis, the log, and
connections that were turned away."""
LEAST_CLIENTS = 8
"""With room for fewer clients than that, there is no point in serving."""
MAC_OPEN_MAX = 10_240
"""The most that macOS takes where it says that there is no limit."""

log = logging.getLogger("distributer")


def raise_limit() -> int:
    """Raise the soft limit on descriptors to the hard one, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MAC_OPEN_MAX):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def require_descriptors(settings: Settings, descriptors: int) -> None:
    """Raise StartupError if a worker would have next to no room for clients."""
    clients = min(LEAST_CLIENTS, settings.max_client_connections)
    needed = OWN + clients + min(clients, len(settings.backends) * settings.backend_max_in_flight)
    if descriptors < needed:
        raise StartupError(
            f"a process may open only {descriptors} files (RLIMIT_NOFILE); at least {needed} are needed, and one more "
            "for each connection beyond the first few"
        )


def fitted(settings: Settings, descriptors: int) -> Settings:
    """Lower `max_client_connections` to what the descriptors allow, with a warning.

    Connections to backends come first, for a client without one is of no use, but they get half at most.
    """
    free = max(2, descriptors - OWN)
    upstream = min(len(settings.backends) * settings.backend_max_in_flight, free // 2)
    allowed = free - upstream
    if settings.max_client_connections <= allowed:
        return settings
    log.warning(
        "max_client_connections: lowered from %d to %d, for this process may open %d files (RLIMIT_NOFILE)",
        settings.max_client_connections,
        allowed,
        descriptors,
    )
    return settings.model_copy(update={"max_client_connections": allowed})

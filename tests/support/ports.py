"""Free ports for the servers of a test."""

from __future__ import annotations

import os
import random
import socket

# Below the ranges from which the kernel takes the ports of outgoing connections (from 32768 on Linux, from 49152 on
# macOS). A port that `bind` chooses for port 0 comes from within them: by the time a server binds it, a client
# connection of the same test may have it, and a client that connects to it too early may even reach itself.
_ALL = range(20_000, 32_000)

# Tests may run in several processes, which must not hand out the same port: each has a share of them.
_SHARES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_SHARE = len(_ALL) // _SHARES
_FIRST = _ALL.start + _SHARE * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_LAST = _FIRST + _SHARE

_handed_out: set[int] = set()
# Not the seed that a test run may have fixed: two runs on one machine should not try the same ports.
_random = random.SystemRandom()


def free_port() -> int:
    """Find a port on 127.0.0.1 that nobody listens on. None is returned twice in one run."""
    return free_port_row(1)[0]


def free_port_row(count: int) -> range:
    """Find count consecutive free ports on 127.0.0.1."""
    for _ in range(1000):
        first = _random.randrange(_FIRST, _LAST - count)
        row = range(first, first + count)
        if _handed_out.isdisjoint(row) and all(_is_free(port) for port in row):
            _handed_out.update(row)
            return row
    raise RuntimeError(f"no {count} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

"""A worker process, seen from outside: its memory, its descriptors, its CPU time. Linux only: all of it is in /proc."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.cpu import parse_stat
from bench.peers.peer import Unavailable

_MARK = b"distributer.process.worker"
"""In the command line of each worker of `distributer serve`."""

START_S = 20.0
STILL_S = 1.0
"""A process that starts is never still for so long."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process occupies, in KiB."""

    rss_kib: int
    """All that is mapped and in memory."""
    pss_kib: int
    """The same, with what several processes share divided among them; so it moves when others come and go."""
    own_kib: int
    """What it has written itself: heap and stacks, and nothing of any file."""


class Descriptors(NamedTuple):
    """How many descriptors a process has open."""

    to_redis: int
    others: int


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that serves requests."""

    pid: int

    def memory(self) -> Memory:
        fields = dict(
            line.split()[:2] for line in (self._proc / "smaps_rollup").read_text().splitlines()[1:] if "kB" in line
        )
        return Memory(int(fields["Rss:"]), int(fields["Pss:"]), int(fields["Anonymous:"]))

    def rss_kib(self) -> int:
        """Return the resident size alone: a hundred times cheaper, so it can be asked often."""
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    def descriptors(self, redis_port: int) -> Descriptors:
        """Count the open descriptors. Those that lead to Redis are counted apart."""
        to_redis = {
            f"socket:[{fields[9]}]"
            for line in (self._proc / "net" / "tcp").read_text().splitlines()[1:]
            if (fields := line.split())[2].endswith(f":{redis_port:04X}")
        }
        links = []
        for descriptor in (self._proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as the one that lists them is
                links.append(str(descriptor.readlink()))
        count = sum(link in to_redis for link in links)
        return Descriptors(to_redis=count, others=len(links) - count)

    def cpu_s(self) -> float:
        return parse_stat((self._proc / "stat").read_text(), _TICKS_PER_S).cpu_s

    @property
    def _proc(self) -> Path:
        return Path("/proc", str(self.pid))


def workers_of(supervisor: int, count: int) -> list[Worker]:
    """Return the workers of `distributer serve` when they all have started; of a server without any, the server itself.

    The port is open as soon as the first of them serves. The others have started when they no longer grow. Raises
    Unavailable if that does not come.
    """
    deadline_s = time.monotonic() + START_S
    sizes_kib: list[int] = []
    while time.monotonic() < deadline_s:
        workers = _workers_of(supervisor)
        before_kib, sizes_kib = sizes_kib, [worker.rss_kib() for worker in workers]
        if len(workers) == count and sizes_kib == before_kib:
            return workers
        time.sleep(STILL_S)
    raise Unavailable(f"{count} workers had not all started after {START_S:g} s")


def _workers_of(supervisor: int) -> list[Worker]:
    children = Path("/proc", str(supervisor), "task", str(supervisor), "children").read_text().split()
    workers = [Worker(int(pid)) for pid in children if _MARK in Path("/proc", pid, "cmdline").read_bytes()]
    return workers or [Worker(supervisor)]


def total_cpu_s(workers: Sequence[Worker]) -> float:
    return sum(worker.cpu_s() for worker in workers)

"""A worker process, seen from outside: its memory, its descriptors, its CPU time. Linux only: all of it is in /proc."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cpu import parse_stat

_MARK = b"distributer.process.worker"
"""In the command line of each worker of `distributer serve`."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process occupies, in KiB."""

    rss_kib: int
    """All that is mapped and in memory."""
    pss_kib: int
    """The same, with what several processes share divided among them."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that serves requests."""

    pid: int

    def memory(self) -> Memory:
        fields = dict(
            line.split()[:2] for line in (self._proc / "smaps_rollup").read_text().splitlines()[1:] if "kB" in line
        )
        return Memory(int(fields["Rss:"]), int(fields["Pss:"]))

    def rss_kib(self) -> int:
        """Return the resident size alone: a hundred times cheaper, so it can be asked often."""
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    def descriptors(self) -> int:
        return len(os.listdir(self._proc / "fd"))

    def cpu_s(self) -> float:
        return parse_stat((self._proc / "stat").read_text(), _TICKS_PER_S).cpu_s

    @property
    def _proc(self) -> Path:
        return Path("/proc", str(self.pid))


def workers_of(supervisor: int) -> list[Worker]:
    """Return the workers of `distributer serve`; of a server without any, the server itself."""
    children = Path("/proc", str(supervisor), "task", str(supervisor), "children").read_text().split()
    workers = [Worker(int(pid)) for pid in children if _MARK in Path("/proc", pid, "cmdline").read_bytes()]
    return workers or [Worker(supervisor)]


def total_cpu_s(workers: Sequence[Worker]) -> float:
    return sum(worker.cpu_s() for worker in workers)

"""CPU time of a process and all that it started, without psutil."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessTime:
    """One line of the process table."""

    pid: int
    parent: int
    cpu_s: float


def tree_cpu_s(root: int) -> float | None:
    """Return the CPU seconds that `root` and its descendants have used so far, or None where the system does not tell.

    Linux counts in ticks of 10 ms, so a window of some seconds is right to a percent.
    """
    return time_of_tree(root, _process_table())


def time_of_tree(root: int, table: Iterable[ProcessTime]) -> float | None:
    """Add up `root` and its descendants; None if `root` is not in the table."""
    processes = {process.pid: process for process in table}
    if root not in processes:
        return None
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    total_s, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        total_s += processes[pid].cpu_s
        waiting += children.get(pid, ())
    return total_s


def parse_stat(text: str, ticks_per_s: int) -> ProcessTime:
    """Read a line of /proc/<pid>/stat (proc(5)).

    The name stands in brackets and may itself hold brackets and spaces: what counts begins after the last one. The
    time of children that are gone and waited for (cutime, cstime) is counted with their parent, so that a worker which
    is replaced inside the window does not turn time back.
    """
    pid = int(text.partition(" ")[0])
    fields = text.rpartition(")")[2].split()
    return ProcessTime(pid=pid, parent=int(fields[1]), cpu_s=sum(map(int, fields[11:15])) / ticks_per_s)


def parse_ps(line: str) -> ProcessTime:
    """Read a line of `ps -o pid=,ppid=,time=`, where the time is [[days-]hours:]minutes:seconds."""
    pid, parent, time = line.split()
    days, _, clock = time.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return ProcessTime(int(pid), int(parent), seconds + 86_400 * int(days or 0))


def _process_table() -> list[ProcessTime]:
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        return [parse_stat(text, ticks_per_s) for text in _stat_files(proc)]
    try:
        lines = subprocess.run(["ps", "-axo", "pid=,ppid=,time="], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [parse_ps(line) for line in lines.splitlines()]


def _stat_files(proc: Path) -> Iterable[str]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                yield (folder / "stat").read_text()
            except OSError:  # it ended while we read the list
                continue

"""A process that the benchmark starts, waits for and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.cores import CoreSet, on_cores
from bench.peers.peer import Unavailable

STOP_S = 5.0
"""Nothing is in flight when a process is told to stop, so it stops at once; this is for the one that does not."""

_POLL_S = 0.02

_FOREIGN = ("DISTRIBUTER_", "UVICORN_", "PYTHON")
_KEPT = ("PYTHONPATH", "PYTHONHOME")


class Child:
    """A running process and its log.

    It leads a process group of its own: Ctrl-C reaches only the benchmark, which ends its children one by one, and
    a child that must be killed takes its workers along.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cores: CoreSet,
        log: Path,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        with log.open("wb") as output, on_cores(cores):
            try:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=clean_environment() | dict(environment or {}),
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(f"cannot run {argv[0]}: {error.strerror}") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Child {self.pid} {self._process.args!r}, exit status {self._process.poll()}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_listening(self, port: int, timeout_s: float) -> None:
        """Return when the port accepts connections. Raises Unavailable if the process ends first or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"not listening after {timeout_s:g} s: {self.last_words()}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise Unavailable, with the last line of its log, if the process has ended."""
        if (status := self._process.poll()) is not None:
            raise Unavailable(f"ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the last line of the log, without where things are on this machine: it goes into the page."""
        text = self._log.read_text(errors="replace").replace(sys.executable, "python").replace(f"{sys.prefix}/", "")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "no output"

    def stop(self) -> None:
        """Ask the process to end, and kill its group if it does not."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            # Not waited for yet, so the id is still ours, and so is the group.
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def clean_environment() -> dict[str, str]:
    """Return our environment without what would change a peer and not be seen in the command.

    That is proxies for HTTP clients, settings of distributer and uvicorn, and Python's own switches, such as the one
    that turns assertions off; where Python finds its modules stays.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not (name.startswith(_FOREIGN) or name.lower().endswith("_proxy"))
    }


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on, all different: they are held together and let go together."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

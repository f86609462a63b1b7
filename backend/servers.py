"""Backends as child processes: started, kept alive, stopped.

Everything is polled by the caller, about every POLL_INTERVAL_S; there are no threads and no signal handlers here.

                 start                dies                   delay over
    (none) ──────────────► running ──────────► waiting ──────────────────► running …
                              │ stop
                              └────► SIGTERM ──► timeout, or interrupted twice ──► SIGKILL

Each child runs in a session of its own, so Ctrl-C in a terminal reaches only the parent, and on a leash (leash.py), so
that it ends when the parent does, whatever ended it. A process that the parent forks without exec holds the leash too,
and lets the backends live as long as itself.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_INTERVAL_S = 0.1

# A server that lived this long was in working order: what ended it is new, and so is the delay.
STEADY_S = 5.0
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0

_ROOT = Path(__file__).resolve().parent.parent


class ServersError(Exception):
    """The backends cannot run as asked. The message is one line, meant for the user."""


def restart_delay_s(previous_s: float, lived_s: float) -> float:
    """Choose how long to wait before a server is started again, given its previous delay and how long it lived."""
    if lived_s >= STEADY_S:
        return FIRST_DELAY_S
    return min(max(FIRST_DELAY_S, 2 * previous_s), LONGEST_DELAY_S)


@dataclass(slots=True)
class _Server:
    port: int
    process: subprocess.Popen[bytes] | None = None  # None: waiting to be started again
    changed_at_s: float = 0.0  # monotonic; when it was started, or when it was seen dead
    delay_s: float = 0.0


class BackendServers:
    """Run one backend on each port, in a process of its own, and replace those that die.

    In this order: `check_ports`, `start`, `wait_ready`, `poll` until `interrupted`, and `stop`, which is also right
    after any error. `log` gets lines for the user.
    """

    def __init__(self, host: str, ports: Sequence[int], latency_s: float, log: Callable[[str], None]) -> None:
        self._host = host
        self._servers = [_Server(port) for port in ports]
        self._latency_s = latency_s
        self._log = log
        self._interrupts = 0

    def __repr__(self) -> str:
        ports = ", ".join(f"{s.port} {'running' if s.process else 'waiting'}" for s in self._servers)
        return f"<BackendServers {self._host}: {ports}>"

    @property
    def pids(self) -> Mapping[int, int]:
        """Name the process that runs on each port; a port whose process has died has none until the next start."""
        return {s.port: s.process.pid for s in self._servers if s.process}

    @property
    def interrupted(self) -> bool:
        """Say whether the end was asked for."""
        return self._interrupts > 0

    def interrupt(self) -> None:
        """Ask for the end; a second time, for the end at once.

        Meant for signal handlers: it only counts. `wait_ready` returns, and `stop` stops waiting, when they see it.
        """
        self._interrupts += 1

    def check_ports(self) -> None:
        """Raise ServersError, naming the first port on which no server could listen."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        for server in self._servers:
            with socket.socket(family) as probe:
                # As the servers do it: connections of an earlier run in TIME_WAIT are no obstacle, a listener is.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self._host, server.port))
                except OSError as error:
                    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
                    raise ServersError(f"port {server.port} on {self._host} {reason}") from error

    def start(self) -> None:
        """Start all, without waiting until they listen."""
        for server in self._servers:
            self._spawn(server)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until all accept connections, or until interrupted. Raises ServersError, naming those that did not."""
        deadline_s = time.monotonic() + timeout_s
        silent = [server.port for server in self._servers]
        while silent and not self.interrupted:
            self.poll()
            silent = [port for port in silent if not self._accepts(port)]
            if silent and time.monotonic() >= deadline_s:
                ports = ", ".join(str(port) for port in silent)
                raise ServersError(f"no answer on {self._host} from port {ports} within {timeout_s:g} s")
            if silent:
                time.sleep(POLL_INTERVAL_S)

    def poll(self) -> None:
        """Notice those that have died, and start those again whose delay is over. Never waits."""
        for server in self._servers:
            if server.process is None:
                if time.monotonic() - server.changed_at_s >= server.delay_s:
                    self._spawn(server)
            elif server.process.poll() is not None:
                self._bury(server, server.process)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End all: SIGTERM, and SIGKILL to those that still run after timeout_s. Returns when none is left."""
        running = [server.process for server in self._servers if server.process]
        for process in running:
            process.terminate()
        deadline_s = time.monotonic() + timeout_s
        while any(process.poll() is None for process in running):
            if time.monotonic() >= deadline_s or self._interrupts > 1:
                break
            time.sleep(POLL_INTERVAL_S)
        for process in running:
            process.kill()  # no effect on one that has been waited for
            process.wait()
            _drop_leash(process)
        for server in self._servers:
            server.process = None

    def _spawn(self, server: _Server) -> None:
        server.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
            [sys.executable, "-m", "backend.leash", self._host, str(server.port)],
            # The root of this package, so that the caller's directory can neither hide it nor shadow it.
            cwd=_ROOT,
            env={**os.environ, "BACKEND_LATENCY_S": str(self._latency_s)},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        server.changed_at_s = time.monotonic()

    def _bury(self, server: _Server, process: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        server.delay_s = restart_delay_s(server.delay_s, now_s - server.changed_at_s)
        server.changed_at_s = now_s
        server.process = None
        _drop_leash(process)
        self._log(
            f"backend on port {server.port} (pid {process.pid}) {_manner(process.returncode)};"
            f" starting it again in {server.delay_s:g} s"
        )

    def _accepts(self, port: int) -> bool:
        try:
            socket.create_connection((self._host, port), timeout=1.0).close()
        except OSError:
            return False
        return True


def _drop_leash(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _manner(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-returncode}"

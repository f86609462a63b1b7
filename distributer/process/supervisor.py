"""The supervisor: holds the listening sockets, lends them to worker processes, and replaces those that die.

    slot    VACANT ──start──► STARTING ──ready──► SERVING ──dies──► VACANT (started again, with backoff)
                                                     ├──stop──► DRAINING ──► gone
                                                     └──restart──► its successor STARTING ──ready──► SERVING
                                                                   and it DRAINING ──► gone

A slot's socket stays open whatever happens to its worker, so a connection that waits in its queue is served by the
successor. Workers live in sessions of their own: Ctrl-C in a terminal reaches the supervisor alone, which tells them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributer.config import Settings, require_backends
from distributer.control.replica import enter_cluster
from distributer.errors import StartupError
from distributer.process.child import longest_drain_s, sign_every_s
from distributer.process.child_process import READY_TIMEOUT_S, ChildProcess
from distributer.process.descriptors import raise_limit, require_descriptors
from distributer.process.notify import Notifier
from distributer.process.sockets import SHARE_ONE_SOCKET, listen
from distributer.tasks import end

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
STEADY_S = 5.0

log = logging.getLogger("distributer")


@dataclass(slots=True)
class _Slot:
    """A place for one child process: a worker, or the control plane."""

    name: str
    title: str
    module: str
    socket: socket.socket
    child: ChildProcess | None = None
    served: asyncio.Event = field(default_factory=asyncio.Event)
    """Some child of it has been ready."""
    delay_s: float = 0.0


class Supervisor:
    """Keeps the replicas of one machine going. `run` returns when all has stopped."""

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None],
        *,
        share_socket: bool = SHARE_ONE_SOCKET,
        notifier: Notifier | None = None,
    ) -> None:
        self._settings = settings
        self._say = say
        self._notifier = notifier or Notifier()
        self._share_socket = share_socket
        self._slots: list[_Slot] = []
        self._sockets: list[socket.socket] = []
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._restart = asyncio.Event()
        self._is_restarting = False
        self._children: dict[ChildProcess, asyncio.Task[None]] = {}  # all that live, those that drain too
        self._keepers: list[asyncio.Task[None]] = []
        self._minder: list[asyncio.Task[None]] = []
        self._failure: StartupError | None = None
        """Why the first child of a slot could not be started at all."""

    @property
    def is_interrupted(self) -> bool:
        """Whether the end was asked for."""
        return self._stop.is_set()

    def interrupt(self) -> None:
        """Ask for the end: in-flight requests are finished. A second time: at once."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    def restart(self) -> None:
        """Ask for a rolling restart: each child is replaced in its turn. Asked for within one, another follows it."""
        self._restart.set()

    async def start(self) -> None:
        """Open the sockets, wait for Redis, start the children, and wait until all are ready. Raises StartupError."""
        settings = self._settings
        require_backends(settings)
        require_descriptors(settings, raise_limit())  # which the workers inherit
        sockets = listen(settings.host, settings.port, settings.replicas, share=self._share_socket)
        self._sockets = list(dict.fromkeys(sockets))
        self._slots = [
            _Slot(f"replica {number}", f"replica {number} of {len(sockets)}", "distributer.process.worker", sock)
            for number, sock in enumerate(sockets, 1)
        ]
        if settings.admin_port is not None:
            admin = listen(settings.admin_host, settings.admin_port, 1, setting="admin_port")[0]
            self._sockets.append(admin)
            self._slots.append(_Slot("admin", "the control plane", "distributer.process.admin", admin))
        waiting: asyncio.Task[Any] = asyncio.create_task(enter_cluster(settings, self._say))
        stopping: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not waiting.done():
            waiting.cancel()
            return
        waiting.result()
        self._keepers = [asyncio.create_task(self._keep(slot), name=slot.name) for slot in self._slots]
        self._minder = [asyncio.create_task(self._mind(), name="minder")]
        await self._wait_ready()
        if not self._stop.is_set():
            self._notifier.ready(self._status)

    async def run(self) -> None:
        """Wait for `interrupt`, then stop all. Meanwhile, restart when asked to."""
        while not self._stop.is_set():
            await _first_of(self._stop, self._restart)
            if self._restart.is_set():
                self._restart.clear()
                await self._replace_all()
        await self.stop()

    async def stop(self) -> None:
        """Drain the workers and wait for them; kill those that take too long, or all when asked twice."""
        self._stop.set()
        for sock in self._sockets:
            sock.close()
        if self._children:
            self._say(f"draining, for up to {self._settings.drain_timeout_s:g} s (again: at once)")
            self._notifier.stopping(self._status)
        for child in self._children:
            child.signal(signal.SIGTERM)
        ended: asyncio.Task[Any] = asyncio.create_task(self._all_ended())
        now: asyncio.Task[Any] = asyncio.create_task(self._stop_now.wait())
        limit_s = longest_drain_s(self._settings)
        await asyncio.wait({ended, now}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        for child in self._children:
            child.signal(signal.SIGKILL)
        await ended
        await end(self._minder)

    @property
    def _status(self) -> str:
        if self._stop.is_set():
            return f"draining, for up to {self._settings.drain_timeout_s:g} s; processes left: {len(self._children)}"
        serving = sum(slot.child is not None and slot.child.serves for slot in self._slots)
        line = f"{serving} of {len(self._slots)} processes serve"
        return f"rolling restart; {line}" if self._is_restarting else line

    async def _mind(self) -> None:
        """Kill children that hang, whose keepers then replace them; and show how all stands."""
        while True:
            await asyncio.sleep(sign_every_s(self._settings))
            for child in tuple(self._children):
                if how := child.check():
                    log.error("%s %s; killing it", child.name, how)
                    child.signal(signal.SIGKILL)
            self._notifier.status(self._status)

    async def _all_ended(self) -> None:
        await asyncio.gather(*self._keepers)
        await asyncio.gather(*self._children.values())

    async def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        for slot in self._slots:
            await _first_of(slot.served, self._stop, timeout_s=max(0.0, deadline - time.monotonic()))
            if self._failure is not None:
                raise self._failure
            if not slot.served.is_set() and not self._stop.is_set():
                raise StartupError(f"{slot.name} was not ready within {READY_TIMEOUT_S:g} s")

    async def _keep(self, slot: _Slot) -> None:
        """Keep one slot occupied until the end."""
        while not self._stop.is_set():
            started_at = time.monotonic()
            child = slot.child
            if child is None:
                try:
                    child = await self._start(slot)
                except StartupError as error:
                    if not slot.served.is_set():
                        self._failure = error
                        self._stop.set()
                        return
                    log.warning("%s; trying again in %.2g s", error, LONGEST_DELAY_S)
                    await _first_of(self._stop, timeout_s=LONGEST_DELAY_S)
                    continue
                if slot.child is not None:
                    # A rolling restart has filled the slot meanwhile.
                    child.signal(signal.SIGTERM)
                    continue
                slot.child = child
            await _first_of(child.ended, child.superseded)
            if slot.child is not child:
                continue
            slot.child = None
            if self._stop.is_set():
                return
            lived_s = time.monotonic() - started_at
            slot.delay_s = FIRST_DELAY_S if lived_s >= STEADY_S else min(LONGEST_DELAY_S, max(0.05, slot.delay_s * 2))
            log.warning("%s ended (%s); starting it again in %.2g s", slot.name, child.manner, slot.delay_s)
            await _first_of(self._stop, timeout_s=slot.delay_s)

    async def _start(self, slot: _Slot) -> ChildProcess:
        """Start a child for a slot. Raises StartupError if the system has no room for it."""
        child = await ChildProcess.start(slot.name, slot.module, slot.socket, self._settings, slot.served)
        if self._stop.is_set():
            child.signal(signal.SIGTERM)
        self._children[child] = task = asyncio.create_task(child.watch())
        task.add_done_callback(lambda _: self._children.pop(child))
        return child

    async def _replace_all(self) -> None:
        """Replace one child after another. Given up at the first successor that does not serve."""
        self._say(f"rolling restart of {len(self._slots)} processes")
        self._is_restarting = True
        self._notifier.reloading(self._status)
        is_done = True
        for slot in self._slots:
            is_done = is_done and not self._stop.is_set() and await self._replace(slot)
        self._is_restarting = False
        if is_done:
            self._say("rolling restart done")
        if not self._stop.is_set():
            self._notifier.ready(self._status)

    async def _replace(self, slot: _Slot) -> bool:
        """Replace one child: its successor takes connections from the same socket before it drains."""
        try:
            successor = await self._start(slot)
        except StartupError as error:
            log.error("%s; the restart is given up, the old one goes on", error)  # noqa: TRY400
            return False
        await _first_of(successor.ready, successor.ended, self._stop, timeout_s=READY_TIMEOUT_S)
        if self._stop.is_set():
            return False
        if not successor.ready.is_set():
            how = successor.manner if successor.ended.is_set() else f"not ready within {READY_TIMEOUT_S:g} s"
            log.error("the successor of %s failed (%s); the restart is given up, the old one goes on", slot.name, how)
            await self._retire(successor)
            return False
        predecessor, slot.child = slot.child, successor
        slot.delay_s = 0.0
        if predecessor is not None:
            predecessor.superseded.set()
            await self._retire(predecessor)
        self._say(f"{slot.title} replaced")
        return True

    async def _retire(self, child: ChildProcess) -> None:
        """Let a child drain, and kill it if that takes too long."""
        child.signal(signal.SIGTERM)
        await _first_of(child.ended, self._stop, timeout_s=longest_drain_s(self._settings))
        if not self._stop.is_set():  # then all are waited for together
            child.signal(signal.SIGKILL)
            await child.ended.wait()


async def _first_of(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until one of the events is set, or the time has passed."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()

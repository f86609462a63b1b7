"""Connections to one backend, and who waits for one.

Idle connections are taken newest first, so that a quiet spell lets the rest grow old and be closed. Each is closed
after `keep_alive_s` at the latest, before the backend closes it (uvicorn: 5 s): a request sent into a closing
connection is lost.

Who finds no connection waits in line: the first in line gets the next one that is made or becomes free. A wait is
short, for a queue that does not move is better refused: the client may try elsewhere, and the backend is not handed
requests that nobody waits for any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from distributer.clock import Clock
from distributer.errors import ConnectFailed, RequestError, Unroutable
from distributer.forwarding.absence import Absence, Deliver, Waiter
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.limits import UpstreamLimits
from distributer.forwarding.metrics import BackendMetrics
from distributer.model import Backend
from distributer.tasks import end


class BackendPool:
    """All connections of this replica to one backend."""

    def __init__(self, backend: Backend, limits: UpstreamLimits, clock: Clock, metrics: BackendMetrics) -> None:
        self.backend = backend
        self.limits = limits
        self.clock = clock
        self._metrics = metrics
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._absence = Absence()
        self._is_retired = False

    def __repr__(self) -> str:
        return (
            f"<BackendPool {self.backend.id}, open: {len(self._all)}, idle: {len(self._idle)}, "
            f"connecting: {len(self._connecting)}, waiting: {len(self._waiting)}, absent for: {len(self._absence)}>"
        )

    def idle(self) -> UpstreamConnection | None:
        """Take an idle connection, if there is one."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_open:
                return connection
        return None

    def acquire(self, deliver: Deliver) -> Waiter | None:
        """Wait for a new connection, or for one that becomes idle. None: refused, `deliver` has been called.

        Delivers ConnectFailed when connecting fails, Unroutable when the line is too long or the wait is.
        """
        if self._is_full and len(self._waiting) - len(self._connecting) >= self.limits.max_waiting:
            deliver(self._busy())
            return None
        waiter = Waiter(deliver, self.clock.now + self.limits.wait_timeout_s, self._waiting)
        if not self._connect_more():
            self._metrics.waits += 1
        return waiter

    def await_return(self, deliver: Deliver, until: float) -> Waiter | None:
        """Wait for a backend that takes no connections to come back, until coarse time `until` at the latest.

        Delivers as `acquire` does, which is what follows the return; ConnectFailed when that does not come in time.
        None: refused, `deliver` has been called.
        """
        if len(self._absence) >= self.limits.max_waiting:
            deliver(self._busy())
            return None
        return self._absence.join(deliver, until, self.clock.now)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Take a connection back that may be reused, unless it is too old."""
        if self.clock.now >= connection.retires_at:
            connection.abandon()
        elif self._waiting:
            self._next_waiter().deliver(connection)
        elif self._is_retired:
            connection.abandon()
        else:
            connection.idle_since = self.clock.now
            self._idle.append(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """Forget a connection that is closed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiting:
            self._connect_more()

    def check(self, now: float) -> None:
        """Close what has been idle for too long, fail what has waited for too long. Called on each tick."""
        keep_alive_s = self.limits.keep_alive_s
        # Newest last: all that are too old stand in front.
        old = 0
        while old < len(self._idle) and now - self._idle[old].idle_since >= keep_alive_s:
            old += 1
        expired, self._idle = self._idle[:old], self._idle[old:]
        for connection in expired:
            connection.abandon()
        for connection in tuple(self._all):
            connection.check(now)
        if self._waiting:
            # Those in front are having connections made for them, and hear of it within `connect_timeout_s`.
            in_line = islice(self._waiting, len(self._connecting), None)
            for waiter in [waiter for waiter in in_line if waiter.deadline <= now]:
                if waiter in self._waiting:
                    waiter.cancel()
                    waiter.deliver(self._busy())
        if self._absence:
            for waiter in self._absence.expired(now):
                waiter.deliver(ConnectFailed(f"{self.backend.url} has not come back"))
            if not self._connecting and self._absence.is_due(now):
                self._start_connecting()

    def retire(self) -> None:
        """Keep no connection beyond its present request: the backend is no longer of the cluster."""
        self._is_retired = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abandon()

    @property
    def is_empty(self) -> bool:
        """Whether there is no connection, and nobody waits for one."""
        return not (self._all or self._connecting or self._waiting or self._absence)

    async def close(self) -> None:
        """Cut all connections."""
        for connection in tuple(self._all):
            connection.abandon()
        await end(self._connecting)

    @property
    def _is_full(self) -> bool:
        return len(self._all) + len(self._connecting) >= self.limits.max_in_flight

    def _busy(self) -> Unroutable:
        return Unroutable(
            f"{self.backend.url} has {self.limits.max_in_flight} requests of this replica in flight, as many as it may",
            title="Backend busy",
            detail="as many requests as may be wait for the backend already",
        )

    def _next_waiter(self) -> Waiter:
        waiter, _ = self._waiting.popitem(last=False)
        return waiter

    def _connect_more(self) -> bool:
        """Make one more connection, if one is waited for and may be made. Return whether one is being made."""
        if self._is_full or len(self._connecting) >= len(self._waiting):
            return False
        self._start_connecting()
        return True

    def _start_connecting(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connect_ended)

    def _connect_ended(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if self._waiting and not task.cancelled():
            self._connect_more()

    async def _connect(self) -> None:
        backend = self.backend
        result: UpstreamConnection | RequestError
        connection: Callable[[], Any] = partial(UpstreamConnection, self)
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                _, result = await asyncio.get_running_loop().create_connection(connection, backend.host, backend.port)
        except TimeoutError:
            result = ConnectFailed(f"{backend.url} took longer than {self.limits.connect_timeout_s:g} s to connect")
        except OSError as error:
            result = ConnectFailed(f"{backend.url} refused the connection: {error.strerror or error}")
        if isinstance(result, UpstreamConnection):
            if result.is_open:
                self._all.add(result)
                if self._absence:
                    self._absence.end(self._waiting, self.clock.now + self.limits.wait_timeout_s)
                self.give_back(result)
                return
            result = ConnectFailed(f"{backend.url} closed the connection at once")
        if self._waiting:
            self._next_waiter().deliver(result)

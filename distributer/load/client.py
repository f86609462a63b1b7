"""A closed-loop HTTP/1.1 load client, light enough to share a core with the backends.

Each of N connections asks, waits for the whole answer, and asks again at once. What keeps it light: the parser is
called by the event loop directly; one Python function runs for each answer; times go into a flat array and become a
histogram after the window. Three quarters of what is left are the kernel's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from distributer.load.histogram import Histogram
from distributer.load.measurement import Measurement
from distributer.load.requests import Requests

NEVER = sys.maxsize

_now_ns = time.perf_counter_ns


class Connection(asyncio.Protocol):
    """One lane of the closed loop: at most one request is under way on it."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport
        self.asked_ns = 0
        self.is_asking = False
        self.parser = httptools.HttpResponseParser(self)
        # The event loop then calls the parser with no Python frame between. What it raises ends the connection.
        self.data_received = self.parser.feed_data  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.ask()

    def ask(self) -> None:
        load = self.load
        n = load.asked
        if n >= load.limit:
            self.is_asking = False
            load.rest(self)
            return
        load.asked = n + 1
        self.is_asking = True
        self.asked_ns = _now_ns()
        self.transport.write(load.requests(n))

    def on_message_complete(self) -> None:
        load = self.load
        now_ns = _now_ns()
        status = self.parser.get_status_code()
        if 200 <= status < 400:
            load.record(now_ns - self.asked_ns)
        elif status < 200:
            return  # RFC 9110 section 15.2: the answer is still to come
        else:
            load.errors[f"status {status}"] += 1
        if not self.parser.should_keep_alive():
            self.is_asking = False  # it was announced, so what follows is no error
            self.transport.close()
            return
        # What follows is `ask` once more, in place: it is half of what this client does for a request.
        n = load.asked
        if n >= load.limit:
            self.is_asking = False
            load.rest(self)
            return
        load.asked = n + 1
        self.asked_ns = now_ns
        self.transport.write(load.requests(n))

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self, error)


class NamingConnection(Connection):
    """Counts the answers of each backend as well, by the field that names it; it costs a little on each answer."""

    FIELD = b"x-distributer-backend"

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == self.FIELD:
            self.load.by_backend[value] += 1


class Load:
    """The connections of one run, and what they have seen.

    `limit` is the whole control: a connection that would send request number `limit` rests instead. So a part of the
    run begins by raising it and waking those at rest, and ends when all are at rest.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        host: str,
        port: int,
        connections: int,
        timeout_s: float,
        lane: Callable[[Load], Connection] = Connection,
    ) -> None:
        self.requests = requests
        self.asked = 0
        self.limit = 0
        self.errors: Counter[str] = Counter()
        self.by_backend: Counter[bytes] = Counter()
        self.latencies_ns: array[int]
        self.forget()
        self._host, self._port = host, port
        self._size = connections
        self._timeout_s = timeout_s
        self._lane = lane
        self._open: set[Connection] = set()
        self._resting: list[Connection] = []
        self._all_rest = asyncio.Event()
        self._reconnects: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def forget(self) -> None:
        """Begin the latencies anew."""
        self.latencies_ns = array("q")
        self.record = self.latencies_ns.append

    async def connect(self) -> None:
        """Open all the connections, at rest. Raises OSError."""
        # All are waited for: what fails after the first would be told of as an exception that nobody retrieved.
        for outcome in await asyncio.gather(*(self._connect() for _ in range(self._size)), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def ask_until(self, limit: int) -> None:
        """Send requests up to number `limit` and wait for their answers. A connection that hangs is an error, once."""
        self.go(limit)
        await self.drain(NEVER)

    def go(self, limit: int) -> None:
        """Send requests up to number `limit`."""
        self.limit = limit
        self._all_rest.clear()
        resting, self._resting = self._resting, []
        for connection in resting:
            connection.ask()

    async def drain(self, limit: int = 0) -> None:
        """Send no request from number `limit` on; wait until all is answered or the time is up."""
        self.limit = min(limit, self.limit)
        self._notice_rest()
        progress = self._progress()
        while not self._all_rest.is_set():
            try:
                await asyncio.wait_for(self._all_rest.wait(), self._timeout_s)
            except TimeoutError:
                # Only silence counts: a long preparation on a slow proxy is not a hang.
                if progress != (progress := self._progress()):
                    continue
                if hanging := sum(connection.is_asking for connection in self._open):
                    self.errors["timeout"] += hanging
                return

    def rest(self, connection: Connection) -> None:
        """Take a connection that has nothing to do."""
        self._resting.append(connection)
        self._notice_rest()

    def lost(self, connection: Connection, error: Exception | None) -> None:
        """Replace a connection that has ended. It was an error if an answer was owed."""
        if self._is_closed:
            return
        self._open.discard(connection)
        if connection in self._resting:
            self._resting.remove(connection)
        if isinstance(error, httptools.HttpParserError):
            self.errors["bad answer"] += 1
        elif connection.is_asking:
            self.errors["reset"] += 1
        self._notice_rest()
        task = asyncio.ensure_future(self._reconnect())
        self._reconnects.add(task)
        task.add_done_callback(self._reconnects.discard)

    def close(self) -> None:
        """End all connections, whatever they wait for."""
        self._is_closed = True
        for task in self._reconnects:
            task.cancel()
        for connection in self._open:
            connection.transport.abort()

    def _notice_rest(self) -> None:
        if self.asked >= self.limit and not any(connection.is_asking for connection in self._open):
            self._all_rest.set()

    def _progress(self) -> tuple[int, int]:
        return self.asked, len(self._resting)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: self._lane(self), self._host, self._port)
        self._open.add(connection)

    async def _reconnect(self) -> None:
        while True:
            try:
                await self._connect()
            except OSError:
                self.errors["connect"] += 1
                await asyncio.sleep(0.1)  # a proxy that is gone stays gone: do not turn the client into a busy loop
            else:
                return


@dataclass(frozen=True, slots=True)
class Window:
    """What is to be asked, in four parts: preparation, warm-up, the window that counts, and what ends it."""

    seconds: float
    requests: int = 0
    """End the window after so many requests instead; 0: by the clock."""
    warmup_s: float = 1.0
    preparation: int = 0
    """How many requests are sent, and answered, before the warm-up."""


async def measure(load: Load, window: Window, cpu_s: Callable[[], float | None] = lambda: None) -> Measurement:
    """Run the parts of the window and say what the one that counts saw; the connections stay open, at rest.

    `cpu_s` tells the CPU time of whatever is measured. Raises OSError if the connections can't be made.
    """
    await load.connect()
    await load.ask_until(window.preparation)

    if window.warmup_s:
        load.go(NEVER)
        await asyncio.sleep(window.warmup_s)
        if window.requests:
            await load.drain()

    load.forget()
    server_cpu_s, load_cpu_s = cpu_s(), time.process_time()
    began_ns = _now_ns()
    if window.requests:
        await load.ask_until(load.asked + window.requests)
    else:
        load.go(NEVER)
        await asyncio.sleep(window.seconds)
    window_s = (_now_ns() - began_ns) / 1e9
    latencies = load.latencies_ns
    load.forget()  # what is answered from here on is outside the window
    load_cpu_s = time.process_time() - load_cpu_s
    after_s = cpu_s()

    await load.drain()
    return Measurement(
        window_s=window_s,
        latencies=Histogram.of(latencies),
        proxy_cpu_s=None if after_s is None or server_cpu_s is None else after_s - server_cpu_s,
        load_cpu_s=load_cpu_s,
        errors=dict(load.errors),
        backends={name.decode("latin-1"): count for name, count in sorted(load.by_backend.items())},
    )

"""A closed-loop HTTP/1.1 load client, light enough to share a core with the backends.

Each of N connections asks, waits for the whole answer, and asks again at once. The run has three parts: the scenario's
preparation, a warm-up, and the window that counts. It prints one Measurement as JSON.

    python -m bench.load --port 8080 --connections 64 --seconds 3

What keeps it light: the parser is called by the event loop directly; one Python function runs for each answer; times
go into a flat array and become a histogram after the window.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from array import array
from collections import Counter
from typing import cast

import httptools
import uvloop

from bench.cpu import tree_cpu_s
from bench.histogram import Histogram
from bench.measurement import Measurement
from bench.scenarios import SCENARIOS, Requests

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
        if (status := self.parser.get_status_code()) == 200:
            load.record(now_ns - self.asked_ns)
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


class CountingConnection(Connection):
    """Counts the bodies as well, which tells the backends apart; it costs a little on each answer."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.load.bodies[self.body] += 1
        self.body = b""
        super().on_message_complete()


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
        count_backends: bool = False,
    ) -> None:
        self.requests = requests
        self.asked = 0
        self.limit = 0
        self.errors: Counter[str] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.latencies_ns: array[int]
        self.forget()
        self._host, self._port = host, port
        self._size = connections
        self._timeout_s = timeout_s
        self._lane = CountingConnection if count_backends else Connection
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
        await asyncio.gather(*(self._connect() for _ in range(self._size)))

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

    def answers_by_backend(self) -> dict[str, int]:
        """Read the counted bodies; what is not `{"port": N}` counts as `other`."""
        answers: Counter[str] = Counter()
        for body, count in self.bodies.items():
            try:
                answers[str(json.loads(body)["port"])] += count
            except (ValueError, KeyError, TypeError):
                answers["other"] += count
        return dict(sorted(answers.items()))

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


async def measure(load: Load, options: argparse.Namespace) -> Measurement:
    """Run the three parts and say what the last one saw."""
    await load.connect()
    await load.ask_until(options.preparation)

    load.go(NEVER)
    await asyncio.sleep(options.warmup)
    if options.requests:
        await load.drain()

    load.forget()
    proxy_cpu_s, load_cpu_s = _cpu_s(options.cpu_of), time.process_time()
    began_ns = _now_ns()
    if options.requests:
        await load.ask_until(load.asked + options.requests)
    else:
        await asyncio.sleep(options.seconds)
    window_s = (_now_ns() - began_ns) / 1e9
    latencies = load.latencies_ns
    load.forget()  # what is answered from here on is outside the window
    load_cpu_s = time.process_time() - load_cpu_s
    proxy_cpu_s = _difference(_cpu_s(options.cpu_of), proxy_cpu_s)

    await load.drain()
    load.close()
    return Measurement(
        window_s=window_s,
        latencies=Histogram.of(latencies),
        proxy_cpu_s=proxy_cpu_s,
        load_cpu_s=load_cpu_s,
        errors=dict(load.errors),
        backends=load.answers_by_backend(),
    )


def _cpu_s(pid: int | None) -> float | None:
    return None if pid is None else tree_cpu_s(pid)


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="A closed-loop HTTP/1.1 load client.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, default="ping")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the window")
    parser.add_argument("--requests", type=int, default=0, help="end the window after so many requests instead")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before the window")
    parser.add_argument("--timeout", type=float, default=15.0, help="seconds of silence that count as an error")
    parser.add_argument("--first-item", type=int, default=1, help="number of the first item that is created")
    parser.add_argument("--count-backends", action="store_true", help="count the answers of each backend")
    parser.add_argument(
        "--cpu-of", type=int, metavar="PID", help="measure the CPU time of this process and its children"
    )
    return parser.parse_args(argv)


async def _run(options: argparse.Namespace) -> Measurement:
    scenario = SCENARIOS[options.scenario]
    options.preparation = scenario.preparation
    load = Load(
        scenario.requests(options.first_item),
        host=options.host,
        port=options.port,
        connections=options.connections,
        timeout_s=options.timeout,
        count_backends=options.count_backends and scenario.names_backend,
    )
    # Nothing here makes reference cycles on the hot path, and a collection in the window would be a latency of ours.
    gc.disable()
    return await measure(load, options)


def main(argv: list[str] | None = None) -> None:
    """Run the load and print the measurement."""
    options = _parse(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            measurement = runner.run(_run(options))
        except OSError as error:
            sys.exit(f"cannot connect to {options.host}:{options.port}: {error}")
    print(measurement.to_json())


if __name__ == "__main__":
    main()

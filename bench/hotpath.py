"""How long one request keeps the interpreter busy: the whole path, without sockets and without Redis.

The transports are stand-ins and the tickets come at once, so what is measured is our own code alone. It is the figure
to watch while changing that code: unlike a benchmark over sockets it hardly depends on what else the machine does.

    python -m bench.hotpath [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from distributer.doors.asgi import lifespan_only
from distributer.doors.express import ExpressProtocol
from distributer.doors.lifespan import CORE_KEY
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.core import ForwardingCore
from distributer.model import Backend, Ticket
from distributer.state.memory import MemoryStore

REQUEST = b"GET /ping HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"port":8000}'
REPEATS = 7


class Wire(asyncio.Transport):
    """A transport that swallows what is written."""

    def __init__(self, extra: dict[str, Any] | None = None) -> None:
        super().__init__(extra or {})
        self.written = b""

    def write(self, data: Any) -> None:
        self.written = data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Tickets(MemoryStore):
    """Deals tickets when told to, as a round trip would."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def ticket(self, deliver: Any) -> None:
        self.waiting.append(deliver)

    def deal(self) -> None:
        self.rotation += 1
        self.waiting.pop()(Ticket(self.rotation))


class Path:
    """One client connection, one connection to each backend, and the core between."""

    def __init__(self) -> None:
        backends = [Backend.from_url(f"http://127.0.0.1:{port}") for port in range(8000, 8004)]
        self.store = Tickets()
        self.core = ForwardingCore(backends, self.store)
        self.upstream: list[UpstreamConnection] = []
        self.wires: list[Wire] = []
        for backend in backends:
            pool = self.core.pool(backend)
            connection = UpstreamConnection(pool)
            wire = Wire()
            connection.connection_made(wire)
            pool._all.add(connection)
            pool.give_back(connection)
            self.upstream.append(connection)
            self.wires.append(wire)
        self.client = ExpressProtocol(Config(lifespan_only, log_config=None), ServerState(), {CORE_KEY: self.core})
        self.wire = Wire({"peername": ("127.0.0.1", 50_000)})
        self.client.connection_made(self.wire)

    def run(self, requests: int) -> None:
        take, deal, upstream = self.client.data_received, self.store.deal, self.upstream
        for number in range(requests):
            take(REQUEST)
            deal()
            upstream[number % 4].data_received(ANSWER)


async def measure(options: argparse.Namespace) -> None:
    path = Path()
    path.run(4)
    assert path.wire.written.startswith(b"HTTP/1.1 200 OK\r\n"), path.wire.written
    assert path.core.metrics.requests == 4
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(path.run, options.requests)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    best = min(_time(path, options.requests) for _ in range(REPEATS))
    print(f"{best / options.requests * 1e6:.2f} us of Python for one request (best of {REPEATS})")


def _time(path: Path, requests: int) -> float:
    began = time.process_time()
    path.run(requests)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.hotpath", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--profile", action="store_true", help="say which functions take the time")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()

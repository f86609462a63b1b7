"""A cluster in this process: real backends, replicas behind either door, on sockets of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as redis
import uvicorn
from fakeredis import FakeAsyncRedis

from backend.app import create_app
from backend.config import Settings as BackendSettings
from distributer import DistributerMiddleware, Settings, replica
from distributer.doors.asgi import lifespan_only
from distributer.doors.express import ExpressProtocol
from tests.support.waiting import wait_until_async

DOORS = ("express", "asgi")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait without uvicorn's tick: a test has many servers to stop."""
        await self.on_tick(0)
        await self.stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the test runner's signal handlers alone."""
        yield


@asynccontextmanager
async def served(*apps: Any, **options: Any) -> AsyncIterator[list[int]]:
    """Serve each ASGI application with uvicorn on a free port of 127.0.0.1, and yield the ports."""
    with contextlib.ExitStack() as stack:
        # With the protocol named, or asyncio does not set TCP_NODELAY: an answer in two writes would take 40 ms more.
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sockets = [stack.enter_context(socket.socket(*kind)) for _ in apps]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        async with served_on(sockets, apps, **options):
            yield [sock.getsockname()[1] for sock in sockets]


@asynccontextmanager
async def served_on(sockets: Sequence[socket.socket], apps: Sequence[Any], **options: Any) -> AsyncIterator[None]:
    """Serve each ASGI application with uvicorn on a bound socket."""
    options = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 1, **options}
    servers = [_Server(uvicorn.Config(app, **options)) for app in apps]
    tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in zip(servers, sockets, strict=True)]

    async def started() -> bool:
        return all(server.started or task.done() for server, task in zip(servers, tasks, strict=True))

    try:
        await wait_until_async(started, "the servers have started")
        yield
    finally:
        for server in servers:
            server.stopping.set()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def demo_backends(count: int = 4) -> AsyncIterator[list[int]]:
    """Run the demo application several times, each with items of its own; yield the ports in order."""
    apps = [create_app(BackendSettings()) for _ in range(count)]
    async with served(*apps, lifespan="off") as ports:
        yield ports


@asynccontextmanager
async def distributers(door: str, settings: Settings, shared: SharedRedis, count: int) -> AsyncIterator[list[int]]:
    """Run replicas behind a door, and yield their ports."""
    apps = [DistributerMiddleware(lifespan_only, replica(settings, shared.new_client())) for _ in range(count)]
    http: Any = ExpressProtocol if door == "express" else "httptools"
    async with served(*apps, http=http, lifespan="on", proxy_headers=False) as ports:
        yield ports


_names = itertools.count()


@dataclass(frozen=True)
class SharedRedis:
    """The Redis of a test: a fake in this process, or a real server."""

    url: str | None
    name: str = field(default_factory=lambda: f"fake-{next(_names)}")

    def settings(self, backends: Sequence[int], **more: Any) -> Settings:
        """Make settings for these backends and this Redis."""
        urls = tuple(f"http://127.0.0.1:{port}" for port in backends)
        where = {} if self.url is None else {"redis": self.url}
        # A shared test machine may stall for longer than the budget of production. And a test counts the connections
        # that it asked for: only those about health have probes.
        base = {"redis_budget_s": 5.0, "wait_redis_s": 5.0, "probe_interval_s": 0.0}
        return Settings(**{"backends": urls, **base, **where, **more})

    def new_client(self) -> redis.Redis | None:
        """Make what a replica needs: a client of the fake; None for a real server, to which it links itself."""
        return None if self.url is not None else self._fake()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[redis.Redis]:
        """Look at the state as redis-cli would."""
        client = redis.Redis.from_url(self.url) if self.url is not None else self._fake()
        try:
            yield client
        finally:
            await client.aclose()

    def _fake(self) -> redis.Redis:
        # Clients of one host and port share one fake server; the name tells tests apart.
        fake: redis.Redis = FakeAsyncRedis(host=self.name, port=6379)
        return fake

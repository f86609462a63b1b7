"""The cluster as real processes: Redis, backends, replicas, and links between them; and what can be done to each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

import redis.asyncio as redis

from tests.cluster.client import Client
from tests.cluster.faults import Fault, FaultKind, Link, LinkThread
from tests.cluster.history import Rest, Span
from tests.support.ports import free_port
from tests.support.processes import ROOT, Command, accepts, clean, serve
from tests.support.redis_server import RedisServer, find_servers
from tests.support.waiting import wait_until_async

CLAIM_TIMEOUT_S = 3.0
START_WITHIN_S = 20.0
REST_WITHIN_S = 25.0

SETTINGS = {
    "DISTRIBUTER_CLAIM_TIMEOUT_S": str(CLAIM_TIMEOUT_S),
    "DISTRIBUTER_FIRST_BYTE_TIMEOUT_S": "3",
    "DISTRIBUTER_IDLE_TIMEOUT_S": "3",
    "DISTRIBUTER_LOG_FORMAT": "json",
}

AWAY = "shared state is away"
BACK = "shared state is back"
SLACK_S = 0.2
"""How much longer than its log lines say a replica is taken to have been degraded."""


class NotAtRestError(Exception):
    """All is healed, and still some replica is without Redis, or some doubt is not resolved."""


class BackendProcess:
    """One demo backend in a process of its own, that can be killed and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, while it runs."""
        assert self._process is not None
        return self._process.pid

    def spawn(self) -> None:
        """Start it, without waiting until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "backend.leash", "127.0.0.1", str(self.port)],
            cwd=ROOT,
            env=clean(),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    async def ready(self) -> None:
        """Wait until it listens."""

        async def listens() -> bool:
            return await asyncio.to_thread(accepts, self.port)

        await wait_until_async(listens, f"the backend on {self.port} listens", START_WITHIN_S)

    def kill(self) -> None:
        """End it by SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


class Stage:
    """A running cluster. Backends are known by their URLs, as the replicas know them."""

    def __init__(
        self, server: RedisServer, backends: Sequence[BackendProcess], links: LinkThread, *, has_links: bool
    ) -> None:
        self.redis = server
        self.backends = backends
        self.links = links
        self.has_links = has_links
        self.redis_link: Link | None = None
        self.backend_links: list[Link] = []
        self.port = free_port()
        self.command: Command
        # The clients' times are by perf_counter, the replicas' log has the time of day.
        self.clock_offset_s = time.time() - time.perf_counter()

    @property
    def urls(self) -> list[str]:
        """The backends' URLs, as the replicas know them."""
        ports = [it.port for it in self.backend_links] if self.has_links else [it.port for it in self.backends]
        return [f"http://127.0.0.1:{port}" for port in ports]

    async def open(self, replicas: int, settings: Mapping[str, str]) -> None:
        """Open the links, start the backends, then the replicas."""
        for backend in self.backends:
            backend.spawn()
        redis_port = self.redis.port
        if self.has_links:
            self.redis_link = await self.links.link(free_port(), self.redis.port, 0)
            redis_port = self.redis_link.port
            for number, backend in enumerate(self.backends, 1):
                self.backend_links.append(await self.links.link(free_port(), backend.port, number))
        await asyncio.gather(*(backend.ready() for backend in self.backends))

        def start() -> Command:
            return serve(
                self.port,
                f"redis://127.0.0.1:{redis_port}/0",
                [int(url.rpartition(":")[2]) for url in self.urls],
                "--replicas",
                str(replicas),
                "--routing-headers",
                environment={**SETTINGS, **settings},
            )

        self.command = await asyncio.to_thread(start)

    # What is done to processes.

    async def workers(self) -> list[int]:
        """The pids of the replicas."""
        return await asyncio.to_thread(lambda: self.command.workers)

    async def kill_backend(self, number: int) -> Span:
        """Kill a backend, as SIGKILL does: its port refuses then. Returns when it happened."""
        if self.has_links:
            await self.links.do(self.backend_links[number].put, Fault(FaultKind.REFUSE))
        start = time.perf_counter()
        await asyncio.to_thread(self.backends[number].kill)
        return Span(start, time.perf_counter())

    async def start_backend(self, number: int) -> None:
        """Start a backend again on its port, and wait until it listens."""
        self.backends[number].spawn()
        await self.backends[number].ready()
        if self.has_links:
            await self.links.do(self.backend_links[number].heal)

    @contextlib.contextmanager
    def paused(self, pid: int) -> Any:
        """Freeze a process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # What is seen.

    def log_lines(self) -> list[dict[str, Any]]:
        """The lines that the supervisor and the replicas have logged."""
        lines: list[dict[str, Any]] = []
        for text in self.command.output.splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    lines.append(line)
        return lines

    def degraded(self) -> list[Span]:
        """When some replica was without Redis, by the log."""
        return degraded_spans(self.log_lines(), self.clock_offset_s, time.perf_counter())

    async def settled(self) -> None:
        """Wait until every replica has Redis, and no claim is left."""
        async with redis.Redis.from_url(self.redis.url) as client:

            async def restless() -> str:
                states = await client.mget([key async for key in client.scan_iter("distributer:replica:*")] or ["none"])
                modes = [json.loads(state)["redis_mode"] for state in states if state is not None]
                claims = await client.hgetall("distributer:claims")
                return "" if modes and set(modes) == {"shared"} and not claims else f"{modes}, {claims}"

            deadline = time.perf_counter() + REST_WITHIN_S
            while why := await restless():
                if time.perf_counter() > deadline:
                    log = "\n".join(self.command.output.splitlines()[-20:])
                    raise NotAtRestError(f"not within {REST_WITHIN_S:g} s: {why}\n{log}")
                await asyncio.sleep(0.05)

    async def rest(self, items: int) -> Rest:
        """Read everything, past the replicas."""
        held = await asyncio.gather(*(self._held(backend, items) for backend in self.backends))
        async with redis.Redis.from_url(self.redis.url) as client:
            bindings: Any = await client.hgetall("distributer:sticky")
            sticky = {int(item): url.decode() for item, url in bindings.items()}
            claims = await client.hlen("distributer:claims")
            rotation = int(await client.get("distributer:rotation") or 0)
        return Rest(dict(zip(self.urls, held, strict=True)), sticky, claims, rotation, time.perf_counter())

    async def _held(self, backend: BackendProcess, items: int) -> dict[int, int]:
        client = Client(backend.port)
        held: dict[int, int] = {}
        for item in range(items):
            answer = await client.ask(b"GET /items/%d HTTP/1.1\r\nHost: backend\r\n\r\n" % item, 10.0)
            if answer.status == 200:
                held[item] = int(json.loads(answer.body)["name"])
            else:
                assert answer.status == 404, answer
        client.leave()
        return held


def degraded_spans(lines: Sequence[Mapping[str, Any]], offset_s: float, until: float) -> list[Span]:
    """Say when some replica was degraded, by the log lines. `offset_s`: the time of day at 0 of the clients' clock."""
    since: dict[str, float] = {}
    spans: list[Span] = []

    def close(source: str, at: float) -> None:
        if source in since:
            spans.append(Span(since.pop(source) - SLACK_S, at + SLACK_S))

    for line in lines:
        event, source = str(line.get("event", "")), str(line.get("source", ""))
        if "time" not in line:
            continue
        at = datetime.fromisoformat(str(line["time"])).timestamp() - offset_s
        if event.startswith(AWAY):
            since.setdefault(source, at)
        elif event.startswith(BACK):
            close(source, at)
        elif event.startswith("replica ") and (" ended (" in event or event.endswith(" replaced")):
            close(" ".join(event.split()[:2]), at)
    for source in tuple(since):
        close(source, until)
    return spans


@asynccontextmanager
async def stage(
    *,
    replicas: int = 3,
    backends: int = 4,
    has_links: bool = True,
    settings: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> AsyncIterator[Stage]:
    """Run a cluster."""
    found = find_servers()
    with ExitStack() as stack:
        server = RedisServer(found.get("redis") or found["valkey"], aof=True)
        await asyncio.to_thread(server.start)
        stack.callback(server.__exit__, None, None, None)
        links = stack.enter_context(LinkThread())
        it = Stage(server, [BackendProcess() for _ in range(backends)], links, has_links=has_links)
        for backend in it.backends:
            stack.callback(backend.kill)
        say(f"starting {replicas} replicas, {backends} backends, {server!r}")
        await it.open(replicas, settings or {})
        try:
            yield it
        finally:
            it.command.__exit__(None, None, None)

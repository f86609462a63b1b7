"""Single faults under load, measured: one backend killed, Redis killed, a rolling restart.

The clients ask at full speed, straight at the cluster, with no links between: what is seen is what a user would see.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as redis

from tests.cluster.client import Client
from tests.cluster.history import Kind, Ping, Result
from tests.cluster.stage import Stage, stage
from tests.cluster.workload import TIMEOUT_S, ping, request, result_of
from tests.support.waiting import wait_until_async

REJOIN_WITHIN_S = 6.0
WAIT_FOR_REJOIN_S = 30.0


@dataclass
class Found:
    """What a scenario has measured, and which goals it missed."""

    numbers: dict[str, Any]
    missed: list[str] = field(default_factory=list)

    def require(self, goal: str, is_met: bool) -> None:
        """Note a goal that is missed."""
        if not is_met:
            self.missed.append(goal)


class Asking:
    """Clients that ask GET /ping, one request after the other, until told to stop. As an async context manager."""

    def __init__(self, port: int, clients: int, *, new_connections: int = 0) -> None:
        self.pings: list[Ping] = []
        self._port = port
        self._clients = clients
        self._new_connections = new_connections
        self._goes_on = True
        self._running: list[asyncio.Task[None]] = []

    def within(self, start: float, end: float) -> list[Ping]:
        """List the requests that were sent and answered within a time."""
        return [ping for ping in self.pings if start <= ping.start and ping.end <= end]

    def failures(self, *, at_first: bool = False) -> dict[str, int]:
        """Count the requests that were not answered with 200, by reason; or not at the first try."""
        return dict(
            Counter(ping.why for ping in self.pings if not (ping.is_served if at_first else ping.is_served_by_retry))
        )

    async def _ask(self, number: int) -> None:
        client = Client(self._port)
        while self._goes_on:
            self.pings.append(await ping(client))
            if number < self._new_connections:
                client.leave()
        client.leave()

    async def __aenter__(self) -> Asking:
        self._running = [asyncio.create_task(self._ask(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._goes_on = False
        await asyncio.gather(*self._running)


async def backend_kill(
    *, clients: int = 64, normal_s: float = 3.0, down_s: float = 4.0, settings: Mapping[str, str] | None = None
) -> Found:
    """kill -9 of one of four backends under load, and its return."""
    async with stage(has_links=False, settings=settings) as cluster:
        victim = cluster.urls[1]
        async with Asking(cluster.port, clients) as asking:
            await asyncio.sleep(normal_s)
            killed = (await cluster.kill_backend(1)).end
            await asyncio.sleep(down_s)
            # All that began after the kill and ended before the return.
            counts = Counter(
                ping.backend for ping in asking.within(killed, time.perf_counter()) if ping.is_served_by_retry
            )
            await cluster.start_backend(1)
            returned = time.perf_counter()

            async def serves() -> bool:
                return any(ping.backend == victim and ping.start > returned for ping in asking.pings[-5_000:])

            is_back = True
            try:
                await wait_until_async(serves, "it has rejoined", WAIT_FOR_REJOIN_S)
            except AssertionError:
                is_back = False
            rejoined_s = time.perf_counter() - returned
        found = Found(
            {
                "requests": len(asking.pings),
                "failed": asking.failures(),
                "failed_at_first": asking.failures(at_first=True),
                "counts_while_down": {str(url): count for url, count in sorted(counts.items(), key=str)},
                "spread_while_down": _spread([count for url, count in counts.items() if url != victim]),
                "rejoined_s": round(rejoined_s, 3) if is_back else None,
            }
        )
        found.require("0 failed requests", not asking.failures())
        found.require("the other three within 1 % of each other", found.numbers["spread_while_down"] <= 0.01)
        found.require(f"rejoins within {REJOIN_WITHIN_S:g} s", is_back and rejoined_s <= REJOIN_WITHIN_S)
        return found


async def redis_kill(
    *, clients: int = 64, normal_s: float = 5.0, down_s: float = 10.0, settings: Mapping[str, str] | None = None
) -> Found:
    """kill -9 of Redis under load, and its return."""
    async with stage(has_links=False, settings=settings) as cluster:
        await _create(cluster, range(100))
        before = await _sticky(cluster)
        async with Asking(cluster.port, clients) as asking:
            await asyncio.sleep(1.0)
            begins = time.perf_counter()
            await asyncio.sleep(normal_s)
            killed = time.perf_counter()
            await asyncio.to_thread(cluster.redis.kill)
            await asyncio.sleep(down_s)
            back = time.perf_counter()
            await asyncio.to_thread(cluster.redis.start)
            started = time.perf_counter()
            client = Client(cluster.port)

            async def creates() -> bool:
                answer = await client.ask(request(Kind.CREATE, 1_000, 1), TIMEOUT_S)
                return result_of(Kind.CREATE, answer) is Result.DONE

            await wait_until_async(creates, "creates are served again", 20.0)
            recovered_s = time.perf_counter() - started
            client.leave()
        after = await _sticky(cluster)
        after.pop("1000", None)
        normal, outage = _p99_ms(asking.within(begins, killed)), _p99_ms(asking.within(killed, back))
        found = Found(
            {
                "requests": len(asking.pings),
                "requests_during_the_outage": len(asking.within(killed, back)),
                "failed": asking.failures(),
                "failed_at_first": asking.failures(at_first=True),
                "p99_normal_ms": normal,
                "p99_outage_ms": outage,
                "slowest_ms": round(max(ping.end - ping.start for ping in asking.pings) * 1000, 1),
                "bindings_before": len(before),
                "bindings_are_the_same": before == after,
                "creates_again_after_s": round(recovered_s, 3),
            }
        )
        found.require("0 failed requests", not asking.failures())
        found.require("p99 during the outage within 3 × of normal", outage <= 3 * normal)
        found.require("bindings before = bindings after", before == after)
        return found


async def rolling(*, clients: int = 48, new_connections: int = 16, settings: Mapping[str, str] | None = None) -> Found:
    """A rolling restart of three replicas under load, on kept-alive and on new connections."""
    async with stage(has_links=False, settings=settings) as cluster:
        before = set(await cluster.workers())
        async with Asking(cluster.port, clients, new_connections=new_connections) as asking:
            await asyncio.sleep(2.0)
            started = time.perf_counter()
            cluster.command.send(signal.SIGHUP)

            async def done() -> bool:
                return "rolling restart done" in cluster.command.output

            await wait_until_async(done, "the rolling restart is done", 60.0)
            took_s = time.perf_counter() - started
            await asyncio.sleep(1.0)
        after = set(await cluster.workers())
        found = Found(
            {
                "requests": len(asking.pings),
                "failed": asking.failures(),
                "failed_at_first": asking.failures(at_first=True),
                "restart_s": round(took_s, 2),
                "slowest_ms": round(max(ping.end - ping.start for ping in asking.pings) * 1000, 1),
                "replaced": len(before - after),
            }
        )
        found.require("0 failed requests", not asking.failures())
        found.require("all three replaced", before.isdisjoint(after) and len(after) == 3)
        return found


SCENARIOS: Mapping[str, Callable[[], Coroutine[Any, Any, Found]]] = {
    "backend-kill": backend_kill,
    "redis-kill": redis_kill,
    "rolling": rolling,
}


async def _create(cluster: Stage, items: range) -> None:
    client = Client(cluster.port)
    for item in items:
        answer = await client.ask(request(Kind.CREATE, item, item), TIMEOUT_S)
        assert result_of(Kind.CREATE, answer) is Result.DONE, answer
    client.leave()


async def _sticky(cluster: Stage) -> dict[str, str]:
    async with redis.Redis.from_url(cluster.redis.url) as client:
        bindings: Any = await client.hgetall("distributer:sticky")
        return {item.decode(): url.decode() for item, url in bindings.items()}


def _spread(counts: list[int]) -> float:
    return round((max(counts) - min(counts)) / max(counts), 5) if counts else 1.0


def _p99_ms(pings: list[Ping]) -> float:
    times = sorted(ping.end - ping.start for ping in pings)
    return round(times[int(len(times) * 0.99)] * 1000, 2) if times else 0.0

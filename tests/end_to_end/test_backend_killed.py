"""kill -9 of a backend under load: no request is lost, and the others stay level."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from tests.support.load import Result, load
from tests.support.ports import free_port
from tests.support.processes import ROOT, Command, serve
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.redis

CONNECTIONS = 64
KILLS = 2
REQUESTS_BETWEEN = 400


@pytest.fixture
def redis_url(redis_servers: Callable[[str], RedisServer]) -> str:
    url = redis_servers("valkey").url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


def backend(port: int) -> Command:
    return Command(
        *("-m", "uvicorn", "--app-dir", str(ROOT), "backend.app:app", "--port", str(port), "--no-access-log"),
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.fixture
def backends() -> Iterator[dict[int, Command]]:
    """Four backends, each a process, by port."""
    with ExitStack() as stack:
        it = {port: stack.enter_context(backend(port)) for port in (free_port() for _ in range(4))}
        for port, command in it.items():
            command.wait_for_port(port)
        yield it


async def grows(result: Result, by: int) -> None:
    """Wait until so many more requests are answered."""
    until = result.answered + by

    async def has_grown() -> bool:
        return result.answered >= until

    await wait_until_async(has_grown, f"{by} more are answered", 30.0)


async def test_no_request_is_lost_when_backends_are_killed_and_the_others_stay_level(
    redis_url: str, backends: dict[int, Command]
) -> None:
    port = free_port()
    with ExitStack() as stack, serve(port, redis_url, list(backends)) as command:
        result = Result()
        loading = asyncio.create_task(load(port, 1_000_000, CONNECTIONS, result))
        await grows(result, REQUESTS_BETWEEN)
        for victim in list(backends)[:KILLS]:
            killed = backends[victim].process
            killed.send_signal(signal.SIGKILL)
            await asyncio.to_thread(killed.wait)
            await grows(result, 2 * CONNECTIONS)  # what was under way then is over
            before = Counter(result.ports)
            await grows(result, REQUESTS_BETWEEN)
            while_away = result.ports - before
            assert victim not in while_away
            backends[victim] = stack.enter_context(backend(victim))
            await asyncio.to_thread(backends[victim].wait_for_port, victim)
            seen = result.ports[victim]

            async def is_back(victim: int = victim, seen: int = seen) -> bool:
                return result.ports[victim] > seen

            await wait_until_async(is_back, "it is back in the rotation", 10.0)
        result.left = 0
        await loading
        assert (set(result.statuses), result.broken) == ({200}, 0), command.output
        others = [result.ports[other] for other in list(backends)[KILLS:]]
        assert max(others) - min(others) <= 2, "those that were never killed are level"
        assert command.end() == 0

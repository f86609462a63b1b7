"""Three replicas on three ports, each a `distributer serve` of its own, with nothing in common but Redis."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle, islice

import pytest
import redis

from tests.support.load import quick_backends
from tests.support.ports import free_port
from tests.support.processes import serve
from tests.support.raw import ask, request
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


async def test_three_replicas_on_three_ports_rotate_as_one(redis_servers: Callable[[str], RedisServer]) -> None:
    url = redis_servers("valkey").url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    async with quick_backends() as backends:
        ports = [backend.port for backend in backends]
        fronts = [free_port() for _ in range(3)]

        async def answers(count: int) -> list[int]:
            """Ask the replicas in turn, one after the other."""
            return [json.loads((await ask(front, request())).body)["port"] for front in islice(cycle(fronts), count)]

        with ExitStack() as stack:
            replicas = [stack.enter_context(serve(front, url, ports)) for front in fronts]
            assert await answers(24) == ports * 6
            # One that is killed and started again takes its place as if nothing had been.
            replicas[1].send(signal.SIGKILL)
            replicas[1].process.wait(5)
            await asyncio.to_thread(replicas[1].assert_nothing_left)
            stack.enter_context(serve(fronts[1], url, ports))
            assert await answers(13) == [*ports * 3, ports[0]]

"""`distributer serve`: real processes behind one port, killed, drained and counted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from itertools import cycle, islice

import pytest
import redis

from tests.support.load import Result, load, quick_backends
from tests.support.ports import free_port
from tests.support.processes import is_alive, serve
from tests.support.raw import ask, connected, request
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.redis


@pytest.fixture
def redis_url(redis_servers: Callable[[str], RedisServer]) -> str:
    url = redis_servers("valkey").url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


def tickets(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.get("distributer:rotation") or 0)


async def test_twenty_thousand_requests_over_three_replicas_are_level_to_one(redis_url: str) -> None:
    async with quick_backends() as backends:
        ports = [backend.port for backend in backends]
        port = free_port()
        with serve(port, redis_url, ports, "--replicas", "3") as command:
            before = tickets(redis_url)
            result = await load(port, 20_000, 64)
            assert (result.statuses, result.broken) == ({200: 20_000}, 0)
            assert [result.ports[port] for port in ports] == [5_000] * 4
            assert tickets(redis_url) - before == 20_000
            assert len(command.workers) == 3
            assert await asyncio.to_thread(command.end) == 0


async def test_a_killed_worker_fails_only_what_it_held_and_is_replaced_within_three_seconds(redis_url: str) -> None:
    async with quick_backends() as backends:
        port = free_port()
        with serve(port, redis_url, [backend.port for backend in backends], "--replicas", "3") as command:
            result = Result()
            running = asyncio.create_task(load(port, 12_000, 48, result))

            async def under_way() -> bool:
                return result.answered > 2_000

            await wait_until_async(under_way, "the load is under way")
            old = command.workers
            os.kill(old[0], signal.SIGKILL)
            killed_at = time.monotonic()

            async def replaced() -> bool:
                new = await asyncio.to_thread(lambda: command.workers)
                return len(new) == 3 and old[0] not in new

            await wait_until_async(replaced, "the worker is replaced", 3.0)
            assert time.monotonic() - killed_at < 3.0
            await running
            # Each connection holds one request at a time; the dead worker held some of the 48 connections.
            assert result.statuses == {200: result.answered}
            assert 0 < result.broken < 48
            assert result.answered + result.broken == 12_000
            # The successor serves: enough new connections reach every socket.
            await load(port, 200, 100)
            assert await asyncio.to_thread(command.end) == 0


async def test_sigterm_finishes_what_is_in_flight_and_exits_with_zero(redis_url: str) -> None:
    async with quick_backends(delay_s=1.0) as backends:
        port = free_port()
        with serve(port, redis_url, [backend.port for backend in backends], "--replicas", "2") as command:
            running = asyncio.create_task(load(port, 20, 20))

            async def arrived() -> bool:
                return sum(len(backend.requests) for backend in backends) == 20

            await wait_until_async(arrived, "all requests are in flight")
            status = await asyncio.to_thread(command.end)
            result = await running
            assert (result.statuses, result.broken) == ({200: 20}, 0)
            assert status == 0


async def test_sigterm_does_not_wait_for_idle_connections(redis_url: str) -> None:
    async with quick_backends() as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port]) as command:
            async with connected(port) as client:
                assert (await client.ask(request())).status == 200
                started = time.monotonic()
                assert await asyncio.to_thread(command.end) == 0
                assert time.monotonic() - started < 10
                assert await client.rest() == b""


async def test_a_second_sigterm_ends_at_once(redis_url: str) -> None:
    async with quick_backends(delay_s=60.0) as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port]) as command:
            async with connected(port) as client:
                await client.send(request())

                async def arrived() -> bool:
                    return len(backends[0].requests) == 1

                await wait_until_async(arrived, "the request is in flight")
                command.send(signal.SIGTERM)
                await asyncio.to_thread(command.wait_for, "draining")
                await asyncio.to_thread(command.end, signal.SIGTERM)
                assert await client.rest() == b""


async def test_workers_end_with_a_supervisor_that_was_killed(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port], "--replicas", "2", "--admin-port", str(free_port())) as command:
            workers = command.workers
            assert len(workers) == 2
            command.send(signal.SIGKILL)
            command.process.wait(5)
            await asyncio.to_thread(
                wait_until, lambda: not any(is_alive(pid) for pid in workers), "the workers have ended"
            )
            command.assert_nothing_left()


async def test_three_replicas_on_three_ports_rotate_as_one(redis_url: str) -> None:
    async with quick_backends() as backends:
        ports = [backend.port for backend in backends]
        fronts = [free_port() for _ in range(3)]
        with serve(fronts[0], redis_url, ports), serve(fronts[1], redis_url, ports), serve(fronts[2], redis_url, ports):
            answers = [await ask(front, request()) for front in islice(cycle(fronts), 24)]
        assert [answer.body for answer in answers] == [b'{"port": %d}' % port for port in ports] * 6

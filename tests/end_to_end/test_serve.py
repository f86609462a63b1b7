"""`distributer serve`: real processes behind one port, killed, drained and counted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
import redis

from distributer.process.sockets import SHARE_ONE_SOCKET
from tests.support.load import Result, load, quick_backends
from tests.support.ports import free_port
from tests.support.processes import Command, is_alive, serve
from tests.support.raw import Message, Origin, connected, origin, request
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.redis

AT_ONCE_S = 5.0
"""Much less than any drain timeout, and enough for a slow machine."""

# The two ways of lending sockets; each system has one of them by default. Only Linux can do both.
SHARED_SOCKET = """
import functools
from distributer.cli import main
from distributer.process import serve
serve.Supervisor = functools.partial(serve.Supervisor, share_socket=True)
main()
"""
PROGRAMS = {"this system's sockets": ("-m", "distributer"), "one socket for all": ("-c", SHARED_SOCKET)}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return PROGRAMS[request.param]


@pytest.fixture
def redis_url(redis_servers: Callable[[str], RedisServer]) -> str:
    url = redis_servers("valkey").url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


def tickets(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.get("distributer:rotation") or 0)


def served_by(url: str) -> dict[int, int]:
    """How many requests each worker has counted, by its pid, as of its last heartbeat."""
    with redis.Redis.from_url(url) as client:
        raw = client.mget(list(client.scan_iter("distributer:replica:*")) or ["none"])
    snapshots = [json.loads(snapshot) for snapshot in raw if snapshot is not None]
    return {snapshot["pid"]: snapshot["metrics"]["requests"] for snapshot in snapshots}


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

            counts: dict[int, int] = {}

            async def all_counted() -> bool:
                counts.update(served_by(redis_url))
                return sum(counts.values()) == 20_000

            await wait_until_async(all_counted, f"the workers have counted all requests: {counts}")
            assert sorted(counts) == sorted(command.workers)
            assert len(counts) == 3
            # One socket for all is taken from by whoever comes first, be it one worker alone.
            assert SHARE_ONE_SOCKET or all(counts.values())
            assert await asyncio.to_thread(command.end) == 0


async def test_a_killed_worker_fails_only_what_it_held_and_is_replaced_within_three_seconds(
    redis_url: str, program: tuple[str, ...]
) -> None:
    async with quick_backends() as backends:
        port = free_port()
        ports = [backend.port for backend in backends]
        with serve(port, redis_url, ports, "--replicas", "3", program=program) as command:
            result = Result()
            running = asyncio.create_task(load(port, 1_000_000, 48, result))

            async def under_way() -> bool:
                return result.answered > 1_000 and any(served_by(redis_url).values())

            await wait_until_async(under_way, "the load is under way")
            old = set(command.workers)
            victim = max(served_by(redis_url).items(), key=lambda count: count[1])[0]
            # Frozen first, so that it is seen which connections it holds: those on which nothing comes any more.
            os.kill(victim, signal.SIGSTOP)
            frozen_at = list(result.progress)
            held: list[int] = []

            async def told_apart() -> bool:
                gains = [now - then for now, then in zip(result.progress, frozen_at, strict=True)]
                # One answer may have been on its way.
                held[:] = [client for client, gain in enumerate(gains) if gain <= 1]
                return 0 < len(held) < 48 and all(gain <= 1 or gain >= 20 for gain in gains)

            # With one socket for all, one worker may hold all the connections. Then nothing else moves.
            only_one = len([count for count in served_by(redis_url).values() if count]) == 1
            if only_one:
                held = list(range(48))
            else:
                await wait_until_async(told_apart, f"the frozen worker's connections stand still: {held}")
            killed_at = time.monotonic()
            os.kill(victim, signal.SIGKILL)

            async def replaced() -> bool:
                workers = set(await asyncio.to_thread(lambda: command.workers))
                return len(workers) == 3 and workers & old == old - {victim}

            await wait_until_async(replaced, "the worker is replaced", 3.0)
            assert time.monotonic() - killed_at < 3.0
            replaced_at = list(result.progress)

            async def all_go_on() -> bool:
                return all(now > then for now, then in zip(result.progress, replaced_at, strict=True))

            await wait_until_async(all_go_on, "all clients go on")
            result.left = 0
            await running
            assert result.statuses == {200: result.answered}
            assert 0 < result.broken <= len(held)

            again = await load(port, 400, 100)
            assert (again.statuses, again.broken) == ({200: 400}, 0)

            async def successor_serves() -> bool:
                return any(count for pid, count in served_by(redis_url).items() if pid not in old)

            if not SHARE_ONE_SOCKET and "-c" not in program:
                await wait_until_async(successor_serves, "the successor has served requests")
            assert await asyncio.to_thread(command.end) == 0


async def test_sigterm_finishes_what_is_in_flight_and_exits_with_zero(redis_url: str, program: tuple[str, ...]) -> None:
    async with quick_backends(delay_s=1.0) as backends:
        port = free_port()
        ports = [backend.port for backend in backends]
        with serve(port, redis_url, ports, "--replicas", "2", program=program) as command:
            running = asyncio.create_task(load(port, 50, 50))
            async with connected(port) as client:
                await client.send(request())

                async def arrived() -> bool:
                    return sum(len(backend.requests) for backend in backends) == 51

                await wait_until_async(arrived, "all requests are in flight")
                ending = asyncio.create_task(asyncio.to_thread(command.end))
                answer = await client.answer()
                assert (answer.status, answer.value("connection")) == (200, b"close")
                assert await client.reader.read() == b""
            result = await running
            assert (result.statuses, result.broken) == ({200: 50}, 0)
            assert await ending == 0


async def test_sigterm_does_not_wait_for_idle_connections_and_closes_them_politely(redis_url: str) -> None:
    async with quick_backends() as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port]) as command:
            async with connected(port) as client, connected(port) as silent:
                assert (await client.ask(request())).status == 200
                started = time.monotonic()
                assert await asyncio.to_thread(command.end) == 0
                assert time.monotonic() - started < AT_ONCE_S
                # Not by a reset, which would be raised.
                assert await client.reader.read() == await silent.reader.read() == b""


async def test_what_is_left_when_the_drain_timeout_is_over_is_cut_and_one_line_says_so(redis_url: str) -> None:
    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if message.value("upgrade"):
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        await reader.read()

    async with origin(script) as backend:
        port = free_port()
        with serve(port, redis_url, [backend.port], "--drain-timeout-s", "0.5") as command:
            async with connected(port) as client, connected(port) as tunnel:
                await client.send(request())
                await wait_until_async(_one_arrived([backend]), "the request is in flight")
                switched = await tunnel.ask(request("GET", "/", "Connection: Upgrade", "Upgrade: x"), has_body=False)
                assert switched.status == 101
                started = time.monotonic()
                assert await asyncio.to_thread(command.end) == 0
                assert 0.5 < time.monotonic() - started < 0.5 + AT_ONCE_S
                for one in (client, tunnel):
                    with pytest.raises(ConnectionResetError):
                        await one.reader.read()
            lines = [line for line in command.output.splitlines() if not line.startswith("distributer: ")]
            assert len(lines) == 1
            assert lines[0].endswith(
                "replica 1: drain_timeout_s is over; what is left is cut  connections=1  tunnels=1"
            )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(redis_url: str, number: signal.Signals) -> None:
    async with quick_backends(delay_s=60.0) as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port]) as command:
            async with connected(port) as client:
                await client.send(request())
                await wait_until_async(_one_arrived(backends), "the request is in flight")
                command.send(number)
                await asyncio.to_thread(command.wait_for, "draining")
                started = time.monotonic()
                assert await asyncio.to_thread(command.end, number) == 0
                assert time.monotonic() - started < AT_ONCE_S
                assert await client.rest() == b""


def test_signals_that_come_while_it_ends_do_not_change_the_exit_status(redis_url: str) -> None:
    with serve(free_port(), redis_url, [9]) as command:
        _ = command.descendants
        while command.process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                command.process.send_signal(number)
            time.sleep(0.001)
        assert command.process.returncode == 0
        assert "Traceback" not in command.output
        command.assert_nothing_left()


async def test_a_worker_that_is_killed_while_all_drains_is_not_replaced(redis_url: str) -> None:
    async with quick_backends(delay_s=60.0) as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port], "--replicas", "2") as command:
            async with connected(port) as client:
                await client.send(request())
                await wait_until_async(_one_arrived(backends), "the request is in flight")
                command.send(signal.SIGTERM)
                await asyncio.to_thread(command.wait_for, "draining")
                for worker in command.workers:
                    os.kill(worker, signal.SIGKILL)
                assert await asyncio.to_thread(command.process.wait, AT_ONCE_S) == 0
                command.assert_nothing_left()
                assert "starting it again" not in command.output


async def test_workers_finish_and_end_with_a_supervisor_that_was_killed(redis_url: str) -> None:
    async with quick_backends(1, delay_s=0.5) as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port], "--replicas", "2", "--admin-port", str(free_port())) as command:
            workers = command.workers
            assert len(workers) == 2
            async with connected(port) as client:
                await client.send(request())
                await wait_until_async(_one_arrived(backends), "the request is in flight")
                command.send(signal.SIGKILL)
                command.process.wait(5)
                assert (await client.answer()).status == 200
            await asyncio.to_thread(
                wait_until, lambda: not any(is_alive(pid) for pid in workers), "the workers have ended"
            )
            command.assert_nothing_left()


async def test_with_json_each_line_is_json_the_supervisors_own_too(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        with serve(free_port(), redis_url, [backends[0].port], "--log-format", "json") as command:
            command.send(signal.SIGHUP)
            await asyncio.to_thread(command.wait_for, "rolling restart done")
            assert await asyncio.to_thread(command.end) == 0
            events = [json.loads(line)["event"].split()[0] for line in command.output.splitlines()]
            assert events == ["serving", "rolling", "replica", "rolling", "draining,"]


def test_workers_that_start_end_quietly_with_a_supervisor_that_was_killed(redis_url: str) -> None:
    flags = ("--port", str(free_port()), "--redis", redis_url, "--backend", "http://127.0.0.1:9", "--replicas", "2")
    with Command("-m", "distributer", "serve", *flags) as command:
        wait_until(lambda: len(command.workers) == 2, "the workers are being started")
        command.send(signal.SIGKILL)
        command.process.wait(5)
        command.assert_nothing_left()
        assert "Traceback" not in command.output


def _one_arrived(backends: list[Origin]) -> Callable[[], Awaitable[bool]]:
    async def arrived() -> bool:
        return len(backends[0].requests) == 1

    return arrived

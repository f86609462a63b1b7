"""SIGHUP: each process is replaced in its turn, and nobody outside notices."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from distributer.config import Settings
from tests.end_to_end.test_serve import PROGRAMS
from tests.end_to_end.test_ways_to_serve import EXPRESS
from tests.support.load import Result, load, quick_backends
from tests.support.ports import free_port
from tests.support.processes import Command, clean, is_alive, serve
from tests.support.raw import ask, request
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.redis

DONE = "rolling restart done"


@pytest.fixture
def redis_url(redis_servers: Callable[[str], RedisServer]) -> str:
    url = redis_servers("valkey").url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


async def done(command: Command, times: int = 1) -> None:
    """Wait until that many rolling restarts are done."""

    async def said() -> bool:
        return command.output.count(DONE) >= times

    await wait_until_async(said, f"{command!r} has restarted {times} times", 40.0)


async def connect_again_and_again(port: int, over: asyncio.Event) -> int:
    """Send each request on a new connection, all of which must be answered; return how many there were."""
    count = 0
    while not over.is_set():
        assert (await ask(port, request("GET", "/ping", "Connection: close"))).status == 200
        count += 1
        await asyncio.sleep(0.005)  # ports are taken for a minute each
    return count


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_load_goes_on_through_a_rolling_restart_and_loses_nothing(redis_url: str, program: str) -> None:
    async with quick_backends() as backends:
        port = free_port()
        ports = [backend.port for backend in backends]
        with serve(port, redis_url, ports, "--replicas", "3", program=PROGRAMS[program]) as command:
            result, over = Result(), asyncio.Event()
            running = asyncio.create_task(load(port, 1_000_000, 16, result))
            fresh = [asyncio.create_task(connect_again_and_again(port, over)) for _ in range(4)]
            before = set(command.descendants)
            command.send(signal.SIGHUP)
            await done(command)
            # Until each client has gone on with the new ones.
            answered = list(result.progress)

            async def all_go_on() -> bool:
                return all(now > then for now, then in zip(result.progress, answered, strict=True))

            await wait_until_async(all_go_on, "all clients go on")
            result.left = 0
            over.set()
            await running
            assert (result.statuses, result.broken) == ({200: result.answered}, 0)
            assert all(await asyncio.gather(*fresh))
            assert set(command.descendants).isdisjoint(before)
            assert len(command.workers) == 3
            assert "starting it again" not in command.output
            assert await asyncio.to_thread(command.end) == 0


async def test_a_restart_asked_for_within_one_follows_it_once_and_sigterm_ends_it(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        admin_port = free_port()
        with serve(free_port(), redis_url, [backends[0].port], "--admin-port", str(admin_port)) as command:
            command.send(signal.SIGHUP)
            await asyncio.to_thread(command.wait_for, "replica 1 of 1 replaced")
            command.send(signal.SIGHUP)
            command.send(signal.SIGHUP)
            await done(command, 2)
            lines = [line.removeprefix("distributer: ") for line in command.output.splitlines() if "replaced" in line]
            assert lines == ["replica 1 of 1 replaced", "the control plane replaced"] * 2
            answer = await ask(admin_port, request("GET", "/readyz"))
            assert (answer.status, json.loads(answer.body)) == (200, {"replicas": 1})
            command.send(signal.SIGHUP)

            def begun() -> bool:
                return command.output.count("rolling restart of 2 processes") == 3

            await asyncio.to_thread(wait_until, begun, "a third one has begun")
            assert await asyncio.to_thread(command.end) == 0
            assert command.output.count(DONE) == 2


async def test_children_ignore_the_signal_that_is_for_their_supervisor(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        with serve(port := free_port(), redis_url, [backends[0].port], "--admin-port", str(free_port())) as command:
            before = command.descendants
            for pid in before:
                os.kill(pid, signal.SIGHUP)
            assert (await ask(port, request())).status == 200
            command.send(signal.SIGHUP)
            await done(command, 1)
            assert set(command.descendants).isdisjoint(before)
            assert "starting it again" not in command.output
            assert await asyncio.to_thread(command.end) == 0


HANGING_UP = """
import os, signal, sys

class HangsUp:
    def find_spec(self, name, *_):
        if name == "asyncio":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, HangsUp())
from distributer.__main__ import main
main()
"""


def test_a_restart_asked_for_while_it_is_being_imported_follows_when_it_serves(redis_url: str) -> None:
    with serve(free_port(), redis_url, [9], program=("-c", HANGING_UP)) as command:
        command.wait_for(DONE)
        assert command.output.index("serving on") < command.output.index("rolling restart of 1 processes")
        assert command.end() == 0


def test_what_is_installed_as_the_command_holds_the_signal_first() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="distributer")
    assert entry.value == "distributer.__main__:main"


FAILING = """
from distributer.cli import main
from distributer.process import supervisor
start = supervisor.Supervisor._start
async def fail(self, slot):
    if slot.child is not None:
        slot.module = "distributer.no_such_module"
    return await start(self, slot)
supervisor.Supervisor._start = fail
main()
"""


async def test_a_successor_that_does_not_serve_ends_the_restart_and_the_old_one_goes_on(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        port = free_port()
        with serve(port, redis_url, [backends[0].port], program=("-c", FAILING)) as command:
            before = command.workers
            command.send(signal.SIGHUP)
            await asyncio.to_thread(command.wait_for, "the successor of replica 1 failed (exit status 1)")
            assert command.workers == before
            assert (await load(port, 100, 4)).statuses == {200: 100}
            assert "replaced" not in command.output
            assert await asyncio.to_thread(command.end) == 0


IMPATIENT = """
from distributer.cli import main
from distributer.process import child
child.KILL_MARGIN_S = 0.2
main()
"""


async def test_a_predecessor_that_does_not_end_is_killed(redis_url: str) -> None:
    async with quick_backends(1) as backends:
        port = free_port()
        flags = ("--drain-timeout-s", "0.5")
        with serve(port, redis_url, [backends[0].port], *flags, program=("-c", IMPATIENT)) as command:
            (worker,) = command.workers
            command.send(signal.SIGHUP)

            def two() -> bool:
                return len(command.workers) == 2

            await asyncio.to_thread(wait_until, two, "the successor is being started")
            os.kill(worker, signal.SIGSTOP)
            await done(command)
            assert not is_alive(worker)
            assert (await load(port, 100, 4)).statuses == {200: 100}
            assert await asyncio.to_thread(command.end) == 0


def test_a_terminal_that_hangs_up_ends_it(redis_url: str) -> None:
    """The terminal's end is told by the same signal."""
    master, terminal = pty.openpty()
    arguments = ("serve", "--port", str(free_port()), "--redis", redis_url, "--backend", "http://127.0.0.1:9")
    process = subprocess.Popen(
        [sys.executable, "-m", "distributer", *arguments],
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean(None) | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        while b"serving on" not in process.stderr.readline():
            assert process.poll() is None
        os.close(terminal)
        os.close(master)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert b"draining" in errors
        assert b"rolling restart" not in errors
    finally:
        process.kill()
        process.wait()


# A child whose supervisor is gone.

HANGING = """
import asyncio, sys, time
import uvicorn
from distributer.process import child
child.DRAIN_GRACE_S = child.KILL_MARGIN_S = 0.1

async def hangs(scope, receive, send):
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    time.sleep(1000)

order = child.take_order()
child.ChildServer(uvicorn.Config(hangs, log_config=None, lifespan="on"), order.settings).run([order.socket])
"""


def test_a_child_whose_supervisor_is_gone_ends_however_it_hangs() -> None:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        settings = Settings(drain_timeout_s=0.1).model_dump(mode="json")
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean(None),
            pass_fds=(sock.fileno(),),
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            order = {"name": "a child", "fd": sock.fileno(), "settings": settings}
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"ready\n"
            process.stdin.close()
            process.stdin = None
            assert process.wait(20) == 1
        finally:
            process.kill()
            process.communicate()


# WebSockets.


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[int, list[int]]]:
    """Run a WebSocket server that echoes; yield its port and the codes with which its connections were closed."""
    codes: list[int] = []

    async def echo(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                await socket.send(message)
        codes.append(socket.close_code or 0)

    async with serve_websockets(echo, "127.0.0.1", 0) as server:
        yield next(iter(server.sockets)).getsockname()[1], codes


async def test_sockets_that_echo_are_closed_with_1012_at_a_rolling_restart(redis_url: str) -> None:
    async with echoing() as (backend, codes):
        port = free_port()
        environment = {"DISTRIBUTER_TUNNEL_DRAIN_S": "0"}
        with serve(port, redis_url, [backend], environment=environment) as command:
            seen: list[int | None] = []
            echoed = [0] * 8
            over = asyncio.Event()

            async def client(number: int) -> None:
                while not over.is_set():
                    async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
                        try:
                            while not over.is_set():
                                message = os.urandom(1 + 3_000 * number)
                                await socket.send(message)
                                assert await socket.recv() == message
                                echoed[number] += 1
                        except ConnectionClosed:
                            seen.append(socket.close_code)

            running = [asyncio.create_task(client(number)) for number in range(8)]

            async def all_echo(beyond: int = 0) -> bool:
                assert not any(task.done() for task in running)
                return min(echoed) > beyond

            await wait_until_async(all_echo, "all sockets echo")
            command.send(signal.SIGHUP)
            await done(command)
            top = max(echoed)
            await wait_until_async(lambda: all_echo(top), "all sockets echo again")
            over.set()
            await asyncio.gather(*running)
            # Some may have come back to the old worker while it still took connections.
            assert seen == [1012] * max(8, len(seen))

            async def all_seen() -> bool:
                return sorted(codes) == [1000] * 8 + [1012] * len(seen)

            await wait_until_async(all_seen, f"the backend has seen them all close: {codes}")
            assert await asyncio.to_thread(command.end) == 0


async def test_a_socket_may_finish_by_itself_while_its_worker_drains_and_the_slot_is_kept(redis_url: str) -> None:
    async with echoing() as (backend, codes):
        port = free_port()
        with serve(port, redis_url, [backend]) as command:
            (worker,) = command.workers
            async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
                command.send(signal.SIGHUP)

                def replaced() -> bool:
                    with redis.Redis.from_url(redis_url) as client:
                        states = client.mget(list(client.scan_iter("distributer:replica:*")) or ["none"])
                    draining = [json.loads(state)["draining"] for state in states if state is not None]
                    return sorted(draining) == [False, True]

                await asyncio.to_thread(wait_until, replaced, "the old worker drains")
                for number in range(50):
                    await socket.send(str(number))
                    assert await socket.recv() == str(number)
                (successor,) = set(command.workers) - {worker}
                os.kill(successor, signal.SIGKILL)
                await asyncio.to_thread(command.wait_for, "replica 1 ended (killed by SIGKILL); starting it again")
                async with connect(f"ws://127.0.0.1:{port}/ws") as other:
                    await other.send("x")
                    assert await other.recv() == "x"
                assert is_alive(worker)
                assert DONE not in command.output
            await done(command)
            assert codes == [1000, 1000]
            assert await asyncio.to_thread(command.end) == 0


@pytest.mark.parametrize("flags", [(), EXPRESS], ids=["the ASGI door", "the express door"])
async def test_a_socket_is_closed_with_1012_when_uvicorn_stops(redis_url: str, flags: tuple[str, ...]) -> None:
    async with echoing() as (backend, codes):
        environment = {
            "DISTRIBUTER_REDIS": redis_url,
            "DISTRIBUTER_BACKENDS": f"http://127.0.0.1:{backend}",
            "DISTRIBUTER_TUNNEL_DRAIN_S": "0",
        }
        port = free_port()
        arguments = ("-m", "uvicorn", "distributer.app:app", "--port", str(port), *flags)
        with Command(*arguments, environment=environment) as command:
            await asyncio.to_thread(command.wait_for_port, port)
            async with connect(f"ws://127.0.0.1:{port}/ws") as socket:
                command.send(signal.SIGTERM)
                async with asyncio.timeout(10):
                    await socket.wait_closed()
                assert socket.close_code == 1012
            await asyncio.to_thread(command.end)
            assert "Traceback" not in command.output
            assert codes == [1012]

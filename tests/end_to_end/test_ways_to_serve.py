"""The same request tests over every way to start a replica, in front of the real demo backends."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import redis
from websockets.asyncio.client import connect

from backend.servers import BackendServers
from tests.support.ports import free_port, free_port_row
from tests.support.processes import Command, serve
from tests.support.raw import Message, ask, connected, request
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

JSON = "Content-Type: application/json"
PEN = b'{"name":"pen","price":1.5}'
EXPRESS = ("--http", "distributer.doors.express:ExpressProtocol")


@dataclass
class Site:
    port: int
    backends: list[int]

    async def ask(self, method: str, target: str, body: bytes = b"") -> Message:
        return await ask(self.port, request(method, target, *([JSON] if body else []), body=body))

    async def ping(self) -> int:
        port: int = json.loads((await self.ask("GET", "/ping")).body)["port"]
        return port


@pytest.fixture(scope="module")
def backends() -> Iterator[list[int]]:
    servers = BackendServers("127.0.0.1", ports := free_port_row(4), 0.0, print)
    servers.start()
    try:
        servers.wait_ready(20)
        yield list(ports)
    finally:
        servers.stop()


@pytest.fixture(scope="module", params=["serve", "uvicorn", "uvicorn with the express door"])
def site(
    request: pytest.FixtureRequest, backends: list[int], redis_servers: Callable[[str], RedisServer]
) -> Iterator[Site]:
    url = redis_servers("valkey").url
    port = free_port()
    if request.param == "serve":
        command = serve(port, url, backends, "--replicas", "2")
    else:
        environment = {
            "DISTRIBUTER_REDIS": url,
            "DISTRIBUTER_BACKENDS": ",".join(f"http://127.0.0.1:{backend}" for backend in backends),
        }
        flags = EXPRESS if "express" in request.param else ()
        command = Command("-m", "uvicorn", "distributer.app:app", "--port", str(port), *flags, environment=environment)
        command.wait_for_port(port)
    with command:
        yield Site(port, backends)
        assert "Traceback" not in command.output, command.output
        command.end()


@pytest.fixture(autouse=True)
def clean(redis_servers: Callable[[str], RedisServer], site: Site) -> None:
    with redis.Redis.from_url(redis_servers("valkey").url) as client:
        client.delete("distributer:rotation")


async def test_rotation_is_exact_and_repeats(site: Site) -> None:
    assert [await site.ping() for _ in range(9)] == [*site.backends * 2, site.backends[0]]


async def test_eight_at_once_give_each_backend_two(site: Site) -> None:
    assert Counter(await asyncio.gather(*(site.ping() for _ in range(8)))) == dict.fromkeys(site.backends, 2)


async def test_an_item_lives_where_it_was_created_until_it_is_deleted(site: Site) -> None:
    assert (await site.ask("POST", "/items/?item_id=11", PEN)).status == 200
    for _ in range(5):
        assert json.loads((await site.ask("GET", "/items/011")).body)["name"] == "pen"
    assert (await site.ask("PUT", "/items/11", PEN.replace(b"pen", b"ink"))).status == 200
    assert json.loads((await site.ask("GET", "/items/11")).body)["name"] == "ink"
    assert (await site.ask("POST", "/items/?item_id=11", PEN)).status == 400
    assert (await site.ask("DELETE", "/items/11")).status == 200
    assert (await site.ask("GET", "/items/11")).status == 404


async def test_a_failed_create_binds_nothing(site: Site, redis_servers: Callable[[str], RedisServer]) -> None:
    assert (await site.ask("POST", "/items/?item_id=12", b'{"name":"no price"}')).status == 422
    with redis.Redis.from_url(redis_servers("valkey").url) as client:
        assert client.hgetall("distributer:sticky") == {}


async def test_a_websocket_echoes_until_it_is_closed(site: Site) -> None:
    async with connect(f"ws://127.0.0.1:{site.port}/ws") as socket:
        for message in ("hello", b"bytes", "x" * 100_000):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.close(4000, "enough")
        assert (socket.close_code, socket.close_reason) == (4000, "enough")


async def test_an_event_arrives_while_the_backend_holds_the_next_one_back(site: Site) -> None:
    async with connected(site.port) as client:
        await client.send(request("GET", "/events?count=2&every_s=60"))
        async with asyncio.timeout(10):
            assert b"text/event-stream" in await client.reader.readuntil(b"\r\n\r\n")
            assert b'"number":1}' in await client.reader.readuntil(b"\n\n")


def test_with_nothing_configured_the_application_takes_the_demos_backends(
    redis_servers: Callable[[str], RedisServer],
) -> None:
    environment = {"DISTRIBUTER_REDIS": redis_servers("valkey").url, "DISTRIBUTER_PREFIX": "elsewhere"}
    port = free_port()
    with Command("-m", "uvicorn", "distributer.app:app", "--port", str(port), environment=environment) as command:
        command.wait_for_port(port)
        command.wait_for("taking the demo's: http://127.0.0.1:8000")

"""Items that the map does not know are looked for on the backends (`unbound = "locate"`): the map heals itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from distributer.forwarding import locate
from tests.support.cluster import DOORS, SharedRedis, distributers
from tests.support.items import ItemBackend, item_backend
from tests.support.raw import Message, ask, request

JSON = "Content-Type: application/json"
STICKY = "distributer:sticky"


@dataclass
class Cluster:
    """Three backends, two replicas."""

    backends: Sequence[ItemBackend]
    ports: Sequence[int]
    client: Any

    async def send(self, method: str, item: int, replica: int = 0) -> int:
        """Return the status of the answer."""
        target = f"/items/?item_id={item}" if method == "POST" else f"/items/{item}"
        head = [JSON] if method == "POST" else []
        answer = await ask(self.ports[replica], request(method, target, *head, body=b"{}" if head else b""))
        return answer.status

    def holders(self, item: int) -> list[ItemBackend]:
        return [backend for backend in self.backends if item in backend.items]

    async def owner(self, item: int) -> bytes | None:
        found: bytes | None = await self.client.hget(STICKY, str(item))
        return found


def url(backend: ItemBackend) -> bytes:
    return b"http://127.0.0.1:%d" % backend.port


@pytest.fixture(params=DOORS)
async def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    # A shared test machine may stall, and dozens of questions to each backend are answered in one process here.
    monkeypatch.setattr(locate, "ASK_TIMEOUT_S", 10.0)
    shared = SharedRedis(None)
    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(item_backend()) for _ in range(3)]
        settings = shared.settings([backend.port for backend in backends], unbound="locate")
        ports = await stack.enter_async_context(distributers(request.param, settings, shared, 2))
        yield Cluster(backends, ports, await stack.enter_async_context(shared.client()))


def silenced(backend: ItemBackend, status: int = 0) -> None:
    """Let a backend say nothing any more of items that are asked for, or only that."""

    answer = backend.answer

    async def silent(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not message.start.startswith(b"GET"):
            await answer(message, reader, writer)
        elif status:
            writer.write(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % status)
        else:
            writer.close()

    backend.answer = silent  # type: ignore[method-assign]


async def test_after_flushall_every_item_is_found_again_and_bound(cluster: Cluster) -> None:
    items = range(1, 25)
    for item in items:
        assert await cluster.send("POST", item, item % 2) == 200
    before = await cluster.client.hgetall(STICKY)
    await cluster.client.flushall()
    answers = await asyncio.gather(*(cluster.send("GET", item, item % 2) for item in items))
    assert answers == [200] * len(items)
    assert await cluster.client.hgetall(STICKY) == before


async def test_after_flushall_a_create_of_an_item_that_exists_gets_its_backends_own_400(cluster: Cluster) -> None:
    items = range(1, 25)
    for item in items:
        assert await cluster.send("POST", item, item % 2) == 200
    before = await cluster.client.hgetall(STICKY)
    await cluster.client.flushall()
    # Each through both replicas at once, and twice.
    sent = [cluster.send("POST", item, replica) for item in items for replica in (0, 1, 0)]
    assert await asyncio.gather(*sent) == [400] * len(sent)
    assert all(len(cluster.holders(item)) == 1 for item in items), "no second copy"
    assert await cluster.client.hgetall(STICKY) == before
    assert await cluster.client.hlen("distributer:claims") == 0


async def test_a_delete_of_an_item_that_is_bound_nowhere_reaches_it(cluster: Cluster) -> None:
    cluster.backends[2].items.add(7)
    assert await cluster.send("DELETE", 7) == 200
    assert cluster.holders(7) == []
    assert await cluster.owner(7) is None
    assert await cluster.send("DELETE", 7) == 404


async def test_an_item_that_is_nowhere_goes_round_and_may_be_created(cluster: Cluster) -> None:
    assert await cluster.send("GET", 7) == 404
    assert await cluster.owner(7) is None
    assert await cluster.send("POST", 7) == 200
    [holder] = cluster.holders(7)
    assert await cluster.owner(7) == url(holder)
    assert await cluster.send("GET", 7, 1) == 200


async def test_a_create_does_not_go_by_what_was_not_found_a_moment_ago(cluster: Cluster) -> None:
    assert await cluster.send("GET", 7) == 404
    cluster.backends[2].items.add(7)
    assert await cluster.send("POST", 7) == 400
    assert cluster.holders(7) == [cluster.backends[2]]


async def test_concurrent_creates_of_a_new_item_make_one(cluster: Cluster) -> None:
    answers = await asyncio.gather(*(cluster.send("POST", 7, number % 2) for number in range(20)))
    assert sorted(answers) == [200, *[400] * 19]
    assert len(cluster.holders(7)) == 1


async def test_many_that_want_one_item_share_one_asking_and_then_nobody_asks(cluster: Cluster) -> None:
    asked = 0
    [first, *_] = cluster.backends
    answer = first.answer

    async def counted(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += message.value("via") == b"1.1 distributer" and message.value("x-request-id") is None
        await answer(message, reader, writer)

    first.answer = counted  # type: ignore[method-assign]
    assert await asyncio.gather(*(cluster.send("GET", 7) for _ in range(20))) == [404] * 20
    assert await cluster.send("GET", 7) == 404
    assert 1 <= asked <= 2, "those that came when the answer was there already went by it"


async def test_an_item_on_two_backends_is_bound_to_the_first_and_told_of(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    for backend in cluster.backends[1:]:
        backend.items.add(7)
    assert await cluster.send("GET", 7) == 200
    assert await cluster.owner(7) == url(cluster.backends[1])
    [line] = [line for line in caplog.records if line.name == "distributer.locate"]
    assert line.getMessage() == "an item is on more than one backend"


@pytest.mark.parametrize("status", [0, 500, 401])
async def test_while_a_backend_does_not_say_creates_fail_closed_and_others_go_round(
    cluster: Cluster, status: int
) -> None:
    silenced(cluster.backends[1], status)
    cluster.backends[2].items.add(8)
    refused = await ask(cluster.ports[0], request("POST", "/items/?item_id=7", JSON, body=b"{}"))
    assert (refused.status, refused.value("retry-after")) == (503, b"1")
    assert b"Item not located" in refused.body
    assert cluster.holders(7) == []
    assert await cluster.client.hlen("distributer:claims") == 0
    # Found on one that does say, it is found.
    assert await cluster.send("POST", 8) == 400
    assert await cluster.owner(8) == url(cluster.backends[2])
    # A reader of what is not found goes round, to whichever backend.
    assert await cluster.send("GET", 7) in (404, 500, 401, 502)


async def test_a_question_into_a_connection_that_was_closed_is_asked_once_more(cluster: Cluster) -> None:
    [first, *_] = cluster.backends
    answer, used = first.answer, set[asyncio.StreamWriter]()

    async def once(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if message.start.startswith(b"GET") and writer in used:
            writer.close()
        else:
            used.add(writer)
            await answer(message, reader, writer)

    first.answer = once  # type: ignore[method-assign]
    assert await cluster.send("POST", 7) == 200
    assert await cluster.send("POST", 8) == 200, "every backend has said that it has it not"
    assert len(used) >= 2


async def test_a_bound_item_is_not_asked_for(cluster: Cluster) -> None:
    assert await cluster.send("POST", 7) == 200
    for backend in cluster.backends:
        if backend not in cluster.holders(7):
            silenced(backend)
    assert await cluster.send("GET", 7) == 200
    assert await cluster.send("POST", 7) == 400
    assert await cluster.send("DELETE", 7) == 200

"""What distributer promises, over both doors, on a fake Redis and on real servers."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import cast

import httpx
import pytest
import redis as sync_redis

from tests.support.cluster import DOORS, SharedRedis, demo_backends, distributers
from tests.support.redis_server import RedisServer

PEN = {"name": "pen", "price": 1.5}


@dataclass
class Cluster:
    """Four backends and some replicas."""

    backends: list[int]
    replicas: list[int]
    shared: SharedRedis
    http: httpx.AsyncClient

    def url(self, path: str, replica: int = 0) -> str:
        return f"http://127.0.0.1:{self.replicas[replica]}{path}"

    async def ping(self, replica: int = 0) -> int:
        answer = await self.http.get(self.url("/ping", replica))
        assert answer.status_code == 200
        port: int = answer.json()["port"]
        return port

    async def create(self, item: int | str, replica: int = 0) -> httpx.Response:
        return await self.http.post(self.url(f"/items/?item_id={item}", replica), json=PEN)

    async def tickets(self) -> int:
        async with self.shared.client() as client:
            return int(await client.get("distributer:rotation") or 0)

    async def sticky(self) -> dict[str, str]:
        async with self.shared.client() as client:
            found = cast(dict[bytes, bytes], await client.hgetall("distributer:sticky"))
        return {key.decode(): value.decode() for key, value in found.items()}

    async def claims(self) -> dict[bytes, bytes]:
        async with self.shared.client() as client:
            return cast(dict[bytes, bytes], await client.hgetall("distributer:claims"))

    def url_of(self, place: int) -> str:
        return f"http://127.0.0.1:{self.backends[place]}"

    async def holders(self, item: int) -> list[str]:
        """Ask each backend itself whether it has the item."""
        urls = [f"http://127.0.0.1:{port}" for port in self.backends]
        answers = [await self.http.get(f"{url}/items/{item}") for url in urls]
        return [url for url, answer in zip(urls, answers, strict=True) if answer.status_code == 200]


@pytest.fixture(params=["fakeredis", *(pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis"))])
def shared(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> SharedRedis:
    if request.param == "fakeredis":
        return SharedRedis(None)
    url = redis_servers(request.param).url
    with sync_redis.Redis.from_url(url) as client:
        client.flushall()
    return SharedRedis(url)


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def _cluster(door: str, shared: SharedRedis, replicas: int) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        backends = await stack.enter_async_context(demo_backends())
        ports = await stack.enter_async_context(distributers(door, shared.settings(backends), shared, replicas))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=64)))
        yield Cluster(backends, ports, shared, http)


@pytest.fixture
async def cluster(door: str, shared: SharedRedis) -> AsyncIterator[Cluster]:
    async for it in _cluster(door, shared, 1):
        yield it


@pytest.fixture
async def three(door: str, shared: SharedRedis) -> AsyncIterator[Cluster]:
    async for it in _cluster(door, shared, 3):
        yield it


async def test_kth_rotated_request_goes_to_backend_k_minus_1_mod_n(cluster: Cluster) -> None:
    assert [await cluster.ping() for _ in range(10)] == [*cluster.backends, *cluster.backends, *cluster.backends[:2]]
    assert await cluster.tickets() == 10


async def test_eight_concurrent_requests_give_each_backend_two(cluster: Cluster) -> None:
    answers = await asyncio.gather(*(cluster.ping() for _ in range(8)))
    assert Counter(answers) == dict.fromkeys(cluster.backends, 2)


async def test_three_replicas_rotate_as_one(three: Cluster) -> None:
    answers = [await three.ping(replica) for replica in itertools.islice(itertools.cycle(range(3)), 12)]
    assert answers == three.backends * 3


async def test_concurrent_requests_to_three_replicas_stay_level(three: Cluster) -> None:
    answers = await asyncio.gather(*(three.ping(number % 3) for number in range(120)))
    assert Counter(answers) == dict.fromkeys(three.backends, 30)
    assert await three.tickets() == 120


async def test_method_headers_and_body_reach_the_backend(cluster: Cluster) -> None:
    await cluster.create(1)
    changed = {"name": "quill", "description": "goose", "price": 3.0, "tax": 0.5}
    answer = await cluster.http.put(cluster.url("/items/1"), json=changed)
    assert (answer.status_code, answer.json()) == (200, changed)
    assert (await cluster.http.get(cluster.url("/items/1"))).json() == changed
    unread = await cluster.http.post(
        cluster.url("/items/?item_id=2"), content=b"not json", headers={"content-type": "application/json"}
    )
    assert unread.status_code == 422


async def test_an_item_lives_on_one_backend_and_every_replica_knows_it(three: Cluster) -> None:
    for item in range(1, 9):
        assert (await three.create(item, item % 3)).status_code == 200
    sticky = await three.sticky()
    assert [sticky[str(item)] for item in range(1, 9)] == [three.url_of(place % 4) for place in range(8)]
    for item in range(1, 9):
        assert await three.holders(item) == [sticky[str(item)]]
        for replica in range(3):
            answer = await three.http.get(three.url(f"/items/{item}", replica))
            assert (answer.status_code, answer.json()["name"]) == (200, "pen")


async def test_a_sticky_hit_takes_no_ticket(cluster: Cluster) -> None:
    await cluster.create(5)
    before = await cluster.tickets()
    for _ in range(5):
        assert (await cluster.http.get(cluster.url("/items/5"))).status_code == 200
    assert await cluster.tickets() == before


async def test_an_unbound_item_goes_round(cluster: Cluster) -> None:
    for _ in range(4):
        assert (await cluster.http.get(cluster.url("/items/77"))).status_code == 404
    assert await cluster.tickets() == 4
    assert await cluster.sticky() == {}


async def test_a_failed_create_leaves_no_binding(cluster: Cluster) -> None:
    answer = await cluster.http.post(cluster.url("/items/?item_id=6"), json={"name": "no price"})
    assert answer.status_code == 422
    assert await cluster.sticky() == {}
    assert await cluster.claims() == {}


async def test_a_repeated_create_goes_to_the_owner_and_gets_its_400(cluster: Cluster) -> None:
    assert (await cluster.create(3)).status_code == 200
    owner = (await cluster.sticky())["3"]
    for _ in range(3):
        assert (await cluster.create(3)).status_code == 400
    assert await cluster.sticky() == {"3": owner}
    assert await cluster.tickets() == 1
    assert await cluster.claims() == {}


async def test_delete_unbinds(cluster: Cluster) -> None:
    await cluster.create(4)
    assert (await cluster.http.delete(cluster.url("/items/4"))).status_code == 200
    assert await cluster.sticky() == {}
    assert await cluster.claims() == {}
    assert (await cluster.http.get(cluster.url("/items/4"))).status_code == 404
    assert (await cluster.create(4)).status_code == 200
    assert len(await cluster.holders(4)) == 1


async def test_spellings_of_one_item_are_one_item(cluster: Cluster) -> None:
    await cluster.create("007")
    assert list(await cluster.sticky()) == ["7"]
    for path in ("/items/7", "/items/007", "/items/%37", "/%69tems/7", "/items/+7"):
        assert (await cluster.http.get(cluster.url(path))).status_code == 200, path
    assert (await cluster.create("+0_7".replace("+", "%2B"))).status_code == 400
    assert (await cluster.http.post(cluster.url("/items/?item_id=1&item_id=7"), json=PEN)).status_code == 400


async def test_the_map_may_be_edited_while_all_runs(cluster: Cluster) -> None:
    await cluster.create(9)
    owner = (await cluster.sticky())["9"]
    other = next(url for url in map(cluster.url_of, range(4)) if url != owner)
    async with cluster.shared.client() as client:
        await client.hset("distributer:sticky", "9", other)
        assert (await cluster.http.get(cluster.url("/items/9"))).status_code == 404
        await client.hset("distributer:sticky", "9", "http://169.254.169.254/latest")
        answer = await cluster.http.get(cluster.url("/items/9"))
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        await client.hset("distributer:sticky", "9", owner)
    assert (await cluster.http.get(cluster.url("/items/9"))).status_code == 200


async def test_concurrent_creates_of_one_item_are_decided_by_one_backend(three: Cluster) -> None:
    answers = await asyncio.gather(*(three.create(8, number % 3) for number in range(24)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 400: 23}
    assert await three.holders(8) == [(await three.sticky())["8"]]
    assert await three.claims() == {}


async def test_overlapping_creates_and_deletes_leave_each_item_on_at_most_one_backend(three: Cluster) -> None:
    items = range(100, 110)

    async def churn(number: int) -> None:
        for turn in range(12):
            item = items[(number * 7 + turn * 3) % len(items)]
            if (number + turn) % 3 == 0:
                await three.http.delete(three.url(f"/items/{item}", number % 3))
            else:
                await three.create(item, number % 3)

    await asyncio.gather(*(churn(number) for number in range(12)))
    sticky = await three.sticky()
    for item in items:
        holders = await three.holders(item)
        assert len(holders) <= 1, f"item {item} is on {holders}"
        if holders:
            assert sticky[str(item)] == holders[0]


async def test_answers_carry_the_backends_own_content_type_and_status(cluster: Cluster) -> None:
    answer = await cluster.http.get(cluster.url("/nowhere"))
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert json.loads(answer.content) == {"detail": "Not Found"}
    assert answer.headers["content-type"] == "application/json"

"""Ten thousand creates of overlapping ids, through three replicas at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import redis as sync_redis

from tests.support.cluster import DOORS, SharedRedis, distributers
from tests.support.items import item_backend
from tests.support.raw import Client, connected, request
from tests.support.redis_server import RedisServer

CREATES, ITEMS, CONNECTIONS = 10_000, 2_500, 48
BODY = b'{"name":"pen","price":1.5}'


@pytest.mark.redis
@pytest.mark.parametrize("door", DOORS)
async def test_ten_thousand_creates_leave_each_item_on_exactly_one_backend(
    door: str, redis_servers: Callable[[str], RedisServer]
) -> None:
    url = redis_servers("valkey").url
    with sync_redis.Redis.from_url(url) as client:
        client.flushall()
    shared = SharedRedis(url)
    numbers = iter(range(CREATES))
    statuses: Counter[int] = Counter()

    async def create(client: Client) -> None:
        for number in numbers:
            item = (number * 7919) % ITEMS
            target = f"/items/?item_id={item}"
            answer = await client.ask(request("POST", target, "Content-Type: application/json", body=BODY))
            statuses[answer.status] += 1

    async with AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(item_backend()) for _ in range(4)]
        settings = shared.settings([backend.port for backend in backends])
        replicas = await stack.enter_async_context(distributers(door, settings, shared, 3))
        clients = [await stack.enter_async_context(connected(replicas[number % 3])) for number in range(CONNECTIONS)]
        await asyncio.gather(*(create(client) for client in clients))

    assert statuses == {200: ITEMS, 400: CREATES - ITEMS}
    holders = {str(item): f"http://127.0.0.1:{backend.port}" for backend in backends for item in backend.items}
    assert sum(len(backend.items) for backend in backends) == len(holders) == ITEMS
    with sync_redis.Redis.from_url(url, decode_responses=True) as client:
        assert client.hgetall("distributer:sticky") == holders
        assert client.hlen("distributer:claims") == 0
        assert client.get("distributer:rotation") == str(ITEMS)
    counts = [len(backend.items) for backend in backends]
    assert max(counts) - min(counts) <= 1

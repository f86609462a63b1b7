"""Bindings that nobody uses end: the same, whether the server can let fields of hashes expire or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio as redis
from fakeredis import FakeAsyncRedis

from distributer.control.expiry import PAGE, Expiry
from distributer.errors import StateError
from distributer.model import Backend, Claim, ItemId, Operation, Outcome, Places
from distributer.routing.topology import Topology
from distributer.state.keys import Keys
from distributer.state.redis_client import pool_of
from distributer.state.redis_link import ClientLink, HotLink
from distributer.state.redis_store import RedisStore, stored_ttl_ms
from distributer.state.scripts import RELEASE
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_async

OWNER = "http://a:1"
TOPOLOGY = Topology.of([Backend.from_url(OWNER)])
ITEM = ItemId("7")
TTL_S = 1000.0
STORED_MS = stored_ttl_ms(TTL_S)
CREATE = Claim("c", ITEM, Operation.CREATE)
KEYS = Keys("p")


@dataclass
class Map:
    """The sticky map, as the store changes it and as an operator looks at it."""

    store: RedisStore
    client: Any
    expires_fields: bool

    async def create(self, outcome: Outcome | None = Outcome.DONE) -> None:
        await _answer(lambda deliver: self.store.begin(CREATE, Places((OWNER,), "1"), deliver))
        if outcome is not None:
            assert await _answer(lambda deliver: self.store.settle(CREATE, OWNER, outcome, deliver)) is None

    async def owner(self, item: ItemId = ITEM) -> Any:
        return await _answer(lambda deliver: self.store.owner(item, deliver))

    async def left_ms(self, item: ItemId = ITEM) -> int | None:
        """How long the binding still has; None: for ever."""
        if self.expires_fields:
            [left] = await self.client.execute_command("HPTTL", KEYS.sticky, "FIELDS", 1, item)
            return None if left == -1 else left
        score = await self.client.zscore(KEYS.expiry, item)
        seconds, micros = await self.client.time()
        return None if score is None else int(score - seconds * 1000 - micros / 1000)

    async def set_left_ms(self, left_ms: int, item: ItemId = ITEM) -> None:
        if self.expires_fields:
            await self.client.execute_command("HPEXPIRE", KEYS.sticky, left_ms, "FIELDS", 1, item)
        else:
            seconds, micros = await self.client.time()
            await self.client.zadd(KEYS.expiry, {item: seconds * 1000 + micros // 1000 + left_ms})

    def expiry(self, ttl_ms: int = STORED_MS) -> Expiry:
        return Expiry(self.client, KEYS, ttl_ms)

    async def is_full(self, item: ItemId = ITEM) -> bool:
        """Whether its time has just begun."""
        left = await self.left_ms(item)
        return left is not None and STORED_MS - 60_000 < left <= STORED_MS


async def _answer(call: Callable[[Callable[[Any], None]], None]) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call(future.set_result)
    return await asyncio.wait_for(future, 10)


@pytest.fixture(params=["fakeredis", *(pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis"))])
async def sticky(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> AsyncIterator[Map]:
    if request.param == "fakeredis":
        client: Any = FakeAsyncRedis()
        link: Any = ClientLink(client, 5.0)
    else:
        server = redis_servers(request.param)
        client, link = redis.Redis.from_url(server.url), HotLink(pool_of(server.url, 5.0), 5.0)
    await client.flushall()
    # Asked of the server in another way than the scripts do; the fake has the command, but does not say so.
    expires_fields = False
    if request.param != "fakeredis":
        try:
            await client.execute_command("HPTTL", "none", "FIELDS", 1, "none")
            expires_fields = True
        except redis.ResponseError:
            pass
    store = RedisStore(link, KEYS, 30.0, TOPOLOGY, TTL_S)
    await store.start()
    await store.wait_ready(10)
    it = Map(store, client, expires_fields)
    # From here on the script is known: the first time it costs a round trip more.
    await it.owner(ItemId("warm"))
    await store.refreshed()
    yield it
    await store.stop()
    await client.aclose()


async def test_a_binding_has_its_time_from_when_its_create_is_settled(sticky: Map) -> None:
    await sticky.create()
    assert await sticky.is_full()


async def test_a_binding_with_claims_on_it_never_expires(sticky: Map) -> None:
    await sticky.create(outcome=None)
    assert await sticky.left_ms() is None, "a create is in flight"
    assert await sticky.owner() == OWNER
    assert await sticky.left_ms() is None, "a use gives it no end"
    await sticky.expiry().sweep()
    assert await sticky.left_ms() is None, "nor does the walk"
    assert await _answer(lambda deliver: sticky.store.settle(CREATE, OWNER, Outcome.DONE, deliver)) is None
    assert await sticky.is_full()
    await sticky.set_left_ms(5_000)
    delete = Claim("d", ITEM, Operation.DELETE)
    await _answer(lambda deliver: sticky.store.begin(delete, Places((OWNER,), "1"), deliver))
    assert await sticky.left_ms() is None, "a delete is in flight"
    assert await _answer(lambda deliver: sticky.store.settle(delete, OWNER, Outcome.FAILED, deliver)) is None
    assert await sticky.is_full()


async def test_a_doubt_that_is_resolved_starts_the_time(sticky: Map) -> None:
    await sticky.create(outcome=None)
    text = await sticky.client.hget(KEYS.claims, ITEM)
    entry = json.loads(text)
    entry["c"][CREATE.id][1] = 1
    await sticky.client.hset(KEYS.claims, ITEM, json.dumps(entry))
    [doubt] = (await sticky.store.doubts(0))[1]
    assert await sticky.store.resolve(doubt, exists=True)
    assert await sticky.is_full()


async def test_a_binding_that_is_gone_has_no_time_left_over(sticky: Map) -> None:
    await sticky.create(Outcome.FAILED)
    assert await sticky.owner() is None
    assert await sticky.client.zcard(KEYS.expiry) == 0


async def test_a_use_starts_the_time_anew_but_not_every_use(sticky: Map) -> None:
    await sticky.create()
    await sticky.set_left_ms(5_000)
    assert await sticky.owner() == OWNER
    assert await sticky.is_full()
    await sticky.set_left_ms(5_000)
    assert await sticky.owner() == OWNER
    assert not await sticky.is_full(), "a second use, a moment later, costs Redis nothing"


async def test_many_uses_of_one_round_trip_are_one_command(sticky: Map) -> None:
    items = [ItemId(str(number)) for number in range(50)]
    for item in items:
        await sticky.client.hset(KEYS.sticky, item, OWNER)
    before = (await sticky.client.info("commandstats"))["cmdstat_evalsha"]["calls"] if sticky.expires_fields else 0
    assert await asyncio.gather(*(sticky.owner(item) for item in items)) == [OWNER] * 50
    assert all([await sticky.is_full(item) for item in items])
    if sticky.expires_fields:
        after = (await sticky.client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        assert after - before <= 2, "the first may go alone, the others together"


async def test_a_use_of_an_unbound_item_leaves_nothing(sticky: Map) -> None:
    assert await sticky.owner() is None
    assert not await sticky.client.exists(KEYS.sticky, KEYS.expiry)


async def test_a_binding_that_nobody_uses_ends(sticky: Map) -> None:
    await sticky.create()
    await sticky.set_left_ms(1)
    expiry = sticky.expiry()

    async def gone() -> bool:
        await expiry.sweep()
        return not await sticky.client.hexists(KEYS.sticky, ITEM)

    await wait_until_async(gone, "the binding ends")
    assert await sticky.owner() is None
    assert await sticky.client.zcard(KEYS.expiry) == 0


async def test_a_binding_that_has_time_left_stays(sticky: Map) -> None:
    await sticky.create()
    await sticky.set_left_ms(60_000)
    await sticky.expiry().sweep()
    assert await sticky.client.hget(KEYS.sticky, ITEM) == OWNER.encode()
    left = await sticky.left_ms()
    assert left is not None
    assert left <= 60_000, "the walk is no use"


async def test_bindings_by_hand_and_from_before_the_setting_get_their_time(sticky: Map) -> None:
    bound = {str(number): OWNER for number in range(3 * PAGE)}
    await sticky.client.hset(KEYS.sticky, mapping=bound)
    expiry = sticky.expiry()
    # The walk is done when the last of them has its time: that is not how long it may take, but that it does.
    for _ in range(100):
        await expiry.sweep()
    assert all([await sticky.is_full(ItemId(item)) for item in (*list(bound)[:5], *list(bound)[-5:])])


async def test_without_the_setting_what_it_left_is_taken_away(sticky: Map) -> None:
    await sticky.create()
    await sticky.set_left_ms(60_000)
    expiry = sticky.expiry(0)
    await expiry.sweep()
    assert await sticky.left_ms() is None
    assert await sticky.owner() == OWNER


async def test_a_release_takes_only_what_is_bound_there_and_has_no_claims(sticky: Map) -> None:
    bound = {"1": OWNER, "2": "http://b:1", "3": OWNER}
    await sticky.client.hset(KEYS.sticky, mapping=bound)
    await sticky.client.hset(KEYS.claims, "3", "{}")
    await sticky.expiry().sweep()
    keys = (KEYS.sticky, KEYS.claims, KEYS.expiry)
    # 2 was bound to that backend when it was listed, and 4 was there.
    assert await sticky.client.eval(RELEASE.source, 3, *keys, OWNER, "1", "2", "3", "4") == 1
    assert await sticky.client.hgetall(KEYS.sticky) == {b"2": b"http://b:1", b"3": OWNER.encode()}
    assert await sticky.client.zscore(KEYS.expiry, "1") is None


async def test_a_refresh_that_failed_is_made_with_the_next_use(sticky: Map) -> None:
    await sticky.create()
    await sticky.set_left_ms(5_000)
    await sticky.client.rename(KEYS.sticky, "aside")
    await sticky.client.set(KEYS.sticky, "not a hash")
    assert isinstance(await sticky.owner(), StateError)
    await sticky.client.rename("aside", KEYS.sticky)

    async def refreshed() -> bool:
        return await sticky.owner() == OWNER and await sticky.is_full()

    await wait_until_async(refreshed, "the next use starts the time")

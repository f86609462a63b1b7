"""The contract of the shared state, over every implementation of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest
import redis
from fakeredis import FakeAsyncRedis

from distributer.errors import StateError
from distributer.model import Backend, Begun, Claim, ItemId, Operation, Outcome, Places, Ticket
from distributer.routing.claim import MAX_CLAIMS
from distributer.routing.topology import Topology
from distributer.state.keys import Keys
from distributer.state.memory import MemoryStore
from distributer.state.mode import Mode
from distributer.state.redis_client import pool_of
from distributer.state.redis_link import ClientLink, HotLink
from distributer.state.redis_store import RedisStore
from distributer.state.store import Doubts, Store
from tests.support.redis_server import RedisServer, find_servers
from tests.support.waiting import wait_until_async

RING = ("http://a:1", "http://b:1", "http://c:1", "http://d:1")
ITEM = ItemId("7")
TOPOLOGY = Topology.of([Backend.from_url(url) for url in RING])
TTL_S = 30.0


class AnyStore(Store, Doubts, Protocol):
    """What every implementation offers."""


async def ticket(store: Store) -> Any:
    return await _answer(store.ticket)


async def owner(store: Store, item: ItemId) -> Any:
    return await _answer(lambda deliver: store.owner(item, deliver))


async def begin(store: Store, claim: Claim, usable: str = "1111") -> Any:
    return await _answer(lambda deliver: store.begin(claim, Places(RING, usable), deliver))


async def settle(store: Store, claim: Claim, at: str, outcome: Outcome) -> Any:
    return await _answer(lambda deliver: store.settle(claim, at, outcome, deliver))


async def _answer(call: Callable[[Callable[[Any], None]], None]) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call(future.set_result)
    assert not future.done(), "nothing is delivered before the call returns"
    return await asyncio.wait_for(future, 10)


def create(number: int, item: ItemId = ITEM) -> Claim:
    return Claim(f"create-{number}", item, Operation.CREATE)


def delete(number: int, item: ItemId = ITEM) -> Claim:
    return Claim(f"delete-{number}", item, Operation.DELETE)


async def _opened(store: RedisStore) -> AsyncIterator[RedisStore]:
    await store.start()
    await store.wait_ready(10)
    yield store
    await store.stop()


@pytest.fixture(
    params=["memory", "fakeredis", *(pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis"))]
)
async def store(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> AsyncIterator[AnyStore]:
    if request.param == "memory":
        yield MemoryStore(claim_ttl_ms=int(TTL_S * 1000))
    elif request.param == "fakeredis":
        client = FakeAsyncRedis()
        await client.flushall()
        async for it in _opened(RedisStore(ClientLink(client, 5.0), Keys("p"), TTL_S, TOPOLOGY)):
            yield it
        await client.aclose()
    else:
        server = redis_servers(request.param)
        await _flush(server)
        pool = pool_of(server.url, 5.0)
        async for it in _opened(RedisStore(HotLink(pool, 5.0), Keys("p"), TTL_S, TOPOLOGY)):
            yield it


async def _flush(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


async def test_tickets_count_from_one_without_gap(store: AnyStore) -> None:
    assert [await ticket(store) for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_tickets_are_dealt_in_the_order_of_the_calls(store: AnyStore) -> None:
    dealt: list[Any] = []
    for _ in range(100):
        store.ticket(dealt.append)

    async def all_dealt() -> bool:
        return len(dealt) == 100

    await wait_until_async(all_dealt, "all tickets are dealt")
    assert dealt == list(range(1, 101))


async def test_an_item_that_nobody_bound_has_no_owner(store: AnyStore) -> None:
    assert await owner(store, ITEM) is None


async def test_begin_binds_where_its_ticket_falls(store: AnyStore) -> None:
    await ticket(store)
    assert await begin(store, create(1)) == Begun("http://b:1", Ticket(2))
    assert await owner(store, ITEM) == "http://b:1"


async def test_begin_throws_tickets_of_unusable_backends_away(store: AnyStore) -> None:
    assert await begin(store, create(1), usable="0010") == Begun("http://c:1", Ticket(3))
    assert await ticket(store) == 4


async def test_begin_with_nothing_usable_takes_no_ticket_and_binds_nothing(store: AnyStore) -> None:
    assert await begin(store, create(1), usable="0000") == Begun(None)
    assert await owner(store, ITEM) is None
    assert await ticket(store) == 1


async def test_concurrent_begins_of_one_item_get_one_backend(store: AnyStore) -> None:
    begun = await asyncio.gather(*(begin(store, create(number)) for number in range(20)))
    assert {answer.owner for answer in begun} == {"http://a:1"}
    assert [answer.ticket for answer in begun if answer.ticket] == [1]


async def test_a_failed_create_takes_its_binding_back(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    assert await settle(store, create(1), begun.owner, Outcome.FAILED) is None
    assert await owner(store, ITEM) is None


async def test_a_failed_create_leaves_the_binding_that_another_still_needs(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    await begin(store, create(2))
    await settle(store, create(1), begun.owner, Outcome.FAILED)
    assert await owner(store, ITEM) == begun.owner
    await settle(store, create(2), begun.owner, Outcome.FAILED)
    assert await owner(store, ITEM) is None


async def test_a_failed_create_leaves_a_binding_that_another_confirmed(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    await settle(store, create(1), begun.owner, Outcome.DONE)
    await begin(store, create(2))
    await settle(store, create(2), begun.owner, Outcome.FAILED)
    assert await owner(store, ITEM) == begun.owner


async def test_an_unknown_outcome_keeps_the_binding(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    await settle(store, create(1), begun.owner, Outcome.UNKNOWN)
    await begin(store, create(2))
    await settle(store, create(2), begun.owner, Outcome.FAILED)
    assert await owner(store, ITEM) == begun.owner


async def test_a_delete_unbinds(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    await settle(store, create(1), begun.owner, Outcome.DONE)
    assert await begin(store, delete(1)) == Begun(begun.owner)
    await settle(store, delete(1), begun.owner, Outcome.DONE)
    assert await owner(store, ITEM) is None


async def test_a_delete_that_a_create_overlapped_keeps_the_binding(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    await settle(store, create(1), begun.owner, Outcome.DONE)
    await begin(store, delete(1))
    await begin(store, create(2))
    await settle(store, delete(1), begun.owner, Outcome.DONE)
    assert await owner(store, ITEM) == begun.owner


async def test_a_delete_of_an_unbound_item_claims_nothing(store: AnyStore) -> None:
    assert await begin(store, delete(1)) == Begun(None)
    assert await store.doubts(0) == (0, [])


async def test_settling_twice_is_settling_once(store: AnyStore) -> None:
    begun = await begin(store, create(1))
    for _ in range(2):
        await settle(store, create(1), begun.owner, Outcome.DONE)
    assert await owner(store, ITEM) == begun.owner


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis")])
def own_server(request: pytest.FixtureRequest) -> Any:
    """A server of the test's own, to be paused and killed."""
    found = find_servers()
    if request.param not in found:
        pytest.skip(f"no {request.param} server can be started here")
    with RedisServer(found[request.param], aof=True) as server:
        yield server


async def _linked(server: RedisServer, budget_s: float) -> RedisStore:
    it = RedisStore(HotLink(pool_of(server.url, 2.0), budget_s), Keys("p"), TTL_S, TOPOLOGY)
    await it.start()
    await it.wait_ready(10)
    return it


async def test_a_paused_server_costs_one_budget_and_then_nothing(own_server: RedisServer) -> None:
    it = await _linked(own_server, 0.2)
    assert await ticket(it) == 1
    own_server.pause()
    assert isinstance(await ticket(it), StateError)
    assert it.mode.mode is Mode.AWAY
    # Down is down: the next ones do not wait for a budget of their own.
    answers = await asyncio.wait_for(asyncio.gather(*(ticket(it) for _ in range(50))), 0.2)
    assert all(isinstance(answer, StateError) for answer in answers)
    own_server.resume()

    await wait_until_async(_shared(it), "the shared state is back")
    # The ticket whose reply came too late may be gone; none is dealt twice.
    assert await ticket(it) in (2, 3)
    await it.stop()


async def test_a_server_that_is_away_at_the_start_is_told_of_once_and_its_return_too(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.kill()
    it = RedisStore(HotLink(pool_of(own_server.url, 2.0), 0.2), Keys("p"), TTL_S, TOPOLOGY)
    await it.start()
    for _ in range(2):
        with pytest.raises(StateError):
            await it.wait_ready(0.2)
    assert isinstance(await ticket(it), StateError)
    own_server.start()
    await it.wait_ready(10)
    assert await ticket(it) == 1
    await it.stop()
    said = [line.getMessage() for line in caplog.records if line.name == "distributer.state"]
    assert said == ["shared state is away; serving degraded", "shared state is back"]


async def test_a_killed_server_is_found_again_and_its_scripts_with_it(own_server: RedisServer) -> None:
    it = await _linked(own_server, 1.0)
    begun = await begin(it, create(1))
    own_server.kill()

    async def away() -> bool:
        return isinstance(await ticket(it), StateError)

    await wait_until_async(away, "the loss is noticed")
    # A settlement while it is away is kept, and made up for.
    assert isinstance(await settle(it, create(1), begun.owner, Outcome.FAILED), StateError)
    own_server.start()

    async def released() -> bool:
        return await owner(it, ITEM) is None

    await wait_until_async(released, "the settlement is made up for")
    assert (await begin(it, create(2))).ticket is not None
    await it.stop()


async def test_wrong_types_under_our_keys_are_state_errors(own_server: RedisServer) -> None:
    it = await _linked(own_server, 1.0)
    with redis.Redis.from_url(own_server.url) as client:
        client.set("p:sticky", "not a hash")
        client.delete("p:rotation")
        client.hset("p:rotation", "not", "a number")
    assert isinstance(await ticket(it), StateError)
    assert isinstance(await owner(it, ITEM), StateError)
    assert isinstance(await begin(it, create(1)), StateError)
    assert it.mode.mode is Mode.REFUSED
    with redis.Redis.from_url(own_server.url) as client:
        client.flushall()
    assert await ticket(it) == 1
    # What works by chance is no return: that is tried in the background, with all keys.
    await wait_until_async(_shared(it), "the shared state is back")
    await it.stop()


def _shared(it: RedisStore) -> Callable[[], Awaitable[bool]]:
    async def is_shared() -> bool:
        return it.mode.is_shared

    return is_shared


async def test_claims_on_one_item_are_bounded_and_a_refused_one_changes_nothing(store: AnyStore) -> None:
    begun = await begin(store, create(0))
    for number in range(1, MAX_CLAIMS):
        assert await begin(store, create(number)) == Begun(begun.owner)
    full = Begun(None, is_full=True)
    assert await begin(store, create(MAX_CLAIMS)) == await begin(store, delete(0)) == full
    assert await owner(store, ITEM) == begun.owner, "reads go on"
    assert await begin(store, create(0, ItemId("8"))) == Begun("http://b:1", Ticket(2)), "so do other items"
    # The refused one holds nothing: settled or not, it makes no difference.
    await settle(store, create(MAX_CLAIMS), begun.owner, Outcome.FAILED)
    assert await begin(store, create(MAX_CLAIMS)) == full
    await settle(store, create(0), begun.owner, Outcome.FAILED)
    assert await begin(store, create(MAX_CLAIMS)) == Begun(begun.owner)


async def test_deletes_that_creates_overlapped_do_not_pile_up(store: AnyStore) -> None:
    begun = await begin(store, create(0))
    await settle(store, create(0), begun.owner, Outcome.DONE)
    await begin(store, create(1))
    for number in range(50):
        await begin(store, delete(number))
        await settle(store, delete(number), begun.owner, Outcome.DONE)
    await settle(store, create(1), begun.owner, Outcome.FAILED)
    # One question is left of all of them, and its answer settles the item.
    cursor, (doubt,) = await store.doubts(0)
    assert (cursor, doubt.item, doubt.owner) == (0, ITEM, begun.owner)
    if isinstance(store, MemoryStore):
        assert store.claims[ITEM].count("delete-") == 1
    assert await store.resolve(doubt, exists=False)
    assert await owner(store, ITEM) is None
    assert await store.doubts(0) == (0, [])

"""A Redis that is there and refuses: a server that is part of a cluster, and settlements that it would not take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio as redis

from distributer.control.membership import Membership
from distributer.model import Backend, Claim, ItemId, Operation, Outcome, Places
from distributer.routing.topology import Topology
from distributer.state.keys import Keys
from distributer.state.mode import Mode
from distributer.state.redis_client import RedisRefusedError, client_of, close, ping, pool_of
from distributer.state.redis_link import HotLink
from distributer.state.redis_store import RedisStore
from tests.support.redis_server import RedisServer, find_servers
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.redis

URL = "http://a:1"
TOPOLOGY = Topology.of([Backend.from_url(URL)])


@pytest.fixture(params=["", "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    found = find_servers()
    if not found:
        pytest.skip("no server can be started here")
    argv = next(iter(found.values()))
    with RedisServer((*argv, "--cluster-enabled", "yes") if request.param else argv) as it:
        yield it


async def answer(call: Any, *arguments: Any) -> Any:
    """Call what delivers, and return what it delivered."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call(*arguments, future.set_result)
    return await asyncio.wait_for(future, 10)


@pytest.mark.parametrize("server", ["cluster"], indirect=True)
async def test_on_a_redis_cluster_the_prefix_needs_a_hash_tag_and_then_all_works(server: RedisServer) -> None:
    keys, tagged = Keys("p"), Keys("{p}")
    client = client_of(server.url, 2.0)
    await client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))  # type: ignore[no-untyped-call]
    with pytest.raises(RedisRefusedError, match=r"is part of a Redis Cluster; .* hash tag"):
        await ping(server.url, 2.0, (keys.rotation, keys.sticky))

    async def is_up() -> bool:
        return bool((await client.cluster("INFO"))["cluster_state"] == "ok")

    await wait_until_async(is_up, "the cluster is up")
    await ping(server.url, 2.0, (tagged.rotation, tagged.sticky))
    await Membership(client, tagged).found([Backend.from_url(URL)])
    it = RedisStore(HotLink(pool_of(server.url, 2.0), 1.0), tagged, 60.0, TOPOLOGY)
    await it.start()
    await it.wait_ready(5)
    assert it.mode.is_shared
    assert await answer(it.ticket) == 1
    await it.stop()
    await close(client)


@pytest.mark.parametrize("server", [""], indirect=True)
async def test_very_many_settlements_are_made_when_redis_takes_writes_again(
    server: RedisServer,
) -> None:
    keys, count = Keys("p"), 2000
    it = RedisStore(HotLink(pool_of(server.url, 2.0), 0.1), keys, 60.0, TOPOLOGY)
    await it.start()
    await it.wait_ready(5)
    client = redis.Redis.from_url(server.url)
    claims = [Claim(f"c{number}", ItemId(str(number)), Operation.CREATE) for number in range(count)]
    begin = [answer(it.begin, claim, Places((URL,), "1")) for claim in claims]
    for page in range(0, count, 100):
        await asyncio.gather(*begin[page : page + 100])
    await client.config_set("min-replicas-to-write", 1)
    settle = [answer(it.settle, claim, URL, Outcome.DONE) for claim in claims]
    for page in range(0, count, 100):
        await asyncio.gather(*settle[page : page + 100])
    assert it.mode.mode is Mode.REFUSED
    assert await client.hlen(keys.claims) == count
    changes = it.mode.changes
    await client.config_set("min-replicas-to-write", 0)

    async def settled() -> bool:
        return await client.hlen(keys.claims) == 0

    await wait_until_async(settled, "all are settled")
    assert await client.hlen(keys.sticky) == count
    assert it.mode.changes == changes + 1, "back, and no more"
    await it.stop()
    await close(client)

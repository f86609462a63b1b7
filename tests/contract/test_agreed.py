"""How a store follows the topology, and what it does about a Redis that has lost writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import redis.asyncio as redis
from fakeredis import FakeAsyncRedis

from distributer.control.membership import Membership
from distributer.errors import StateError
from distributer.model import AdminState, Backend, Begun, Claim, ItemId, Operation, Ticket
from distributer.routing.topology import FROM_ADMIN, Topology, with_added, with_state
from distributer.state.commit import Command
from distributer.state.keys import Keys
from distributer.state.redis_client import close, pool_of
from distributer.state.redis_link import ClientLink, Deliver, HotLink, Link
from distributer.state.redis_store import RedisStore
from tests.support.redis_server import RedisServer, find_servers
from tests.support.waiting import wait_until_async

URLS = tuple(f"http://{name}:1" for name in "abcd")
BACKENDS = [Backend.from_url(url) for url in URLS]
KEYS = Keys("p")
LEAP = 1 << 20
REAL = [pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis")]


class Watching:
    """Who follows a store."""

    def __init__(self) -> None:
        self.topology = Topology(())
        self.doubts = 0

    def follow(self, topology: Topology) -> None:
        self.topology = topology

    def doubt_memory(self) -> None:
        self.doubts += 1


class Replica:
    """A store, and who follows it."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.watching = Watching()
        store.watch(self.watching)

    async def ticket(self) -> Any:
        """Take one."""
        return await self._answer(self.store.ticket)

    async def place(self) -> str:
        """Take a ticket, and say where it falls."""
        ticket = await self.ticket()
        return self.watching.topology.ring().at(ticket).url

    async def create(self, number: int) -> Any:
        """Begin a create."""
        claim, places = Claim(f"c{number}", ItemId("7"), Operation.CREATE), self.watching.topology.ring().places()
        return await self._answer(lambda deliver: self.store.begin(claim, places, deliver))

    async def _answer(self, call: Callable[[Callable[[Any], None]], None]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call(future.set_result)
        return await asyncio.wait_for(future, 10)


class World:
    """A Redis, replicas of it, and an operator."""

    def __init__(self, connect: Callable[[], redis.Redis], link: Callable[[], Link]) -> None:
        self.client = connect()
        self.membership = Membership(self.client, KEYS)
        self.link: Callable[[], Link] = link

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[Replica]:
        """Open one."""
        it = Replica(RedisStore(self.link(), KEYS, 60.0, Topology.of(BACKENDS)))
        await it.store.start()
        try:
            await it.store.wait_ready(10)
            yield it
        finally:
            await it.store.stop()

    async def epoch(self) -> Topology:
        """Read what Redis has."""
        topology = await self.membership.read()
        assert topology is not None
        return topology


@asynccontextmanager
async def world_of(server: RedisServer) -> AsyncIterator[World]:
    pool = pool_of(server.url, 5.0)
    it = World(lambda: redis.Redis.from_url(server.url), lambda: HotLink(pool, 5.0))
    try:
        yield it
    finally:
        await close(it.client)


@pytest.fixture(params=["fakeredis", *REAL])
async def world(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> AsyncIterator[World]:
    if request.param == "fakeredis":
        it = World(FakeAsyncRedis, lambda: ClientLink(it.client, 5.0))
        await it.client.flushall()
        yield it
        await it.client.aclose()
    else:
        async with world_of(redis_servers(request.param)) as it:
            await it.client.flushall()
            yield it


async def test_before_anybody_has_agreed_a_replica_goes_by_its_settings_and_writes_none(world: World) -> None:
    async with world.replica() as one:
        assert [await one.place() for _ in range(5)] == [*URLS, URLS[0]]
        assert await world.membership.read() is None
        # Lost tickets are nobody's loss then: there is no epoch to begin.
        await world.client.set(KEYS.rotation, -3)
        assert [await one.ticket() for _ in range(4)] == [-2, -1, 0, 1]


async def test_a_change_counts_from_the_next_ticket_on_and_the_rotation_goes_on_where_it_stood(world: World) -> None:
    await world.membership.found(BACKENDS)
    async with world.replica() as one, world.replica() as two:
        assert [await one.place(), await two.place()] == [URLS[0], URLS[1]]
        await world.membership.change(lambda members: with_state(members, "c:1", AdminState.DRAIN))
        assert [await two.place(), await one.place(), await two.place()] == [URLS[3], URLS[0], URLS[1]]
        added = Backend.from_url("http://e:1")
        await world.membership.change(lambda members: with_added(members, added, FROM_ADMIN, joined=True))
        assert [await one.place(), await two.place()] == [URLS[3], added.url]
        assert one.watching.doubts == two.watching.doubts == 1, "when they came up"


async def test_under_changes_each_ticket_is_dealt_once_in_its_own_epoch_and_the_backends_are_level(
    world: World,
) -> None:
    await world.membership.found(BACKENDS)
    seen: list[tuple[int, Topology]] = []
    async with world.replica() as one, world.replica() as two:

        async def take(replica: Replica) -> None:
            for _ in range(60):
                await asyncio.gather(*(take_one(replica) for _ in range(3)))

        async def take_one(replica: Replica) -> None:
            ticket = await replica.ticket()
            seen.append((ticket, replica.watching.topology))

        async def change() -> None:
            for number in range(12):
                state = (AdminState.DRAIN, AdminState.READY)[number % 2]
                await world.membership.change(partial(with_state, backend_id="b:1", state=state))
                await asyncio.sleep(0)

        await asyncio.gather(take(one), take(two), change())
    assert len({ticket for ticket, _ in seen}) == len(seen) == 360
    versions = {topology.after: topology for _, topology in seen}
    for ticket, topology in seen:
        # The newest of the epochs that began before the ticket was taken.
        assert topology == versions[max(after for after in versions if after < ticket)]
    counts = Counter(topology.ring().at(Ticket(ticket)).url for ticket, topology in seen)
    assert max(counts[url] for url in (URLS[0], *URLS[2:])) - min(counts[url] for url in (URLS[0], *URLS[2:])) <= 13


@pytest.mark.parametrize("loss", ["set", "delete", "negative", "everything"])
async def test_a_counter_that_has_fallen_back_leaps_and_all_follow(world: World, loss: str) -> None:
    await world.membership.found(BACKENDS)
    async with world.replica() as one, world.replica() as two:
        for _ in range(6):
            await one.ticket()
        before = await world.epoch()
        await two.ticket()
        match loss:
            case "set":
                await world.client.set(KEYS.rotation, 3)
            case "delete":
                await world.client.delete(KEYS.rotation)
            case "negative":
                await world.client.set(KEYS.rotation, -1_000_000)
            case "everything":
                await world.client.flushall()
        tickets = [await one.ticket(), await two.ticket(), await one.ticket()]
        assert tickets[0] > 6 + LEAP / 2
        assert tickets == [tickets[0], tickets[0] + 1, tickets[0] + 2]
        after = await world.epoch()
        assert (after.members, after.version > before.version) == (before.members, True)
        assert (after.after, after.first) == (tickets[0] - 1, 0), "it starts anew at the first backend"
        assert one.watching.topology == two.watching.topology == after
        assert one.watching.doubts == two.watching.doubts == 2, "what either remembers may be missing there"


async def test_a_create_does_not_take_a_ticket_that_was_used_before_either(world: World) -> None:
    await world.membership.found(BACKENDS)
    async with world.replica() as one:
        for _ in range(5):
            await one.ticket()
        await world.client.set(KEYS.rotation, 2)
        assert await one.create(1) == Begun(None, is_stale=True)
        begun = await one.create(2)
        assert begun.ticket == 5 + LEAP + 1
        assert begun.owner == URLS[0]


async def test_a_topology_that_was_lost_is_written_back_by_who_knows_the_newest(world: World) -> None:
    await world.membership.found(BACKENDS)
    names = (KEYS.topology, KEYS.epoch, KEYS.backends)
    old = [await world.client.dump(name) for name in names]
    async with world.replica() as one, world.replica() as late:
        await late.ticket()
        drained = await world.membership.change(lambda members: with_state(members, "b:1", AdminState.DRAIN))
        # By a clock that was ahead of this server's.
        newest = 1 << 52
        await world.client.set(KEYS.topology, newest)
        await one.ticket()
        for name, dump in zip(names, old, strict=True):
            await world.client.restore(name, 0, dump or b"", replace=True)
        await late.ticket()
        await one.ticket()
        now = await world.epoch()
        assert now.members == drained.members
        assert now.version > newest
        await late.ticket()
        assert late.watching.topology == now


async def test_what_cannot_be_read_is_said_once_and_what_was_known_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.membership.found(BACKENDS)
    async with world.replica() as one:
        assert await one.place() == URLS[0]
        good = await world.client.hget(KEYS.backends, "b:1")
        await world.client.hset(KEYS.backends, "b:1", "{}")
        for _ in range(3):
            await one.store.refreshed()
        assert [await one.place() for _ in range(4)] == [*URLS[1:], URLS[0]]
        await world.client.set(KEYS.rotation, 2)
        assert [await one.ticket() for _ in range(2)] == [3, 4], "better used twice than never served"
        assert [line.getMessage() for line in caplog.records if line.name == "distributer.state"] == [
            "the topology in Redis is of no use; going on with the one before"
        ]
        await world.client.hset(KEYS.backends, "b:1", good)
        changed = await world.membership.change(lambda members: with_state(members, "a:1", AdminState.DRAIN))
        await one.ticket()
        assert one.watching.topology == changed


@pytest.fixture(params=REAL)
def new_server(request: pytest.FixtureRequest) -> Iterator[Callable[[bool], RedisServer]]:
    """Start servers of the test's own: with or without an append-only file."""
    found = find_servers()
    if request.param not in found:
        pytest.skip(f"no {request.param} server can be started here")
    started: list[RedisServer] = []

    def start(aof: bool) -> RedisServer:
        started.append(RedisServer(found[request.param], aof=aof).__enter__())
        return started[-1]

    yield start
    for server in started:
        server.kill()
        server.__exit__(None, None, None)


async def test_after_a_promotion_nobody_takes_a_ticket_that_others_used_and_one_epoch_is_enough(
    new_server: Callable[[bool], RedisServer],
) -> None:
    old, new = new_server(True), new_server(True)
    async with world_of(old) as before, world_of(new) as after:
        await before.membership.found(BACKENDS)
        await before.client.config_set("repl-diskless-sync-delay", 0)
        await after.client.replicaof("127.0.0.1", old.port)

        async def synced() -> bool:
            return await after.client.get(KEYS.topology) is not None

        await wait_until_async(synced, "the replica has it all")
        async with before.replica() as one:
            used = [await one.ticket() for _ in range(10)]
        await after.client.replicaof("NO", "ONE")
        await after.client.set(KEYS.rotation, 4)  # the last six were lost
        # These two know of no ticket that was used.
        async with after.replica() as fresh, after.replica() as other:
            assert await fresh.ticket() == 4 + LEAP + 1
            epoch = await after.epoch()
            assert await other.ticket() == 4 + LEAP + 2
            async with after.replica() as third:
                assert await third.ticket() == 4 + LEAP + 3
            assert await after.epoch() == epoch
        assert max(used) < 4 + LEAP


@pytest.mark.parametrize("aof", [True, False])
async def test_a_restart_begins_an_epoch_only_where_it_may_have_lost_writes(
    new_server: Callable[[bool], RedisServer], aof: bool
) -> None:
    server = new_server(aof)
    async with world_of(server) as world:
        await world.membership.found(BACKENDS)
        async with world.replica() as one:
            for _ in range(3):
                await one.ticket()
            if not aof:
                await world.client.save()
            epoch = await world.epoch()
            for _ in range(3):
                await one.ticket()
        server.kill()
        server.start()
        await world.client.connection_pool.disconnect()
        async with world.replica() as fresh:
            if aof:
                assert await fresh.ticket() == 7
                assert await world.epoch() == epoch
            else:
                assert await fresh.ticket() == 3 + LEAP + 1


class Cut:
    """A link that is lost while the topology is read, once."""

    def __init__(self, link: HotLink) -> None:
        self._link = link
        self.start, self.drop, self.stop = link.start, link.drop, link.stop
        self.is_armed = False

    def send(self, commands: Sequence[Command], deliver: Deliver) -> None:
        self._link.send(commands, deliver)
        if self.is_armed and commands[0][0] == "EVAL":
            self.is_armed = False
            self._link.drop(StateError("cut"))


async def test_a_link_that_is_lost_while_the_topology_is_read_deals_nothing_of_it(
    new_server: Callable[[bool], RedisServer],
) -> None:
    server = new_server(True)
    async with world_of(server) as world:
        await world.membership.found(BACKENDS)
        link = Cut(HotLink(pool_of(server.url, 5.0), 5.0))
        world.link = lambda: link
        async with world.replica() as one:
            await one.ticket()
            changed = await world.membership.change(lambda members: with_state(members, "b:1", AdminState.DRAIN))
            link.is_armed = True
            assert isinstance(await one.ticket(), StateError), "its ticket may be of the epoch that it could not read"

            async def follows() -> bool:
                return one.watching.topology == changed

            await wait_until_async(follows, "it has come back")
            assert await one.ticket() == 3

"""The topology in Redis: the scripts do what `routing/topology.py` says, and changes by many at once are all made."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio as redis
from fakeredis import FakeAsyncRedis

from distributer.control.membership import Membership
from distributer.errors import ChangeRefusedError, StateError
from distributer.model import AdminState, Backend, Ticket
from distributer.routing.topology import (
    FROM_ADMIN,
    Member,
    Members,
    Topology,
    with_added,
    with_joined,
    with_state,
    without,
)
from distributer.state.agreement import change_command, changed_of, read_command, reading_of
from distributer.state.keys import Keys
from tests.support.redis_server import RedisServer

KEYS = Keys("p")
BACKENDS = [Backend.from_url(f"http://b:{port}") for port in range(1, 9)]


@pytest.fixture(params=["fakeredis", *(pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis"))])
async def client(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> AsyncIterator[Any]:
    fake = request.param == "fakeredis"
    client: Any = FakeAsyncRedis() if fake else redis.Redis.from_url(redis_servers(request.param).url)
    await client.flushall()
    yield client
    await client.aclose()


def some_members(dice: random.Random) -> Members:
    backends = dice.sample(BACKENDS, dice.randint(1, len(BACKENDS)))
    return tuple(Member(it, dice.choice(list(AdminState)), dice.random() < 0.8, "admin") for it in backends)


async def change(client: Any, present: Topology, members: Members, highest: int = 0) -> Topology | None:
    reply = await client.execute_command(*change_command(KEYS, present, present.version, members, highest))
    return changed_of(reply, members)


async def read(client: Any) -> Any:
    return reading_of(await client.execute_command(*read_command(KEYS)))


async def test_a_change_is_what_the_reference_says(client: Any) -> None:
    dice = random.Random(5)
    present = Topology(())
    for _ in range(60):
        counter = await client.incrby(KEYS.rotation, dice.randint(0, 9))
        members = some_members(dice)
        changed = await change(client, present, members)
        assert changed is not None
        assert changed.version > present.version
        assert changed == present.changed(members, counter, changed.version)
        reading = await read(client)
        assert (reading.topology, reading.version, reading.counter) == (changed, changed.version, counter)
        present = changed


async def test_a_change_of_another_version_has_no_effect(client: Any) -> None:
    first = await change(client, Topology(()), (Member(BACKENDS[0]),))
    assert first is not None
    assert await change(client, Topology(()), (Member(BACKENDS[1]),)) is None
    second = await change(client, first, (Member(BACKENDS[1]),))
    assert second is not None
    assert await change(client, first, (Member(BACKENDS[2]),)) is None
    assert (await read(client)).topology == second


async def test_a_version_never_comes_again(client: Any) -> None:
    first = await change(client, Topology(()), (Member(BACKENDS[0]),))
    assert first is not None
    await client.flushall()
    again = await change(client, Topology(()), (Member(BACKENDS[0]),))
    assert again is not None
    assert again.version > first.version
    # Nor when the clock stands behind it.
    ahead = Topology(again.members, again.version + 10**12)
    await client.set(KEYS.topology, ahead.version)
    later = await change(client, ahead, (Member(BACKENDS[1]),))
    assert later is not None
    assert later.version == ahead.version + 1


async def test_a_counter_that_fell_back_leaps_beyond_every_ticket_that_was_seen(client: Any) -> None:
    members = (Member(BACKENDS[0]), Member(BACKENDS[1]))
    await client.set(KEYS.rotation, 3)
    changed = await change(client, Topology(members), members, highest=1000)
    assert changed is not None
    assert changed.after > 1000
    assert int(await client.get(KEYS.rotation)) == changed.after
    assert changed.first == 0


async def test_a_change_is_published(client: Any) -> None:
    async with client.pubsub() as events:
        await events.subscribe(KEYS.events)
        assert await events.get_message(timeout=5)
        await change(client, Topology(()), (Member(BACKENDS[0]),))
        message = await events.get_message(timeout=5)
        assert message["data"] == b"topology"


@pytest.mark.parametrize(
    "edit", [("HSET", "p:backends", "b:1", "{}"), ("SET", "p:epoch", "{}"), ("HSET", "p:backends", "b:9", "[]")]
)
async def test_a_topology_that_was_edited_badly_is_a_state_error(client: Any, edit: tuple[str, ...]) -> None:
    await change(client, Topology(()), (Member(BACKENDS[0]),))
    await client.execute_command(*edit)
    with pytest.raises(StateError):
        await Membership(client, KEYS).read()


async def test_changes_by_many_at_once_are_all_made(client: Any) -> None:
    membership = Membership(client, KEYS)
    await membership.found(BACKENDS[:2])

    async def add(new: Backend) -> None:
        await membership.change(lambda it: with_added(it, new, FROM_ADMIN, joined=False))

    async def join(new: Backend) -> None:
        await membership.change(lambda it: with_joined(it, new.id))

    await asyncio.gather(*(add(new) for new in BACKENDS[2:7]))
    await asyncio.gather(
        *(join(new) for new in BACKENDS[2:7]),
        membership.change(lambda it: with_state(it, BACKENDS[0].id, AdminState.DRAIN)),
        membership.change(lambda it: without(it, BACKENDS[1].id)),
    )
    topology = await membership.read()
    assert topology is not None
    assert set(topology.in_rotation) == set(BACKENDS[2:7])
    with pytest.raises(ChangeRefusedError):
        await membership.change(lambda it: without(it, BACKENDS[1].id))
    assert await membership.read() == topology, "what is refused changes nothing"
    assert await membership.change(lambda it: it) == topology, "nor does what is no change"


async def test_under_concurrent_tickets_and_changes_every_epoch_is_exact(client: Any) -> None:
    """Tickets are taken by many while the ring changes: by its epoch, each falls where the rotation says."""
    membership, dice = Membership(client, KEYS), random.Random(6)
    epochs = [await membership.found(BACKENDS[:4])]
    tickets: list[int] = []
    is_over = False

    async def take() -> None:
        while not is_over:
            tickets.append(await client.incr(KEYS.rotation))

    async def set_state(backend: Backend, state: AdminState) -> Topology:
        return await membership.change(lambda it: with_state(it, backend.id, state))

    async def change_all() -> None:
        nonlocal is_over
        for _ in range(25):
            changed = await set_state(dice.choice(BACKENDS[:4]), dice.choice([AdminState.READY, AdminState.DRAIN]))
            if changed != epochs[-1]:
                epochs.append(changed)
        is_over = True

    await asyncio.gather(*(take() for _ in range(4)), change_all())
    assert sorted(tickets) == list(range(1, len(tickets) + 1))
    assert len(epochs) > 5
    ends = [*(epoch.after for epoch in epochs[1:]), len(tickets)]
    assert [epoch.after for epoch in epochs] == sorted(epoch.after for epoch in epochs)
    for epoch, end in zip(epochs, ends, strict=True):
        if ring := epoch.in_rotation:
            counts = Counter(epoch.ring().at(Ticket(ticket)) for ticket in range(epoch.after + 1, end + 1))
            assert max(counts.values(), default=0) - min(counts[backend] for backend in ring) <= 1

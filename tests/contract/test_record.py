"""The record of health and the lease, on a fake and on real servers: what is written, by whom, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
import redis.asyncio as redis

from distributer.control.lease import Lease
from distributer.control.record import Count, Record
from distributer.errors import StateError
from distributer.forwarding.failures import Row
from distributer.model import Health, HealthStatus
from distributer.state.keys import Keys
from tests.support.cluster import SharedRedis
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_async

KEYS = Keys()
A, B = "10.0.0.1:8000", "[fe80::1]:8000"
DOWN = Health(HealthStatus.DOWN, 17.5, "3 probes in a row failed")
EJECTED = Health(HealthStatus.EJECTED, 17.5, "5 requests in a row failed", 47.5, 2)


@pytest.fixture(params=["fakeredis", *(pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis"))])
async def client(
    request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]
) -> AsyncIterator[redis.Redis]:
    shared = SharedRedis(None if request.param == "fakeredis" else redis_servers(request.param).url)
    async with shared.client() as it:
        await it.flushall()
        yield it


async def put(client: redis.Redis, key: str, **fields: Any) -> None:
    await cast(Awaitable[Any], client.hset(key, mapping=cast(Any, fields)))


async def test_failures_add_up_over_replicas_and_an_answer_ends_the_row(client: redis.Redis) -> None:
    record = Record(client, KEYS)
    await record.report({A: Row(2, why="reset"), B: Row(1, why="refused")}, 5)
    await record.report({A: Row(2, why="it answered 502")}, 5)
    assert (await record.read()).counts == {A: Count(4, "it answered 502"), B: Count(1, "refused")}
    await record.report({B: Row(1, why="refused", was_refused=True)}, 5)
    await record.report({B: Row(1, why="reset")}, 5)
    assert (await record.read()).counts[B] == Count(3, "reset", was_refused=True), "one of them was"
    await record.report({A: Row(is_anew=True), B: Row(1, is_anew=True, why="late")}, 5)
    assert (await record.read()).counts == {B: Count(1, "late")}


@pytest.mark.parametrize(
    ("before", "row", "threshold", "is_said"),
    [
        (0, Row(1, why="reset"), 5, False),
        (0, Row(1, why="refused", was_refused=True), 5, True),
        (4, Row(1, why="reset"), 5, True),
        (3, Row(9, why="reset"), 5, True),
        (5, Row(1, why="reset"), 5, False),
        (4, Row(1, is_anew=True, why="reset"), 5, False),
        (4, Row(is_anew=True), 5, False),
        (0, Row(1, why="reset"), 0, False),
    ],
)
async def test_what_matters_is_said_at_once(
    client: redis.Redis, before: int, row: Row, threshold: int, is_said: bool
) -> None:
    if before:
        await put(client, KEYS.failures, **{A: before})
    async with client.pubsub() as events:
        await events.subscribe(KEYS.events)
        await events.get_message(timeout=5)
        await Record(client, KEYS).report({A: row, B: Row(1, why="another")}, threshold)
        await client.publish(KEYS.events, "end")
        said = []
        while (event := await events.get_message(ignore_subscribe_messages=True, timeout=5)) is not None:
            if event["data"] == b"end":
                break
            said.append(event["data"])
    assert said == ([b"failures"] if is_said else [])


async def test_verdicts_are_written_by_the_holder_of_the_lease_alone(client: redis.Redis) -> None:
    record = Record(client, KEYS)
    await put(client, KEYS.failures, **{A: 5, f"{A} why": "reset", B: 3})
    assert not await record.write("me", {A: DOWN}, [], [A])
    await client.set(KEYS.prober, "another")
    assert not await record.write("me", {A: DOWN}, [], [A])
    assert (await record.read()).healths == {}
    assert set((await record.read()).counts) == {A, B}
    await client.set(KEYS.prober, "me")
    assert await record.write("me", {A: DOWN, B: EJECTED}, [], [A])
    reading = await record.read()
    assert reading.healths == {A: DOWN, B: EJECTED}
    assert reading.counts == {B: Count(3, "nobody said why")}
    assert await record.write("me", {}, [B], [])
    assert await record.read() == type(reading)({A: DOWN}, {})


async def test_what_anyone_may_have_edited_is_left_out(client: redis.Redis) -> None:
    await put(client, KEYS.health, **{A: "{}", B: '{"status":"down","since":17.5,"reason":"3 probes in a row failed"}'})
    await put(client, KEYS.failures, **{A: "many", B: "-1", "c:1": "0", "d:1": "2", "d:1 why": "reset"})
    reading = await Record(client, KEYS).read()
    assert reading.healths == {B: DOWN}
    assert reading.counts == {"d:1": Count(2, "reset")}
    await client.set(KEYS.health, "no hash")
    with pytest.raises(StateError):
        await Record(client, KEYS).read()


DEEP = "[" * 200_000
HUGE = "1" + "0" * 400
SPOILT = [
    *(f'{{"status":"up","since":1,"reason":"x","until":{value}}}' for value in (HUGE, "-1", "Infinity")),
    *(f'{{"status":"up","since":{value},"reason":"x"}}' for value in (HUGE, "-Infinity", "NaN")),
    DEEP,
]


@pytest.mark.parametrize("text", SPOILT, ids=range(len(SPOILT)))
async def test_numbers_and_nesting_beyond_measure_are_left_out_as_well(client: redis.Redis, text: str) -> None:
    await put(client, KEYS.health, **{A: text, B: '{"status":"down","since":17.5,"reason":"3 probes in a row failed"}'})
    await put(client, KEYS.failures, **{A: "9" * 5_000, B: "2"})
    reading = await Record(client, KEYS).read()
    assert reading.healths == {B: DOWN}
    assert reading.counts.keys() == {B}


async def test_a_lease_that_would_never_end_is_nobodys(client: redis.Redis) -> None:
    await client.set(KEYS.prober, "an edit")
    assert await Lease(client, KEYS, "me").take()
    assert not await Lease(client, KEYS, "they").take()


async def test_the_lease_is_held_by_one_until_it_is_given_back_or_expires(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = Lease(client, KEYS, "me"), Lease(client, KEYS, "they")
    assert await mine.take()
    assert not await theirs.take()
    assert await mine.take(), "renewed"
    assert (mine.is_held, theirs.is_held) == (True, False)
    assert 0 < await client.pttl(KEYS.prober) <= 2000
    await theirs.release()
    assert not await theirs.take(), "nobody gives back what is another's"
    await mine.release()
    assert not mine.is_held
    monkeypatch.setattr("distributer.control.lease.TTL_S", 0.05)
    assert await theirs.take()
    await wait_until_async(mine.take, "it expires")
    assert abs(mine.now - float((await client.time())[0])) < 2, "it knows Redis' time"


async def test_a_duty_that_fails_gives_the_lease_back(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("distributer.control.lease.RENEW_S", 0.01)
    mine = Lease(client, KEYS, "me")
    ended = asyncio.Event()

    async def fails() -> None:
        raise ValueError("a mistake")

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    mine.duties = (fails, goes_on)
    task = asyncio.create_task(mine.run())

    async def given_back() -> bool:
        return ended.is_set() and await client.get(KEYS.prober) is None

    try:
        await wait_until_async(given_back, "it is given back")
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert "a duty of the whole cluster has failed" in caplog.text

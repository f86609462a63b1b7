"""The health of backends, as a cluster finds it out: by probes, and by the failures of requests."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
import redis.asyncio as redis

from distributer.control import follower, lease
from distributer.control.membership import Membership
from distributer.control.prober import Prober, Probing
from distributer.control.record import Record
from distributer.control.registry import Registry
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.failures import Row
from distributer.model import AdminState, Backend
from distributer.routing.health import HealthRules
from distributer.routing.topology import FROM_ADMIN, Member, with_added, with_state, without
from distributer.state.keys import Keys
from distributer.state.memory import MemoryStore
from distributer.tasks import end
from tests.support.cluster import SharedRedis, distributers
from tests.support.ports import free_port
from tests.support.raw import Message, Origin, ask, origin, request
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_async

KEYS = Keys()
FAST = 0.03


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL_S", 0.5)
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(follower, "POLL_S", 0.2)


@pytest.fixture
def shared() -> SharedRedis:
    return SharedRedis(None)


@pytest.fixture(params=["fakeredis", pytest.param("valkey", marks=pytest.mark.redis)])
async def either(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> SharedRedis:
    if request.param == "fakeredis":
        return SharedRedis(None)
    it = SharedRedis(redis_servers(request.param).url)
    async with it.client() as client:
        await client.flushall()
    return it


@dataclass
class Service:
    """A backend: what it answers to probes and to all else, and how often it was probed."""

    probed: int = 200
    served: int = 200
    probes: int = 0
    origin: Origin = field(default_factory=lambda: Origin(_nothing))

    @property
    def id(self) -> str:
        return f"127.0.0.1:{self.origin.port}"

    async def answer(self, message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        status = self.served
        if message.start.startswith(b"GET /healthz "):
            assert message.value("connection") == b"close"
            self.probes += 1
            status = self.probed
        if status == 0:
            writer.close()
        else:
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(self._body), self._body))

    @property
    def _body(self) -> bytes:
        return b'{"port": %d}' % self.origin.port


async def _nothing(*_: Any) -> None: ...


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    it = Service()
    async with origin(it.answer) as it.origin:
        yield it


@dataclass
class Cluster:
    """Services, replicas, and a look at their Redis."""

    services: list[Service]
    replicas: list[int]
    client: redis.Redis

    async def health(self, of: Service) -> dict[str, Any] | None:
        text = await cast(Awaitable[Any], self.client.hget(KEYS.health, of.id))
        return None if text is None else cast(dict[str, Any], json.loads(text))

    async def reason_when(self, of: Service, status: str) -> str:
        """Wait until it is so, and return why."""

        async def found() -> str:
            health = await self.health(of)
            return str(health["reason"]) if health is not None and health["status"] == status else ""

        return await wait_until_async(found, f"{of.id} is {status}")

    async def count(self, of: Service) -> int:
        return int(await cast(Awaitable[Any], self.client.hget(KEYS.failures, of.id)) or 0)

    async def ask(self, replica: int = 0) -> tuple[int, int]:
        answer = await ask(self.replicas[replica], request())
        return answer.status, json.loads(answer.body).get("port", 0)

    async def fail(self, of: Service, times: int) -> None:
        """Send requests, to the replicas in turn, until so many have failed there."""
        turn = failed = 0
        while failed < times:
            status, port = await self.ask(turn % len(self.replicas))
            turn += 1
            failed += port == of.origin.port and status != 200
            assert turn < times * 20


@asynccontextmanager
async def cluster(shared: SharedRedis, services: int = 2, replicas: int = 1, **settings: Any) -> AsyncIterator[Cluster]:
    settings = {"probe_path": "/healthz", "probe_interval_s": FAST, "probe_timeout_s": 5, **settings}
    async with AsyncExitStack() as stack:
        them = [await stack.enter_async_context(service()) for _ in range(services)]
        made = shared.settings([it.origin.port for it in them], **settings)
        ports = await stack.enter_async_context(distributers("express", made, shared, replicas))
        client = await stack.enter_async_context(shared.client())
        yield Cluster(them, ports, client)


async def until_probed(it: Service, more: int) -> None:
    """Wait until it has been probed so often again."""
    wanted = it.probes + more

    async def probed() -> bool:
        return it.probes >= wanted

    await wait_until_async(probed, f"{it.id} has been probed {more} times more")


def told(caplog: pytest.LogCaptureFixture, of: Service) -> list[str]:
    """What the log said about a backend."""
    mine = [record for record in caplog.records if of.id in str(record.__dict__.get("backend"))]
    return [record.getMessage() for record in mine if record.name == "distributer.prober"]


async def test_a_backend_falls_and_rises_by_its_probes_for_all_and_the_log_says_so_once(
    either: SharedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "distributer")
    async with cluster(either, replicas=3) as it:
        first, second = it.services
        assert await it.reason_when(first, "up") == "the first probe passed"
        first.probed = 500
        assert await it.reason_when(first, "down") == "3 probes in a row failed: it answered 500"

        async def all_know() -> bool:
            answers = [await it.ask(replica) for replica in range(3) for _ in range(2)]
            return {port for _, port in answers} == {second.origin.port}

        await wait_until_async(all_know, "no replica sends it rotated requests")
        first.probed = 204
        assert await it.reason_when(first, "up") == "2 probes in a row passed"

        async def all_know_again() -> bool:
            answers = [await it.ask(replica) for replica in range(3) for _ in range(2)]
            return Counter(port for _, port in answers) == {first.origin.port: 3, second.origin.port: 3}

        await wait_until_async(all_know_again, "it takes its turn again")
        assert told(caplog, first) == ["backend is down", "backend is up"]
        assert told(caplog, second) == []


async def test_two_failed_probes_are_not_enough(shared: SharedRedis) -> None:
    async with cluster(shared, probe_fall=100) as it:
        first, _ = it.services
        await it.reason_when(first, "up")
        first.probed = 500
        await until_probed(first, 5)
        assert (await it.health(first) or {})["status"] == "up"


async def test_without_a_path_it_is_enough_to_take_connections(shared: SharedRedis) -> None:
    async with cluster(shared, probe_path="") as it:
        first, _ = it.services
        first.probed = first.served = 500
        await it.reason_when(first, "up")
        made = it.services[0].origin.connections

        async def connected() -> bool:
            return first.origin.connections > made + 5

        await wait_until_async(connected, "it is connected to again and again")
        assert first.origin.requests == []
        assert (await it.health(first) or {})["status"] == "up"
        port = free_port()
        add = partial(with_added, backend=Backend.from_url(f"http://127.0.0.1:{port}"), source=FROM_ADMIN, joined=True)
        await Membership(it.client, KEYS).change(add)
        gone = Service()
        gone.origin.port = port
        assert (await it.reason_when(gone, "down")).startswith("the first probe failed: no connection: ")


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_failures_of_requests_over_two_replicas_eject_a_backend_whose_probes_pass(
    either: SharedRedis, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.INFO, "distributer")
    # Three services, so that two replicas that are asked in turn both come by each.
    async with cluster(either, services=3, replicas=2, ejection_s=0.5) as it:
        first = it.services[0]
        await it.reason_when(first, "up")
        first.served = status
        await it.fail(first, 4)
        await until_probed(first, 5)
        assert (await it.health(first) or {})["status"] == "up"
        await it.fail(first, 1)
        reason = await it.reason_when(first, "ejected")
        assert reason == f"5 requests in a row failed; the last: it answered {status}"
        health = await it.health(first)
        assert health is not None
        assert (health["times"], health["until"] - health["since"]) == (1, pytest.approx(0.5))
        first.served = 200
        assert await it.reason_when(first, "up") == "on probation: its ejection is over"
        assert await it.count(first) == 0, "on probation, the count begins anew"

        async def takes_turns() -> bool:
            return [(await it.ask(number % 2))[1] for number in range(6)].count(first.origin.port) == 2

        await wait_until_async(takes_turns, "it takes its turn again")
        assert told(caplog, first) == ["backend is ejected", "backend is up"]


async def test_failures_of_a_backend_that_was_away_and_is_back_eject_nobody(shared: SharedRedis) -> None:
    async with cluster(shared) as it:
        first, second = it.services
        await it.reason_when(first, "up")
        record = Record(it.client, KEYS)
        rows = {first.id: Row(9, why="refused", was_refused=True), second.id: Row(9, why="reset")}
        await record.report(rows, 5)
        await it.reason_when(second, "ejected")

        async def is_over() -> bool:
            return await it.count(first) == 0

        await wait_until_async(is_over, "they are explained by a probe that passes")
        assert (await it.health(first) or {})["status"] == "up"


async def test_a_reset_counts_as_well(shared: SharedRedis) -> None:
    async with cluster(shared) as it:
        first, _ = it.services
        await it.reason_when(first, "up")
        first.served = 0
        for _ in range(20):
            await ask(it.replicas[0], request())
        assert "closed the connection without an answer" in await it.reason_when(first, "ejected")


async def test_an_applications_own_500_ejects_nobody(shared: SharedRedis) -> None:
    async with cluster(shared) as it:
        first, _ = it.services
        await it.reason_when(first, "up")
        first.served = 500
        await it.fail(first, 12)
        await until_probed(first, 3)
        assert (await it.health(first) or {})["status"] == "up"
        assert await it.count(first) == 0


async def test_an_answer_through_another_replica_ends_the_row(shared: SharedRedis) -> None:
    async with cluster(shared, replicas=2, services=1) as it:
        (only,) = it.services
        await it.reason_when(only, "up")
        only.served = 502
        for _ in range(4):
            await it.ask(0)

        async def counted() -> bool:
            return await it.count(only) == 4

        await wait_until_async(counted, "four are counted")
        only.served = 200

        async def over() -> bool:
            await it.ask(1)
            return await it.count(only) == 0

        await wait_until_async(over, "the row is over")


async def test_the_last_backend_that_is_up_is_not_ejected_but_may_go_down(shared: SharedRedis) -> None:
    async with cluster(shared, replicas=2) as it:
        first, second = it.services
        await it.reason_when(first, "up")
        second.probed = 500
        await it.reason_when(second, "down")
        first.served = 502
        await it.fail(first, 8)
        await until_probed(first, 3)
        assert (await it.health(first) or {})["status"] == "up"
        # No sooner is there another than it has to go.
        second.probed = 200
        await it.reason_when(first, "ejected")
        first.probed = second.probed = 500
        await it.reason_when(first, "down")
        await it.reason_when(second, "down")
        second.served = 200
        assert (await it.ask())[0] in (200, 502), "with all down, all are tried"


async def test_of_backends_that_all_fail_one_is_left(shared: SharedRedis) -> None:
    async with cluster(shared, services=3) as it:
        for one in it.services:
            await it.reason_when(one, "up")
            one.served = 503
        for _ in range(60):
            await it.ask()

        async def statuses() -> list[str]:
            return sorted([(await it.health(one) or {})["status"] for one in it.services])

        async def ejected() -> bool:
            return (await statuses()).count("ejected") == 2

        await wait_until_async(ejected, "two are ejected")
        for _ in range(10):
            await it.ask()
        await until_probed(it.services[0], 3)
        assert await statuses() == ["ejected", "ejected", "up"]


async def test_a_failed_probe_explains_the_failures_and_ends_sooner_than_an_ejection(shared: SharedRedis) -> None:
    async with cluster(shared, probe_fall=100) as it:
        first, _ = it.services
        await it.reason_when(first, "up")
        before = await it.health(first)
        first.probed = first.served = 503
        await it.fail(first, 6)
        await until_probed(first, 10)  # and the reports have come

        async def explained() -> bool:
            return await it.count(first) == 0

        await wait_until_async(explained, "a failed probe has explained the failures")
        first.probed = 200
        await until_probed(first, 5)
        assert await it.health(first) == before, "neither ejected nor down"
        await it.fail(first, 6)
        await it.reason_when(first, "ejected")


async def test_a_backend_that_is_added_joins_when_its_first_probes_have_passed(
    either: SharedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "distributer")
    async with cluster(either, services=1, replicas=2) as it, service() as added:
        added.probed = 503
        membership = Membership(it.client, KEYS)
        backend = Backend.from_url(f"http://{added.id}")
        await membership.change(partial(with_added, backend=backend, source=FROM_ADMIN, joined=False))
        assert await it.reason_when(added, "down") == "new: 2 probes in a row must pass first"
        await until_probed(added, 4)
        topology = await membership.read()
        assert topology is not None
        assert not topology.member(added.id).joined
        added.probed = 200
        await it.reason_when(added, "up")

        async def takes_turns() -> bool:
            return added.origin.port in [(await it.ask(replica))[1] for replica in (0, 0, 1, 1)]

        await wait_until_async(takes_turns, "it takes its turn")
        topology = await membership.read()
        assert topology is not None
        assert topology.member(added.id).joined
        assert [line for line in told(caplog, added) if "joins" in line] == ["backend joins the ring"]


async def test_who_has_joined_is_not_let_in_again_by_a_replica_that_has_not_seen_it_yet(
    shared: SharedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "distributer")
    async with service() as it, shared.client() as client:
        backend, membership = Backend.from_url(f"http://{it.id}"), Membership(client, KEYS)
        await membership.change(lambda _: (Member(backend, joined=False),))
        core = ForwardingCore([backend], MemoryStore())
        seen = await membership.read()
        assert seen is not None
        core.follow(seen)
        mine = lease.Lease(client, KEYS, core.replica_id)
        assert await mine.take()
        prober = Prober(core, Record(client, KEYS), membership, mine, Probing("/healthz", FAST), HealthRules())
        task = asyncio.create_task(prober.run())
        try:
            await until_probed(it, 8)
        finally:
            await end([task])
        assert core.topology == seen
        assert told(caplog, it) == ["backend is down", "backend is up", "backend joins the ring"]


async def test_in_maintenance_a_backend_is_not_probed_and_what_was_known_is_forgotten(shared: SharedRedis) -> None:
    async with cluster(shared) as it:
        first, second = it.services
        await it.reason_when(first, "up")
        membership = Membership(it.client, KEYS)
        await membership.change(partial(with_state, backend_id=first.id, state=AdminState.MAINT))

        async def forgotten() -> bool:
            return await it.health(first) is None

        await wait_until_async(forgotten, "it is forgotten")
        probes = first.probes
        await until_probed(second, 10)
        assert first.probes == probes
        first.probed = 500
        await membership.change(partial(with_state, backend_id=first.id, state=AdminState.READY))
        assert await it.reason_when(first, "down") == "the first probe failed: it answered 500"
        await membership.change(partial(without, backend_id=first.id))
        await wait_until_async(forgotten, "it is forgotten when it is removed")


async def test_verdicts_that_redis_has_lost_are_written_again_and_edits_do_not_last(shared: SharedRedis) -> None:
    async with cluster(shared) as it:
        first, second = it.services
        first.probed = 500
        reason = await it.reason_when(first, "down")
        await it.client.delete(KEYS.health)
        assert await it.reason_when(first, "down") == reason
        await cast(Awaitable[Any], it.client.hset(KEYS.health, second.id, '{"status":"down","since":1,"reason":"me"}'))
        await it.reason_when(second, "up")


async def test_who_takes_over_goes_on_from_the_verdicts_on_record(either: SharedRedis) -> None:
    async with cluster(either, replicas=2, ejection_s=60.0) as it:
        first, second = it.services
        await it.reason_when(second, "up")
        first.served = 502
        await it.fail(first, 5)
        await it.reason_when(first, "ejected")
        before = await it.health(first)
        holder = await it.client.get(KEYS.prober)
        await it.client.set(KEYS.prober, "another", px=100)

        async def taken_over() -> bool:
            return await it.client.get(KEYS.prober) not in (None, b"another")

        await wait_until_async(taken_over, "it is taken over")
        await until_probed(first, 5)
        assert await it.health(first) == before
        assert holder is not None


async def test_without_probes_all_are_up_and_ejections_go_on(shared: SharedRedis) -> None:
    async with cluster(shared, probe_interval_s=0, ejection_s=0.3) as it, service() as added:
        first, _ = it.services
        down = '{"status":"down","since":1,"reason":"of old"}'
        await cast(Awaitable[Any], it.client.hset(KEYS.health, first.id, down))
        backend = Backend.from_url(f"http://{added.id}")
        await Membership(it.client, KEYS).change(partial(with_added, backend=backend, source=FROM_ADMIN, joined=False))

        async def all_take_turns() -> bool:
            answers = [await it.ask() for _ in range(3)]
            return {port for _, port in answers} == {one.origin.port for one in (*it.services, added)}

        await wait_until_async(all_take_turns, "all take their turn")
        first.served = 502
        await it.fail(first, 5)
        await it.reason_when(first, "ejected")
        await it.reason_when(first, "up")
        assert first.probes == added.probes == 0


async def test_status_shows_what_is_known_and_replicas_count_their_probes(shared: SharedRedis) -> None:
    async with cluster(shared) as it:
        first, _ = it.services
        first.probed = 500
        await it.reason_when(first, "down")
        registry = Registry(it.client, KEYS)

        async def counted() -> bool:
            return any(one.snapshot["metrics"]["probes"]["failed"] for one in await registry.replicas())

        await wait_until_async(counted, "the heartbeat tells of it")
        status = (await registry.status()).as_dict()
        shown = status["backends"][0]
        assert (shown["health"]["status"], shown["joined"], shown["state"]) == ("down", True, "ready")
        assert shown["health_age_s"] >= 0
        assert status["prober"] == status["replicas"][0]["id"]
        json.dumps(status)

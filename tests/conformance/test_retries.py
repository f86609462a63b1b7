"""What becomes of a request whose backend fails it, over both doors: sent again, or not, and where."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis.asyncio as redis

from distributer import DistributerMiddleware, replica
from distributer.control.membership import Membership
from distributer.doors.asgi import lifespan_only
from distributer.doors.express import ExpressProtocol
from distributer.forwarding.core import ForwardingCore
from distributer.model import AdminState, Health, HealthStatus, ItemId
from distributer.routing.retry import MAX_RESENDS, Failure
from distributer.state.keys import Keys
from tests.support.cluster import SharedRedis, served
from tests.support.ports import free_port
from tests.support.raw import Message, Origin, Script, ask, connected, ok, origin, request
from tests.support.waiting import wait_until_async

KEY = 'Idempotency-Key: "8e03978e"'
CREATE = ("POST", "/items/?item_id=7")


async def lost(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
    """Script: close without a byte of an answer."""
    writer.transport.abort()


async def fine(message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
    """Script: answer."""
    writer.write(ok(b"fine"))


def in_turn(*scripts: Script) -> Script:
    """Script: do one after the other, the last again and again."""
    left = list(scripts)

    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(message, reader, writer)

    return script


def writes(*parts: bytes, closes: bool = True) -> Script:
    """Script: write parts, so that each is read by itself, then close."""

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.01)
        if closes:
            writer.close()

    return script


@dataclass
class Fleet:
    """One replica in front of some origins, and what it shares."""

    port: int
    core: ForwardingCore
    origins: list[Origin]
    redis: redis.Redis

    @property
    def asked(self) -> list[int]:
        """How often each origin was asked."""
        return [len(it.requests) for it in self.origins]

    @property
    def retries(self) -> dict[str, int]:
        """How many attempts were made again, by why."""
        return {failure.value: count for failure, count in self.core.metrics.retries.items() if count}

    def url(self, place: int) -> str:
        return self.core.topology.members[place].backend.url

    async def bind(self, place: int, item: int = 7) -> None:
        await self.redis.hset("distributer:sticky", str(item), self.url(place))

    async def bound(self, item: int = 7) -> str | None:
        found: bytes | None = await self.redis.hget("distributer:sticky", str(item))  # type: ignore[assignment]
        return None if found is None else found.decode()

    async def claims(self) -> int:
        return int(await self.redis.hlen("distributer:claims"))

    async def find(self, place: int, status: HealthStatus) -> None:
        """Have the prober find a backend in that state."""
        backend = self.core.topology.members[place].backend
        found = {"status": status.value, "since": 1.0, "reason": "a test"}
        await self.redis.hset("distributer:health", backend.id, json.dumps(found))
        self.core.follow_health({backend.id: Health(status, 1.0, "a test")})


Open = Callable[..., Any]


@pytest.fixture
def fleet(door: str) -> Open:
    """Open a replica in front of origins with these scripts; None is one that refuses connections, a number a port."""

    @asynccontextmanager
    async def open_fleet(*scripts: Script | int | None, reads_body: bool = True, **more: Any) -> AsyncIterator[Fleet]:
        shared = SharedRedis(None)
        cores: list[ForwardingCore] = []
        async with AsyncExitStack() as stack:
            origins, ports = [], []
            for script in scripts:
                if isinstance(script, int):
                    origins.append(Origin(fine, port=script))
                elif script is None:
                    closed = stack.enter_context(socket.socket())
                    closed.bind(("127.0.0.1", 0))  # bound, and not listening: refused
                    origins.append(Origin(fine, port=closed.getsockname()[1]))
                else:
                    origins.append(await stack.enter_async_context(origin(script, reads_body=reads_body)))
                ports.append(origins[-1].port)
            opened = replica(shared.settings(ports, **more), shared.new_client())

            @asynccontextmanager
            async def open_core() -> AsyncIterator[ForwardingCore]:
                async with opened() as core:
                    cores.append(core)
                    yield core

            http: Any = ExpressProtocol if door == "express" else "httptools"
            app = DistributerMiddleware(lifespan_only, open_core)
            (port,) = await stack.enter_async_context(served(app, http=http, lifespan="on", proxy_headers=False))
            client = await stack.enter_async_context(shared.client())
            yield Fleet(port, cores[0], origins, client)

    return open_fleet


# Rotated requests.


@pytest.mark.parametrize(
    ("raw", "times"),
    [
        (request("GET", "/ping"), 1),
        (request("PUT", "/any", body=b"body"), 1),
        (request("PUT", "/any", "Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n", 1),
        (request("POST", "/pay", KEY, body=b"body"), 1),
        (request("DELETE", "/items/7"), 1),  # unbound
    ],
    ids=["GET", "PUT", "chunked", "with a key", "an unbound DELETE"],
)
async def test_a_rotated_request_that_may_be_repeated_goes_to_another_backend(
    fleet: Open, raw: bytes, times: int
) -> None:
    async with fleet(lost, fine) as it:
        answer = await ask(it.port, raw)
        assert (answer.status, answer.body) == (200, b"fine")
        assert it.asked == [1, times]
        first, second = (origin.requests[0] for origin in it.origins)
        assert (first.start, first.body) == (second.start, second.body)
        assert it.retries == {"reset": 1}


@pytest.mark.parametrize(
    "raw",
    [
        request("POST", "/pay", body=b"body"),
        request("PATCH", "/pay", body=b"body"),
        request("POST", "/pay", "Idempotency-Key:", body=b"body"),
        request("PUT", "/large", body=b"x" * 65_537),
    ],
    ids=["POST", "PATCH", "an empty key", "a body that is not kept"],
)
async def test_one_that_may_not_is_a_502_and_is_sent_nowhere_else(fleet: Open, raw: bytes) -> None:
    async with fleet(lost, fine) as it:
        assert (await ask(it.port, raw)).status == 502
        assert it.asked == [1, 0]
        assert it.retries == {}


@pytest.mark.parametrize(("count", "status"), [(MAX_RESENDS, 200), (MAX_RESENDS + 1, 502)])
async def test_a_request_is_sent_so_often_and_no_more_and_to_each_backend_once(
    fleet: Open, count: int, status: int
) -> None:
    async with fleet(*[lost] * count, fine) as it:
        assert (await ask(it.port, request())).status == status
        assert it.asked == [*[1] * count, int(status == 200)]


async def test_the_only_backend_gets_it_twice_at_the_most(fleet: Open) -> None:
    async with fleet(lost) as it:
        assert (await ask(it.port, request())).status == 502
        assert it.asked == [2]


async def test_a_kept_connection_that_was_closed_is_replaced_by_another_to_the_same_backend(fleet: Open) -> None:
    async with fleet(in_turn(fine, lost, fine), fine) as it:
        for _ in range(4):
            assert (await ask(it.port, request())).status == 200
        assert it.asked == [3, 2], "the turns have not moved"
        assert it.retries == {"stale": 1}


async def test_a_put_of_an_unbound_item_is_repeated_on_its_backend_and_no_other(fleet: Open) -> None:
    async with fleet(in_turn(lost, fine), fine) as it:
        assert (await ask(it.port, request("PUT", "/items/7", body=b"{}"))).status == 200
        assert it.asked == [2, 0]
    async with fleet(lost, fine) as it:
        assert (await ask(it.port, request("PUT", "/items/7", body=b"{}"))).status == 502
        assert it.asked == [2, 0]


async def test_a_timeout_is_repeated_once_elsewhere(fleet: Open) -> None:
    async def silent(_message: Message, reader: asyncio.StreamReader, _writer: object) -> None:
        await reader.read()

    async with fleet(silent, fine, first_byte_timeout_s=0.2) as it:
        assert (await ask(it.port, request("POST", "/ping"))).status == 504
        assert it.asked == [1, 0]
    async with fleet(silent, fine, first_byte_timeout_s=0.2) as it:
        assert (await ask(it.port, request())).status == 200
        assert it.asked == [1, 1]
    async with fleet(silent, silent, silent, first_byte_timeout_s=0.2) as it:
        assert (await ask(it.port, request())).status == 504
        assert it.asked == [1, 1, 0]


async def test_a_request_that_no_backend_can_bear_counts_once(fleet: Open) -> None:
    async with fleet(lost, lost, lost) as it:
        assert (await ask(it.port, request())).status == 502
        assert sum(it.asked) > 1
        assert it.core.failures.suspects == {it.core.topology.members[0].backend.id}


async def test_silence_while_the_client_has_not_sent_all_is_not_the_backends_failure(fleet: Open) -> None:
    async with fleet(fine, fine, first_byte_timeout_s=0.2) as it:
        answer = await ask(it.port, request("PUT", "/ping", "Content-Length: 10") + b"abc")
        assert answer.status == 504
        assert it.core.failures.suspects == set()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_backends_own_answer_is_the_answer(fleet: Open, status: int) -> None:
    async with fleet(writes(b"HTTP/1.1 %d Own\r\nContent-Length: 3\r\n\r\nown" % status), fine) as it:
        answer = await ask(it.port, request())
        assert (answer.status, answer.body) == (status, b"own")
        assert it.asked == [1, 0]


async def test_a_malformed_answer_is_not_asked_for_again(fleet: Open) -> None:
    async with fleet(writes(b"garbage\r\n\r\n"), fine) as it:
        assert (await ask(it.port, request())).status == 502
        assert it.asked == [1, 0]


# The budget.


@pytest.mark.parametrize(("budget", "floor_per_s", "sent_again"), [(0.0, 3.0, 0), (0.01, 0.2, 2), (0.5, 0.0, 4)])
async def test_beyond_the_budget_requests_that_broke_are_502(
    fleet: Open, budget: float, floor_per_s: float, sent_again: int
) -> None:
    async with fleet(lost, retry_budget=budget, retry_floor_per_s=floor_per_s) as it:
        for _ in range(8):
            assert (await ask(it.port, request())).status == 502
        assert it.asked == [8 + sent_again]
        assert it.core.metrics.retries_refused == 8 - sent_again


async def test_a_connection_that_was_refused_is_no_matter_of_the_budget(fleet: Open) -> None:
    async with fleet(None, fine, retry_budget=0) as it:
        for _ in range(4):
            assert (await ask(it.port, request("POST", "/pay", body=b"1"))).status == 200
        assert set(it.retries) == {"connect"}


# Answers that break off.

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
HALF = [[HEAD[:20]], [HEAD], [HEAD, b"hell"], [HEAD + b"hell"], [HEAD, b"hello", b"worl"]]


@pytest.mark.parametrize("parts", HALF, ids=repr)
async def test_of_a_small_answer_that_breaks_off_nothing_is_seen(fleet: Open, parts: Sequence[bytes]) -> None:
    async with fleet(writes(*parts), fine) as it, connected(it.port) as client:
        for _ in range(2):
            answer = await client.ask(request("PUT", "/any", body=b"body"))
            assert (answer.status, answer.body) == (200, b"fine")
        assert [message.body for message in it.origins[1].requests] == [b"body"] * 2
        assert it.retries == {"reset": it.asked[0]}


async def test_of_one_that_may_not_be_repeated_nothing_is_seen_but_a_502(fleet: Open) -> None:
    async with fleet(writes(HEAD, b"hello"), fine) as it, connected(it.port) as client:
        assert (await client.ask(request("POST", "/pay", body=b"1"))).status == 502
        assert (await client.ask(request())).body == b"fine"
        assert it.asked == [1, 1]


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 65537", b"Transfer-Encoding: chunked"],
    ids=["large", "chunked"],
)
async def test_any_other_answer_begins_at_once_and_what_has_begun_is_not_repeated(fleet: Open, head: bytes) -> None:
    go_on = asyncio.Event()

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % head)
        writer.write(b"5\r\nhello\r\n" if b"chunked" in head else b"hello")
        await go_on.wait()
        writer.transport.abort()

    async with fleet(script, fine) as it, connected(it.port) as client:
        it.core.clock.stop()  # nothing waits for it
        await client.send(request())
        await asyncio.wait_for(client.reader.readuntil(b"hello"), 5)
        go_on.set()
        await client.rest()
        assert it.asked == [1, 0]


async def test_a_small_answer_that_comes_slowly_is_let_out_on_the_next_tick(fleet: Open) -> None:
    go_on = asyncio.Event()

    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await go_on.wait()
        writer.write(b"world")

    async with fleet(script) as it, connected(it.port) as client:
        await client.send(request())
        await client.reader.readuntil(b"hello")
        go_on.set()
        assert await client.reader.readexactly(5) == b"world"
        assert not it.core.holding


async def test_what_is_held_leaves_nothing_behind(fleet: Open) -> None:
    async with fleet(writes(HEAD, b"helloworld", closes=False)) as it:
        async with connected(it.port) as client:
            for _ in range(3):
                assert (await client.ask(request())).body == b"helloworld"
        assert not it.core.holding


# Items that one backend has.


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_request_for_an_item_is_repeated_on_its_owner(fleet: Open, method: str) -> None:
    async with fleet(fine, in_turn(lost, fine)) as it:
        await it.bind(1)
        assert (await ask(it.port, request(method, "/items/7"))).status == 200
        assert it.asked == [0, 2]
        assert await it.bound() == (None if method == "DELETE" else it.url(1))


async def test_a_patch_of_an_item_is_not(fleet: Open) -> None:
    async with fleet(fine, in_turn(lost, fine)) as it:
        await it.bind(1)
        assert (await ask(it.port, request("PATCH", "/items/7", body=b"{}"))).status == 502
        assert it.asked == [0, 1]


async def test_a_create_that_broke_is_a_502_and_stays_bound_to_where_it_was_sent(fleet: Open) -> None:
    async with fleet(lost, fine) as it:
        assert (await ask(it.port, request(*CREATE, body=b"{}"))).status == 502
        assert it.asked == [1, 0]
        assert (await it.bound(), await it.claims()) == (it.url(0), 1)


async def test_a_create_with_a_key_is_repeated_on_its_backend_and_no_other(fleet: Open) -> None:
    async with fleet(in_turn(lost, fine), fine) as it:
        assert (await ask(it.port, request(*CREATE, KEY, body=b"{}"))).status == 200
        assert it.asked == [2, 0]
        assert (await it.bound(), await it.claims()) == (it.url(0), 0)
    async with fleet(lost, fine) as it:
        assert (await ask(it.port, request(*CREATE, KEY, body=b"{}"))).status == 502
        assert it.asked == [2, 0]
        assert (await it.bound(), await it.claims()) == (it.url(0), 1)


# An owner that is down.


async def test_by_default_a_request_for_an_item_of_a_backend_that_is_down_is_a_503(fleet: Open) -> None:
    async with fleet(None, fine) as it:
        await it.bind(0)
        for raw in (request("GET", "/items/7"), request("DELETE", "/items/7"), request(*CREATE, body=b"{}")):
            answer = await ask(it.port, raw)
            assert (answer.status, answer.value("retry-after")) == (503, b"1")
            assert json.loads(answer.body)["title"] == "Owner unreachable"
        assert it.asked == [0, 0]
        assert (await it.bound(), await it.claims()) == (it.url(0), 0)


@asynccontextmanager
async def returning(script: Script, port: int) -> AsyncIterator[tuple[Origin, asyncio.Server]]:
    """An origin on a port that was refused until now."""
    it = Origin(script, port=port)
    server = await asyncio.start_server(it._serve, "127.0.0.1", port)
    try:
        yield it, server
    finally:
        server.close()


@asynccontextmanager
async def absent(fleet: Open, *, others: bool = False, **more: Any) -> AsyncIterator[tuple[Fleet, int]]:
    """A fleet whose first backend is away, on a port that may be listened on. `others`: it is not the only one."""
    port = free_port()
    async with fleet(port, *([fine] if others else []), **more) as it:
        yield it, port


def waiting(it: Fleet) -> int:
    """How many wait for the first backend to come back."""
    return len(it.core.pool(it.core.topology.members[0].backend)._absence)


async def wait_for(it: Fleet, count: int) -> None:
    async def holds() -> bool:
        return waiting(it) == count

    await wait_until_async(holds, f"{count} wait for the owner")


@pytest.mark.parametrize(
    "raw",
    [
        request("GET", "/items/7"),
        request("PATCH", "/items/7", body=b"body"),
        request("DELETE", "/items/7"),
        request(*CREATE, body=b"body"),
    ],
    ids=["GET", "PATCH", "DELETE", "create"],
)
async def test_with_wait_a_request_waits_for_its_owner_to_come_back(fleet: Open, raw: bytes) -> None:
    async with absent(fleet, owner_down="wait") as (it, port), connected(it.port) as client:
        await it.bind(0)
        await client.send(raw)
        await wait_for(it, 1)
        async with returning(fine, port) as (owner, _):
            assert (await client.answer()).body == b"fine"
            assert len(owner.requests) == 1
            assert owner.requests[0].body == raw.partition(b"\r\n\r\n")[2]
        assert await it.claims() == 0


async def test_many_wait_and_all_are_served_over_few_attempts_to_connect(fleet: Open) -> None:
    async with absent(fleet, owner_down="wait") as (it, port), AsyncExitStack() as stack:
        await it.bind(0)
        clients = [await stack.enter_async_context(connected(it.port)) for _ in range(20)]
        for client in clients:
            await client.send(request("GET", "/items/7"))
        await wait_for(it, 20)
        async with returning(fine, port) as (owner, _):
            assert {(await client.answer()).status for client in clients} == {200}
            assert len(owner.requests) == 20
        assert waiting(it) == 0


async def test_one_whose_owner_does_not_come_back_in_time_is_a_503(fleet: Open) -> None:
    async with absent(fleet, owner_down="wait", owner_wait_s=0.3) as (it, _):
        await it.bind(0)
        answer = await ask(it.port, request("GET", "/items/7"))
        assert (answer.status, json.loads(answer.body)["title"]) == (503, "Owner unreachable")
        answer = await ask(it.port, request(*CREATE, body=b"{}"))
        assert answer.status == 503
        assert (await it.bound(), await it.claims()) == (it.url(0), 0)


async def test_one_whose_client_leaves_waits_no_more_and_the_line_is_bounded(fleet: Open) -> None:
    async with absent(fleet, owner_down="wait", backend_max_waiting=1) as (it, _):
        await it.bind(0)
        async with connected(it.port) as client:
            await client.send(request("GET", "/items/7"))
            await wait_for(it, 1)
            assert (await ask(it.port, request("GET", "/items/7"))).status == 503
            client.leave()
        await wait_for(it, 0)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_with_rebind_an_item_gets_another_owner_before_its_request_is_sent(fleet: Open, method: str) -> None:
    standing: list[str | None] = []

    async def looks(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        standing.append(await it.bound())
        writer.write(ok(b"fine"))

    raw = request(*CREATE, body=b"{}") if method == "POST" else request(method, "/items/7")
    async with fleet(None, looks, owner_down="rebind") as it:
        await it.bind(0)
        for _ in range(2):
            assert (await ask(it.port, raw)).status == 200
        assert standing == [it.url(1)] * 2
        assert it.core.metrics.rebound == 1
        assert await it.claims() == 0


async def test_with_rebind_an_owner_that_is_known_to_be_down_is_not_tried(fleet: Open) -> None:
    async with fleet(fine, fine, owner_down="rebind") as it:
        for item, raw in ((7, request("GET", "/items/7")), (8, request("POST", "/items/?item_id=8", body=b"{}"))):
            await it.bind(0, item)
            await it.find(0, HealthStatus.DOWN)
            assert (await ask(it.port, raw)).status == 200
            assert await it.bound(item) == it.url(1)
        assert it.asked == [0, 2]


async def test_an_ejected_owner_is_not_gone(fleet: Open) -> None:
    async with fleet(fine, fine, owner_down="rebind") as it:
        await it.bind(0)
        await it.find(0, HealthStatus.EJECTED)
        assert (await ask(it.port, request("GET", "/items/7"))).status == 200
        assert it.asked == [1, 0]
        assert await it.bound() == it.url(0)


@pytest.mark.parametrize("state", [AdminState.DRAIN, AdminState.MAINT])
async def test_an_owner_that_an_operator_has_taken_out_is_not_gone(fleet: Open, state: AdminState) -> None:
    async with fleet(None, fine, owner_down="rebind") as it:
        await it.bind(0)
        await take_out(it, 0, state)
        await it.find(0, HealthStatus.DOWN)
        for raw in (request("GET", "/items/7"), request(*CREATE, body=b"{}")):
            assert (await ask(it.port, raw)).status == 503

        async def is_settled() -> bool:
            return not await it.claims()

        await wait_until_async(is_settled, "the create's claim is given back")
        assert (await it.bound(), it.asked) == (it.url(0), [0, 0])


async def take_out(it: Fleet, place: int, state: AdminState) -> None:
    """Have an operator take a backend out, and wait until the replica follows."""
    backend = it.core.topology.members[place].backend
    await Membership(it.redis, Keys("distributer")).change(
        lambda members: tuple(replace(m, state=state) if m.backend == backend else m for m in members)
    )

    async def is_followed() -> bool:
        await ask(it.port, request())
        return any(member.state is state for member in it.core.topology.members)

    await wait_until_async(is_followed, "the replica follows")
    for known in it.origins:
        known.requests.clear()


@pytest.mark.parametrize("is_bound", [False, True])
@pytest.mark.parametrize("owner_down", ["fail", "rebind"])
async def test_a_create_whose_backend_dies_of_it_is_made_nowhere_else_and_its_item_is_not_given_away(
    fleet: Open, owner_down: str, is_bound: bool
) -> None:
    async def dies(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        server.close()
        writer.transport.abort()

    async with absent(fleet, owner_down=owner_down, others=True) as (it, port):
        async with returning(dies, port) as (owner, server):
            if is_bound:
                await it.bind(0)
            assert (await ask(it.port, request(*CREATE, KEY, body=b"{}"))).status == 502
        assert (await it.bound(), await it.claims()) == (it.url(0), 1)
        for raw in (request("GET", "/items/7"), request(*CREATE, body=b"{}")):
            assert (await ask(it.port, raw)).status == 503
        assert len(owner.requests) == 1
        assert await it.bound() == it.url(0)
        assert it.asked == [0, 0]


async def test_an_item_that_is_claimed_stays_with_an_owner_that_is_known_to_be_down(fleet: Open) -> None:
    async with fleet(lost, fine, owner_down="rebind") as it:
        assert (await ask(it.port, request(*CREATE, body=b"{}"))).status == 502
        await it.find(0, HealthStatus.DOWN)
        for raw in (request("PATCH", "/items/7", body=b"{}"), request(*CREATE, body=b"{}")):
            # It is asked after all: only it can say what has become of the create.
            assert (await ask(it.port, raw)).status == 502
        assert it.asked == [3, 0]
        assert await it.bound() == it.url(0)


async def test_a_create_that_gives_its_item_away_does_not_follow_a_hint_back(fleet: Open) -> None:
    async with fleet(None, fine, owner_down="rebind") as it:
        await it.bind(0)
        it.core.fallback.remember(ItemId("7"), it.url(0))
        it.core.doubt_memory()
        assert (await ask(it.port, request(*CREATE, body=b"{}"))).status == 200
        assert await it.bound() == it.url(1)


async def test_a_delete_does_not_give_its_item_away(fleet: Open) -> None:
    async with fleet(None, fine, owner_down="rebind") as it:
        await it.bind(0)
        assert (await ask(it.port, request("DELETE", "/items/7"))).status == 503
        assert (await it.bound(), await it.claims(), it.asked) == (it.url(0), 0, [0, 0])


async def test_with_all_down_nothing_is_sent_and_the_refusal_says_so(fleet: Open) -> None:
    async with fleet(None, None, owner_down="rebind") as it:
        await it.bind(0)
        answer = await ask(it.port, request("GET", "/items/7"))
        assert (answer.status, answer.value("retry-after")) == (503, b"1")


# Items that the map has lost, and this replica remembers.


async def forgets(it: Fleet, place: int) -> None:
    """Have the replica see an item bound, and Redis lose that."""
    await it.bind(place)
    assert (await ask(it.port, request("GET", "/items/7"))).status == 200
    await it.redis.hdel("distributer:sticky", "7")
    it.core.doubt_memory()
    for known in it.origins:
        known.requests.clear()


async def test_a_lost_binding_is_written_back_before_the_answer_that_proves_it_is_let_out(fleet: Open) -> None:
    async with fleet(fine, fine) as it:
        await forgets(it, 1)
        assert (await ask(it.port, request("GET", "/items/7"))).status == 200
        assert await it.bound() == it.url(1)
        assert (await ask(it.port, request("PUT", "/items/7", body=b"{}"))).status == 200
        assert it.asked == [0, 2]
        assert it.core.fallback.hint(ItemId("7")) == ""


@pytest.mark.parametrize("status", [404, 410])
async def test_an_item_that_is_not_where_it_was_remembered_goes_round_again(fleet: Open, status: int) -> None:
    missing = writes(b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status, closes=False)
    async with fleet(in_turn(fine, missing), fine) as it:
        await forgets(it, 0)
        assert (await ask(it.port, request("GET", "/items/7"))).status == status
        assert await it.bound() is None
        answers = {(await ask(it.port, request("GET", "/items/7"))).status for _ in range(2)}
        assert answers == {status, 200}


async def test_an_answer_that_proves_nothing_leaves_the_hint(fleet: Open) -> None:
    async with fleet(in_turn(fine, writes(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), fine), fine) as it:
        await forgets(it, 0)
        assert (await ask(it.port, request("GET", "/items/7"))).status == 500
        assert await it.bound() is None
        assert (await ask(it.port, request("GET", "/items/7"))).status == 200
        assert await it.bound() == it.url(0)


async def test_a_delete_of_an_item_that_the_map_has_lost_finds_it(fleet: Open) -> None:
    async with fleet(fine, fine) as it:
        await forgets(it, 1)
        assert (await ask(it.port, request("DELETE", "/items/7"))).status == 200
        assert it.asked == [0, 1]
        assert (await it.bound(), await it.claims()) == (None, 0)
        assert it.core.fallback.hint(ItemId("7")) == ""


async def test_an_item_remembered_on_a_backend_in_maintenance_goes_round_and_stays_remembered(fleet: Open) -> None:
    async with fleet(fine, fine) as it:
        await forgets(it, 1)
        await take_out(it, 1, AdminState.MAINT)
        assert (await ask(it.port, request("GET", "/items/7"))).status == 200
        assert it.asked == [1, 0]
        assert it.core.fallback.hint(ItemId("7")) == it.url(1)


async def test_one_remembered_on_a_backend_that_is_down_is_refused_and_with_rebind_goes_round(fleet: Open) -> None:
    for policy, status in (("fail", 503), ("rebind", 200)):
        async with fleet(None, fine, owner_down=policy) as it:
            it.core.fallback.remember(ItemId("7"), it.url(0))
            it.core.doubt_memory()
            assert (await ask(it.port, request("GET", "/items/7"))).status == status


# What clients are told.


@pytest.mark.parametrize("shows", [False, True])
async def test_details_name_backends_only_to_clients_who_may_see_the_routing(fleet: Open, shows: bool) -> None:
    async with fleet(None, lost, routing_headers=shows) as it:
        await it.bind(0)
        answers = [await ask(it.port, request("GET", "/items/7")), await ask(it.port, request("POST", "/", body=b"1"))]
        assert [answer.status for answer in answers] == [503, 502]
        for place, answer in enumerate(answers):
            assert (f"127.0.0.1:{it.origins[place].port}" in json.loads(answer.body)["detail"]) is shows


async def test_failures_are_counted_by_why_they_were_repeated(fleet: Open) -> None:
    async with fleet(None, in_turn(fine, lost, lost, fine), fine) as it:
        for _ in range(4):
            assert (await ask(it.port, request())).status == 200
        assert it.core.metrics.retries[Failure.CONNECT] >= 1
        assert it.core.metrics.snapshot()["retries"].keys() == {"connect", "stale", "reset", "timeout"}

"""A backend is drained, parked and brought back under the load of three replicas: from the next request on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from distributer import Settings
from distributer.control import operate
from distributer.control.membership import Membership
from distributer.model import AdminState, Ticket
from distributer.routing.topology import Topology
from distributer.state.keys import Keys
from tests.support.cluster import DOORS, SharedRedis, distributers
from tests.support.items import ItemBackend, item_backend
from tests.support.raw import Message, ask, connected, request
from tests.support.waiting import wait_until_async

JSON = "Content-Type: application/json"


@dataclass(frozen=True)
class Seen:
    """One rotated request: when it was sent, its ticket, and the backend that it reached."""

    number: int
    ticket: int
    backend: str


@dataclass
class Cluster:
    """Four backends, three replicas, and rotated requests without a pause."""

    backends: Sequence[ItemBackend]
    ports: Sequence[int]
    settings: Settings
    membership: Membership
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0
    is_over: bool = False

    def url(self, place: int) -> str:
        return f"http://127.0.0.1:{self.backends[place].port}"

    async def load(self, port: int) -> None:
        async with connected(port) as client:
            while not self.is_over:
                self.sent += 1
                number = self.sent
                answer = await client.ask(request("GET", "/ping"))
                ticket, backend = answer.value("x-distributer-ticket"), answer.value("x-distributer-backend")
                assert answer.status == 200
                assert ticket is not None
                assert backend is not None
                self.seen.append(Seen(number, int(ticket), backend.decode()))

    async def more(self, count: int = 150) -> None:
        """Let the load go on for so many requests that are yet to be sent."""
        target = self.sent + count

        async def done() -> bool:
            return sum(it.number > target - count for it in self.seen) >= count

        await wait_until_async(done, "the load goes on")

    async def set_state(self, place: int, state: AdminState) -> tuple[Topology, int]:
        """Do as the command does. Returns the topology, and how many requests had been sent when it returned."""
        await operate.set_state(self.settings, f"127.0.0.1:{self.backends[place].port}", state, as_json=False)
        sent = self.sent
        topology = await self.membership.read()
        assert topology is not None
        return topology, sent

    async def send(self, method: str, item: int, replica: int = 0) -> Message:
        target = f"/items/?item_id={item}" if method == "POST" else f"/items/{item}"
        head = [JSON] if method == "POST" else []
        return await ask(self.ports[replica], request(method, target, *head, body=b"{}" if head else b""))


@pytest.fixture(params=DOORS)
async def cluster(request: pytest.FixtureRequest, redis_servers: Any) -> AsyncIterator[Cluster]:
    shared = SharedRedis(redis_servers("valkey").url)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(shared.client())
        await client.flushall()
        backends = [await stack.enter_async_context(item_backend()) for _ in range(4)]
        settings = shared.settings([backend.port for backend in backends], routing_headers=True)
        ports = await stack.enter_async_context(distributers(request.param, settings, shared, 3))
        yield Cluster(backends, ports, settings, Membership(client, Keys()))


@pytest.mark.redis
async def test_a_change_of_state_counts_from_the_next_request_on_and_each_epoch_is_exact(cluster: Cluster) -> None:
    for item in range(1, 9):
        assert (await cluster.send("POST", item)).status == 200
    mine = [item for item in range(1, 9) if item in cluster.backends[1].items]
    founded = await cluster.membership.read()
    assert founded is not None
    epochs = [founded]
    load = [asyncio.create_task(cluster.load(port)) for port in cluster.ports for _ in range(3)]
    await cluster.more()

    drained, sent = await cluster.set_state(1, AdminState.DRAIN)
    epochs.append(drained)
    assert all([(await cluster.send("GET", item, item % 3)).status == 200 for item in mine]), "its items keep working"
    creates = [await cluster.send("POST", item, item % 3) for item in range(100, 112)]
    assert [answer.status for answer in creates] == [200] * 12
    assert not set(range(100, 112)) & cluster.backends[1].items, "it gets no new ones"
    await cluster.more()
    assert not [it for it in cluster.seen if it.number > sent and it.backend == cluster.url(1)]

    parked, _ = await cluster.set_state(1, AdminState.MAINT)
    epochs.append(parked)
    answer = await cluster.send("GET", mine[0], 2)
    assert answer.status == 503
    assert b"Owner in maintenance" in answer.body
    await cluster.more()

    back, sent = await cluster.set_state(1, AdminState.READY)
    epochs.append(back)
    assert (await cluster.send("GET", mine[0], 2)).status == 200
    await cluster.more()
    cluster.is_over = True
    await asyncio.gather(*load)
    assert Counter(it.backend for it in cluster.seen if it.number > sent)[cluster.url(1)] > 10, "it takes part again"

    # Each ticket was used once, and fell where its epoch says: so the counts within an epoch differ by one at most.
    assert len({it.ticket for it in cluster.seen}) == len(cluster.seen)
    for it in cluster.seen:
        epoch = [epoch for epoch in epochs if epoch.after < it.ticket][-1]
        assert it.backend == epoch.ring().at(Ticket(it.ticket)).url

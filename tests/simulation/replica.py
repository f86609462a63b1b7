"""One replica, put together as `control/replica.py` does: the product's own parts, on a simulated process.

Three of its classes are derived from, only to see what they do, and to be told apart by numbers: sets of objects are
otherwise walked through in the order of their addresses, which no seed determines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import count
from typing import Any, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from uvicorn.server import ServerState

from distributer.clock import Clock
from distributer.control.lease import Lease
from distributer.control.sweeper import Sweeper
from distributer.doors.express import ExpressProtocol
from distributer.doors.lifespan import CORE_KEY
from distributer.errors import StateError
from distributer.forwarding import claimed, exchange
from distributer.forwarding.connection import UpstreamConnection, UpstreamUser
from distributer.forwarding.core import ForwardingCore, ForwardingOptions
from distributer.forwarding.limits import UpstreamLimits
from distributer.model import Backend, Outcome
from distributer.routing.route import Route
from distributer.routing.topology import Topology
from distributer.state.keys import Keys
from distributer.state.redis_link import HotLink
from distributer.state.redis_store import RedisStore
from tests.simulation.network import Wire
from tests.simulation.redis_server import ADDRESS, RedisServer
from tests.simulation.truth import Op
from tests.simulation.world import Process

CLAIM_TIMEOUT_S = 1.0
CLAIM_TTL_S = 1.5
REDIS_BUDGET_S = 0.05
START_S = 0.5
OPTIONS = ForwardingOptions(
    limits=UpstreamLimits(
        connect_timeout_s=0.2,
        first_byte_timeout_s=0.9,
        idle_timeout_s=0.9,
        keep_alive_s=0.4,
        lifetime_s=3.0,
        wait_timeout_s=0.2,
    ),
    claim_timeout_s=CLAIM_TIMEOUT_S,
)
"""As in the settings, but that everything takes a fraction of the time. docs/simulation.md has a table."""

_serials = count(1)


def op_of(user: object) -> Op | None:
    """Return the request of which an exchange is; None if it is the product's own."""
    request_id = getattr(user, "request_id", b"")
    return _process().world.truth.ops[int(request_id[3:])] if request_id.startswith(b"op-") else None


def _process() -> Process:
    return cast(Process, asyncio.get_running_loop())


class SimExchange(exchange.Exchange):
    """An exchange whose ways are known to the truth."""

    __slots__ = ()

    def _go(self, route: Route) -> None:
        op = op_of(self)
        assert op is not None
        _process().world.truth.routed(op, route, self._core, self.tried, self._exchanged)
        super()._go(route)

    def _got_owner(self, answer: Any) -> None:
        op, item = op_of(self), self.item
        if isinstance(answer, StateError) and op is not None and item is not None:
            op.is_degraded = self._core.fallback.owner(item) is not None
        super()._got_owner(answer)


class Numbered:
    """Has a number for its hash: a set of such is walked through in the same order, run after run."""

    def __init__(self, *arguments: Any) -> None:
        self._serial = next(_serials)
        super().__init__(*arguments)

    def __hash__(self) -> int:
        return self._serial

    def __eq__(self, other: object) -> bool:
        return self is other


class SimClaimedRequest(Numbered, claimed.ClaimedRequest):
    """A claimed request whose claims are known to the truth."""

    def begin(self) -> None:
        before = self.claim.id
        super().begin()
        op = op_of(self._exchange)
        # A begin that was answered at once has begun anew already, and told of that.
        if op is not None and self.claim.id != before and self.claim.id not in op.claims:
            _process().world.truth.claimed(op, self.claim.id)

    def settle(self, owner: str, outcome: Outcome) -> None:
        _process().world.truth.concluded(self.claim.id, outcome)
        super().settle(owner, outcome)

    def _settled(self, _error: StateError | None) -> None:
        op = op_of(self._exchange)
        if _error is not None and op is not None:
            op.is_unsettled = True
        super()._settled(_error)


class SimConnection(Numbered, UpstreamConnection):
    """A connection to a backend that tells when a request is begun to be sent."""

    def send(self, user: UpstreamUser, data: bytes, *, answers_head: bool, done: bool) -> None:
        op = op_of(user)
        if op is not None:
            op.sent += 1
        super().send(user, data, answers_head=answers_head, done=done)


class SimExpress(Numbered, ExpressProtocol):
    """The express door's protocol."""


class RedisConnection:
    """As much of redis-py's connection as the hot link asks for."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._reader = hiredis.Reader(replyError=ResponseError)
        self._reply: asyncio.Future[Any] | None = None
        self._writer: Any = self
        self.transport: Wire | None = None

    async def connect(self) -> None:
        await self._process.create_connection(lambda: self, *ADDRESS)

    async def send_command(self, *command: Any) -> None:
        assert self.transport is not None
        self._reply = self._process.create_future()
        self.transport.write(hiredis.pack_command(cast(Any, command)))

    async def read_response(self) -> Any:
        assert self._reply is not None
        return await self._reply

    async def disconnect(self, nowait: bool = False) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: Wire) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if (reply := self._reader.gets()) is not False and self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    def eof_received(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error or ConnectionResetError("closed"))
            self._reply.exception()  # looked at: who waited may have stopped waiting


class RedisConnections:
    """As much of redis-py's pool as the hot link asks for."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def make_connection(self) -> RedisConnection:
        return RedisConnection(self._process)


class RedisClient:
    """As much of redis-py's client as the lease asks for: what is beside the requests."""

    def __init__(self, process: Process, server: RedisServer) -> None:
        self._process = process
        self._server = server

    async def execute_command(self, *command: Any) -> Any:
        world = self._process.world
        await asyncio.sleep(world.network.latency())
        if not self._server.answers:
            raise RedisConnectionError("Redis does not answer")
        reply = self._server.run(command)
        await asyncio.sleep(world.network.latency())
        return reply


class NoExpiry:
    """Bindings are kept for ever."""

    async def sweep(self) -> None: ...


class Replica:
    """One process, and the replica that runs in it."""

    def __init__(self, process: Process, server: RedisServer, backends: Sequence[Backend]) -> None:
        self.process = process
        self.server_state = ServerState()
        self._server = server
        self._backends = backends
        process.deliver(self._start)

    def _start(self) -> None:
        process, keys = self.process, Keys()
        link = HotLink(cast(Any, RedisConnections(process)), REDIS_BUDGET_S)
        self.store = RedisStore(link, keys, CLAIM_TTL_S, Topology.of(self._backends))
        self.core = ForwardingCore(self._backends, self.store, OPTIONS, Clock(process.time))
        self.core.replica_id = process.name
        self._task = process.create_task(self._run())

    async def _run(self) -> None:
        await self.store.start()
        self.core.clock.start()
        with contextlib.suppress(StateError):
            await self.store.wait_ready(START_S)
            await self.store.refreshed()
        lease = Lease(cast(Any, RedisClient(self.process, self._server)), Keys(), self.process.name)
        lease.duties = (Sweeper(self.core, self.store, cast(Any, NoExpiry())).run,)
        await lease.run()

    def door(self) -> SimExpress:
        """Make the protocol of a client's connection."""
        return SimExpress(None, self.server_state, {CORE_KEY: self.core}, self.process.loop)

    def leaks(self) -> str:
        """Say what is held although no request is under way; "" if nothing is."""
        core = self.core
        held = {
            "claimed": len(core.claimed),
            "in flight": sum(metrics.in_flight for metrics in core.metrics.backends.values()),
            "waiting": sum(len(pool._waiting) for pool in core._pools.values()),
            "unsettled": len(self.store._unsettled),
        }
        return ", ".join(f"{count} {what}" for what, count in held.items() if count)

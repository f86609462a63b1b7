"""What both doors call, and what all exchanges of a replica share."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from distributer.clock import Clock
from distributer.forwarding.admission import Admission
from distributer.forwarding.attempts import FailedAttempts
from distributer.forwarding.failures import Failures
from distributer.forwarding.limits import ClientLimits, UpstreamLimits
from distributer.forwarding.locate import Locator
from distributer.forwarding.metrics import Metrics
from distributer.forwarding.pool import BackendPool
from distributer.forwarding.refusals import Refusals
from distributer.forwarding.wheel import Wheel
from distributer.model import AdminState, Backend, Health, HealthStatus
from distributer.routing.item import DEMO_RULES, ItemRules
from distributer.routing.retry import OwnerDown, RetryBudget
from distributer.routing.route import Route
from distributer.routing.topology import Topology
from distributer.state.fallback import Fallback
from distributer.state.store import Store
from distributer.wire.forwarded import OriginRules, Origins
from distributer.wire.parser import HEAD_LIMITS, HeadLimits
from distributer.wire.request import RequestHead
from distributer.wire.websocket import SERVICE_RESTART

UNREACHABLE_S = 1.0
"""How long a backend that refused a connection gets no new rotated requests from this replica."""

BAD_GATEWAY = 502
GATEWAY_TIMEOUT = 504
"""Answers from the one to the other say that a backend could not serve, as a gateway or for being overloaded."""

TUNNEL_CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class ForwardingOptions:
    """What is settable about forwarding. Times in seconds."""

    limits: UpstreamLimits = field(default_factory=UpstreamLimits)
    clients: ClientLimits = field(default_factory=ClientLimits)
    rules: ItemRules = DEMO_RULES
    claim_timeout_s: float = 60.0
    """The longest that a create or a delete may take: the claims' deadline in Redis is a little later."""
    tunnel_idle_timeout_s: float = 3600.0
    tunnel_drain_s: float = 10.0
    """How long into the drain WebSockets may go on, before they are closed."""
    locates_unbound: bool = False
    """Whether all backends are asked for an item that is bound nowhere, before it goes round or is created."""
    owner_down: OwnerDown = OwnerDown.FAIL
    owner_wait_s: float = 10.0
    """How long a request waits for its owner to come back, if it waits."""
    retry_budget: float = 0.2
    """The share of requests that may be sent again after they were sent."""
    retry_floor_per_s: float = 3.0
    routing_headers: bool = False
    heads: HeadLimits = HEAD_LIMITS
    origin: OriginRules = field(default_factory=OriginRules)


class Expiring(Protocol):
    """A claimed request that must end before its claim's deadline."""

    deadline: float
    """Coarse time, in seconds."""

    def expire(self) -> None:
        """End now."""


class Holding(Protocol):
    """An exchange that has let nothing out yet of the answer that it has the beginning of."""

    def let_out(self) -> None:
        """Hold it no more."""


class Joined(Protocol):
    """A tunnel."""

    def check(self, now: float) -> None:
        """End if silent for too long."""

    def cut(self) -> None:
        """End at once, for both sides to see."""

    def close(self, code: int) -> None:
        """Close a WebSocket properly, with that status code; leave other protocols alone."""


class Answered(Protocol):
    """What an access log may say of an exchange that has ended."""

    head: RequestHead
    route: Route | None

    @property
    def client(self) -> str:
        """The address of the client."""


class ForwardingCore:
    """One replica's way to the backends: its ring, its pools, its counters."""

    def __init__(
        self,
        backends: Sequence[Backend],
        store: Store,
        options: ForwardingOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.options = options or ForwardingOptions()
        self.clock = clock or Clock()
        self.store = store
        self.fallback = Fallback()
        self.origins = Origins(self.options.origin)
        self.metrics = Metrics()
        self.topology = Topology.of(backends)
        self.ring = self.topology.ring()
        """What tickets fall on. Swapped whole whenever anything in it changes."""
        self.replica_id = f"{os.getpid():x}-{os.urandom(4).hex()}"
        self.is_draining = False
        self.on_answer: Callable[[Answered, int], None] | None = None
        """Called with each exchange that ends and its status, for an access log."""
        self.admission = Admission(self.options.clients, self.metrics)
        self.refusals = Refusals()
        self.failed_attempts = FailedAttempts()
        self.retry_budget = RetryBudget(self.options.retry_budget, self.options.retry_floor_per_s, self.clock.now)
        self.wheel = Wheel(self.clock.now)
        self.holding: set[Holding] = set()
        """Exchanges whose answers are held: to the end of those, or until the second tick from now."""
        self._held_longer: set[Holding] = set()
        self.claimed: set[Expiring] = set()
        self.tunnels: set[Joined] = set()
        self._close_tunnels_at = math.inf
        self._next_tunnel_check = 0.0
        self._request_prefix = os.urandom(6).hex().encode()
        self._serial = 0
        self._pools: dict[str, BackendPool] = {}
        self._retired: list[BackendPool] = []
        """Pools of backends that are no longer of the cluster, until their last request is answered."""
        self.failures = Failures()
        self._unreachable: dict[Backend, float] = {}
        self._unwell: frozenset[str] = frozenset()
        self.health: Mapping[str, Health] = {}
        """What the prober has found, by backend id. A backend that is not in it is up."""
        self.locator = Locator(self) if self.options.locates_unbound else None
        store.watch(self)
        self.clock.watch(self._check)

    @property
    def rules(self) -> ItemRules:
        """Where requests speak of items."""
        return self.options.rules

    @property
    def holders(self) -> Sequence[Backend]:
        """The backends that may have items: not those in maintenance, nor those whose items are given to others."""
        has_given_up = self.options.owner_down is OwnerDown.REBIND
        return [
            member.backend
            for member in self.topology.members
            if member.joined
            and member.state is not AdminState.MAINT
            and not (has_given_up and self.is_gone(member.backend))
        ]

    def pool(self, backend: Backend) -> BackendPool:
        """Return the connections to a backend."""
        pool = self._pools.get(backend.id)
        if pool is None:
            metrics = self.metrics.backend(backend.id)
            pool = self._pools[backend.id] = BackendPool(backend, self.options.limits, self.clock, metrics)
        return pool

    def new_request_id(self) -> bytes:
        """Make an id for a request that came without one: unique, not secret."""
        self._serial += 1
        return b"%b-%x" % (self._request_prefix, self._serial)

    def new_claim_id(self) -> str:
        """Make an id for a claim, unique over the cluster."""
        self._serial += 1
        return f"{self.replica_id}-{self._serial:x}"

    def note_unreachable(self, backend: Backend, why: str) -> None:
        """Take a backend that refused a connection out of this replica's rotation, for a while."""
        self._unreachable[backend] = self.clock.now + UNREACHABLE_S
        self._see_down()
        self.failures.failed(backend.id, why, was_refused=True)

    def note_failed(self, backend: Backend, why: str) -> None:
        """Count a request that failed at a backend: a reset, a timeout, no HTTP."""
        self.failures.failed(backend.id, why)

    def note_reached(self, backend: Backend, status: int) -> None:
        """Take a backend that answered back into the rotation. Some answers are failures all the same."""
        if self._unreachable:
            self._believe_reachable(backend)
        if BAD_GATEWAY <= status <= GATEWAY_TIMEOUT:
            self.failures.failed(backend.id, f"it answered {status}")
        elif self.failures.suspects and backend.id in self.failures.suspects:
            self.failures.answered(backend.id)

    def follow(self, topology: Topology) -> None:
        """Route by that topology from now on."""
        self.topology = topology
        self.ring = topology.ring()
        self._see_down()
        members = {member.backend.id for member in topology.members}
        for backend_id in [backend_id for backend_id in self._pools if backend_id not in members]:
            pool = self._pools.pop(backend_id)
            pool.retire()
            self._retired.append(pool)

    def follow_health(self, health: Mapping[str, Health]) -> None:
        """Route by what the prober has found, from now on."""
        self.health = health
        self._unwell = frozenset(id_ for id_, found in health.items() if found.status is not HealthStatus.UP)
        self._see_down()

    def doubt_memory(self) -> None:
        """Redis may have lost its last writes."""
        self.fallback.doubt()
        if self.locator is not None:
            self.locator.start_anew()

    def start_draining(self) -> None:
        """Keep no client connection beyond its present request; WebSockets, `tunnel_drain_s` longer."""
        if not self.is_draining:
            self.is_draining = True
            self._close_tunnels_at = self.clock.now + self.options.tunnel_drain_s

    def is_gone(self, backend: Backend) -> bool:
        """Whether a backend that takes part in the rotation is known to be down, and not only ejected for a while.

        One that an operator has taken out is not gone, whatever its health: it is expected back.
        """
        found = self.health.get(backend.id)
        return found is not None and found.status is HealthStatus.DOWN and backend in self.ring.backends

    async def close(self) -> None:
        """Cut all connections to the backends, and the tunnels that are left."""
        for tunnel in tuple(self.tunnels):
            tunnel.cut()
        if self.locator is not None:
            await self.locator.close()
        await asyncio.gather(*(pool.close() for pool in (*self._pools.values(), *self._retired)))

    def _believe_reachable(self, backend: Backend) -> None:
        if self._unreachable.pop(backend, None) is not None:
            self._see_down()

    def _see_down(self) -> None:
        down = {backend for backend in self.ring.backends if backend.id in self._unwell or backend in self._unreachable}
        if down != self.ring.down:
            self.ring = self.ring.with_down(frozenset(down))

    def _check(self, now: float) -> None:
        for pool in self._pools.values():
            pool.check(now)
        if self._retired:
            for pool in self._retired:
                pool.check(now)
            self._retired = [pool for pool in self._retired if not pool.is_empty]
        for backend in [backend for backend, until in self._unreachable.items() if until <= now]:
            self._believe_reachable(backend)
        for exchange in [exchange for exchange in self.claimed if exchange.deadline <= now]:
            exchange.expire()
        if self.holding or self._held_longer:
            held_longest, self._held_longer, self.holding = self._held_longer, self.holding, set()
            for held in held_longest:
                held.let_out()
        self.retry_budget.turn(now, self.metrics.requests)
        self.wheel.turn(now)
        self.refusals.check(now)
        self.failed_attempts.check(now)
        if now >= self._next_tunnel_check:
            self._next_tunnel_check = now + TUNNEL_CHECK_S
            for tunnel in tuple(self.tunnels):
                if now >= self._close_tunnels_at:
                    tunnel.close(SERVICE_RESTART)
                tunnel.check(now)

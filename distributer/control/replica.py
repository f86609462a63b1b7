"""One replica: the shared state, the forwarding core and what is done beside the requests, opened and closed as one."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import redis.asyncio as redis

from distributer.config import Settings, require_backends
from distributer.control.complaint import Complaint
from distributer.control.expiry import Expiry
from distributer.control.follower import Follower
from distributer.control.lease import Lease
from distributer.control.membership import Membership
from distributer.control.prober import Prober, Probing
from distributer.control.record import Record
from distributer.control.registry import Registry
from distributer.control.reporter import Reporter
from distributer.control.sweeper import Sweeper
from distributer.doors.lifespan import OpenCore, running
from distributer.errors import StartupError, StateError
from distributer.forwarding.core import Answered, ForwardingCore, ForwardingOptions
from distributer.forwarding.limits import NO_BOUND, ClientLimits, UpstreamLimits
from distributer.forwarding.tunnel import CLOSE_WAIT_S
from distributer.routing.health import HealthRules, parse_statuses
from distributer.routing.retry import OwnerDown
from distributer.routing.topology import Topology
from distributer.state.keys import Keys
from distributer.state.redis_client import RedisRefusedError, client_of, close, ping, pool_of, redacted
from distributer.state.redis_link import ClientLink, HotLink
from distributer.state.redis_store import RedisStore, stored_ttl_ms
from distributer.tasks import end
from distributer.wire.forwarded import OriginRules
from distributer.wire.node import TrustedProxies
from distributer.wire.parser import HeadLimits

HEARTBEAT_S = 1.0
CONTROL_TIMEOUT_S = 2.0
RETRY_S = 0.5
CLAIM_MARGIN_S = 5.0
"""A claim's deadline in Redis is this much later than the time at which the replica cuts the request off."""

log = logging.getLogger("distributer")
access = logging.getLogger("distributer.access")


def version() -> str:
    """Return the version that is installed."""
    return importlib.metadata.version("distributer")


async def await_redis(settings: Settings, say: Callable[[str], None]) -> None:
    """Wait for a Redis that is not there yet, and say so.

    Raises StartupError when it never comes, and at once when it is there but refuses us.
    """
    deadline = time.monotonic() + settings.wait_redis_s
    keys = Keys(settings.prefix)
    where = redacted(settings.redis)
    said = False
    while True:
        try:
            await ping(settings.redis, CONTROL_TIMEOUT_S, (keys.rotation, keys.sticky, keys.claims))
        except RedisRefusedError as error:
            raise StartupError(f"redis: {where} {error}") from error
        except StateError as error:
            if time.monotonic() >= deadline:
                raise StartupError(
                    f"redis: {where} did not come within {settings.wait_redis_s:g} s: {error.detail or error}"
                ) from error
            if not said:
                said = True
                say(f"waiting for Redis at {where}, for up to {settings.wait_redis_s:g} s ({error.detail or error})")
            await asyncio.sleep(RETRY_S)
        else:
            return


async def enter_cluster(settings: Settings, say: Callable[[str], None]) -> None:
    """Wait for Redis, and bring the settings' backends into the cluster. Raises StartupError if Redis never comes."""
    await await_redis(settings, say)
    keys = Keys(settings.prefix)
    client = client_of(settings.redis, CONTROL_TIMEOUT_S)
    try:
        await _reconcile(settings, Membership(client, keys), Registry(client, keys))
    except StateError as error:
        log.warning("the backends could not be written to Redis; replicas will try again: %s", error)
    finally:
        await close(client)


async def _reconcile(settings: Settings, membership: Membership, registry: Registry) -> None:
    topology = await membership.reconcile(settings.backend_list, registry)
    others = [member for member in topology.members if member.backend.url not in settings.backends]
    if others:
        names = ", ".join(f"{member.backend.id} ({member.source}, {member.state.value})" for member in others)
        log.warning("the cluster has other backends than those of the settings: %s", names)


@asynccontextmanager
async def open_replica(
    settings: Settings,
    client: redis.Redis | None = None,
    wait_redis_s: float | None = None,
    *,
    reconciles: bool = True,
) -> AsyncIterator[ForwardingCore]:
    """Open a replica on the running loop.

    `client`: a redis-py client to use instead of links of its own, such as a fake. `wait_redis_s`: how long to wait for
    Redis before serving degraded; by default, as settings say, and then raise StartupError. `reconciles`: whether the
    settings' backends are brought into the cluster first; for workers, their supervisor has done that.
    """
    require_backends(settings)
    keys = Keys(settings.prefix)
    if client is None and wait_redis_s is None:
        await await_redis(settings, log.warning)
    link = (
        ClientLink(client, settings.redis_budget_s)
        if client is not None
        else HotLink(pool_of(settings.redis, CONTROL_TIMEOUT_S), settings.redis_budget_s)
    )
    topology = Topology.of(settings.backend_list)
    store = RedisStore(link, keys, settings.claim_timeout_s + CLAIM_MARGIN_S, topology, settings.sticky_ttl_s)
    own_client = client if client is not None else client_of(settings.redis, CONTROL_TIMEOUT_S)
    registry, membership, record = Registry(own_client, keys), Membership(own_client, keys), Record(own_client, keys)
    core = ForwardingCore(settings.backend_list, store, options_of(settings))
    if settings.access_log:
        core.on_answer = log_answer
    await store.start()
    with contextlib.suppress(StateError):  # degraded then; the store says so itself
        await store.wait_ready(CONTROL_TIMEOUT_S if wait_redis_s is None else wait_redis_s)
        if reconciles:
            await _reconcile(settings, membership, registry)
        # The first request already finds the cluster's ring, not that of the settings.
        await store.refreshed()
        core.follow_health((await record.read()).healths)
    expiry = Expiry(own_client, keys, stored_ttl_ms(settings.sticky_ttl_s))
    lease = Lease(own_client, keys, core.replica_id)
    prober = Prober(core, record, membership, lease, probing_of(settings), health_rules_of(settings))
    lease.duties = (prober.run, Sweeper(core, store, expiry).run)
    replica = _Replica(core, store, registry, membership, settings)
    tasks = [
        _spawn(replica.beat, "heartbeat"),
        _spawn(lease.run, "lease"),
        _spawn(Reporter(core.failures, record, settings.ejection_failures).run, "reporter"),
        _spawn(Follower(core, store, own_client, keys, prober.look).run, "follower"),
    ]
    try:
        async with running(core):
            yield core
    finally:
        await end(tasks)
        with contextlib.suppress(StateError):
            await lease.release()
            await registry.leave(core.replica_id)
        await store.stop()
        if client is None:
            await close(own_client)


def replica(settings: Settings, client: redis.Redis | None = None) -> OpenCore:
    """Prepare a replica to be opened by the middleware: nothing happens until the application starts."""
    return partial(open_replica, settings, client)


def options_of(settings: Settings) -> ForwardingOptions:
    """Pick what forwarding must know out of the settings."""
    return ForwardingOptions(
        limits=UpstreamLimits(
            connect_timeout_s=settings.connect_timeout_s,
            first_byte_timeout_s=settings.first_byte_timeout_s,
            idle_timeout_s=settings.idle_timeout_s,
            keep_alive_s=settings.upstream_keep_alive_s,
            lifetime_s=settings.upstream_lifetime_s or math.inf,
            max_in_flight=settings.backend_max_in_flight,
            max_waiting=settings.backend_max_waiting,
            wait_timeout_s=settings.backend_wait_timeout_s,
        ),
        clients=ClientLimits(
            idle_timeout_s=settings.client_idle_timeout_s,
            head_timeout_s=settings.head_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            max_body_bytes=settings.max_body_bytes or NO_BOUND,
            answer_buffer_bytes=settings.answer_buffer_bytes,
            max_connections=settings.max_client_connections,
            max_connections_per_address=settings.max_connections_per_address,
        ),
        heads=HeadLimits(
            max_head_bytes=settings.max_head_bytes,
            max_fields=settings.max_fields,
            max_target_bytes=settings.max_target_bytes,
        ),
        claim_timeout_s=settings.claim_timeout_s,
        locates_unbound=settings.unbound == "locate",
        tunnel_idle_timeout_s=settings.tunnel_idle_timeout_s,
        tunnel_drain_s=max(0.0, min(settings.tunnel_drain_s, settings.drain_timeout_s - CLOSE_WAIT_S)),
        owner_down=OwnerDown(settings.owner_down),
        owner_wait_s=settings.owner_wait_s,
        retry_budget=settings.retry_budget,
        retry_floor_per_s=settings.retry_floor_per_s,
        routing_headers=settings.routing_headers,
        origin=OriginRules(
            trusted=TrustedProxies(settings.trusted_proxies),
            adds_forwarded=settings.forwarded_header,
            rewrites_host=settings.host_header == "backend",
            via_name=settings.via_name.encode(),
        ),
    )


def probing_of(settings: Settings) -> Probing:
    """Pick how backends are probed out of the settings."""
    return Probing(
        path=settings.probe_path,
        interval_s=settings.probe_interval_s,
        timeout_s=settings.probe_timeout_s,
        statuses=parse_statuses(settings.probe_status),
    )


def health_rules_of(settings: Settings) -> HealthRules:
    """Pick when a backend is up, down or ejected out of the settings."""
    return HealthRules(
        rise=settings.probe_rise,
        fall=settings.probe_fall,
        ejection_failures=settings.ejection_failures,
        ejection_s=settings.ejection_s,
        ejection_max_s=settings.ejection_max_s,
    )


def log_answer(exchange: Answered, status: int) -> None:
    """Log one line for an exchange that has ended."""
    head, route = exchange.head, exchange.route
    where = f"→ {route.backend.id} {route.reason.value}" if route is not None else "→ nowhere"
    ticket = f" ticket {route.ticket}" if route is not None and route.ticket is not None else ""
    method, target = head.method.decode("latin-1"), head.target.decode("latin-1")
    access.info("%s %s %s %d %s%s", exchange.client, method, target, status, where, ticket)


class _Replica:
    """The heartbeat of one replica."""

    def __init__(
        self,
        core: ForwardingCore,
        store: RedisStore,
        registry: Registry,
        membership: Membership,
        settings: Settings,
    ) -> None:
        self._core = core
        self._store = store
        self._registry = registry
        self._membership = membership
        self._settings = settings
        self._started_at = time.time()
        self._complaint = Complaint(log, "this replica cannot show itself to the others")

    async def beat(self) -> None:
        """Give a sign of life every HEARTBEAT_S, until cancelled."""
        while True:
            try:
                if self._core.topology.version == 0:
                    # Redis was away when the cluster was started: the first to see it back founds it.
                    await self._membership.found(self._settings.backend_list)
                await self._registry.beat(self._core.replica_id, self._snapshot())
                self._complaint.worked()
            except StateError as error:
                self._complaint.failed(error)
            await asyncio.sleep(HEARTBEAT_S)

    def _snapshot(self) -> dict[str, Any]:
        mode = self._store.mode
        return {
            "version": version(),
            "pid": os.getpid(),
            "address": f"{self._settings.host}:{self._settings.port}",
            "started_at": round(self._started_at, 3),
            "redis_mode": mode.mode.value,
            "redis_mode_since": round(mode.since, 3),
            "redis_mode_changes": mode.changes,
            "redis_trouble": str(mode.trouble or ""),
            "draining": self._core.is_draining,
            "metrics": self._core.metrics.snapshot(),
        }


def _spawn(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(_kept(work, name), name=f"distributer-{name}")


async def _kept(work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
    """Do it until cancelled. What has failed is told, and done again: a replica without it would look well."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("the replica's %s has failed; it is started again", name)
        await asyncio.sleep(HEARTBEAT_S)

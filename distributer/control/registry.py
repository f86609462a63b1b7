"""What replicas tell about themselves in Redis, and what can be read there about the whole cluster.

None of this is on the way of a request: it uses an ordinary redis-py client.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, cast

import redis.asyncio as redis

from distributer.model import Health
from distributer.routing.health import NOT_PROBED
from distributer.state.agreement import health_of
from distributer.state.keys import Keys
from distributer.state.redis_link import decoded
from distributer.state.scripts import Script
from distributer.state.trouble import FAILURES, trouble_of

SNAPSHOT_TTL_S = 5
FORGET_REPLICA_S = 60
SCAN_PAGE = 1000
REMEMBERED_HEALTHS = 4096

_health_of = lru_cache(REMEMBERED_HEALTHS)(health_of)
"""Most of thousands of backends have the health that they had at the last look."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica that is alive: its snapshot, and the age of its last heartbeat in seconds."""

    id: str
    age_s: float
    snapshot: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One backend: how many items it holds, and what the replicas that live counted of it."""

    id: str
    url: str
    position: int
    state: str
    """ready, drain or maint: what is wanted of it."""
    joined: bool
    source: str
    health: Health
    health_age_s: float | None
    """How long it has been so; None if nobody has probed it."""
    ejected_for_s: float | None
    """How much longer its ejection lasts."""
    items: int
    requests: int
    failures: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """The whole cluster, as Redis knows it."""

    tickets: int
    items: int
    claims: int
    topology: int
    backends: Sequence[BackendStatus]
    unknown_owners: Mapping[str, int]
    """Items bound to base URLs that are no backends."""
    replicas: Sequence[ReplicaStatus]
    prober: str | None
    """The replica that probes the backends."""

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return asdict(self, dict_factory=_plain)


class Registry:
    """The backends and replicas of the cluster, in Redis. Every method raises StateError when Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def bound_among(self, urls: Collection[str]) -> set[str]:
        """Say which of these base URLs items are bound to. Takes up to one pass over the sticky map."""
        found: set[str] = set()
        async for page in self.bindings():
            found |= {owner for _, owner in page if owner in urls}
            if found == set(urls):
                break
        return found

    async def beat(self, replica_id: str, snapshot: Mapping[str, Any]) -> None:
        """Give a sign of life, with a snapshot of the replica's counters."""
        with translated():
            now = await self._now()
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.zadd(self._keys.replicas, {replica_id: now})
                pipeline.zremrangebyscore(self._keys.replicas, "-inf", now - FORGET_REPLICA_S)
                pipeline.set(self._keys.replica(replica_id), json.dumps(snapshot), ex=SNAPSHOT_TTL_S)
                await pipeline.execute()

    async def leave(self, replica_id: str) -> None:
        """Say goodbye."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.zrem(self._keys.replicas, replica_id)
                pipeline.delete(self._keys.replica(replica_id))
                await pipeline.execute()

    async def status(self) -> ClusterStatus:
        """Read the whole cluster. Takes one pass over the sticky map."""
        keys = self._keys
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.get(keys.rotation)
                pipeline.hlen(keys.sticky)
                pipeline.hlen(keys.claims)
                pipeline.get(keys.topology)
                pipeline.hgetall(keys.backends)
                pipeline.hgetall(keys.health)
                pipeline.get(keys.prober)
                tickets, items, claims, topology, backends, healths, prober = await pipeline.execute()
            now = await self._now()
        counts: Counter[str] = Counter()
        async for page in self.bindings():
            counts.update(owner for _, owner in page)
        replicas = await self.replicas()
        return ClusterStatus(
            tickets=_number(tickets),
            items=items,
            claims=claims,
            topology=_number(topology),
            backends=_backend_rows(backends, healths_of(healths), now, counts, replicas),
            unknown_owners=dict(counts),  # as asdict copies it; a Counter it would count
            replicas=replicas,
            prober=None if prober is None else decoded(prober),
        )

    async def replicas(self) -> Sequence[ReplicaStatus]:
        """List the replicas that are alive, oldest first by id."""
        with translated():
            now = await self._now()
            beats = cast(
                list[tuple[Any, float]], await self._client.zrange(self._keys.replicas, 0, -1, withscores=True)
            )
            alive = []
            for raw_id, beat in beats:
                replica_id = decoded(raw_id)
                raw = await self._client.get(self._keys.replica(replica_id))
                if raw is not None:
                    alive.append(ReplicaStatus(replica_id, max(0.0, round(now - beat, 3)), _json_object(raw)))
            return sorted(alive, key=lambda replica: replica.id)

    async def _now(self) -> float:
        """Read Redis' own time, in seconds: replicas' clocks may differ."""
        seconds, micros = await self._client.time()
        return seconds + micros / 1e6

    async def owner(self, item: str) -> str | None:
        """Look up the owner of one item."""
        with translated():
            owner = await cast(Awaitable[Any], self._client.hget(self._keys.sticky, item))
            return None if owner is None else decoded(owner)

    async def is_claimed(self, item: str) -> bool:
        """Whether a create or delete of the item is in flight, or in doubt."""
        with translated():
            return bool(await cast(Awaitable[Any], self._client.hexists(self._keys.claims, item)))

    async def bindings(self) -> AsyncIterator[list[tuple[str, str]]]:
        """Read the sticky map page by page, as (item, owner) pairs. What changes meanwhile may be in it or not."""
        cursor = 0
        while True:
            with translated():
                cursor, page = await cast(
                    Awaitable[tuple[int, dict[Any, Any]]],
                    self._client.hscan(self._keys.sticky, cursor, count=SCAN_PAGE),
                )
            yield [(decoded(item), decoded(owner)) for item, owner in page.items()]
            if cursor == 0:
                return


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, Enum) else value for name, value in pairs}


def healths_of(fields: Mapping[Any, Any]) -> dict[str, Health]:
    """Read the health hash. What anyone may have edited, and is no health, is left out."""
    found = {decoded(backend_id): _health_of(text) for backend_id, text in fields.items()}
    return {backend_id: health for backend_id, health in found.items() if health is not None}


def _backend_rows(
    raw: Mapping[Any, Any],
    healths: Mapping[str, Health],
    now: float,
    counts: dict[str, int],
    replicas: Sequence[ReplicaStatus],
) -> list[BackendStatus]:
    """Join the ring with the items (taken out of `counts`) and the replicas' counters."""
    rows = []
    for key, value in raw.items():
        backend_id, stored = decoded(key), _json_object(value)
        url = str(stored.get("url", ""))
        health = healths.get(backend_id, NOT_PROBED)
        seen = [replica.snapshot.get("metrics", {}).get("backends", {}).get(backend_id, {}) for replica in replicas]
        rows.append(
            BackendStatus(
                id=backend_id,
                url=url,
                position=_number(stored.get("position")),
                state=str(stored.get("state", "")),
                joined=stored.get("joined") is True,
                source=str(stored.get("source", "")),
                health=health,
                health_age_s=max(0.0, round(now - health.since, 3)) if health.since else None,
                ejected_for_s=max(0.0, round(health.until - now, 3)) if health.until else None,
                items=counts.pop(url, 0),
                requests=sum(part.get("requests", 0) for part in seen),
                failures=sum(part.get("failures", 0) for part in seen),
                in_flight=sum(part.get("in_flight", 0) for part in seen),
            )
        )
    return sorted(rows, key=lambda row: row.position)


def _number(value: Any) -> int:
    """Read a whole number that anyone may have edited; 0, if it is none."""
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0


def _json_object(raw: Any) -> dict[str, Any]:
    """Read a JSON object that anyone may have edited; nothing, if it is none."""
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


async def evaluate(client: redis.Redis, script: Script, keys: Sequence[str], *arguments: str | int) -> Any:
    """Run a script, and return its reply. Raises StateError."""
    with translated():
        return await cast(Any, client).execute_command("EVAL", script.source, len(keys), *keys, *arguments)


@contextmanager
def translated(key: str = "") -> Iterator[None]:
    """Translate redis-py's errors into StateError. `key`: what was asked for, to be named in what is logged."""
    try:
        yield
    except FAILURES as error:
        raise trouble_of(error, key) from error

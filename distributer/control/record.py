"""What the cluster has on record of its backends' health, in Redis: failures in a row, and the verdicts.

Replicas add to the failures; the holder of the lease turns them, and what its probes find, into verdicts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis

from distributer.control.registry import evaluate, healths_of, translated
from distributer.forwarding.failures import Row
from distributer.model import Health
from distributer.state.agreement import health_text
from distributer.state.keys import Keys
from distributer.state.redis_link import decoded
from distributer.state.scripts import HEALTH

WHY = " why"
"""Behind a backend's id: the field for what was wrong with the last failure. No id has a space."""

REFUSED = " refused"
"""Likewise, if one of them was a connection that was refused."""

FAILURES_EVENT = b"failures"


@dataclass(frozen=True, slots=True)
class Count:
    """So many requests to one backend failed, one after the other, over the cluster; `why` the last one did."""

    failures: int
    why: str
    was_refused: bool = False
    """A connection was refused among them: the backend was away."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All that is on record, by backend id."""

    healths: Mapping[str, Health]
    counts: Mapping[str, Count]


class Record:
    """Every method raises StateError when Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def read(self) -> Reading:
        """Read it. What anyone may have edited, and is no health and no count, is left out."""
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.hgetall(self._keys.health)
                pipeline.hgetall(self._keys.failures)
                healths, failures = await pipeline.execute()
        return Reading(healths_of(healths), _counts_of(failures))

    async def report(self, rows: Mapping[str, Row], threshold: int) -> None:
        """Add what one replica saw; and say so when it matters: a backend refuses connections, or must be ejected."""
        key = self._keys.failures
        urgent = any(row.was_refused for row in rows.values())
        counted = [row.failures for row in rows.values() if row.failures]
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                for backend_id, row in rows.items():
                    if row.is_anew:
                        pipeline.hdel(key, backend_id, backend_id + WHY, backend_id + REFUSED)
                for backend_id, row in rows.items():
                    if row.failures:
                        pipeline.hset(key, backend_id + WHY, row.why)
                    if row.was_refused:
                        pipeline.hset(key, backend_id + REFUSED, "1")
                for backend_id, row in rows.items():
                    if row.failures:
                        pipeline.hincrby(key, backend_id, row.failures)
                replies = await pipeline.execute()
            sums = replies[len(replies) - len(counted) :]
            if urgent or any(total - more < threshold <= total for total, more in zip(sums, counted, strict=True)):
                await self._client.publish(self._keys.events, FAILURES_EVENT)

    async def write(
        self, holder: str, verdicts: Mapping[str, Health], gone: Collection[str], anew: Collection[str]
    ) -> bool:
        """Write verdicts, forget backends that are gone, and let failures be counted anew. False: the lease is lost."""
        pairs = [part for backend_id, health in verdicts.items() for part in (backend_id, health_text(health))]
        keys = (self._keys.prober, self._keys.health, self._keys.failures)
        arguments: Sequence[str | int] = (holder, self._keys.events, len(verdicts), *pairs, len(gone), *gone, *anew)
        return bool(await evaluate(self._client, HEALTH, keys, *arguments))


def _counts_of(fields: Mapping[Any, Any]) -> dict[str, Count]:
    texts = {decoded(name): decoded(text) for name, text in fields.items()}
    return {
        name: Count(int(text), texts.get(name + WHY, "nobody said why"), was_refused=name + REFUSED in texts)
        for name, text in texts.items()
        if not name.endswith((WHY, REFUSED)) and text.isascii() and text.isdigit() and len(text) < 16 and int(text) > 0
    }

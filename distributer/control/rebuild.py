"""The sticky map from the backends' own lists: each listed item is bound, unless it is bound already.

It works while all runs. What is bound stays as it is, and so does what has claims on it. What does not fit together is
reported and left alone: only somebody who knows the application can say which of two copies is the right one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import redis.asyncio as redis

from distributer.clock import Clock
from distributer.control.listing import ListingError, listed
from distributer.control.registry import translated
from distributer.errors import RequestError
from distributer.forwarding.limits import UpstreamLimits
from distributer.forwarding.metrics import BackendMetrics
from distributer.forwarding.pool import BackendPool
from distributer.forwarding.question import ask, existence, question
from distributer.model import Backend, ItemId
from distributer.routing.item import ItemRules
from distributer.state.keys import Keys
from distributer.state.redis_link import decoded
from distributer.state.scripts import BIND

ASK_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Conflict:
    """An item that one backend lists, and that is bound to another.

    `owner_has_it`: whether that has it as well, so that there are two copies; None if it does not say.
    """

    item: ItemId
    listed_by: str
    bound_to: str
    owner_has_it: bool | None


@dataclass(slots=True)
class Findings:
    """What came of it. Each item that is listed is counted in one of `bound`, `kept`, `claimed` and `conflicts`."""

    listed: int = 0
    bound: int = 0
    """Were bound nowhere, and now are; without `is_dry_run`."""
    kept: int = 0
    """Were bound to the backend that lists them."""
    claimed: int = 0
    """Are being created or deleted, or are in doubt: that binds or unbinds them."""
    conflicts: list[Conflict] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Why a backend could not be walked to the end, by its base URL."""

    @property
    def is_clean(self) -> bool:
        """Whether every backend was walked, and all of it fits together."""
        return not self.conflicts and not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return asdict(self)


class Rebuild:
    """One walk over all backends. `say` is called with the findings so far, after each page."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        backends: Sequence[Backend],
        list_path: str,
        rules: ItemRules,
        sticky_ttl_ms: int,
        *,
        is_dry_run: bool = False,
        say: Callable[[Backend, Findings], None] = lambda _backend, _findings: None,
    ) -> None:
        self._client: Any = client
        self._keys = keys
        self._backends = backends
        self._list_path = list_path
        self._rules = rules
        self._sticky_ttl_ms = sticky_ttl_ms
        self._is_dry_run = is_dry_run
        self._say = say
        self._planned: dict[ItemId, str] = {}
        """What would have been bound, in a dry run."""
        self.findings = Findings()

    async def run(self) -> Findings:
        """Walk all backends. Raises StateError if Redis fails; what was bound until then stays."""
        async with self._pools() as pools:
            for backend in self._backends:
                try:
                    async for page in listed(pools[backend.url], self._list_path):
                        await self._take(backend.url, page, pools)
                        self._say(backend, self.findings)
                except ListingError as error:
                    self.findings.failures[backend.url] = str(error)
        return self.findings

    async def _take(self, url: str, page: Sequence[ItemId], pools: Mapping[str, BackendPool]) -> None:
        found = self.findings
        found.listed += len(page)
        standing = await self._owners(page)
        unbound = [item for item in page if standing[item] is None]
        if self._is_dry_run:
            for item in unbound:
                self._planned[item] = url
            found.bound += len(unbound)
        else:
            for item, stands in (await self._bind(url, unbound)).items():
                # Bound meanwhile, or by a create in flight: as for the others, it counts where.
                standing[item] = None if stands == url else stands
                found.bound += stands == url
        for item, owner in standing.items():
            if owner == "":
                found.claimed += 1
            elif owner == url:
                found.kept += 1
            elif owner is not None:
                found.conflicts.append(Conflict(item, url, owner, await self._has(pools.get(owner), item)))

    async def _owners(self, items: Sequence[ItemId]) -> dict[ItemId, str | None]:
        with translated():
            owners = await cast(Awaitable[list[Any]], self._client.hmget(self._keys.sticky, items))
        return {
            item: self._planned.get(item) if owner is None else decoded(owner)
            for item, owner in zip(items, owners, strict=True)
        }

    async def _bind(self, url: str, items: Sequence[ItemId]) -> dict[ItemId, str]:
        """Bind items, all in one round trip. Return the bindings that stand: "" where there are claims instead."""
        if not items:
            return {}
        keys = (self._keys.sticky, self._keys.claims, self._keys.expiry)
        with translated():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.script_load(BIND.source)
                for item in items:
                    pipeline.evalsha(BIND.sha1, len(keys), *keys, item, "", url, self._sticky_ttl_ms)
                _, *owners = await pipeline.execute()
        return {item: decoded(owner) for item, owner in zip(items, owners, strict=True)}

    async def _has(self, pool: BackendPool | None, item: ItemId) -> bool | None:
        if pool is None:
            return None
        with contextlib.suppress(RequestError, TimeoutError):
            target = f"{self._rules.collection}{item}".encode()
            return existence(await ask(pool, question(pool.backend, target), ASK_TIMEOUT_S))
        return None

    @asynccontextmanager
    async def _pools(self) -> AsyncIterator[Mapping[str, BackendPool]]:
        clock = Clock()
        pools = {
            backend.url: BackendPool(backend, UpstreamLimits(), clock, BackendMetrics()) for backend in self._backends
        }
        try:
            yield pools
        finally:
            for pool in pools.values():
                await pool.close()

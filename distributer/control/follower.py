"""Following what others decide: the topology and the health of the backends, by event and by poll.

Requests see a change of the topology without this, with their own round trip to Redis. What has none of its own is
health; and a replica without traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import redis.asyncio as redis

from distributer.control.complaint import Complaint
from distributer.control.record import FAILURES_EVENT, Record
from distributer.control.registry import translated
from distributer.errors import StateError
from distributer.forwarding.core import ForwardingCore
from distributer.state.keys import Keys
from distributer.state.redis_store import RedisStore

POLL_S = 2.0
"""An event may be lost: then a change of health is seen so much later."""

log = logging.getLogger("distributer.follower")


class Follower:
    """Keeps one replica's view of the backends up to date."""

    def __init__(
        self,
        core: ForwardingCore,
        store: RedisStore,
        client: redis.Redis,
        keys: Keys,
        on_failures: Callable[[], None] = lambda: None,
    ) -> None:
        self._core = core
        self._store = store
        self._client = client
        self._keys = keys
        self._record = Record(client, keys)
        self._on_failures = on_failures
        self._complaint = Complaint(log, "the backends' health is not followed")

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                with translated():
                    await self._follow()
            except StateError as error:
                self._complaint.failed(error)
            await asyncio.sleep(POLL_S / 2)

    async def _follow(self) -> None:
        async with self._client.pubsub() as events:
            await events.subscribe(self._keys.events)
            while True:
                self._store.refresh()
                reading = await self._record.read()
                self._core.follow_health(reading.healths)
                self._core.failures.follow(reading.counts.keys())
                self._complaint.worked()
                event = await events.get_message(ignore_subscribe_messages=True, timeout=POLL_S)
                # Of a burst, one look sees all.
                while event is not None:
                    if event["data"] == FAILURES_EVENT:
                        self._on_failures()
                    event = await events.get_message(ignore_subscribe_messages=True, timeout=0)

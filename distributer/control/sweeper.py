"""Resolving doubts: whoever holds the lease asks the backends about items whose claims have passed their deadline.

A create whose outcome nobody knows (a timeout, a replica that died) leaves its binding pending. Past the deadline no
replica works on it any more, so its backend's word is final: it has the item, or it has not.
"""

from __future__ import annotations

import asyncio
import logging

from distributer.control.complaint import Complaint
from distributer.control.expiry import Expiry
from distributer.errors import RequestError, StateError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.question import ask, existence, question
from distributer.model import Doubt
from distributer.state.store import Doubts

INTERVAL_S = 1.0
ASK_TIMEOUT_S = 2.0

log = logging.getLogger("distributer.sweeper")


class Sweeper:
    """Resolves doubts, one round each second, while this replica holds the lease.

    Two sweepers at a time do no harm: each resolution is checked against the claims' version.
    """

    def __init__(self, core: ForwardingCore, doubts: Doubts, expiry: Expiry) -> None:
        self._core = core
        self._doubts = doubts
        self._expiry = expiry
        self._complaint = Complaint(log, "creates and deletes in doubt are not resolved")

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.sweep()
                await self._expiry.sweep()
                self._complaint.worked()
            except StateError as error:
                self._complaint.failed(error)

    async def sweep(self) -> None:
        """Ask about each item in doubt, and confirm or release its binding. Raises StateError.

        A backend that does not answer is not asked again in this round, so that its doubts do not hold up the others'.
        """
        silent: set[str] = set()
        cursor = 0
        while True:
            cursor, doubts = await self._doubts.doubts(cursor)
            for doubt in doubts:
                if doubt.owner in silent:
                    continue
                try:
                    exists = await self._exists(doubt)
                except (RequestError, TimeoutError):
                    silent.add(doubt.owner or "")
                    continue
                if exists is not None:
                    await self._resolve(doubt, exists=exists)
            if cursor == 0:
                return

    async def _resolve(self, doubt: Doubt, *, exists: bool) -> None:
        if await self._doubts.resolve(doubt, exists=exists):
            log.info("doubt resolved", extra={"item": doubt.item, "owner": doubt.owner, "exists": exists})

    async def _exists(self, doubt: Doubt) -> bool | None:
        """Ask the owner whether it has the item. None: its answer says neither.

        Raises RequestError or TimeoutError when there is no answer.
        """
        if doubt.owner is None:
            return False
        backend = self._core.ring.by_url(doubt.owner)
        if backend is None:
            return None
        head = question(backend, f"{self._core.options.rules.collection}{doubt.item}".encode())
        return existence(await ask(self._core.pool(backend), head, ASK_TIMEOUT_S))

"""The end of bindings that nobody uses (`sticky_ttl_s`): what whoever holds the lease does for it.

A server that lets fields of hashes expire (Redis 7.4, Valkey 9) ends them by itself. Elsewhere this does. On both, it
walks the map page by page, so that bindings come to have the expiry that the settings say, however they were made.
"""

from __future__ import annotations

import logging

import redis.asyncio as redis

from distributer.control.registry import evaluate
from distributer.state.keys import Keys
from distributer.state.redis_link import decoded
from distributer.state.scripts import EXPIRE

PAGE = 500
"""How many bindings one round looks at: half a millisecond of Redis' time."""
MAX_PAGES_DUE = 20
"""The most pages of due bindings in one round."""

log = logging.getLogger("distributer.expiry")


class Expiry:
    """Ends what is due. `sticky_ttl_ms`: 0 when bindings are kept for ever."""

    def __init__(self, client: redis.Redis, keys: Keys, sticky_ttl_ms: int) -> None:
        self._client = client
        self._keys = keys
        self._ttl_ms = sticky_ttl_ms
        self._cursor = "0"
        self._is_settled = False
        """Without an expiry one walk will do: it takes away what was left by other settings."""

    async def sweep(self) -> None:
        """Do one round. Raises StateError."""
        if self._is_settled:
            return
        for _ in range(MAX_PAGES_DUE):
            due, self._cursor = await self._expire()
            if due:
                log.debug("bindings ended that nobody has used", extra={"items": due})
            if due < PAGE:
                break
        self._is_settled = not self._ttl_ms and self._cursor == "0"

    async def _expire(self) -> tuple[int, str]:
        keys = self._keys
        hashes = (keys.sticky, keys.claims, keys.expiry)
        due, cursor = await evaluate(self._client, EXPIRE, hashes, self._cursor, PAGE, self._ttl_ms)
        return due, decoded(cursor)

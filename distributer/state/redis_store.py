"""The shared state, in Redis: the Protocols of `store.py` over one link and one group commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from redis.exceptions import NoScriptError

from distributer.errors import StateError
from distributer.model import Begun, Claim, Doubt, ItemId, Operation, Outcome, Places, Ticket
from distributer.routing.topology import Topology
from distributer.state.agreement import Reading, change_command, changed_of, read_command, reading_of
from distributer.state.commit import Batch, Command, GroupCommit, Reply
from distributer.state.keys import Keys
from distributer.state.redis_link import Link, decoded
from distributer.state.scripts import BEGIN, BIND, DOUBTS, RESOLVE, SETTLE, Script
from distributer.state.store import Watcher

log = logging.getLogger("distributer.state")

_FULL = 1
_STALE = 2
"""What `begin.lua` refuses with."""

KINDS = {Operation.CREATE: "c", Operation.DELETE: "d"}
MAX_UNSETTLED = 10_000
"""Settlements kept for the return of Redis. One that is dropped is not lost: its claim passes its deadline, and the
sweeper asks the backend."""
DOUBTS_PAGE = 100


class RedisStore:
    """Tickets, bindings and doubts in Redis.

    `mode_since` (seconds, `time.time`) and `is_degraded` tell whether the last word from Redis was an answer; each
    change is logged once.
    """

    def __init__(self, link: Link, keys: Keys, claim_ttl_s: float, topology: Topology) -> None:
        """`topology`: that of the settings, until Redis has another."""
        self._link = link
        self._keys = keys
        self._claim_ttl_ms = int(claim_ttl_s * 1000)
        self._commit = GroupCommit(keys.rotation, keys.sticky, keys.topology)
        self._topology = topology
        self._watcher: Watcher | None = None
        self._version: Reply = None
        """The version of the topology as the reply has it; None: Redis had none yet."""
        self._unreadable: Reply = None
        """A version whose topology could not be read: not to be tried again with each round trip."""
        self._seen: Reply = None
        self._highest = 0
        """The highest ticket seen. A lower one has been dealt before: Redis has lost writes."""
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._is_quiet = True
        """Whether the last round trip served a single request."""
        self._unsettled: dict[str, Command] = {}
        self._heard = asyncio.Event()
        self._is_stopping = False
        self._has_said_away = False
        """Whether the log tells of an absence whose end is still to be told."""
        self.is_degraded = True
        self.mode_since = time.time()
        self.degraded_reason = "not connected yet"

    async def start(self) -> None:
        """Connect in the background."""
        await self._link.start(self._on_change)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until Redis answers. Raises StateError, with the reason, when it does not within timeout_s; logs it."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            self._say_away()
            raise StateError(self.degraded_reason) from None

    async def stop(self) -> None:
        """Disconnect. Whoever still waits gets a StateError."""
        self._is_stopping = True
        await self._link.stop()

    # Rotation and bindings: each call joins the next round trip.

    def ticket(self, deliver: Callable[[Ticket | StateError], None]) -> None:
        self._commit.join_ticket(deliver)
        if not self._is_scheduled:
            self._hurry()

    def owner(self, item: ItemId, deliver: Callable[[str | StateError | None], None]) -> None:
        self._commit.join_lookup(item, deliver)
        if not self._is_scheduled:
            self._hurry()

    def begin(
        self,
        claim: Claim,
        places: Places,
        deliver: Callable[[Begun | StateError], None],
        *,
        hint: str = "",
        gone: str = "",
    ) -> None:
        keys = (self._keys.rotation, self._keys.sticky, self._keys.claims, self._keys.topology)
        arguments: Sequence[str | int] = (
            claim.item,
            claim.id,
            KINDS[claim.operation],
            self._claim_ttl_ms,
            places.version,
            self._highest,
            hint,
            gone,
            places.usable,
            places.shift,
            *places.urls,
        )

        def replied(reply: Reply) -> None:
            if isinstance(reply, list) and len(reply) == 3:
                owner, ticket, refusal = reply
                if refusal == _STALE:
                    self.refresh(lambda: deliver(Begun(None, is_stale=True)))
                    return
                self._highest = max(self._highest, ticket)
                deliver(Begun(decoded(owner) or None, Ticket(ticket) if ticket else None, is_full=refusal == _FULL))
            else:
                error = _as_error(reply)
                # Whether it took effect is not known. If it did, nothing was sent for it: give the claim back.
                self._settle_later(claim, "", Outcome.FAILED)
                deliver(error)

        self._run(BEGIN, keys, arguments, replied)

    def settle(self, claim: Claim, owner: str, outcome: Outcome, deliver: Callable[[StateError | None], None]) -> None:
        if outcome is Outcome.UNKNOWN:
            # Its claim stays until the deadline; then the sweeper asks.
            self._loop.call_soon(deliver, None)
            return

        def replied(reply: Reply) -> None:
            if isinstance(reply, Exception):
                self._settle_later(claim, owner, outcome)
                deliver(_as_error(reply))
            else:
                deliver(None)

        self._run(SETTLE, *self._settlement(claim, owner, outcome), replied)

    def bind(self, item: ItemId, instead_of: str, owner: str, deliver: Callable[[str | StateError], None]) -> None:
        def replied(reply: Reply) -> None:
            deliver(_as_error(reply) if isinstance(reply, Exception) else decoded(reply))

        self._run(BIND, (self._keys.sticky, self._keys.claims), (item, instead_of, owner), replied)

    # The topology: followed with each round trip.

    def watch(self, watcher: Watcher) -> None:
        self._watcher = watcher
        watcher.follow(self._topology)

    def refresh(self, then: Callable[[], None] = lambda: None) -> None:
        """Look whether the topology has changed, and follow it; then go on, whatever came of it."""
        self._commit.join_refresh(then)
        if not self._is_scheduled:
            self._hurry()

    async def refreshed(self) -> None:
        """Follow the topology as it is now."""
        done = asyncio.Event()
        self.refresh(done.set)
        await done.wait()

    def _is_news(self, batch: Batch, replies: Sequence[Reply]) -> bool:
        if not batch.has_version:
            return False
        version = self._seen = batch.version(replies)
        is_other = version not in (self._version, self._unreadable) and not isinstance(version, Exception)
        return is_other or batch.is_refresh or 0 < batch.first_ticket(replies) <= self._highest

    def _learn(self, then: Callable[[StateError | None], None], attempts: int = 3) -> None:
        """Read the topology, write it if Redis has lost it, or the counter has fallen back; then go on.

        With an error if that could not be done: tickets of the new epoch must not fall by the old ring. The link is
        free, and no batch can be sent meanwhile, for the one in whose replies the news was is not settled.
        """

        def give_up(why: object) -> None:
            log.warning("the topology in Redis is of no use; going on with the one before: %s", why)
            self._unreadable = self._seen
            # Or its tickets would be exchanged for ever: better used twice than not served.
            self._highest = 0
            then(None)

        def read(replies: Sequence[Reply] | StateError) -> None:
            if isinstance(replies, StateError):
                then(replies)
                return
            try:
                reading = reading_of(replies[0])
            except ValueError as error:
                give_up(error)
                return
            if reading.topology is not None and reading.counter >= self._highest:
                self._adopt(reading.topology)
                then(None)
            elif reading.topology is None and self._topology.version == 0:
                # Nothing was ever agreed on: whoever starts the cluster writes it, not each replica.
                self._version, self._highest = self._seen, 0
                then(None)
            else:
                write(reading)

        def write(reading: Reading) -> None:
            log.warning("Redis has lost writes; a new epoch of the rotation begins", extra={"counter": reading.counter})
            if self._watcher is not None:
                self._watcher.doubt_memory()
            present = reading.topology or self._topology
            command = change_command(self._keys, present, reading.version, present.members, self._highest)

            def written(replies: Sequence[Reply] | StateError) -> None:
                if isinstance(replies, StateError):
                    then(replies)
                    return
                try:
                    changed = changed_of(replies[0], present.members)
                except ValueError as error:
                    give_up(error)
                    return
                if changed is not None:
                    self._adopt(changed)
                    then(None)
                elif attempts:
                    self._learn(then, attempts - 1)  # another replica was faster
                else:
                    give_up("it changes all the time")

            self._link.send([command], written)

        self._link.send([read_command(self._keys)], read)

    def _adopt(self, topology: Topology) -> None:
        self._version = b"%d" % topology.version
        self._highest = max(self._highest, topology.after)
        if topology != self._topology:
            self._topology = topology
            if self._watcher is not None:
                self._watcher.follow(topology)

    # Doubts: the sweeper's side.

    async def doubts(self, cursor: int) -> tuple[int, Sequence[Doubt]]:
        reply = await self._ask(DOUBTS, (self._keys.sticky, self._keys.claims), (cursor, DOUBTS_PAGE))
        next_cursor, rows = reply
        found = [
            Doubt(ItemId(decoded(item)), decoded(owner) or None, int(version))
            for item, owner, version in zip(rows[0::3], rows[1::3], rows[2::3], strict=True)
        ]
        return int(next_cursor), found

    async def resolve(self, doubt: Doubt, *, exists: bool) -> bool:
        arguments = (doubt.item, doubt.owner or "", doubt.version, int(exists))
        return bool(await self._ask(RESOLVE, (self._keys.sticky, self._keys.claims), arguments))

    # The round trips.

    def _hurry(self) -> None:
        # Alone, a request need not wait for the end of the turn: nobody would share its round trip.
        if self._is_quiet and self._link.is_up:
            self._flush()
        else:
            self._schedule()

    def _schedule(self) -> None:
        # At the end of this turn of the loop: requests that were read in the same turn share the round trip.
        self._is_scheduled = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        batch = self._commit.next_batch()
        if batch is None:
            return
        self._is_quiet = batch.size == 1
        if not self._link.is_up:
            self._commit.settle(batch, StateError(self.degraded_reason))
            return

        def replied(replies: Sequence[Reply] | StateError) -> None:
            if isinstance(replies, StateError) or not self._is_news(batch, replies):
                deal(replies)
            else:
                self._learn(lambda error: deal(error or replies))

        def deal(replies: Sequence[Reply] | StateError) -> None:
            if isinstance(replies, StateError):
                error = self._commit.settle(batch, replies)
            elif (first := batch.first_ticket(replies)) and first <= self._highest:
                error = self._commit.settle_without_tickets(batch, replies)
            else:
                if first:
                    self._highest = replies[0]
                error = self._commit.settle(batch, replies)
            if error is not None or self.is_degraded:
                self._on_change(error)
            if not self._is_scheduled and self._commit.has_waiting:
                self._schedule()

        self._link.send(batch.commands, replied)

    def _run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | int], deliver: Callable[[Reply], None]
    ) -> None:
        tail = (len(keys), *keys, *arguments)

        def replied(reply: Reply) -> None:
            # The server does not know the script yet, or was told to forget it: send the text, which it then keeps.
            if _is_unknown_script(reply):
                self._join(("EVAL", script.source, *tail), deliver)
            else:
                deliver(reply)

        self._join(("EVALSHA", script.sha1, *tail), replied)

    def _join(self, command: Command, deliver: Callable[[Reply], None]) -> None:
        self._commit.join_script(command, deliver)
        if not self._is_scheduled:
            self._hurry()

    async def _ask(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Reply:
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._run(script, keys, arguments, lambda reply: None if answer.done() else answer.set_result(reply))
        reply = await answer
        if isinstance(reply, Exception):
            raise _as_error(reply)
        return reply

    def _settlement(self, claim: Claim, owner: str, outcome: Outcome) -> tuple[Sequence[str], Sequence[str | int]]:
        keys = (self._keys.sticky, self._keys.claims)
        return keys, (claim.item, claim.id, KINDS[claim.operation], owner, outcome.value)

    def _settle_later(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        """Keep a settlement for the return of Redis. It is idempotent, so one that did take effect does no harm."""
        if len(self._unsettled) < MAX_UNSETTLED:
            keys, arguments = self._settlement(claim, owner, outcome)
            self._unsettled[claim.id] = ("EVAL", SETTLE.source, len(keys), *keys, *arguments)

    def _catch_up(self) -> None:
        unsettled, self._unsettled = self._unsettled, {}
        for claim_id, command in unsettled.items():

            def replied(reply: Reply, claim_id: str = claim_id, command: Command = command) -> None:
                if isinstance(reply, StateError):
                    self._unsettled.setdefault(claim_id, command)

            self._join(command, replied)

    def _on_change(self, error: StateError | None) -> None:
        """Follow the mode: shared while Redis answers, degraded while it does not."""
        if error is not None:
            self.degraded_reason = str(error)
        was_degraded, self.is_degraded = self.is_degraded, error is not None
        if error is None:
            if was_degraded:
                if self._watcher is not None:
                    self._watcher.doubt_memory()
                if self._has_said_away:
                    self._has_said_away = False
                    log.warning("shared state is back", extra={"away_s": round(time.time() - self.mode_since, 3)})
                self.mode_since = time.time()
                self._heard.set()
            if self._unsettled:
                self._catch_up()
        elif not was_degraded and not self._is_stopping:
            self._say_away()
            self.mode_since = time.time()

    def _say_away(self) -> None:
        if not self._has_said_away:
            self._has_said_away = True
            log.warning("shared state is away; serving degraded", extra={"reason": self.degraded_reason})


def _is_unknown_script(reply: Reply) -> bool:
    # redis-py has a class for it and takes the code off the text; the hot link leaves the text as it came.
    return isinstance(reply, NoScriptError) or (isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"))


def _as_error(reply: Reply) -> StateError:
    if isinstance(reply, StateError):
        return reply
    return StateError(f"Redis refused: {reply!s:.200}")

"""The shared state, in Redis: the Protocols of `store.py` over one link and one group commit."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

from redis.exceptions import NoScriptError

from distributer.errors import StateError
from distributer.model import Begun, Claim, Doubt, ItemId, Outcome, Places, Ticket
from distributer.routing.claim import KINDS
from distributer.routing.topology import Topology
from distributer.state.agreed import AgreedTopology, Learned
from distributer.state.backoff import Backoff
from distributer.state.commit import Command, GroupCommit, Reply
from distributer.state.keys import Keys
from distributer.state.mode import STEADY_S, ModeTracker, Notice
from distributer.state.redis_link import Link, decoded
from distributer.state.scripts import BEGIN, BIND, DOUBTS, RESOLVE, SETTLE, TOUCH, Script
from distributer.state.store import Watcher
from distributer.state.trouble import RedisTrouble, Trouble, trouble_of
from distributer.state.unsettled import Settlement, Unsettled
from distributer.state.uses import Uses

log = logging.getLogger("distributer.state")

_FULL = 1
_STALE = 2
"""What `begin.lua` refuses with."""

DOUBTS_PAGE = 100
REFRESH_SHARE = 0.1
"""A replica starts a binding's time anew once in each such part of it, however often it uses the binding."""
FIRST_PROBE_S = 0.1
LAST_PROBE_S = 2.0
"""How often it is tried whether a Redis that refused us still does."""


def stored_ttl_ms(sticky_ttl_s: float) -> int:
    """Say how long Redis is told to keep a binding: so that it is kept for that long after its last use, at least."""
    return math.ceil(sticky_ttl_s * (1 + REFRESH_SHARE) * 1000)


class RedisStore:
    """Tickets, bindings and doubts in Redis.

    A link that has come up is *open*, for what waits here, when it has been tried, and the topology is known. While it
    is not, everything is answered at once, with the trouble as a StateError. While Redis refuses some of what it is
    asked, all is still asked, for some may be had; whether it refuses still is tried in the background, with or without
    traffic.
    """

    def __init__(
        self, link: Link, keys: Keys, claim_ttl_s: float, topology: Topology, sticky_ttl_s: float = 0.0
    ) -> None:
        """`topology`: that of the settings, until Redis has another. `sticky_ttl_s`: 0 keeps bindings for ever."""
        self._link = link
        self._keys = keys
        self._claim_ttl_ms = int(claim_ttl_s * 1000)
        self._sticky_ttl_ms = stored_ttl_ms(sticky_ttl_s)
        self._uses = Uses(sticky_ttl_s * REFRESH_SHARE) if sticky_ttl_s else None
        self._commit = GroupCommit(keys.rotation, keys.sticky, keys.topology)
        self._agreed = AgreedTopology(link, keys, topology)
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._is_quiet = True
        """Whether the last round trip served a single request."""
        self._is_open = False
        self._unsettled = Unsettled()
        self._heard = asyncio.Event()
        self._is_stopping = False
        self._probes: Sequence[Command] = (
            # Writes, if it is allowed, and changes nothing; then, whether each key is what it should be.
            ("INCRBY", keys.rotation, 0),
            ("HLEN", keys.sticky),
            ("HLEN", keys.claims),
            ("GET", keys.topology),
        )
        self._is_probing = False
        self._probing = Backoff(FIRST_PROBE_S, LAST_PROBE_S, STEADY_S)
        self._probe_timer: asyncio.TimerHandle | None = None
        self._look_timer: asyncio.TimerHandle | None = None
        self.mode = ModeTracker(time.time())

    async def start(self) -> None:
        """Connect in the background."""
        await self._link.start(self._on_link)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until Redis answers. Raises StateError, with the reason, when it does not within timeout_s; logs it."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            self._say(self.mode.overdue())
            raise self.mode.error from None

    async def stop(self) -> None:
        """Disconnect. Whoever still waits gets a StateError."""
        self._is_stopping = True
        for timer in (self._probe_timer, self._look_timer):
            if timer is not None:
                timer.cancel()
        await self._link.stop()

    # Rotation and bindings: each call joins the next round trip.

    def ticket(self, deliver: Callable[[Ticket | StateError], None]) -> None:
        self._commit.join_ticket(deliver)
        if not self._is_scheduled:
            self._hurry()

    def owner(self, item: ItemId, deliver: Callable[[str | StateError | None], None]) -> None:
        self._commit.join_lookup(item, deliver)
        if self._uses is not None:
            self._uses.note(item, self._loop.time())
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
            self._agreed.highest,
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
                self._agreed.highest = max(self._agreed.highest, ticket)
                deliver(Begun(decoded(owner) or None, Ticket(ticket) if ticket else None, is_full=refusal == _FULL))
            else:
                if isinstance(reply, StateError):
                    # Whether it took effect is not known. If it did, nothing was sent for it: give the claim back.
                    self._unsettled.keep(claim, "", Outcome.FAILED)
                deliver(_as_error(reply))

        self._run(BEGIN, keys, arguments, replied)

    def settle(self, claim: Claim, owner: str, outcome: Outcome, deliver: Callable[[StateError | None], None]) -> None:
        if outcome is Outcome.UNKNOWN:
            # Its claim stays until the deadline; then the sweeper asks.
            self._loop.call_soon(deliver, None)
            return

        def replied(reply: Reply) -> None:
            if isinstance(reply, Exception):
                self._unsettled.keep(claim, owner, outcome)
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
        self._agreed.watch(watcher)

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
        if self._is_quiet and self._is_open:
            self._flush()
        else:
            self._schedule()

    def _schedule(self) -> None:
        # At the end of this turn of the loop: requests that were read in the same turn share the round trip.
        self._is_scheduled = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._uses is not None and self._uses.due and not self._commit.is_busy:
            self._is_scheduled = True  # or what joins here would come back here
            self._touch(self._uses)
        self._is_scheduled = False
        batch = self._commit.next_batch()
        if batch is None:
            return
        self._is_quiet = batch.size == 1
        if not self._is_open:
            self._commit.settle(batch, self.mode.error)
            return

        def replied(replies: Sequence[Reply] | StateError) -> None:
            if isinstance(replies, StateError) or not self._agreed.is_news(batch, replies):
                deal(replies)
            else:
                self._agreed.learn(lambda learned: deal(replies, learned))

        def deal(replies: Sequence[Reply] | StateError, learned: Learned = Learned.YES) -> None:
            agreed = self._agreed
            if isinstance(replies, StateError):
                self._commit.settle(batch, replies)
            else:
                first = batch.first_ticket(replies)
                # Better used twice than never served: of what cannot be read, its tickets are taken as they come.
                is_used = learned is Learned.YES and agreed.has_been_dealt(batch, replies)
                if first and (is_used or learned is Learned.CUT_OFF):
                    error = self._commit.settle_without_tickets(batch, replies)
                else:
                    if first:
                        agreed.highest = replies[0]
                    error = self._commit.settle(batch, replies)
                if error is not None:
                    self._refused(trouble_of(error))
            if not self._is_scheduled and self._commit.has_waiting:
                self._schedule()

        self._link.send(batch.commands, replied)

    def _run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | int], deliver: Callable[[Reply], None]
    ) -> None:
        tail = self._tail(keys, arguments)

        def replied(reply: Reply) -> None:
            # The server does not know the script yet, or was told to forget it: send the text, which it then keeps.
            if _is_unknown_script(reply):
                self._join(("EVAL", script.source, *tail), known)
            else:
                known(reply)

        def known(reply: Reply) -> None:
            if isinstance(reply, Exception) and not isinstance(reply, StateError):
                self._refused(trouble_of(reply, "a script"))
            deliver(reply)

        self._join(("EVALSHA", script.sha1, *tail), replied)

    def _tail(self, keys: Sequence[str], arguments: Sequence[str | int]) -> Command:
        return (len(keys) + 1, *keys, self._keys.expiry, *arguments, self._sticky_ttl_ms)

    def _touch(self, uses: Uses) -> None:
        """Start the time of the bindings anew that have been used, all in one command."""
        items = uses.take()

        def replied(reply: Reply) -> None:
            if isinstance(reply, Exception):
                uses.forget(items)

        self._run(TOUCH, (self._keys.sticky, self._keys.claims), items, replied)

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

    def _catch_up(self) -> None:
        """Make the settlements that are due, page by page."""
        page = self._unsettled.take()
        left = len(page)
        for settlement in page:

            def replied(reply: Reply, settlement: Settlement = settlement) -> None:
                nonlocal left
                left -= 1
                if isinstance(reply, Exception):
                    self._unsettled.keep(*settlement)
                if left == 0 and self._is_open and self.mode.is_shared:
                    self._catch_up()

            self._run(SETTLE, *self._settlement(*settlement), replied)

    # The mode.

    def _on_link(self, error: StateError | None) -> None:
        """Follow the link: an error when it is lost or cannot be had, None when it is up."""
        if error is None:
            self._link.send(self._probes, self._greeted)
        else:
            self._is_open = False
            self._troubled(trouble_of(error))

    def _greeted(self, replies: Sequence[Reply] | StateError) -> None:
        if isinstance(replies, StateError):
            return  # the link has said so
        trouble = self._trouble_in(replies)
        if trouble is not None and trouble.kind.ends_link:
            self._link.drop(trouble)
            return

        def learned(what: Learned) -> None:
            if what is not Learned.CUT_OFF:
                self._open(trouble)

        self._agreed.learn(learned)

    def _open(self, trouble: RedisTrouble | None) -> None:
        self._agreed.doubt_memory()
        self._is_open = True
        self._heard.set()
        if trouble is None:
            self._returned()
        else:
            self._refused(trouble)

    def _refused(self, trouble: RedisTrouble) -> None:
        """Note that Redis has refused something, on a link that is open."""
        if not self._is_open:
            return
        if trouble.kind.ends_link:
            self._link.drop(trouble)
            return
        held_s = time.time() - self.mode.since if self.mode.is_shared else 0.0
        self._troubled(trouble)
        if not self._is_probing:
            self._is_probing = True
            self._probe_timer = self._loop.call_later(self._probing.next_s(held_s), self._probe)

    def _probe(self) -> None:
        """Try whether Redis does all again. If the link is lost meanwhile, the next greeting tells."""
        replies: list[Reply] = []

        def replied(reply: Reply) -> None:
            replies.append(reply)
            if len(replies) < len(self._probes):
                return
            self._is_probing = False
            trouble = self._trouble_in(replies)
            if trouble is not None:
                self._refused(trouble)
            elif self._is_open:
                self._returned()

        for command in self._probes:
            self._commit.join_script(command, replied)
        if not self._is_scheduled:
            self._schedule()

    def _trouble_in(self, replies: Sequence[Reply]) -> RedisTrouble | None:
        for (name, key, *_), reply in zip(self._probes, replies, strict=True):
            if isinstance(reply, Exception):
                return trouble_of(reply, f"{name!s} {key!s}")
        return None

    def _troubled(self, trouble: RedisTrouble) -> None:
        if not self._is_stopping:
            self._say(self.mode.troubled(trouble, time.time()))

    def _returned(self) -> None:
        self._say(self.mode.returned(time.time()))
        self._catch_up()

    def _say(self, notice: Notice | None) -> None:
        if notice is not None:
            log.warning(notice.text, extra=dict(notice.fields))
        if self.mode.is_untold and self._look_timer is None:
            self._look_timer = self._loop.call_later(STEADY_S, self._look)

    def _look(self) -> None:
        self._look_timer = None
        self._say(self.mode.look(time.time()))


def _is_unknown_script(reply: Reply) -> bool:
    # redis-py has a class for it and takes the code off the text; the hot link leaves the text as it came.
    return isinstance(reply, NoScriptError) or (isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT"))


def _as_error(reply: Reply) -> StateError:
    if isinstance(reply, StateError):
        return reply
    if isinstance(reply, Exception):
        return trouble_of(reply, "a script")
    return RedisTrouble(Trouble.GARBAGE, f"a script: {reply!s:.200}")

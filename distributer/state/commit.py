"""Group commit: one shared round trip for all the requests that waited for it. No I/O here.

While a round trip is under way, requests queue up. The next round trip carries, for all of them,

    INCRBY rotation n           one ticket each for the n requests that rotate
    HMGET sticky item item …    one owner each for the requests that use an item
    GET topology                the version of the ring that all of these are of
    EVALSHA …                   one script each for those that create or delete one

so each request costs one shared round trip, and Redis sees a few thousand commands a second for tens of thousands of
requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from distributer.errors import StateError
from distributer.model import ItemId, Ticket
from distributer.state.trouble import RedisTrouble, Trouble, trouble_of

Command = Sequence[str | bytes | int]
Reply = Any
"""A reply as the Redis protocol gives it: int, bytes, None, a list of these, or an exception for an error reply."""


class GroupCommit:
    """Deal the replies of one round trip among the requests that waited for it.

    At most one batch is in flight. Tickets are dealt in arrival order, each at most once. A batch that fails is never
    sent again: a gap in the rotation is harmless, waiting is not, and only the caller of a script knows whether that
    may be repeated.
    """

    __slots__ = ("_in_flight", "_lookups", "_refreshes", "_rotation", "_scripts", "_sticky", "_tickets", "_topology")

    def __init__(self, rotation_key: str, sticky_key: str, topology_key: str) -> None:
        self._rotation = rotation_key
        self._sticky = sticky_key
        self._topology = topology_key
        self._tickets: list[Callable[[Ticket | StateError], None]] = []
        self._lookups: list[tuple[ItemId, Callable[[str | StateError | None], None]]] = []
        self._scripts: list[tuple[Command, Callable[[Reply], None]]] = []
        self._refreshes: list[Callable[[], None]] = []
        self._in_flight: Batch | None = None

    @property
    def has_waiting(self) -> bool:
        """Whether a next batch would carry anything."""
        return bool(self._tickets or self._lookups or self._scripts or self._refreshes)

    @property
    def is_busy(self) -> bool:
        """Whether a batch is in flight."""
        return self._in_flight is not None

    def join_ticket(self, deliver: Callable[[Ticket | StateError], None]) -> None:
        """Wait for a ticket."""
        self._tickets.append(deliver)

    def join_lookup(self, item: ItemId, deliver: Callable[[str | StateError | None], None]) -> None:
        """Wait for the owner of item."""
        self._lookups.append((item, deliver))

    def join_script(self, command: Command, deliver: Callable[[Reply], None]) -> None:
        """Wait for the reply to a command of its own; `deliver` also gets error replies and StateErrors, as values."""
        self._scripts.append((command, deliver))

    def join_refresh(self, deliver: Callable[[], None]) -> None:
        """Wait for a batch that has the topology read anew, or has failed."""
        self._refreshes.append(deliver)

    def next_batch(self) -> Batch | None:
        """Gather all that waits. None while a batch is in flight, or when nobody waits."""
        if self._in_flight is not None or not self.has_waiting:
            return None
        commands: list[Command] = []
        if self._tickets:
            commands.append(("INCRBY", self._rotation, len(self._tickets)))
        if self._lookups:
            commands.append(("HMGET", self._sticky, *[item for item, _ in self._lookups]))
        if commands or self._refreshes:
            # Behind them: a change in between is then seen, and their tickets are found to be of the old epoch.
            commands.append(("GET", self._topology))
        commands.extend(command for command, _ in self._scripts)
        batch = self._in_flight = Batch(commands, self._tickets, self._lookups, self._scripts, self._refreshes)
        self._tickets, self._lookups, self._scripts, self._refreshes = [], [], [], []
        return batch

    def settle(self, batch: Batch, replies: Sequence[Reply] | StateError) -> StateError | None:
        """Deal the replies of a batch, or its failure. Return the error, if tickets, owners or version were refused."""
        assert batch is self._in_flight, "only the batch in flight can be settled"
        # Cleared first: what is dealt may at once ask for more.
        self._in_flight = None
        if isinstance(replies, StateError):
            batch.fail(replies)
            return replies
        return batch.deal(replies)

    def settle_without_tickets(self, batch: Batch, replies: Sequence[Reply]) -> StateError | None:
        """Deal the replies of a batch whose tickets may have been used before; who waited for one gets another."""
        self._tickets[:0] = batch.take_back_tickets()
        return self.settle(batch, replies[1:])


class Batch:
    """The commands of one round trip, and who waits for their replies."""

    __slots__ = ("_lookups", "_refreshes", "_scripts", "_tickets", "commands", "has_version")

    def __init__(
        self,
        commands: list[Command],
        tickets: list[Callable[[Ticket | StateError], None]],
        lookups: list[tuple[ItemId, Callable[[str | StateError | None], None]]],
        scripts: list[tuple[Command, Callable[[Reply], None]]],
        refreshes: list[Callable[[], None]],
    ) -> None:
        self.commands = commands
        self._tickets = tickets
        self._lookups = lookups
        self._scripts = scripts
        self._refreshes = refreshes
        self.has_version = bool(tickets or lookups or refreshes)
        """Whether it asks for the version of the topology."""

    @property
    def size(self) -> int:
        """How many wait for it."""
        return len(self._tickets) + len(self._lookups) + len(self._scripts) + len(self._refreshes)

    @property
    def is_refresh(self) -> bool:
        """Whether somebody wants the topology to be read anew."""
        return bool(self._refreshes)

    def version(self, replies: Sequence[Reply]) -> Reply:
        """Pick the version of the topology out of the replies, if it `has_version`. None: Redis has none."""
        return replies[bool(self._tickets) + bool(self._lookups)]

    def first_ticket(self, replies: Sequence[Reply]) -> int:
        """Pick the lowest of its tickets out of the replies; 0 if there are none."""
        last = replies[0] if self._tickets else 0
        return last - len(self._tickets) + 1 if isinstance(last, int) and last else 0

    def take_back_tickets(self) -> list[Callable[[Ticket | StateError], None]]:
        """Take those who wait for tickets out of the batch, and the command out of its commands."""
        tickets, self._tickets = self._tickets, []
        self.commands.pop(0)
        return tickets

    def fail(self, error: StateError) -> None:
        """Give everybody the error."""
        for ticket_waiter in self._tickets:
            ticket_waiter(error)
        for _, lookup_waiter in self._lookups:
            lookup_waiter(error)
        for _, script_waiter in self._scripts:
            script_waiter(error)
        for refresh_waiter in self._refreshes:
            refresh_waiter()

    def deal(self, replies: Sequence[Reply]) -> StateError | None:
        """Give everybody their part of the replies, which stand in the order of the commands."""
        place = 0
        error: StateError | None = None
        if self._tickets:
            last = replies[place]
            place += 1
            if isinstance(last, int):
                first = last - len(self._tickets) + 1
                for ticket, deliver in enumerate(self._tickets, first):
                    deliver(Ticket(ticket))
            else:
                error = _refused(self.commands[place - 1], last)
                for deliver in self._tickets:
                    deliver(error)
        if self._lookups:
            owners = replies[place]
            place += 1
            if isinstance(owners, list):
                for (_, deliver_owner), owner in zip(self._lookups, owners, strict=True):
                    deliver_owner(None if owner is None else owner.decode("utf-8", "replace"))
            else:
                error = _refused(self.commands[place - 1], owners)
                for _, deliver_owner in self._lookups:
                    deliver_owner(error)
        if self.has_version:
            if error is None and isinstance(replies[place], Exception):
                error = _refused(self.commands[place], replies[place])
            place += 1  # the store has looked at it
        for (_, deliver_reply), reply in zip(self._scripts, replies[place:], strict=True):
            deliver_reply(reply)
        for deliver_refresh in self._refreshes:
            deliver_refresh()
        return error


def _refused(command: Command, reply: Reply) -> RedisTrouble:
    if isinstance(reply, Exception):
        return trouble_of(reply, f"{command[0]!s} {command[1]!s}")
    return RedisTrouble(Trouble.GARBAGE, f"{command[0]!s} {command[1]!s}: {reply!s:.200}")

"""What may be answered while Redis is away.

A rotated request needs no agreement to be served, only to be served evenly: each replica then turns a rotation of its
own, begun at a random place so that the replicas do not march in step. A bound item goes where it was last seen bound.
Everything else needs agreement, and is refused.

When Redis comes back it may have lost its last writes. What was remembered until then becomes a *hint*: if the map does
not know the item, it is looked for where it was, before it goes round or comes to be created anew.
"""

from __future__ import annotations

import random
from itertools import islice

from distributer.model import ItemId, Ticket


class Fallback:
    """A local rotation, and the bindings remembered for the time that Redis is away.

    Nothing here decides anything that Redis knows, so nothing here can be stale then. The memory keeps between
    `capacity` and half of it of the bindings seen last, in two generations: no list to reorder on each hit.
    """

    __slots__ = ("_half", "_hints", "_new", "_old", "_ticket", "owners_served", "tickets_served")

    def __init__(self, capacity: int = 100_000, start: int | None = None) -> None:
        # Not a secret, only a spread.
        self._ticket = random.randrange(1 << 20) if start is None else start  # noqa: S311
        self._half = max(1, capacity // 2)
        self._new: dict[ItemId, str] = {}
        self._old: dict[ItemId, str] = {}
        self._hints: dict[ItemId, str] = {}
        self.tickets_served = 0
        self.owners_served = 0

    def ticket(self) -> Ticket:
        """Take a ticket of the local rotation."""
        self._ticket += 1
        self.tickets_served += 1
        return Ticket(self._ticket)

    def owner(self, item: ItemId) -> str | None:
        """Recall where an item was bound when last seen; None if that is not known here."""
        owner = self._new.get(item) or self._old.get(item)
        if owner is not None:
            self.owners_served += 1
        return owner

    def remember(self, item: ItemId, owner: str) -> None:
        """Keep a binding that Redis just confirmed."""
        self._new[item] = owner
        if len(self._new) > self._half:
            self._old, self._new = self._new, {}

    def forget(self, item: ItemId) -> None:
        """Drop a binding that is none any more, and the hint with it."""
        self.forget_binding(item)
        if self._hints:
            self._hints.pop(item, None)

    def forget_binding(self, item: ItemId) -> None:
        """Drop a binding that Redis just said is none. A hint stays."""
        self._new.pop(item, None)
        self._old.pop(item, None)

    def doubt(self) -> None:
        """Redis may have lost bindings that were remembered until now."""
        self._hints = {**self._hints, **self._old, **self._new}
        for item in islice(tuple(self._hints), max(0, len(self._hints) - 2 * self._half)):
            del self._hints[item]

    def hint(self, item: ItemId) -> str:
        """Say where an item that the map does not know was bound before the map came into doubt; "" if not known."""
        return self._hints.get(item, "") if self._hints else ""

    def forget_hint(self, item: ItemId) -> None:
        """The hint has been followed: the item is bound again, or it is not there."""
        self._hints.pop(item, None)

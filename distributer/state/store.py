"""What the rest of the program knows of the shared state.

Everything here is callback-shaped: a request waits for its answer without a task or a future of its own. `deliver` is
called exactly once, never before the call that took it returns, with the answer or with a StateError (given, not
raised). After a StateError it is not known whether the command took effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from distributer.errors import StateError
from distributer.model import Begun, Claim, Doubt, ItemId, Outcome, Places, Ticket
from distributer.routing.topology import Topology


class Rotation(Protocol):
    """The one global round-robin counter."""

    def ticket(self, deliver: Callable[[Ticket | StateError], None]) -> None:
        """Take one ticket. Tickets are dealt in the order of the calls; each is dealt at most once."""


class Bindings(Protocol):
    """The sticky map, item → base URL of its owner, and the claims on it."""

    def owner(self, item: ItemId, deliver: Callable[[str | StateError | None], None]) -> None:
        """Look up the owner of item; None when it is unbound."""

    def begin(
        self,
        claim: Claim,
        places: Places,
        deliver: Callable[[Begun | StateError], None],
        *,
        hint: str = "",
        gone: str = "",
    ) -> None:
        """Claim an item, atomically.

        A create binds the item, pending, unless it is bound: a ticket is taken, and the binding is the base URL on
        which it falls. Tickets that fall on places that are not usable are thrown away and others taken. Concurrent
        begins, from any replica, get the same owner. An unbound item is bound to `hint` instead, if that is given.
        A binding to `gone` counts as none, unless there are claims on the item.
        A delete claims the item only if it is bound. An item has a bounded number of claims: one more is refused, and
        changes nothing. Nor does a begin whose places are of another topology: by then, the watcher has the new one.
        """

    def settle(self, claim: Claim, owner: str, outcome: Outcome, deliver: Callable[[StateError | None], None]) -> None:
        """Give the outcome of a claimed request that went to owner.

        Idempotent. UNKNOWN keeps the binding: a stale one is harmless, a lost one is not.
        """

    def bind(self, item: ItemId, instead_of: str, owner: str, deliver: Callable[[str | StateError], None]) -> None:
        """Bind an item without a create, if its binding is `instead_of` ("": none) and there are no claims on it.

        Delivers the binding that stands then.
        """


class Doubts(Protocol):
    """The sweeper's side of the claims."""

    async def doubts(self, cursor: int) -> tuple[int, Sequence[Doubt]]:
        """List a page of the items whose claims have all passed their deadline, and the next cursor.

        The first cursor is 0, and 0 comes after the last page. A page may be empty. Raises StateError.
        """

    async def resolve(self, doubt: Doubt, *, exists: bool) -> bool:
        """Confirm or release a binding by what its backend said. False, and no effect, if the claims have changed."""


class Watcher(Protocol):
    """Who must know what the store learns by the way."""

    def follow(self, topology: Topology) -> None:
        """Route by another topology from now on. Called before anything is delivered that is of it."""

    def doubt_memory(self) -> None:
        """Redis may have lost its last writes: bindings that were remembered before may be missing there."""


class Store(Rotation, Bindings, Protocol):
    """All that forwarding needs of the shared state."""

    def watch(self, watcher: Watcher) -> None:
        """Tell watcher from now on, and at once of the present topology."""

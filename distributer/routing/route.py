"""The routing decision: what must be known (`item.need_of`), and what follows once it is (`choose`).

need        answer       decision
----------  -----------  ---------------------------------------------------------------
rotate      ticket       route to where it falls; exchange it if that backend is no candidate, or if it is of an
                         epoch that has ended
find owner  owner        route to the owner, up or not: nobody else has the item; refuse if it is in maintenance
find owner  None         rotate: unbound items go round
claim       Begun        route to the owner that the claim got
any         StateError   refuse (tickets have a local stand-in: `state/fallback.py`)
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from distributer.errors import StateError, Unroutable
from distributer.model import Backend, ItemId, Ticket
from distributer.routing.ring import Ring


class Reason(Enum):
    """Why a request goes where it goes."""

    ROTATION = "rotation"
    STICKY = "sticky"
    REMEMBERED = "remembered"
    """As STICKY, but by what this replica remembers, since Redis is away: it may have changed since."""
    CREATE = "create"
    DELETE = "delete"


class Route:
    """Where a request goes, and why. Each request makes one, and a frozen dataclass would cost thrice as much."""

    __slots__ = ("backend", "reason", "ticket")

    def __init__(self, backend: Backend, reason: Reason, ticket: Ticket | None = None) -> None:
        self.backend = backend
        self.reason = reason
        self.ticket = ticket

    def __repr__(self) -> str:
        return f"Route({self.backend!r}, {self.reason!r}, {self.ticket!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Route) and self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def _value(self) -> tuple[Backend, Reason, Ticket | None]:
        return self.backend, self.reason, self.ticket


class TakeTicket(Enum):
    """What must be known next is a ticket: none is at hand, or the one at hand is exchanged."""

    FIRST = "first"
    ANOTHER = "another"


Decision = Route | TakeTicket | Unroutable

MAX_EXCHANGES_PER_BACKEND = 4
"""A request gives up exchanging tickets after this many for each place in the ring, and takes the next candidate in
ring order. By chance alone that happens to one request in 10^8 or so, with half of the ring down."""


def choose_by_ticket(ticket: Ticket, ring: Ring, tried: Collection[Backend] = (), exchanged: int = 0) -> Decision:
    """Decide where a rotated request goes. `exchanged` counts the tickets this request has thrown away."""
    if not ring.backends:
        return none_left(ring)
    backend = ring.at(ticket)
    is_of_epoch = ticket > ring.after
    if is_of_epoch and not ring.down and not tried:
        return Route(backend, Reason.ROTATION, ticket)
    candidates = ring.candidates(tried)
    if not candidates:
        return none_left(ring)
    if is_of_epoch and backend in candidates:
        return Route(backend, Reason.ROTATION, ticket)
    if exchanged < MAX_EXCHANGES_PER_BACKEND * len(ring.backends):
        return TakeTicket.ANOTHER
    return Route(candidates[ticket % len(candidates)], Reason.ROTATION, ticket)


def none_left(ring: Ring) -> Unroutable:
    """Say why there is no backend to go to."""
    if not ring.backends:
        return Unroutable("all backends are drained, in maintenance, or have not joined yet")
    return Unroutable("none of the backends could be reached")


def choose_by_owner(item: ItemId, owner: str | StateError | None, ring: Ring, reason: Reason) -> Decision:
    """Decide where a request for one item goes, by what the shared map says of its owner."""
    if owner is None:
        return TakeTicket.FIRST
    if isinstance(owner, StateError):
        return Unroutable(
            f"the shared state is away, and where item {item} lives is not known here: {owner}",
            title="Routing state unavailable",
            detail=f"the shared state is away, and where item {item} lives is not known here",
        )
    backend = ring.by_url(owner)
    if backend is None:
        return Unroutable(f"item {item} is bound to what is not one of the backends", title="Owner unknown")
    if ring.parked and backend in ring.parked:
        return Unroutable(f"item {item} lives on a backend that is in maintenance", title="Owner in maintenance")
    return Route(backend, reason)

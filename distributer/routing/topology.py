"""The topology: which backends there are, what is wanted of each, and how the rotation goes on when that changes.

`n mod N` alone would skip or repeat when N changes. So each change begins a new *epoch*, which records the counter's
value at that moment:

    a ticket t of the epoch (t > after) falls on ring[(t - after - 1 + first) mod N]

Tickets of an earlier epoch that come late are exchanged. `first` is chosen so that the rotation goes on where it stood:
the next ticket falls where it would have fallen without the change, or on the next backend that is left. Starting anew
at the first backend each time would give that one more than its share when changes are many.

The *ring* is the members that are ready and have joined, in order. A member joins when its first probes have passed.
All here is values in, values out; `state/agreement.py` has the same change as a script inside Redis.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from distributer.errors import ChangeRefusedError
from distributer.model import AdminState, Backend
from distributer.routing.ring import Ring

FROM_SETTINGS = "settings"
FROM_ADMIN = "admin"
NO_LONGER_NAMED = "gone"
"""The source of a member that the settings name no more, and that is drained since items are bound to it."""


@dataclass(frozen=True, slots=True)
class Member:
    """One backend of the cluster. `source`: who brought it, and so who may take it away."""

    backend: Backend
    state: AdminState = AdminState.READY
    joined: bool = True
    source: str = FROM_SETTINGS

    @property
    def is_in_rotation(self) -> bool:
        """Whether tickets may fall on it."""
        return self.joined and self.state is AdminState.READY


Members = tuple[Member, ...]

MAX_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Topology:
    """All members in order, and the epoch. Version 0: nobody has agreed on it, these are one replica's settings."""

    members: Members
    version: int = 0
    after: int = 0
    first: int = 0

    @classmethod
    def of(cls, backends: Sequence[Backend]) -> Topology:
        """Make the topology of a replica's own settings."""
        return cls(tuple(Member(backend) for backend in backends))

    @property
    def in_rotation(self) -> tuple[Backend, ...]:
        """The backends on which tickets fall, in order."""
        return tuple(member.backend for member in self.members if member.is_in_rotation)

    def ring(self) -> Ring:
        """Make the ring for routing, with nothing down."""
        return Ring(
            self.in_rotation,
            others=tuple(member.backend for member in self.members if not member.is_in_rotation),
            parked=frozenset(member.backend for member in self.members if member.state is AdminState.MAINT),
            version=self.version,
            after=self.after,
            first=self.first,
        )

    def member(self, backend_id: str) -> Member:
        """Return the member with that id (`host:port`) or base URL. Raises ChangeRefusedError if there is none."""
        return self.members[place_of(self.members, backend_id)]

    def starts(self, members: Members) -> tuple[int, ...]:
        """For each place of this ring on which the next ticket may fall: the place of the new ring to go on at."""
        old = self.in_rotation
        new = Topology(members).in_rotation
        places = {backend: place for place, backend in enumerate(new)}
        starts = []
        for place in range(len(old)):
            following = old[place:] + old[:place]
            starts.append(next((places[backend] for backend in following if backend in places), 0))
        return tuple(starts) or (0,)

    def changed(self, members: Members, counter: int, version: int) -> Topology:
        """Begin a new epoch at that value of the counter."""
        starts = self.starts(members)
        return Topology(
            members, version, after=counter, first=starts[(counter - self.after + self.first) % len(starts)]
        )


def place_of(members: Members, backend_id: str) -> int:
    """Return the place of the member with that id or base URL. Raises ChangeRefusedError if there is none."""
    for place, member in enumerate(members):
        if backend_id.rstrip("/") in (member.backend.id, member.backend.url):
            return place
    known = ", ".join(member.backend.id for member in members[:MAX_SHOWN])
    raise ChangeRefusedError(f"there is no backend {backend_id}; there are {known}{' …' * (len(members) > MAX_SHOWN)}")


def with_state(members: Members, backend_id: str, state: AdminState) -> Members:
    """Set what is wanted of one backend."""
    return _with(members, place_of(members, backend_id), state=state)


def with_joined(members: Members, backend_id: str) -> Members:
    """Let a backend join the ring."""
    return _with(members, place_of(members, backend_id), joined=True)


def with_added(members: Members, backend: Backend, source: str, *, joined: bool) -> Members:
    """Add a backend at the end. Raises ChangeRefusedError if it is there already."""
    if any(member.backend.url == backend.url for member in members):
        raise ChangeRefusedError(f"{backend.url} is one of the backends already")
    return (*members, Member(backend, joined=joined, source=source))


def without(members: Members, backend_id: str) -> Members:
    """Remove a backend. Raises ChangeRefusedError if it is the last one, or unknown."""
    place = place_of(members, backend_id)
    if len(members) == 1:
        raise ChangeRefusedError(f"{members[0].backend.url} is the only backend")
    return members[:place] + members[place + 1 :]


def reconciled(members: Members, wanted: Sequence[Backend], bound: Collection[str]) -> Members:
    """Bring the members in line with the settings, which say what is there in which order.

    A backend that is new to the cluster has not joined yet, unless no other is left in rotation. One that the settings
    brought and name no more goes, unless items are `bound` to its URL: then it is drained. What others brought stays,
    behind those of the settings. States that operators have set stay.
    """
    present = {member.backend.url: member for member in members}
    named = []
    for backend in wanted:
        member = present.pop(backend.url, None)
        if member is None or member.source == NO_LONGER_NAMED:
            member = Member(backend, joined=False)
        named.append(replace(member, source=FROM_SETTINGS))
    rest = []
    for member in present.values():
        if member.source not in (FROM_SETTINGS, NO_LONGER_NAMED):
            rest.append(member)
        elif member.backend.url not in bound:
            continue
        elif member.state is AdminState.READY:
            rest.append(replace(member, state=AdminState.DRAIN, source=NO_LONGER_NAMED))
        else:
            rest.append(member)  # as the operators want it, also when it is named again
    if not any(member.is_in_rotation for member in (*named, *rest)):
        named = [replace(member, joined=True) for member in named]
    return (*named, *rest)


def encode(members: Members) -> dict[str, str]:
    """Write the fields of the backends hash."""
    return {
        member.backend.id: json.dumps(
            {
                "url": member.backend.url,
                "position": position,
                "state": member.state.value,
                "joined": member.joined,
                "source": member.source,
            },
            separators=(",", ":"),
        )
        for position, member in enumerate(members)
    }


def decode(fields: Mapping[str, str]) -> Members:
    """Read the backends hash. Raises ValueError if anything in it is not what `encode` writes."""
    placed = []
    for text in fields.values():
        match json.loads(text):
            case {
                "url": str(url),
                "position": int(place),
                "state": str(state),
                "joined": bool(joined),
                "source": str(source),
            }:
                placed.append((place, Member(Backend.from_url(url), AdminState(state), joined, source)))
            case _:
                raise ValueError(f"{text:.200} is no backend")
    members = tuple(member for _, member in sorted(placed, key=lambda pair: pair[0]))
    if {member.backend.id for member in members} != set(fields):
        raise ValueError("a backend's id is not that of its URL")
    return members


def _with(members: Members, place: int, **change: object) -> Members:
    member = replace(members[place], **change)  # type: ignore[arg-type]
    return (*members[:place], member, *members[place + 1 :])

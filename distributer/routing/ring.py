"""The ring: the ordered backends on which tickets fall.

A ring is an immutable snapshot, swapped whole: who routes holds one and never sees it change. A backend that is down
keeps its place, so that the others' tickets do not move; a ticket that falls on it is exchanged for another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from distributer.model import Backend, Places, Ticket


@dataclass(frozen=True, slots=True)
class Ring:
    """Backends in order, and which of them are down. Ticket k falls on backend (k - 1) mod N of the first epoch.

    `others` are out of the rotation, but requests for their items reach them, unless they are `parked`: in maintenance.
    What the epochs are is in `topology.py`.
    """

    backends: tuple[Backend, ...]
    down: frozenset[Backend] = frozenset()
    others: tuple[Backend, ...] = ()
    parked: frozenset[Backend] = frozenset()
    version: int = 0
    after: int = 0
    first: int = 0
    shift: int = field(init=False, repr=False, compare=False)
    urls: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _by_url: dict[str, Backend] = field(init=False, repr=False, compare=False)
    _places: Places = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        members = (*self.backends, *self.others)
        if not members:
            raise ValueError("a ring needs at least one backend")
        object.__setattr__(self, "shift", self.first - self.after - 1)
        object.__setattr__(self, "urls", tuple(backend.url for backend in self.backends))
        object.__setattr__(self, "_by_url", {backend.url: backend for backend in members})
        object.__setattr__(self, "_places", Places(self.urls, self.usable(), self.shift, self.version))

    def at(self, ticket: Ticket) -> Backend:
        """Return the backend on which a ticket of this epoch falls. There must be one in rotation."""
        return self.backends[(ticket + self.shift) % len(self.backends)]

    def by_url(self, url: str) -> Backend | None:
        """Return the backend with that base URL, in rotation or not; None if none of the cluster has it."""
        return self._by_url.get(url)

    def candidates(self, tried: Collection[Backend] = ()) -> Sequence[Backend]:
        """List the backends that may be used now: not yet tried, and up.

        When all that were not tried are down, those are listed: what a replica believes of health may be stale, and a
        try that fails to connect costs nothing but time.
        """
        untried = [backend for backend in self.backends if backend not in tried]
        return [backend for backend in untried if backend not in self.down] or untried

    def usable(self, tried: Collection[Backend] = ()) -> str:
        """Spell the candidates as one "1" or "0" for each place of the ring."""
        if not self.down and not tried:
            return "1" * len(self.backends)
        candidates = set(self.candidates(tried))
        return "".join("1" if backend in candidates else "0" for backend in self.backends)

    def places(self, tried: Collection[Backend] = ()) -> Places:
        """Say how tickets fall, for a claim that is begun inside Redis."""
        return Places(self.urls, self.usable(tried), self.shift, self.version) if tried else self._places

    def with_down(self, down: frozenset[Backend]) -> Ring:
        """Return the ring in which exactly those are down."""
        return Ring(self.backends, down, self.others, self.parked, self.version, self.after, self.first)

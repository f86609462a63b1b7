"""The values that the layers hand to each other. All are immutable; none does I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType
from urllib.parse import urlsplit

ItemId = NewType("ItemId", str)
"""An item's canonical id: the same text for every spelling that the application takes for the same item."""

Ticket = NewType("Ticket", int)
"""One number of the rotation, counted from 1, used at most once."""


def bracketed(host: str) -> str:
    """Spell a host as URLs do: an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class Backend:
    """One application server, as configured and shown.

    `url` is its base URL in canonical form (scheme, host, explicit port, no path), which is also what the sticky map
    holds. `id` is `host:port`.
    """

    url: str
    host: str
    port: int
    id: str = field(init=False)
    authority: bytes = field(init=False, repr=False, compare=False)
    """The id as a Host field has it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{bracketed(self.host)}:{self.port}")
        object.__setattr__(self, "authority", self.id.encode())

    @classmethod
    def from_url(cls, url: str) -> Backend:
        """Read a base URL such as `http://10.0.0.7:8000`. Raises ValueError, saying what is wrong with it."""
        if any(c.isspace() or ord(c) < 0x21 for c in url):
            raise ValueError(f"{url!r} holds white space or control characters")
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise ValueError(f"{url!r} is not an http:// URL")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} has a bad port: {error}") from error
        if not host:
            raise ValueError(f"{url!r} names no host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a backend URL may not hold a user name or password")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"{url!r} has a path, query or fragment; give the base URL alone")
        if port == 0:
            raise ValueError(f"{url!r} has port 0")
        port = port or 80
        return cls(url=f"http://{bracketed(host)}:{port}", host=host, port=port)


class AdminState(Enum):
    """What the operators want of a backend.

    READY: it takes part. DRAIN: no rotation and no new items; the items that it has keep working. MAINT: nothing.
    """

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


class HealthStatus(Enum):
    """What is known of a backend's health.

    DOWN: probes fail. EJECTED: requests failed, one after the other; it is left alone for a while.
    """

    UP = "up"
    DOWN = "down"
    EJECTED = "ejected"


@dataclass(frozen=True, slots=True)
class Health:
    """The health of one backend, and why. `since` and `until` are Redis TIME, in seconds.

    `until`: when an ejection ends. `times`: how often it was ejected of late; each time is longer than the one before.
    """

    status: HealthStatus
    since: float
    reason: str
    until: float | None = None
    times: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """How tickets fall, for the scripts: on `urls[(ticket + shift) mod N]`, where `usable` has a "1".

    `version` is that of the topology, by which a script knows that all of this still holds.
    """

    urls: tuple[str, ...]
    usable: str
    shift: int = -1
    version: int = 0

    def with_none_usable(self) -> Places:
        """Return places by which a claim binds nothing: it gets the binding there is, or none."""
        return Places(self.urls, "0" * len(self.urls), self.shift, self.version)


class Operation(Enum):
    """What a claim does to its item."""

    CREATE = "create"
    DELETE = "delete"


class Outcome(Enum):
    """How a claimed request ended, as far as the backend's answer tells.

    DONE: it certainly took effect (2xx). FAILED: it certainly did not (a 4xx answer, or nothing was sent).
    UNKNOWN: nobody can say without asking the backend (5xx, a timeout, a reset after the request was sent).
    """

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Claim:
    """A create or delete in flight on an item. `id` is unique over the whole cluster."""

    id: str
    item: ItemId
    operation: Operation


@dataclass(frozen=True, slots=True)
class Begun:
    """The reply to `begin`: where the claimed request must go.

    `owner` is None when nothing is bound and nothing was claimed: a delete of an unbound item, or a create that no
    usable backend could take. `ticket` is the ticket that the new binding took, None for one that stood already.
    `is_full`: nothing was claimed, for the item has as many claims as it may. `is_stale`: nothing was claimed, for the
    topology has changed; the next begin will find the new one.
    """

    owner: str | None
    ticket: Ticket | None = None
    is_full: bool = False
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class Doubt:
    """An item whose claims have all passed their deadline: only its backend can say whether it exists.

    `version` is the claims' version when it was listed: an answer counts only if nothing has happened since.
    """

    item: ItemId
    owner: str | None
    version: int

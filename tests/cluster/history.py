"""What the clients saw and what was done to the cluster: all that the checker knows. Times in seconds, one clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What an operation asks of an item."""

    CREATE = "create"
    READ = "read"
    PUT = "put"
    DELETE = "delete"


class Result(Enum):
    """What an answer says."""

    DONE = "done"
    """200: it took effect; a read gave the value."""
    EXISTS = "exists"
    """400 to a create: there is one already."""
    MISSING = "missing"
    """404: there is none."""
    NOT_SENT = "not sent"
    """503: the distributer says that no backend was given the request."""
    UNKNOWN = "unknown"
    """No answer, a broken one, 502 or 504: it may have taken effect, may yet, or may not."""


class Operation(NamedTuple):
    """One request for one item.

    `value`: what a create or a put writes, and what a read was given. `backend`: which one answered, if that was told.
    `is_remembered`: the replica was without Redis, and went by what it had seen last.
    """

    client: int
    item: int
    kind: Kind
    value: int | None
    start: float
    end: float
    result: Result
    backend: str | None = None
    ticket: int | None = None
    is_remembered: bool = False

    def __str__(self) -> str:
        what = "" if self.value is None else f" {self.value}"
        who = "" if self.backend is None else f" by {self.backend}"
        span = f"{self.start:.4f}–{self.end:.4f}"
        return f"[{span}] client {self.client}: {self.kind.value} {self.item}{what}: {self.result.value}{who}"


class Ping(NamedTuple):
    """One rotated GET. `is_served`: at the first try; `is_served_by_retry`: or the second (RFC 9110 section 9.2.2)."""

    start: float
    end: float
    is_served: bool
    is_served_by_retry: bool
    backend: str | None
    ticket: int | None
    why: str = ""
    """What went wrong at the first try."""


class Wipe(NamedTuple):
    """A backend was killed within that time, and its items with it."""

    backend: str
    start: float
    end: float


class Span(NamedTuple):
    """A span of time."""

    start: float
    end: float

    def overlaps(self, start: float, end: float) -> bool:
        """Whether something that took from start to end happened within it, in part."""
        return self.start <= end and start <= self.end


class Staged(NamedTuple):
    """A fault: from its beginning until it was healed."""

    kind: str
    target: str
    start: float
    end: float


@dataclass(frozen=True)
class Rest:
    """What was found when all was healed, settled and still."""

    items: Mapping[str, Mapping[int, int]]
    """Backend -> the items that it holds, and their values: read from it directly."""
    sticky: Mapping[int, str]
    claims: int
    rotation: int
    at: float


@dataclass
class History:
    """Everything that was recorded."""

    operations: list[Operation] = field(default_factory=list)
    pings: list[Ping] = field(default_factory=list)
    wipes: list[Wipe] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)
    degraded: list[Span] = field(default_factory=list)
    """When some replica served without Redis, as the replicas' logs have it."""
    odd: list[str] = field(default_factory=list)
    """Answers that nothing explains: any is a violation."""
    backends: list[str] = field(default_factory=list)
    """Their URLs: "backend 0" is the first."""
    rest: Rest | None = None

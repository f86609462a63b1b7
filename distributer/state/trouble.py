"""What can be wrong with Redis: categories that may be shown to anyone. What Redis itself said is for the log only.

A *refusal* is an answer: Redis is there, and does not do what it was asked. All else is an absence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from redis import exceptions

from distributer.errors import StateError

FAILURES = (exceptions.RedisError, OSError, TimeoutError, RuntimeError)
"""What a call of redis-py raises when Redis is not as it should be. RuntimeError is uvloop's, of a transport that was
reset before anything could be written: a port that accepts and resets at once, such as a balancer's."""


class Trouble(Enum):
    """One thing that is wrong. The value is what is said of Redis."""

    STARTING = "is not connected yet"
    UNREACHABLE = "cannot be reached"
    LOST = "has closed the connection"
    LATE = "does not answer in time"
    DEMOTED = "is no longer the master"
    NOT_READY = "is not ready yet"
    DENIED = "refuses us"
    GARBAGE = "does not speak its protocol"
    ELSEWHERE = "is part of a Redis Cluster, and the keys are elsewhere"
    STOPPING = "is left, since this replica stops"
    READ_ONLY = "is read-only"
    FULL = "is out of memory"
    FEW_REPLICAS = "has too few replicas"
    UNSAVED = "cannot save its data"
    MISUSED = "holds something else under a key of ours"
    FORBIDDEN = "does not permit a command"
    BUSY = "is busy with a script"
    FAULTY = "answers with an error"

    @property
    def is_refusal(self) -> bool:
        """Whether Redis answers, and refuses."""
        return self in _REFUSALS

    @property
    def ends_link(self) -> bool:
        """Whether the connection on which it was told is of no further use.

        A server that is read-only was demoted: what may be read there is old, and the master is elsewhere.
        """
        return self not in _REFUSALS or self is Trouble.READ_ONLY

    @property
    def needs_mending(self) -> bool:
        """Whether it does not pass by itself."""
        return self in _NEED_MENDING


_REFUSALS = frozenset(
    {
        Trouble.READ_ONLY,
        Trouble.FULL,
        Trouble.FEW_REPLICAS,
        Trouble.UNSAVED,
        Trouble.MISUSED,
        Trouble.FORBIDDEN,
        Trouble.BUSY,
        Trouble.FAULTY,
    }
)
_NEED_MENDING = frozenset(
    {Trouble.DENIED, Trouble.GARBAGE, Trouble.ELSEWHERE, Trouble.READ_ONLY, Trouble.MISUSED, Trouble.FORBIDDEN}
)


class RedisTrouble(StateError):
    """Redis is away, late, or refuses us. The message is safe to show; `detail` is what Redis or the system said."""

    def __init__(self, kind: Trouble, detail: str = "") -> None:
        super().__init__(f"Redis {kind.value}")
        self.kind = kind
        self.detail = detail


_CODES = {
    "READONLY": Trouble.READ_ONLY,
    "OOM": Trouble.FULL,
    "NOREPLICAS": Trouble.FEW_REPLICAS,
    "MISCONF": Trouble.UNSAVED,
    "WRONGTYPE": Trouble.MISUSED,
    "NOPERM": Trouble.FORBIDDEN,
    "BUSY": Trouble.BUSY,
    "LOADING": Trouble.NOT_READY,
    "MASTERDOWN": Trouble.NOT_READY,
    "NOAUTH": Trouble.DENIED,
    "WRONGPASS": Trouble.DENIED,
    "DENIED": Trouble.DENIED,
    "AUTH": Trouble.DENIED,
    "DB index": Trouble.DENIED,
    "MOVED": Trouble.ELSEWHERE,
    "ASK": Trouble.ELSEWHERE,
    "TRYAGAIN": Trouble.NOT_READY,
    "CLUSTERDOWN": Trouble.NOT_READY,
    "CROSSSLOT": Trouble.ELSEWHERE,
    "not an integer": Trouble.MISUSED,
    "would overflow": Trouble.MISUSED,
}
# Anywhere in it: what a command says inside a script stands behind what the script runner says of it.
_CODE = re.compile(rf"\b({'|'.join(_CODES)})\b")

_CLASSES: Sequence[tuple[type[BaseException], Trouble]] = (
    # redis-py takes the code off the text of these.
    (exceptions.ReadOnlyError, Trouble.READ_ONLY),
    (exceptions.OutOfMemoryError, Trouble.FULL),
    (exceptions.NoPermissionError, Trouble.FORBIDDEN),
    (exceptions.AuthenticationError, Trouble.DENIED),
    (exceptions.AuthenticationWrongNumberOfArgsError, Trouble.DENIED),
    (exceptions.BusyLoadingError, Trouble.NOT_READY),
    (exceptions.ClusterDownError, Trouble.NOT_READY),
    (exceptions.TryAgainError, Trouble.NOT_READY),
    (exceptions.AskError, Trouble.ELSEWHERE),
    (exceptions.ClusterCrossSlotError, Trouble.ELSEWHERE),
    (exceptions.InvalidResponse, Trouble.GARBAGE),
    (exceptions.TimeoutError, Trouble.LATE),
    (TimeoutError, Trouble.LATE),
)


def trouble_of(error: BaseException, command: object = "") -> RedisTrouble:
    """Say what an error reply means, or an error of redis-py or the system. `command`: what was asked, for the log."""
    if isinstance(error, RedisTrouble):
        return error
    text = explain(error)
    detail = f"{command}: {text}" if command else text
    for kind, trouble in _CLASSES:
        if isinstance(error, kind):
            return RedisTrouble(trouble, detail)
    if found := _CODE.search(text):
        return RedisTrouble(_CODES[found[1]], detail)
    is_reply = isinstance(error, exceptions.ResponseError)
    return RedisTrouble(Trouble.FAULTY if is_reply else Trouble.UNREACHABLE, detail)


def explain(error: BaseException) -> str:
    """Say what a redis-py or socket error means, in one line, without its layers."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, exceptions.AskError):
        return f"{error.host}:{error.port} has them"
    return text[:300]

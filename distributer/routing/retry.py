"""What follows an attempt that failed before anything of its answer was let out. Values in, values out.

    failed by  is free to roam        must go to its owner     a create that made its binding, and was not sent
    ---------  ---------------------  -----------------------  ------------------------------------------------
    CONNECT    elsewhere              the owner is down        elsewhere, bound anew
    STALE      here, then elsewhere   here                     -
    RESET      elsewhere              here, once               -
    TIMEOUT    elsewhere, once        never                    -
    other      never                  never                    -

Nothing was sent when no connection could be made: another try is always safe. After that, only what may be repeated is:
a method that is idempotent, or a request whose client says by an Idempotency-Key that it will not count twice, with a
body that is still at hand whole; at most MAX_RESENDS times, and within the budget. Free to roam is what no owner has,
unless it may bring an item about: sent to two backends, that could be on both.

STALE is a kept-alive connection that was closed without a byte. Most often nothing is wrong with the backend, which had
just given it up, so its ticket stays. A RESET, of a new connection or within an answer, says more: another backend is
better, where there is one. A timeout is repeated once, elsewhere: a backend that hangs, or is cut off, is found out by
that. (nginx does so by default, HAProxy and Envoy when they are told to.) Answers are not: a 502, 503 or 504 of a
backend is its answer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

MAX_RESENDS = 3
"""How often a request is sent again at most. HAProxy's default."""

SPAN_S = 1.0
SPANS = 10
"""The budget's window: the present span, and those before it."""

LEAVES_NOTHING = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"})
"""Methods that bring no item about: those that are safe (RFC 9110 section 9.2.1), and DELETE."""


class Failure(Enum):
    """How an attempt failed, as far as it may be made again."""

    CONNECT = "connect"
    STALE = "stale"
    RESET = "reset"
    TIMEOUT = "timeout"


class Again(Enum):
    """Where an attempt is made again, if anywhere."""

    HERE = "here"
    ELSEWHERE = "elsewhere"
    OWNER_DOWN = "owner down"
    NEVER = "never"


class OwnerDown(Enum):
    """What becomes of a request whose owner cannot be reached.

    FAIL: it is refused. WAIT: it waits for the owner. REBIND: its item is given to another backend, which has nothing
    of it.
    """

    FAIL = "fail"
    WAIT = "wait"
    REBIND = "rebind"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What counts about an attempt that failed, and about the request that it was for."""

    failure: Failure
    has_owner: bool
    """The request is for an item that one backend has, or is to have."""
    is_own_binding: bool = False
    """It is a create, which bound its item itself and has been sent nowhere."""
    may_roam: bool = True
    is_repeatable: bool = False
    resends: int = 0
    was_resent_here: bool = False
    has_others: bool = True
    """There are backends that were not tried."""


def next_of(attempt: Attempt) -> Again:
    """Decide whether and where an attempt is made again. The budget is asked after this, of what is sent again."""
    is_free = not attempt.has_owner and attempt.may_roam
    if attempt.failure is Failure.CONNECT:
        if attempt.is_own_binding or is_free:
            return Again.ELSEWHERE
        # What could be on both, sent to one and refused by the same one then, is no matter of who owns it.
        return Again.OWNER_DOWN if attempt.has_owner else _unsent(attempt)
    if not attempt.is_repeatable or attempt.resends >= MAX_RESENDS:
        return Again.NEVER
    if attempt.failure is Failure.TIMEOUT:
        return Again.ELSEWHERE if is_free and attempt.has_others and not attempt.resends else Again.NEVER
    if attempt.failure is Failure.STALE and (attempt.has_owner or not attempt.was_resent_here):
        return Again.HERE
    if is_free and attempt.has_others:
        return Again.ELSEWHERE
    return Again.NEVER if attempt.was_resent_here else Again.HERE


def _unsent(attempt: Attempt) -> Again:
    return Again.NEVER if attempt.resends else Again.ELSEWHERE


def may_roam(method: bytes, *, has_item: bool) -> bool:
    """Whether a request that no owner has may be sent to one backend after another."""
    return not has_item or method in LEAVES_NOTHING


class RetryBudget:
    """Bounds what is sent again to a share of the requests of the last seconds, so that a failure does not grow by it.

    `share` of the requests of the window, and `floor_per_s` for each of its seconds, may be sent again: the floor is
    for replicas with little to do. A share of 0 turns it off, floor and all. Counts whole requests of one replica, in
    spans of a second: SPANS of them make the window, the present one included.
    """

    __slots__ = ("_again", "_counted", "_floor", "_share", "_span_ends")

    def __init__(self, share: float, floor_per_s: float, now: float) -> None:
        self._share = share
        self._floor = floor_per_s * SPAN_S * SPANS
        self._span_ends = now + SPAN_S
        self._counted: deque[int] = deque([0] * SPANS, SPANS)
        """How many requests there had ever been when each span of the window began."""
        self._again: deque[int] = deque([0] * SPANS, SPANS)
        """How many were sent again in each."""

    def __repr__(self) -> str:
        return f"<RetryBudget {sum(self._again)} sent again>"

    def turn(self, now: float, requests: int) -> None:
        """Go on to the span of `now`, in seconds. `requests`: how many there have ever been."""
        while now >= self._span_ends:
            self._counted.append(requests)
            self._again.append(0)
            # After a leap, what is older than the window need not be gone through.
            self._span_ends = max(self._span_ends + SPAN_S, now - SPANS * SPAN_S)

    def take(self, requests: int) -> bool:
        """Whether one more may be sent again; it counts then. `requests`: how many there have ever been."""
        if not self._share:
            return False
        if sum(self._again) + 1 > self._floor + self._share * (requests - self._counted[0]):
            return False
        self._again[-1] += 1
        return True

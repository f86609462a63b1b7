"""A wheel of deadlines: each connection is looked at when something of it may be due, and not before.

     now
      ▼
    | a | b c |   | d |   |   | e f g | …      slots of a tick each

Ten thousand idle connections cost nothing until the first may have to go. Moving a connection to another slot, and
taking it out, are O(1). So a connection stands in the wheel once at most, and one that is closed is not kept.
"""

from __future__ import annotations

from typing import Protocol

from distributer.clock import TICK_S


class Watched(Protocol):
    """Something that is to be looked at now and then."""

    slot: int
    """Where it stands in the wheel; 0: nowhere. The wheel's own."""

    def check(self, now: float) -> float:
        """Do what is due; return when to look again, in coarse time, or 0 for never."""


class Wheel:
    """Holds what is watched in slots of TICK_S seconds; `turn` looks at all that is due."""

    __slots__ = ("_slots", "_turned")

    def __init__(self, now: float) -> None:
        self._slots: dict[int, set[Watched]] = {}
        self._turned = int(now / TICK_S)

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def watch(self, it: Watched, at: float) -> None:
        """Look at it when coarse time `at`, in seconds, has come; sooner, if it stands in the wheel for sooner."""
        slot = max(int(at / TICK_S), self._turned) + 1
        if it.slot:
            if it.slot <= slot:
                return
            self.forget(it)
        it.slot = slot
        held = self._slots.get(slot)
        if held is None:
            self._slots[slot] = {it}
        else:
            held.add(it)

    def forget(self, it: Watched) -> None:
        """Look at it no more."""
        if it.slot:
            held = self._slots[it.slot]
            held.discard(it)
            if not held:
                del self._slots[it.slot]
            it.slot = 0

    def turn(self, now: float) -> None:
        """Look at all that is due. Called on each tick."""
        first, last = self._turned + 1, int(now / TICK_S)
        if last < first:
            return
        self._turned = last
        for slot in range(first, last + 1):
            held = self._slots.get(slot)
            # One by one: a look may take others out, whatever slot they stand in.
            while held:
                it = held.pop()
                it.slot = 0
                again = it.check(now)
                if again:
                    self.watch(it, again)
            if held is not None:
                self._slots.pop(slot, None)

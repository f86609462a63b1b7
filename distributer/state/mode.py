"""The mode of the shared state: what is asked of Redis, and what is said of it. No I/O here, and no clock.

    shared ──refused──► refused     Redis answers, and refuses to write, or holds something else under our keys
       │ ▲                │ ▲
     lost └──returned─────┘ │       returned: a write has succeeded, and all our keys are what they should be
       ▼ ▲                  ▼
      away ◄──────lost──────┘       no answer, a late one, or none of use

The mode is what is true now. The log gets one line for each change, but none for each swing of a server that comes and
goes: from the third change in quick succession on, it says so once, and then nothing until a mode has held for a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from distributer.state.trouble import RedisTrouble, Trouble

STEADY_S = 3.0
"""A mode, or a connection, that has held for so long counts as steady. Longer than the longest backoff, twice."""

MAX_QUICK = 2
"""So many changes in quick succession are told one by one: the loss, and the return."""


class Mode(Enum):
    """Whether the replicas share their state."""

    SHARED = "shared"
    REFUSED = "refused"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the log."""

    text: str
    fields: Mapping[str, Any]


_SAYS = {
    Mode.SHARED: "shared state is back",
    Mode.REFUSED: "shared state refuses writes; serving degraded",
    Mode.AWAY: "shared state is away; serving degraded",
}


class ModeTracker:
    """Follows the mode, and says what is to be logged. `now` is in seconds, of whatever clock.

    Whoever calls it calls `look` as well, STEADY_S after a change, while `is_untold`.
    """

    def __init__(self, now: float) -> None:
        self.mode = Mode.AWAY
        self.trouble: RedisTrouble | None = RedisTrouble(Trouble.STARTING)
        """Why it is not shared; None if it is."""
        self.since = now
        self.changes = 0
        self.is_untold = False
        """Whether the log does not know the present mode."""
        self._told = Mode.SHARED
        self._complained: set[Trouble] = set()
        self._quick = 0
        self._left_at = now

    @property
    def is_shared(self) -> bool:
        """Whether all is well."""
        return self.mode is Mode.SHARED

    @property
    def error(self) -> RedisTrouble:
        """Why something cannot be had just now."""
        return self.trouble or RedisTrouble(Trouble.STARTING)

    def troubled(self, trouble: RedisTrouble, now: float) -> Notice | None:
        """Note that something is wrong."""
        mode = Mode.REFUSED if trouble.kind.is_refusal else Mode.AWAY
        is_other = self.trouble is None or trouble.kind is not self.trouble.kind
        self.trouble = trouble
        if mode is not self.mode:
            self._complained.add(trouble.kind)
            return self._change(mode, now)
        if is_other and trouble.kind.needs_mending and trouble.kind not in self._complained and not self.is_untold:
            self._complained.add(trouble.kind)
            self._told = mode
            return self._notice(_SAYS[mode])
        return None

    def returned(self, now: float) -> Notice | None:
        """Note that all is well."""
        self.trouble = None
        self._complained.clear()
        return None if self.is_shared else self._change(Mode.SHARED, now)

    def overdue(self) -> Notice | None:
        """It has not been shared for so long that it must be said now."""
        return None if self.is_shared or self._told is self.mode else self._tell()

    def look(self, now: float) -> Notice | None:
        """Say what has held, after changes too quick to be told."""
        if not self.is_untold or now - self.since < STEADY_S:
            return None
        swings, self._quick = self._quick + 1, 0
        return self._tell(changes=swings, **self._absence(now))

    def _change(self, mode: Mode, now: float) -> Notice | None:
        # That it came up at the start, and when, says nothing of how steady it is.
        is_quick = self.changes > 1 and now - self.since < STEADY_S
        left, self.mode, self.since = self.mode, mode, now
        self.changes += 1
        self._quick = self._quick + 1 if is_quick else 0
        if left is Mode.SHARED:
            self._left_at = now
        if self._quick > MAX_QUICK:
            self.is_untold = True
            return None
        if self._quick == MAX_QUICK:
            self.is_untold = True
            text = f"shared state comes and goes; no more of it until it has held for {STEADY_S:g} s"
            return self._notice(text, mode=mode.value)
        if self._told is mode:
            return None  # at the start, nothing was said of an absence that has ended
        return self._tell(**self._absence(now))

    def _absence(self, now: float) -> dict[str, Any]:
        return {"away_s": round(now - self._left_at, 3)} if self.is_shared else {}

    def _tell(self, **fields: Any) -> Notice:
        self._told, self.is_untold = self.mode, False
        return self._notice(_SAYS[self.mode], **fields)

    def _notice(self, text: str, **fields: Any) -> Notice:
        if self.trouble is not None:
            fields = {"reason": str(self.trouble), **fields}
            if self.trouble.detail:
                fields["redis_said"] = self.trouble.detail
        return Notice(text, fields)

"""Which bindings have been used, and are to have their time started anew (`sticky_ttl_s`). No I/O here."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from distributer.model import ItemId

MAX_REMEMBERED = 100_000
MAX_AT_ONCE = 1_000
"""In one command: no other may run in Redis meanwhile. The rest goes with the next round trip."""


class Uses:
    """The items that were used, each once in a span of time.

    A use within the span of an earlier one is not noted again, so that a busy item costs a refresh in each span and not
    with each request. `due` are the items to refresh.
    """

    __slots__ = ("_ends_at", "_noted", "_span_s", "due")

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._ends_at = 0.0
        self._noted: set[ItemId] = set()
        self.due: list[ItemId] = []

    def note(self, item: ItemId, now: float) -> None:
        """Note a use. `now`: monotonic, in seconds."""
        if now >= self._ends_at or len(self._noted) >= MAX_REMEMBERED:
            self._ends_at = now + self._span_s
            self._noted = set(self.due)
        if item not in self._noted:
            self._noted.add(item)
            self.due.append(item)

    def take(self) -> Sequence[ItemId]:
        """Take those that are to be refreshed now."""
        taken, self.due = self.due[:MAX_AT_ONCE], self.due[MAX_AT_ONCE:]
        return taken

    def forget(self, items: Collection[ItemId]) -> None:
        """The refresh of these has failed: their next use is to be noted again."""
        self._noted.difference_update(items)

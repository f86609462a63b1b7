"""Gateway failures that this replica sees, until they are told to the cluster.

What counts: a connection refused, reset or timed out, an answer cut short or malformed, and 502, 503 or 504. An
application's own 500 is an answer like any other. An answer ends a row of failures, over the whole cluster; to say so
is only worth while where there is one. So a replica knows of which backends there is a count, and traffic to all others
costs it one look at an empty set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(slots=True)
class Row:
    """What one replica has to tell of one backend: failures in a row, behind an answer or not."""

    failures: int = 0
    is_anew: bool = False
    """An answer came first: the count of before is over."""
    why: str = ""
    """What was wrong with the last one."""
    was_refused: bool = False


class Failures:
    """Failures that are not told yet, and of which backends there is a count, here or in Redis."""

    __slots__ = ("_rows", "_told", "on_news", "suspects")

    def __init__(self) -> None:
        self.suspects: set[str] = set()
        """Ids of the backends of which there is a count."""
        self.on_news: Callable[[], None] | None = None
        """Called when there is something to tell."""
        self._rows: dict[str, Row] = {}
        self._told: set[str] = set()

    def failed(self, backend_id: str, why: str, *, was_refused: bool = False) -> None:
        """A request to that backend has failed."""
        self.suspects.add(backend_id)
        row = self._row(backend_id)
        row.failures += 1
        row.why = why
        row.was_refused |= was_refused

    def answered(self, backend_id: str) -> None:
        """One of the suspects has answered."""
        self.suspects.discard(backend_id)
        row = self._row(backend_id)
        row.failures = 0
        row.is_anew = True

    def follow(self, counted: Collection[str]) -> None:
        """Redis has a count of these backends."""
        self.suspects = {*counted, *self._told, *_failing(self._rows)}
        self._told.clear()

    def take(self) -> dict[str, Row]:
        """Take what there is to tell, by backend id."""
        rows, self._rows = self._rows, {}
        self._told.update(_failing(rows))  # what Redis is just being asked may not have them yet
        return rows

    def _row(self, backend_id: str) -> Row:
        row = self._rows.get(backend_id)
        if row is None:
            row = self._rows[backend_id] = Row()
            if self.on_news is not None:
                self.on_news()
        return row


def _failing(rows: dict[str, Row]) -> list[str]:
    return [backend_id for backend_id, row in rows.items() if row.failures]

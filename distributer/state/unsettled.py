"""Settlements that could not be made, kept for the return of Redis."""

from __future__ import annotations

from distributer.model import Claim, Outcome

MAX_UNSETTLED = 10_000
"""One that is dropped is not lost: its claim passes its deadline, and the sweeper asks the backend."""
PAGE = 64
"""How many are made in one round trip, so that those do not make it late."""

Settlement = tuple[Claim, str, Outcome]


class Unsettled:
    """Claims, the owners that they went to, and their outcomes. Settling is idempotent: once too often does no harm."""

    def __init__(self) -> None:
        self._kept: dict[str, Settlement] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, claim: Claim, owner: str, outcome: Outcome) -> None:
        """Keep one, unless there are too many."""
        if len(self._kept) < MAX_UNSETTLED:
            self._kept.setdefault(claim.id, (claim, owner, outcome))

    def take(self) -> list[Settlement]:
        """Take the oldest ones out, a page of them."""
        ids = [claim_id for claim_id, _ in zip(self._kept, range(PAGE), strict=False)]
        return [self._kept.pop(claim_id) for claim_id in ids]

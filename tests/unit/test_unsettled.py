"""Settlements that wait for the return of Redis."""

from __future__ import annotations

from distributer.model import Claim, ItemId, Operation, Outcome
from distributer.state.unsettled import MAX_UNSETTLED, PAGE, Unsettled

URL = "http://a:1"


def claim(number: int) -> Claim:
    return Claim(f"c{number}", ItemId(str(number)), Operation.CREATE)


def test_they_come_out_oldest_first_a_page_at_a_time_and_each_once() -> None:
    kept = Unsettled()
    for number in range(3 * PAGE - 1):
        kept.keep(claim(number), URL, Outcome.DONE)
    pages = [kept.take() for _ in range(4)]
    assert [len(page) for page in pages] == [PAGE, PAGE, PAGE - 1, 0]
    assert [it.id for page in pages for it, _, _ in page] == [f"c{number}" for number in range(3 * PAGE - 1)]


def test_the_first_outcome_of_a_claim_stands_and_there_are_not_too_many() -> None:
    kept = Unsettled()
    kept.keep(claim(0), URL, Outcome.DONE)
    kept.keep(claim(0), "", Outcome.FAILED)
    assert kept.take() == [(claim(0), URL, Outcome.DONE)]
    for number in range(MAX_UNSETTLED + 5):
        kept.keep(claim(number), URL, Outcome.DONE)
    assert len(kept) == MAX_UNSETTLED

"""The mode of the shared state: what is true at once, and what is said of it, once."""

from __future__ import annotations

import random

import pytest

from distributer.state.backoff import Backoff
from distributer.state.mode import STEADY_S, Mode, ModeTracker, Notice
from distributer.state.trouble import RedisTrouble, Trouble

AWAY = "shared state is away; serving degraded"
REFUSED = "shared state refuses writes; serving degraded"
BACK = "shared state is back"
UNSTEADY = "shared state comes and goes; no more of it until it has held for 3 s"


class Watched:
    """A tracker, a clock, and the log."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tracker = ModeTracker(self.now)
        self.said: list[Notice] = []

    def __call__(self, kind: Trouble | None, after_s: float = 0.0) -> None:
        """That much later, something is wrong; or, with None, all is well."""
        self.wait(after_s)
        if kind is None:
            self._note(self.tracker.returned(self.now))
        else:
            self._note(self.tracker.troubled(RedisTrouble(kind, f"its text of {kind.name}"), self.now))

    def wait(self, seconds: float) -> None:
        """Let time pass, as the store does: it looks STEADY_S after what was not told."""
        end = self.now + seconds
        while self.tracker.is_untold and self.tracker.since + STEADY_S <= end:
            self.now = max(self.now, self.tracker.since + STEADY_S)
            self._note(self.tracker.look(self.now))
        self.now = end

    @property
    def texts(self) -> list[str]:
        return [notice.text for notice in self.said]

    def _note(self, notice: Notice | None) -> None:
        if notice is not None:
            self.said.append(notice)


@pytest.fixture
def it() -> Watched:
    watched = Watched()
    watched(None, after_s=0.1)
    assert watched.said == [], "that it came up at the start is no news"
    watched.wait(100)
    return watched


@pytest.mark.parametrize(
    ("kind", "mode", "text"), [(Trouble.LOST, Mode.AWAY, AWAY), (Trouble.FULL, Mode.REFUSED, REFUSED)]
)
def test_a_loss_and_its_end_are_a_line_each_however_often_they_are_seen(
    it: Watched, kind: Trouble, mode: Mode, text: str
) -> None:
    for _ in range(1000):
        it(kind, after_s=0.01)
    assert it.tracker.mode is mode
    it(None)
    it(None)
    assert it.tracker.mode is Mode.SHARED
    assert it.texts == [text, BACK]
    assert it.said[0].fields == {"reason": f"Redis {kind.value}", "redis_said": f"its text of {kind.name}"}
    assert it.said[1].fields == {"away_s": 9.99}


def test_a_loss_is_told_even_when_it_ends_at_once(it: Watched) -> None:
    it(Trouble.LOST)
    it(None, after_s=0.05)
    assert it.texts == [AWAY, BACK]


def test_from_absence_to_refusal_is_a_change_and_told(it: Watched) -> None:
    it(Trouble.LOST)
    it(Trouble.FULL, after_s=10)
    it(Trouble.LOST, after_s=10)
    it(None, after_s=10)
    assert it.texts == [AWAY, REFUSED, AWAY, BACK]
    assert it.said[-1].fields["away_s"] == 30, "since it was last shared"


def test_a_server_that_comes_and_goes_is_three_lines_and_one_when_it_has_held(it: Watched) -> None:
    for _ in range(50):
        it(Trouble.LATE, after_s=0.4)
        it(None, after_s=0.4)
    assert it.texts == [AWAY, BACK, UNSTEADY]
    it.wait(STEADY_S)
    assert it.texts == [AWAY, BACK, UNSTEADY, BACK]
    assert it.said[-1].fields["changes"] == 100
    it.wait(1000)
    it(Trouble.LATE)
    assert it.texts[4:] == [AWAY], "and then it is as new"


def test_a_server_that_stays_away_in_the_end_is_told_of(it: Watched) -> None:
    for kind in (Trouble.LOST, None, Trouble.LOST, None, Trouble.LOST):
        it(kind, after_s=0.1)
    it.wait(STEADY_S)
    assert it.texts == [AWAY, BACK, UNSTEADY, AWAY]
    it(None, after_s=60)
    assert it.texts[4:] == [BACK]


def test_a_trouble_that_somebody_must_mend_is_told_though_the_mode_stays(it: Watched) -> None:
    for kind in (Trouble.LOST, Trouble.UNREACHABLE, Trouble.NOT_READY, Trouble.DENIED, Trouble.LATE, Trouble.DENIED):
        it(kind, after_s=5)
    assert [notice.fields["reason"] for notice in it.said] == ["Redis has closed the connection", "Redis refuses us"]
    it(None)
    it(Trouble.DENIED, after_s=5)
    assert it.texts[-2:] == [BACK, AWAY], "of the next time it is told again"


def test_what_never_came_is_told_when_it_is_overdue_and_so_is_its_coming() -> None:
    it = Watched()
    it(Trouble.UNREACHABLE)
    assert it.said == []
    it._note(it.tracker.overdue())
    it._note(it.tracker.overdue())
    it(None, after_s=1)
    assert it.texts == [AWAY, BACK]


def test_the_mode_itself_follows_at_once_told_or_not(it: Watched) -> None:
    before = it.tracker.changes
    for _ in range(20):
        it(Trouble.LATE, after_s=0.1)
        assert (it.tracker.mode, it.tracker.since) == (Mode.AWAY, it.now)
        assert it.tracker.error.kind is Trouble.LATE
        it(None, after_s=0.1)
        assert (it.tracker.mode, it.tracker.trouble) == (Mode.SHARED, None)
    assert it.tracker.changes == before + 40


def test_whatever_happens_the_log_ends_with_the_truth_and_has_few_lines() -> None:
    for seed in range(300):
        it, rng = Watched(), random.Random(seed)
        it(None)
        it.wait(100)
        quiet = 0.0
        for _ in range(60):
            pause = rng.choice([0.01, 0.5, 2.9, 3.1, 20.0])
            quiet += pause >= STEADY_S
            it(rng.choice([None, None, Trouble.LATE, Trouble.LOST, Trouble.FULL]), after_s=pause)
        it.wait(100)
        last = [notice.text for notice in it.said if notice.text != UNSTEADY][-1:]
        assert last == [{Mode.SHARED: BACK, Mode.AWAY: AWAY, Mode.REFUSED: REFUSED}[it.tracker.mode]], seed
        assert len(it.said) <= 4 * (quiet + 1), seed


def test_waits_double_up_to_a_bound_and_begin_anew_only_after_what_has_held() -> None:
    backoff = Backoff(0.1, 1.0, steady_s=3.0)
    for bound_s in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        assert bound_s / 2 <= backoff.next_s() <= bound_s
    assert backoff.next_s(held_s=2.9) >= 0.5, "a success that fails at once is none"
    assert backoff.next_s(held_s=3.0) <= 0.1

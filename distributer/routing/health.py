"""What is thought of one backend's health, by what is seen of it.

There are two witnesses. *Probes* ask the backend itself, and are believed when so many in a row agree (`rise`,
`fall`). *Requests* that fail one after the other, over the whole cluster, eject a backend whose probes pass: it answers
us, and serves nobody. An ejection is a time out, longer each time, and ends in probation: the count begins anew.

    status    rose     fell    failing   time up      (events; `-`: it stays)
    -------   ------   -----   -------   -------
    up        -        down    ejected   -
    down      up       -       -         -
    ejected   -        down    -         up

- A backend that went down and rose is up whatever it was before: it is not the process any more that was ejected.
- The last backend of the rotation that is up is not ejected: serving badly is better than not at all. Down, all may be.
- Of a backend that nobody knows, the first probe decides if it fails: it is joined on credit.

Values in, values out; times are Redis TIME, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from distributer.model import Health, HealthStatus


class HealthEvent(Enum):
    """What may change a verdict.

    ROSE, FELL: so many probes in a row passed, or failed. FAILING: so many requests in a row failed. TIME_UP: an
    ejection has lasted as long as it should.
    """

    ROSE = "rose"
    FELL = "fell"
    FAILING = "failing"
    TIME_UP = "time up"


TRANSITIONS: Mapping[tuple[HealthStatus, HealthEvent], HealthStatus] = {
    (HealthStatus.UP, HealthEvent.FELL): HealthStatus.DOWN,
    (HealthStatus.UP, HealthEvent.FAILING): HealthStatus.EJECTED,
    (HealthStatus.DOWN, HealthEvent.ROSE): HealthStatus.UP,
    (HealthStatus.EJECTED, HealthEvent.FELL): HealthStatus.DOWN,
    (HealthStatus.EJECTED, HealthEvent.TIME_UP): HealthStatus.UP,
}
"""What is not in it changes nothing."""


@dataclass(frozen=True, slots=True)
class HealthRules:
    """When verdicts change. Times in seconds."""

    rise: int = 2
    """Probes in a row that must pass. With `fall`, HAProxy's defaults."""
    fall: int = 3
    ejection_failures: int = 5
    """Requests in a row that must fail; 0: nobody is ejected. With the times, Envoy's defaults."""
    ejection_s: float = 30.0
    """How long the first ejection lasts; the n-th, n times as long."""
    ejection_max_s: float = 300.0
    """The longest that one may last. And for each such span without one, an ejection is forgotten."""


NOT_PROBED = Health(HealthStatus.UP, 0.0, "not probed")
"""What is said of a backend that nobody has found anything about."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The verdict on one backend, and how many probes in a row have contradicted it."""

    health: Health
    against: int = 0

    @property
    def is_up(self) -> bool:
        """Whether it gets rotated requests."""
        return self.health.status is HealthStatus.UP


def unknown(rules: HealthRules) -> Standing:
    """Judge a backend of the ring that nobody knows: up on credit. One failed probe, and it is down."""
    return Standing(NOT_PROBED, against=rules.fall - 1)


def new(now: float, rules: HealthRules) -> Standing:
    """Judge a backend that has not joined: down until its first probes have passed."""
    return Standing(Health(HealthStatus.DOWN, now, f"new: {_probes(rules.rise)} must pass first"))


def probed(standing: Standing, failure: str | None, now: float, rules: HealthRules) -> Standing:
    """Judge by a probe. `failure`: what was wrong, None if it passed."""
    health = standing.health
    if (failure is None) is (health.status is not HealthStatus.DOWN):
        if health == NOT_PROBED:
            return Standing(Health(HealthStatus.UP, now, "the first probe passed"))
        return Standing(health) if standing.against else standing
    against, times = standing.against + 1, _recent(health, now, rules)
    if failure is None and against >= rules.rise:
        return _changed(standing, HealthEvent.ROSE, now, f"{_probes(rules.rise)} passed", times)
    if failure is not None and against >= rules.fall:
        count = "the first probe" if health == NOT_PROBED else _probes(rules.fall)
        return _changed(standing, HealthEvent.FELL, now, f"{count} failed: {failure}", times)
    return replace(standing, against=against)


def failing(standing: Standing, failures: int, why: str, now: float, rules: HealthRules, *, is_last: bool) -> Standing:
    """Judge by so many failures of requests in a row; `why` the last one failed.

    `is_last`: no other backend of the rotation is up. Then it stays.
    """
    if not 0 < rules.ejection_failures <= failures or is_last:
        return standing
    times = _recent(standing.health, now, rules) + 1
    until = now + min(rules.ejection_s * times, rules.ejection_max_s)
    reason = f"{failures} requests in a row failed; the last: {why}"
    return _changed(standing, HealthEvent.FAILING, now, reason, times, until)


def at(standing: Standing, now: float) -> Standing:
    """Judge by the time: an ejection that is over has ended."""
    until = standing.health.until
    if until is None or now < until:
        return standing
    return _changed(standing, HealthEvent.TIME_UP, now, "on probation: its ejection is over", standing.health.times)


def parse_statuses(text: str) -> frozenset[int]:
    """Read statuses such as `200-399` or `200,204,301-302`. Raises ValueError, saying what is wrong."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(number.isascii() and number.isdigit() and 200 <= int(number) <= 599 for number in numbers):
            raise ValueError(f"{part.strip()!r} is no status from 200 to 599, nor a range of them such as 200-399")
        if int(numbers[0]) > int(numbers[-1]):
            raise ValueError(f"{part.strip()!r} ends before it begins")
        found.update(range(int(numbers[0]), int(numbers[-1]) + 1))
    return frozenset(found)


def _changed(
    standing: Standing, event: HealthEvent, now: float, reason: str, times: int, until: float | None = None
) -> Standing:
    status = TRANSITIONS.get((standing.health.status, event))
    return standing if status is None else Standing(Health(status, now, reason, until, times))


def _recent(health: Health, now: float, rules: HealthRules) -> int:
    """How many ejections still count: one less for each long span that it was up."""
    if health.status is not HealthStatus.UP:
        return health.times
    return max(0, health.times - int(max(0.0, now - health.since) / rules.ejection_max_s))


def _probes(count: int) -> str:
    return "a probe" if count == 1 else f"{count} probes in a row"

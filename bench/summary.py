"""Several measurements of one thing, as one line: median and spread; and the ratio of two things."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distributer.load.measurement import Measurement


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, between the least and the greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


Figure = Callable[[Measurement], float | None]
"""One figure of a measurement; None where there is none."""


def ratio(one: Mapping[int, Measurement], other: Mapping[int, Measurement], figure: Figure) -> Spread | None:
    """Divide one by the other, each round by itself: what slowed the machine in a round slowed both.

    None if no round has both figures.
    """
    ratios = []
    for number in one.keys() & other.keys():
        above, below = figure(one[number]), figure(other[number])
        if above is not None and below:
            ratios.append(above / below)
    return Spread.of(ratios) if ratios else None


def requests_per_s(measurement: Measurement) -> float:
    return measurement.requests_per_s


def cpu_us_per_request(measurement: Measurement) -> float | None:
    return measurement.cpu_us_per_request


def p50_ms(measurement: Measurement) -> float | None:
    return measurement.latencies.percentile_ns(50) / 1e6


@dataclass(frozen=True, slots=True)
class Summary:
    """What the rounds say of one peer in one cell. CPU is None where there is no proxy, or no way to tell."""

    requests_per_s: Spread
    cpu_us_per_request: Spread | None
    core_busy: Spread | None
    p50_ms: Spread
    p99_ms: Spread
    max_ms: float
    errors: dict[str, int]
    unevenness: int | None
    """The most, over the rounds, by which one backend had more answers than another; None if not counted."""

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> Summary | None:
        """Sum up the rounds; None if there was none."""
        if not measurements:
            return None
        errors: Counter[str] = Counter()
        for each in measurements:
            errors.update(each.errors)
        return cls(
            requests_per_s=Spread.of([each.requests_per_s for each in measurements]),
            cpu_us_per_request=_spread(measurements, cpu_us_per_request),
            core_busy=_spread(measurements, lambda each: each.core_busy),
            p50_ms=Spread.of([each.latencies.percentile_ns(50) / 1e6 for each in measurements]),
            p99_ms=Spread.of([each.latencies.percentile_ns(99) / 1e6 for each in measurements]),
            max_ms=max(each.latencies.max_ns for each in measurements) / 1e6,
            errors=dict(errors),
            unevenness=max(
                (max(each.backends.values()) - min(each.backends.values()) for each in measurements if each.backends),
                default=None,
            ),
        )


def _spread(measurements: Sequence[Measurement], figure: Figure) -> Spread | None:
    values = [value for each in measurements if (value := figure(each)) is not None]
    return Spread.of(values) if values else None

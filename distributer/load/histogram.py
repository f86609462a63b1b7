"""A histogram of latencies: small enough to send between processes, exact to one percent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

STEP_BITS = 7
"""Each octave is cut into 2**7 steps, so a bucket is at most 1/128 of its value wide: less than any run's noise."""


class Histogram:
    """Count latencies in buckets that widen with the value.

    Values are nanoseconds. Below 128 each value has its own bucket; above, only the leading bits count.
    """

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._counts: Counter[int] = Counter(dict(counts))

    @classmethod
    def of(cls, latencies_ns: Iterable[int]) -> Histogram:
        """Count each of the latencies."""
        return cls(Counter(map(_floor, latencies_ns)).items())

    def __len__(self) -> int:
        return self._counts.total()

    def __repr__(self) -> str:
        return f"<Histogram of {len(self)}, p50 {self.percentile_ns(50)} ns, max {self.max_ns} ns>"

    def counts(self) -> list[tuple[int, int]]:
        """Return (lower edge of the bucket, count) in rising order; `Histogram` takes it back."""
        return sorted(self._counts.items())

    def percentile_ns(self, percent: float) -> int:
        """Return the least bucket that holds the given share of all values in it or below; 0 when empty."""
        wanted = len(self) * percent / 100
        seen = 0
        for edge_ns, count in self.counts():
            seen += count
            if seen >= wanted:
                return edge_ns
        return 0

    @property
    def max_ns(self) -> int:
        return max(self._counts, default=0)


def _floor(value_ns: int) -> int:
    shift = max(value_ns.bit_length() - STEP_BITS - 1, 0)
    return value_ns >> shift << shift

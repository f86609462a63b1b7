"""What the load client found out in one window."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from distributer.load.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Measurement:
    """The good answers of one window, and all that went wrong from the first request to the last."""

    window_s: float
    latencies: Histogram
    """One for each answer with a status below 400 that ended inside the window."""
    proxy_cpu_s: float | None = None
    """CPU time of the proxy and its children inside the window; None where there is no proxy or no way to tell."""
    load_cpu_s: float = 0.0
    """CPU time of the load client itself inside the window."""
    errors: dict[str, int] = field(default_factory=dict)
    """By kind, counted outside the window as well: an error in the warm-up is still an error."""
    backends: dict[str, int] = field(default_factory=dict)
    """Answers by backend, from the first request to the last; empty unless asked for."""

    @property
    def answers(self) -> int:
        return len(self.latencies)

    @property
    def requests_per_s(self) -> float:
        return self.answers / self.window_s

    @property
    def cpu_us_per_request(self) -> float | None:
        if self.proxy_cpu_s is None or not self.answers:
            return None
        return self.proxy_cpu_s * 1e6 / self.answers

    @property
    def core_busy(self) -> float | None:
        """Share of one core that the proxy used. Well below 1, the proxy was not the limit."""
        return None if self.proxy_cpu_s is None else self.proxy_cpu_s / self.window_s

    def to_json(self) -> str:
        return json.dumps(
            {
                "window_s": self.window_s,
                "latencies": self.latencies.counts(),
                "proxy_cpu_s": self.proxy_cpu_s,
                "load_cpu_s": self.load_cpu_s,
                "errors": self.errors,
                "backends": self.backends,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Measurement:
        fields = json.loads(text)
        return cls(latencies=Histogram((edge, count) for edge, count in fields.pop("latencies")), **fields)

"""What is done to the cluster, and when: random, and the same for the same seed. Pure.

Storms alternate with lulls. In a storm, faults begin at random moments and overlap; in a lull there are none, so that
the cluster can be seen to be level. Some faults cannot be survived by any cluster, and are not staged: of four backends
two at the most are in trouble at a time, and one of the replicas.

No process stands still for longer than `LONGEST_PAUSE_S`. A backend that is frozen for longer than a claim's deadline
is a limit that docs/consistency.md names, and so is a frozen replica.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.cluster.faults import Fault, FaultKind
from tests.cluster.history import Span

LONGEST_PAUSE_S = 2.5
STORM_S = 24.0
LULL_S = 9.0
MEAN_GAP_S = 0.8
MOST_BACKENDS_IN_TROUBLE = 2
RESTART_S = 8.0
"""What is set aside for a rolling restart."""


class Staging(NamedTuple):
    """A fault to be staged. `fault`: of a link; the other kinds are done to processes."""

    at: float
    kind: str
    target: str
    lasts_s: float
    fault: Fault | None = None


@dataclass(frozen=True)
class Plan:
    """All faults of one run, and the lulls."""

    stagings: Sequence[Staging]
    lulls: Sequence[Span]
    seconds: float


REDIS = "redis"
REPLICAS = "replicas"

_LINK_KINDS = {"reset": 3.0, "delay": 2.0, "half-open": 2.0, "blackhole": 1.5, "truncate": 1.5, "refuse": 1.5}
_WEIGHTS = {
    "backend": {"kill": 3.0, "pause": 2.0, **_LINK_KINDS},
    REDIS: {"kill": 2.0, "pause": 2.0, **_LINK_KINDS},
    REPLICAS: {"kill": 4.0, "pause": 2.0, "rolling restart": 0.4},
}
_TARGET_WEIGHTS = {"backend": 5.0, REDIS: 2.0, REPLICAS: 2.0}


def plan(
    seed: int, seconds: float, backends: int = 4, *, storm_s: float = STORM_S, mean_gap_s: float = MEAN_GAP_S
) -> Plan:
    """Plan the faults of a run of that many seconds."""
    rng = random.Random(seed)
    stagings: list[Staging] = []
    lulls: list[Span] = []
    begins = 0.0
    while begins < seconds:
        ends = min(seconds, begins + storm_s)
        stagings += _storm(rng, begins, ends, backends, mean_gap_s)
        if ends + LULL_S <= seconds:
            lulls.append(Span(ends, ends + LULL_S))
        begins = ends + LULL_S
    return Plan(stagings, lulls, seconds)


def _storm(rng: random.Random, begins: float, ends: float, backends: int, mean_gap_s: float) -> list[Staging]:
    busy_until: dict[str, float] = {}
    found: list[Staging] = []
    at = begins
    while (at := at + rng.expovariate(1 / mean_gap_s)) < ends:
        kind_of_target = rng.choices(list(_TARGET_WEIGHTS), list(_TARGET_WEIGHTS.values()))[0]
        target = kind_of_target
        if kind_of_target == "backend":
            target = f"backend {rng.randrange(backends)}"
        weights = _WEIGHTS[kind_of_target]
        kind = rng.choices(list(weights), list(weights.values()))[0]
        staging = _staging(rng, at, kind, target)
        over = at + staging.lasts_s
        in_trouble = [name for name, until in busy_until.items() if until > at and name.startswith("backend")]
        if (
            busy_until.get(target, 0.0) > at
            or over > ends
            or (kind_of_target == "backend" and len(in_trouble) >= MOST_BACKENDS_IN_TROUBLE)
        ):
            continue
        # A little more than it lasts: what was killed must come up again.
        busy_until[target] = over + (1.5 if kind == "kill" else 0.3)
        found.append(staging)
    return found


def _staging(rng: random.Random, at: float, kind: str, target: str) -> Staging:
    share = rng.choice([1.0, 1.0, 0.5])
    lasts_s = rng.uniform(0.3, 3.0)
    fault: Fault | None = None
    if kind == "delay":
        fault = Fault(FaultKind.DELAY, delay_s=rng.uniform(0.005, 0.3), jitter_s=rng.uniform(0.0, 0.1), share=share)
    elif kind == "truncate":
        # Without a byte of the answer, what took effect looks like what did not.
        after_bytes = rng.choice([0, 0, rng.randrange(2_000)])
        spares_new = rng.random() < 0.5
        fault = Fault(FaultKind.TRUNCATE, after_bytes=after_bytes, share=share, spares_new=spares_new)
    elif kind in ("half-open", "blackhole", "refuse"):
        fault = Fault(FaultKind(kind), share=share)
    elif kind == "pause":
        lasts_s = rng.uniform(0.1, LONGEST_PAUSE_S)
    elif kind == "rolling restart":
        lasts_s = RESTART_S
    elif kind == "kill" and target == REPLICAS:
        lasts_s = 1.0  # the supervisor starts it again by itself
    elif kind == "reset":
        lasts_s = 0.0
        fault = Fault(FaultKind.DELAY, share=share)  # only its share is used
    return Staging(at, kind, target, lasts_s, fault)

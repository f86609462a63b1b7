"""What goes wrong, and when: profiles, of which a seed chooses one, and the events that it draws from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.backend import Fates


@dataclass(frozen=True)
class Profile:
    """What may go wrong in a schedule. Numbers without a unit: how often it does, on average."""

    name: str
    replicas: int = 3
    fates: Fates = field(default_factory=Fates)
    slowness: float = 0.02
    leaves: float = 0.0
    """The share of requests for whose answer the client does not wait; so for slow bodies."""
    slow_bodies: float = 0.0
    kills: float = 0.0
    """Replicas that die. Another takes the place of each, a little later."""
    stalls: float = 0.0
    """Replicas that stop, and go on."""
    longest_stall_s: float = 0.3
    begin_stalls: float = 0.0
    """The share of new bindings at which their replica stops, for longer than claims live: one replica at a time."""
    backend_crashes: float = 0.0
    backend_forgets: bool = False
    backend_pauses: float = 0.0
    refusals: float = 0.0
    """Backends that take no new connections for a while, one at a time."""
    idle_closes: float = 0.0
    partitions: float = 0.0
    """Replica and backend between which packets get lost, for up to `longest_partition_s`."""
    longest_partition_s: float = 0.3
    redis_cuts: float = 0.0
    redis_stops: float = 0.0
    redis_crashes: float = 0.0
    redis_flushes: float = 0.0
    redis_holds: float = 0.0
    """Replica and Redis between which packets get lost for a while."""
    failovers: float = 0.0
    """Redis loses its last writes."""
    changes: float = 0.0
    """Backends that are drained, put into maintenance, or taken back."""
    always_serves: bool = False
    """Whether no request that goes round may fail: at most one backend is away at a time, and Redis is not."""
    weight: int = 1
    """How many of the seeds it gets."""

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong. Two slow messages in a row would be more than Redis may take."""
        return self == Profile(self.name, slowness=0.0, always_serves=True)


FATES = Fates(refused=0.05, failed=0.05, silent=0.03, reset=0.06, truncated=0.03, closed=0.08, slow=0.08)

PROFILES = (
    Profile("calm", slowness=0.0, always_serves=True),
    Profile("clients", leaves=0.25, slow_bodies=0.3, fates=Fates(slow=0.2), slowness=0.1),
    Profile("answers", fates=FATES, weight=2),
    Profile("resets", replicas=1, fates=Fates(reset=0.2, refused=0.4)),
    Profile("refusals", refusals=3, idle_closes=3, always_serves=True),
    Profile("crashes", backend_crashes=3, idle_closes=1, always_serves=True),
    Profile("backends", fates=FATES, backend_crashes=1.5, backend_pauses=0.5, refusals=1, idle_closes=2, leaves=0.05),
    Profile("forgetful", backend_crashes=2, backend_forgets=True, fates=Fates(reset=0.05, closed=0.05)),
    Profile("redis", redis_cuts=2, redis_stops=1, redis_crashes=0.5, redis_flushes=1, redis_holds=1, slowness=0.1,
            weight=2),
    Profile("kills", kills=2, fates=Fates(slow=0.2), slowness=0.1),
    Profile("stalls", stalls=4, kills=0.5, fates=Fates(slow=0.1, reset=0.03)),
    Profile("changes", changes=3, redis_cuts=0.3, slowness=0.1, always_serves=True),
    Profile("partitions", partitions=2, fates=Fates(slow=0.1)),
    # Longer than a claim lives: what was sent for it must not come after its deadline.
    Profile("long-stalls", replicas=2, begin_stalls=0.5, stalls=1, longest_stall_s=3.0, slow_bodies=0.2),
    Profile("long-partitions", partitions=4, longest_partition_s=3.0, fates=Fates(slow=0.1)),
    Profile("storm", fates=FATES, slowness=0.1, leaves=0.1, slow_bodies=0.15, kills=1, stalls=1, backend_crashes=0.7,
            backend_pauses=0.5, refusals=1, idle_closes=2, partitions=1, redis_cuts=1, redis_stops=0.5,
            redis_crashes=0.3, redis_flushes=0.5, redis_holds=0.5, changes=1, weight=3),
    Profile("failover", failovers=2, fates=FATES, redis_cuts=1, kills=0.5),
)  # fmt: skip
BY_NAME = {profile.name: profile for profile in PROFILES}
_TURNS = [profile for profile in PROFILES for _ in range(profile.weight)]


def profile_of(seed: int) -> Profile:
    """Return the profile of a seed."""
    return _TURNS[seed % len(_TURNS)]


def times(chance: Callable[[], float], mean: float) -> int:
    """Draw how often something happens: `mean` times on average."""
    number = int(mean)
    return number + (chance() < mean - number) if mean < 1 else int(chance() * (2 * mean + 1))

"""One seed: a cluster, clients and faults; then all faults are mended, and what must hold at rest is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from distributer.model import AdminState
from distributer.routing.topology import Members, with_state
from distributer.state.keys import Keys
from tests.simulation.backend import SimBackend
from tests.simulation.client import Client, Wish
from tests.simulation.determinism import seeded
from tests.simulation.faults import Profile, profile_of, times
from tests.simulation.network import Network, Wire
from tests.simulation.redis_server import ADDRESS, Dataset, RedisServer
from tests.simulation.replica import CLAIM_TTL_S, Replica
from tests.simulation.truth import PATIENCE_S, Truth
from tests.simulation.world import Process, Violation, World

ACTIVE_S = 2.2
"""The time in which faults begin. Long enough for claims to pass their deadline while requests come."""
SOON_S = 0.6
"""How long after all is mended what is known must be settled. Shorter than a claim lives."""
REST_S = CLAIM_TTL_S + 1.0

METHODS = ("POST",) * 8 + ("DELETE",) * 5 + ("GET",) * 4 + ("PUT",) + ("PING",) * 3


@dataclass(frozen=True)
class Result:
    """What came of a schedule. `violation`: "" if all held."""

    seed: int
    profile: str
    violation: str
    requests: int
    steps: int


def run(seed: int, profile: Profile | None = None, trace: Callable[[str], None] | None = None) -> Result:
    """Run one schedule, within `determinism.simulated`."""
    profile = profile or profile_of(seed)
    schedule = Schedule(seed, profile, trace)
    violation = ""
    with seeded(schedule.world, seed):
        try:
            schedule.run()
        except Violation as what:
            violation = str(what)
        finally:
            schedule.end()
    return Result(seed, profile.name, violation, len(schedule.truth.ops), schedule.world.steps)


class Schedule:
    """A world with a cluster in it."""

    def __init__(self, seed: int, profile: Profile, trace: Callable[[str], None] | None) -> None:
        self.profile = profile
        self.world = world = World(f"{profile.name} {seed}", trace)
        self.chance = world.chance
        self.network = world.network = Network(world)
        self.network.slowness = profile.slowness
        self.truth = world.truth = Truth(world)
        self.truth.loses_items = profile.backend_forgets and profile.backend_crashes > 0
        self.truth.loses_writes = profile.failovers > 0
        self.redis = RedisServer(world, self.truth, Keys())
        self.network.servers[ADDRESS] = self.redis
        self.redis.on_begun = self._begun if profile.begin_stalls else None
        urls = [f"http://b{number}:80" for number in range(3)]
        self.backends = [SimBackend(world, self.truth, url, profile.fates) for url in urls]
        for backend in self.backends:
            self.network.servers[backend.backend.host, backend.backend.port] = backend
        self.replicas: list[Replica] = []
        self.clients: list[Client] = []

    def run(self) -> None:
        """Let it all happen. Raises Violation."""
        world, profile = self.world, self.profile
        self.redis.found([backend.backend for backend in self.backends])
        for _ in range(profile.replicas):
            self._start_replica()
        world.run(0.05)
        items = ("7", "8") if self.chance() < 0.7 else ("7",)
        for number in range(world.random.randrange(3, 7)):
            wishes = [self._wish(items) for _ in range(world.random.randrange(2, 7))]
            self.clients.append(Client(world, self.truth, f"c{number}", self.replicas, wishes))
        self._plan_faults()
        world.run(ACTIVE_S)
        self._mend()
        deadline = world.now + PATIENCE_S + ACTIVE_S
        while not all(client.is_done for client in self.clients) and world.now < deadline:
            world.run(world.now + 0.2)
            self.truth.check_progress()
        self._raise()
        world.run(world.now + SOON_S)
        self.truth.check_given_back(self.redis.data.items)
        self._raise()
        world.run(world.now + REST_S)
        self.truth.check_rest(self.redis.data.items)
        if profile.is_calm and not self.truth.has_refused:
            self.truth.check_level(self.redis.data.rotation)
        for replica in self.replicas:
            if replica.process.is_alive and (leaks := replica.leaks()):
                world.fail(f"T7: {replica.process.name} still holds {leaks}")
        for op in self.truth.ops:
            if not op.is_over and op.process.is_alive:
                world.fail(f"T7: {op} has got no answer")
            if profile.always_serves and op.item is None and op.status != 200:
                world.fail(f"T7: {op} was answered {op.status}, though a backend was there all the time")
        self._raise()

    def end(self) -> None:
        """Have nothing of it left that would do anything when it is collected."""
        for process in self.world.processes:
            process.bury()

    def _raise(self) -> None:
        if self.world.violation is not None:
            raise Violation(self.world.violation)

    # The cluster.

    def _start_replica(self) -> Replica:
        process = Process(self.world, f"r{len(self.replicas) + 1}")
        replica = Replica(process, self.redis, [backend.backend for backend in self.backends])
        self.replicas.append(replica)
        return replica

    def _wish(self, items: tuple[str, ...]) -> Wish:
        world, profile, chance = self.world, self.profile, self.chance
        after_s = world.between(0.0, 0.006) if chance() < 0.6 else world.between(0.0, 0.8)
        method = METHODS[int(chance() * len(METHODS))]
        leaves_after_s = world.between(0.0, 0.02) if chance() < profile.leaves else None
        body_takes_s = 0.0
        if chance() < profile.slow_bodies:
            body_takes_s = world.between(0.0, 0.05) if chance() < 0.5 else world.between(0.8, 2.0)
        if method == "PING":
            return Wish(after_s, "GET", None, leaves_after_s)
        return Wish(after_s, method, items[int(chance() * len(items))], leaves_after_s, body_takes_s)

    # Faults.

    def _plan_faults(self) -> None:
        profile = self.profile
        for mean, fault in (
            (profile.kills, self._kill),
            (profile.stalls, self._stall),
            (profile.backend_crashes, self._crash_backend),
            (profile.backend_pauses, self._pause_backend),
            (profile.refusals, self._refuse),
            (profile.idle_closes, self._close_idle),
            (profile.partitions, self._part),
            (profile.redis_cuts, lambda: self._redis("cut", self.redis.cut)),
            (profile.redis_stops, lambda: self._redis("stop", partial(self.redis.stop, self._while()))),
            (profile.redis_crashes, lambda: self._redis("crash", partial(self.redis.crash, self._while()))),
            (profile.redis_flushes, lambda: self._redis("flush", self.redis.flush_scripts)),
            (profile.redis_holds, self._part_redis),
            (profile.failovers, self._plan_failover),
            (profile.changes, self._change),
        ):
            if mean:
                for _ in range(times(self.chance, mean)):
                    # Many early, when most is going on.
                    latest = 0.2 if self.chance() < 0.5 else ACTIVE_S
                    self.world.after(self.world.between(0.0, latest), fault)

    def _while(self) -> float:
        """Choose how long a fault lasts: not beyond the time in which faults begin."""
        for_s = self.world.between(0.0, 0.1) if self.chance() < 0.6 else self.world.between(0.1, 1.2)
        return min(for_s, max(0.0, ACTIVE_S - self.world.now))

    def _redis(self, name: str, fault: Callable[[], None]) -> None:
        if self.redis.is_up:
            self.world.tell("fault", f"redis: {name}")
            fault()

    def _kill(self) -> None:
        living = [replica for replica in self.replicas if replica.process.is_alive]
        if len(living) > 1:
            victim = living[self.world.random.randrange(len(living))]
            self.world.tell("fault", f"{victim.process.name} is killed")
            victim.process.kill()
            self.world.after(self._while(), self._start_replica)

    def _stall(self) -> None:
        replica = self.replicas[self.world.random.randrange(len(self.replicas))]
        for_s = self.world.between(0.0, self.profile.longest_stall_s)
        self.world.tell("fault", f"{replica.process.name} stops for {for_s * 1000:.1f} ms")
        replica.process.freeze(for_s)

    def _begun(self, process: Process) -> None:
        if self.chance() < self.profile.begin_stalls and not any(other.is_frozen for other in self.world.processes):
            for_s = self.world.between(CLAIM_TTL_S, 2 * CLAIM_TTL_S)
            self.world.tell("fault", f"{process.name} stops for {for_s * 1000:.1f} ms")
            process.freeze(for_s)

    def _backend(self) -> SimBackend:
        return self.backends[self.world.random.randrange(len(self.backends))]

    def _crash_backend(self) -> None:
        if self.profile.always_serves and not all(backend.is_up for backend in self.backends):
            return
        backend, for_s = self._backend(), self._while()
        self.world.tell("fault", f"{backend.backend.host} crashes, for {for_s * 1000:.1f} ms")
        backend.crash(for_s, forgets=self.profile.backend_forgets)

    def _pause_backend(self) -> None:
        backend, for_s = self._backend(), self.world.between(0.0, 0.2)
        self.world.tell("fault", f"{backend.backend.host} stops for {for_s * 1000:.1f} ms")
        backend.pause(for_s)

    def _refuse(self) -> None:
        if all(backend.is_listening for backend in self.backends):
            backend, for_s = self._backend(), self._while()
            self.world.tell("fault", f"{backend.backend.host} refuses connections for {for_s * 1000:.1f} ms")
            backend.refuse(for_s)

    def _close_idle(self) -> None:
        backend = self._backend()
        self.world.tell("fault", f"{backend.backend.host} closes idle connections")
        backend.close_idle()

    def _part(self) -> None:
        replica, backend = self.replicas[self.world.random.randrange(len(self.replicas))], self._backend()
        for_s = self.world.between(0.0, self.profile.longest_partition_s)
        self.world.tell(
            "fault", f"packets between {replica.process.name} and {backend.backend.host} get lost for {for_s:.3f} s"
        )
        for wire in self._wires(replica.process, backend):
            wire.hold(for_s)

    def _part_redis(self) -> None:
        replica, for_s = self.replicas[self.world.random.randrange(len(self.replicas))], self._while()
        self.world.tell("fault", f"packets between {replica.process.name} and redis get lost for {for_s:.3f} s")
        for wire in self._wires(replica.process, self.redis):
            wire.hold(for_s)

    def _wires(self, process: Process, outside: object) -> list[Wire]:
        return [wire for wire in self.network.wires if wire.process is process and wire.outside is outside]

    def _plan_failover(self) -> None:
        data = self.redis.data.copy()
        self.world.after(self.world.between(0.0, 0.02), self._fail_over, data)

    def _fail_over(self, data: Dataset) -> None:
        self._redis("fails over, and loses its last writes", partial(self.redis.lose_writes, data))

    def _change(self) -> None:
        backend = self._backend().backend
        state = (AdminState.READY, AdminState.DRAIN, AdminState.READY, AdminState.MAINT)[int(self.chance() * 4)]

        def how(members: Members) -> Members:
            others = [m for m in members if m.backend != backend and m.state is AdminState.READY]
            return with_state(members, backend.id, state) if others else members

        self.world.tell("fault", f"{backend.host} is wanted {state.value}")
        self.redis.change(how)

    def _mend(self) -> None:
        """End all faults."""
        self.world.tell("fault", "all is mended from now on")
        self.redis.on_begun = None
        for backend in self.backends:
            backend.fates = backend.fates._replace(refused=0, failed=0, silent=0, reset=0, truncated=0, closed=0)
        self.redis.change(_all_ready)
        if not any(replica.process.is_alive for replica in self.replicas):
            self._start_replica()


def _all_ready(members: Members) -> Members:
    for member in members:
        members = with_state(members, member.backend.id, AdminState.READY)
    return members

"""The prober: on behalf of the whole cluster, asks each backend how it is, and turns what is seen into verdicts.

Whoever holds the lease runs it, and starts from the verdicts on record. Each backend is probed every `interval_s`, at a
moment of its own; every `FAST_S` while its verdict may be about to change: probes contradict it, it has not joined yet,
or requests to it have just failed. So a backend that refuses connections is down after a second, and one that comes
back is up within an interval and a half second.

Members in maintenance are not probed: it may be that they are not even there. What was known of them is forgotten, and
when they are back, one failed probe takes them down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from distributer.control.lease import Lease
from distributer.control.membership import Membership
from distributer.control.record import Count, Reading, Record
from distributer.errors import RequestError, StateError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.question import ask_alone, question
from distributer.model import AdminState, Backend, Health, HealthStatus
from distributer.routing.health import NOT_PROBED, HealthRules, Standing, at, failing, new, probed, unknown
from distributer.routing.topology import Member, Members, with_joined
from distributer.tasks import end

FAST_S = 0.5
SUSPECT_S = 5.0
"""How long a backend is probed fast after a request to it has failed."""
MAX_AT_ONCE = 256
"""Probes in flight. With 2,000 backends, all silent until `timeout_s`, each has its turn every eight seconds."""
SPACING_S = 0.02
"""The least time between two rounds: what is found meanwhile is written in one."""

log = logging.getLogger("distributer.prober")


@dataclass(frozen=True, slots=True)
class Probing:
    """How backends are probed. Times in seconds."""

    path: str = ""
    """What is asked for; empty: it is enough if they take connections."""
    interval_s: float = 2.0
    """0: no backend is probed. All are up on credit, and nothing but an ejection takes one out."""
    timeout_s: float = 1.0
    statuses: frozenset[int] = frozenset(range(200, 400))
    """The statuses that are as they should be."""


class Prober:
    """The health of all backends, while this replica holds the lease."""

    def __init__(
        self,
        core: ForwardingCore,
        record: Record,
        membership: Membership,
        lease: Lease,
        probing: Probing,
        rules: HealthRules,
    ) -> None:
        self._core = core
        self._record = record
        self._membership = membership
        self._lease = lease
        self._probing = probing
        self._rules = rules
        self._is_probing = probing.interval_s > 0
        self._fast_s = min(FAST_S, probing.interval_s or FAST_S)
        self._subjects: dict[str, _Subject] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Subject] = deque()
        self._news = asyncio.Event()
        self._version = 0
        """Of the topology that our own last change made: an earlier one is not followed any more."""
        self._mistake: BaseException | None = None

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                self._news.clear()
                try:
                    await self._round()
                except StateError as error:
                    log.debug("no verdicts: %s", error)
                    await asyncio.sleep(self._fast_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._fast_s):
                        await self._news.wait()
                if self._mistake is not None:
                    raise self._mistake
                await asyncio.sleep(SPACING_S)
        finally:
            for subject in self._subjects.values():
                subject.leave()
            self._subjects.clear()
            self._waiting.clear()
            await end(self._tasks)

    def look(self) -> None:
        """Look at the failures on record now, and not at the next round."""
        self._news.set()

    async def _round(self) -> None:
        """Bring what is on record, what was seen and what the members are together. Raises StateError."""
        reading = await self._record.read()
        now = self._lease.now
        topology = self._core.topology
        if topology.version >= self._version:
            self._follow_members(topology.members, reading.healths, now)
        for backend_id, subject in self._subjects.items():
            subject.standing = at(subject.standing, now)
            self._weigh(subject, reading.counts.get(backend_id), now)
        await self._write(reading)
        await self._join()

    def _follow_members(self, members: Members, healths: Mapping[str, Health], now: float) -> None:
        present = {member.backend.id: member for member in members if member.state is not AdminState.MAINT}
        for backend_id in self._subjects.keys() - present.keys():
            self._subjects.pop(backend_id).leave()
        for backend_id, member in present.items():
            subject = self._subjects.get(backend_id)
            if subject is None:
                subject = self._subjects[backend_id] = self._subject(member, healths.get(backend_id), now)
                if self._is_probing:
                    first_s = self._probing.interval_s if member.joined and subject.standing.is_up else self._fast_s
                    self._schedule(subject, random.uniform(0.0, first_s))  # noqa: S311 - not a secret
            subject.member = member

    def _subject(self, member: Member, health: Health | None, now: float) -> _Subject:
        if health is not None and (self._is_probing or health.status is HealthStatus.EJECTED):
            return _Subject(member, Standing(health), told=health.status)
        is_on_credit = member.joined or not self._is_probing
        return _Subject(member, unknown(self._rules) if is_on_credit else new(now, self._rules), HealthStatus.UP)

    def _weigh(self, subject: _Subject, count: Count | None, now: float) -> None:
        """Look at the failures of requests: they bring a probe, and when that passes they may eject."""
        failures = count.failures if count is not None else 0
        loop_now = asyncio.get_running_loop().time()
        is_worse, subject.failures = failures > subject.failures, failures
        if not 0 < self._rules.ejection_failures <= failures:
            subject.accused_at = 0.0
        elif not subject.accused_at:
            subject.accused_at = loop_now
        if is_worse:
            subject.suspect_until = loop_now + SUSPECT_S
            self._hurry(subject)
        # A probe that fails explains the failures better than an ejection does, and ends sooner.
        is_vouched_for = subject.accused_at <= subject.passed_at or not self._is_probing
        if count is None or not subject.accused_at or not is_vouched_for:
            return
        if count.was_refused and self._is_probing:
            # It was away, which explains them; and it is back, or the probe would have failed.
            subject.counts_anew = True
        else:
            is_last = not any(other.is_in_use for other in self._subjects.values() if other is not subject)
            standing = failing(subject.standing, failures, count.why, now, self._rules, is_last=is_last)
            subject.standing = standing

    async def _write(self, reading: Reading) -> None:
        known = {
            backend_id: subject.standing.health
            for backend_id, subject in self._subjects.items()
            if subject.standing.health != NOT_PROBED
        }
        verdicts = {
            backend_id: health for backend_id, health in known.items() if health != reading.healths.get(backend_id)
        }
        gone = (reading.healths.keys() - known.keys()) | (reading.counts.keys() - self._subjects.keys())
        changed = {
            backend_id
            for backend_id, health in verdicts.items()
            if health.status is not self._subjects[backend_id].told
        }
        anew = changed | {backend_id for backend_id, subject in self._subjects.items() if subject.counts_anew}
        if not (verdicts or gone or anew):
            return
        for backend_id in anew:
            self._subjects[backend_id].forgive()
        if await self._record.write(self._lease.replica_id, verdicts, gone, anew & reading.counts.keys()):
            for backend_id in changed:
                self._tell(self._subjects[backend_id], verdicts[backend_id])

    def _tell(self, subject: _Subject, health: Health) -> None:
        subject.told = health.status
        told: dict[str, object] = {"backend": subject.backend.url, "reason": health.reason}
        if health.status is HealthStatus.EJECTED:
            self._core.metrics.ejections += 1
            told["for_s"] = round((health.until or health.since) - health.since, 1)
        is_good = health.status is HealthStatus.UP or not subject.member.joined
        log.log(logging.INFO if is_good else logging.WARNING, "backend is %s", health.status.value, extra=told)

    async def _join(self) -> None:
        """Let those join whose first probes have passed."""
        ready = [subject for subject in self._subjects.values() if not subject.member.joined and subject.standing.is_up]
        if not ready:
            return

        def joined(members: Members) -> Members:
            present = {member.backend.id for member in members}
            return reduce(
                with_joined, [subject.backend.id for subject in ready if subject.backend.id in present], members
            )

        topology = await self._membership.change(joined)
        self._version = topology.version
        self._follow_members(topology.members, {}, self._lease.now)
        for subject in ready:
            log.info("backend joins the ring", extra={"backend": subject.backend.url})

    # Probes.

    def _schedule(self, subject: _Subject, delay_s: float) -> None:
        subject.leave()
        subject.timer = asyncio.get_running_loop().call_later(delay_s, self._start, subject)

    def _hurry(self, subject: _Subject) -> None:
        """Probe at once, if the last probe was not just now."""
        if subject.timer is not None:
            loop = asyncio.get_running_loop()
            at_s = max(loop.time(), subject.started_at + self._fast_s)
            if at_s < subject.timer.when():
                self._schedule(subject, at_s - loop.time())

    def _start(self, subject: _Subject) -> None:
        subject.timer = None
        if len(self._tasks) >= MAX_AT_ONCE:
            self._waiting.append(subject)
            return
        loop = asyncio.get_running_loop()
        subject.started_at = loop.time()
        task = loop.create_task(self._probe(subject))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        if task.exception() is not None:
            self._mistake = task.exception()
            self._news.set()
        while self._waiting:
            subject = self._waiting.popleft()
            if self._subjects.get(subject.backend.id) is subject:
                self._start(subject)
                break

    async def _probe(self, subject: _Subject) -> None:
        failure = await self._failure_of(subject.backend)
        if self._subjects.get(subject.backend.id) is not subject:
            return  # it has left meanwhile
        metrics = self._core.metrics
        if failure is None:
            metrics.probes_passed += 1
            subject.passed_at = subject.started_at
        else:
            metrics.probes_failed += 1
            subject.counts_anew |= subject.failures > 0
        before = subject.standing
        subject.standing = probed(before, failure, self._lease.now, self._rules)
        if subject.standing.health is not before.health or subject.failures:
            self._news.set()
        loop_now = asyncio.get_running_loop().time()
        is_fast = subject.standing.against or not subject.member.joined or loop_now < subject.suspect_until
        next_s = self._fast_s if is_fast else self._probing.interval_s * random.uniform(0.9, 1.1)  # noqa: S311
        self._schedule(subject, max(0.0, subject.started_at + next_s - loop_now))

    async def _failure_of(self, backend: Backend) -> str | None:
        """Probe; return what is wrong."""
        probing = self._probing
        head = question(backend, probing.path.encode(), b"Connection: close") if probing.path else None
        try:
            status = await ask_alone(backend, head, probing.timeout_s, self._core.options.limits)
        except TimeoutError:
            return f"nothing within {probing.timeout_s:g} s"
        except RequestError as error:
            return str(error)
        if head is None or status in probing.statuses:
            return None
        return f"it answered {status}"


class _Subject:
    """One backend, as the prober knows it. Its times are those of the loop."""

    __slots__ = (
        "accused_at", "counts_anew", "failures", "member", "passed_at", "standing", "started_at", "suspect_until",
        "timer", "told",
    )  # fmt: skip

    def __init__(self, member: Member, standing: Standing, told: HealthStatus) -> None:
        self.member = member
        self.standing = standing
        self.told = told
        """The status that was last written and logged."""
        self.timer: asyncio.TimerHandle | None = None
        """None: it is being probed, or waits for its turn."""
        self.started_at = 0.0
        """When its last probe began; likewise the last one that passed."""
        self.passed_at = 0.0
        self.suspect_until = 0.0
        self.failures = 0
        """Requests to it that failed in a row, at the last look; since when too many: 0, they are not."""
        self.accused_at = 0.0
        self.counts_anew = False

    @property
    def backend(self) -> Backend:
        """Which one it is."""
        return self.member.backend

    @property
    def is_in_use(self) -> bool:
        """Whether rotated requests go to it."""
        return self.member.is_in_rotation and self.standing.is_up

    def forgive(self) -> None:
        """Forget the failures of its requests."""
        self.counts_anew = False
        self.failures = 0
        self.accused_at = 0.0

    def leave(self) -> None:
        """Probe it no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

"""One run: a cluster, clients, a plan of faults; then everything is healed, read, and checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.checker import Verdict, check
from tests.cluster.faults import Fault, FaultKind
from tests.cluster.history import History, Span, Staged, Wipe
from tests.cluster.schedule import MEAN_GAP_S, REDIS, REPLICAS, Plan, Staging, plan
from tests.cluster.stage import CLAIM_TIMEOUT_S, Stage, stage
from tests.cluster.workload import Workload

HORIZON_S = 20.0
"""A write without an answer has taken effect by then, or never will: a replica gives it up after CLAIM_TIMEOUT_S, no
process is frozen for longer than that, and links drop what its sender has given up."""
SETTLE_S = 4.0
"""How long into a lull something may still be noticed: a backend that is back, above all."""
WARM_UP_S = 1.0

assert HORIZON_S > 3 * CLAIM_TIMEOUT_S


@dataclass(frozen=True)
class Options:
    """What is settable about a run."""

    seed: int = 1
    seconds: float = 600.0
    clients: int = 64
    items: int = 500
    rate: float = 500.0
    """Requests a second, of all clients together."""
    mean_gap_s: float = MEAN_GAP_S
    """The mean time from one fault to the next, before those are left out that no cluster survives."""
    replicas: int = 3
    backends: int = 4
    are_local_tickets_marked: bool = False
    keep: Path | None = None
    """Where the history and the log of a run are kept in which a promise was broken."""


@dataclass
class Outcome:
    """What a run has shown."""

    options: Options
    history: History
    verdict: Verdict
    seconds: float
    rest_s: float
    """How long after the last fault was healed all doubts were resolved."""
    check_s: float
    refusals: dict[str, int] = field(default_factory=dict)


async def run(options: Options, say: Callable[[str], None] = lambda _text: None) -> Outcome:
    """Run it, and check it. Raises AssertionError when the cluster does not come to rest."""
    history = History()
    the_plan = plan(options.seed, options.seconds, options.backends, mean_gap_s=options.mean_gap_s)
    async with stage(replicas=options.replicas, backends=options.backends, say=say) as cluster:
        history.backends = cluster.urls
        workload = Workload(
            history,
            cluster.port,
            clients=options.clients,
            items=options.items,
            rate=options.rate,
            seed=options.seed,
        )
        running = asyncio.create_task(workload.run())
        await asyncio.sleep(WARM_UP_S)
        begins = time.perf_counter()
        say(f"seed {options.seed}: {len(the_plan.stagings)} faults in {options.seconds:g} s")
        director = Director(cluster, history, options.seed, begins)
        await director.direct(the_plan, say)
        healed = time.perf_counter()
        workload.goes_on = False
        await running
        say("healed; waiting until all doubts are resolved")
        await cluster.settled()
        rest_s = time.perf_counter() - healed
        await workload.read_all()
        history.rest = await cluster.rest(options.items)
        history.degraded = cluster.degraded()
        _require_noticed(history)
        log = cluster.command.output
    quiet = [Span(begins + lull.start + SETTLE_S, begins + lull.end) for lull in the_plan.lulls]
    quiet = [span for span in quiet if not any(away.overlaps(*span) for away in history.degraded)]
    say(f"checking {len(history.operations)} operations and {len(history.pings)} rotated requests")
    started = time.perf_counter()
    verdict = check(
        history,
        horizon_s=HORIZON_S,
        are_local_tickets_marked=options.are_local_tickets_marked,
        quiet=quiet,
        clients=options.clients,
    )
    check_s = time.perf_counter() - started
    if not verdict.is_clean and options.keep is not None:
        _keep(options.keep, history, log)
        say(f"the history and the log are in {options.keep}")
    return Outcome(options, history, verdict, healed - begins, rest_s, check_s, dict(workload.refusals))


class Director:
    """Stages faults, heals them, and records when."""

    def __init__(self, cluster: Stage, history: History, seed: int, begins: float) -> None:
        self._cluster = cluster
        self._history = history
        self._random = random.Random(f"director {seed}")
        self._begins = begins

    async def direct(self, the_plan: Plan, say: Callable[[str], None] = lambda _text: None) -> None:
        """Stage all faults of a plan; returns when the last one is healed."""
        async with asyncio.TaskGroup() as group:
            for staging in the_plan.stagings:
                group.create_task(self._stage(staging))
            for lull in the_plan.lulls:
                group.create_task(self._tell(lull, say))
            await self._until(the_plan.seconds)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._begins + at - time.perf_counter()))

    async def _tell(self, lull: Span, say: Callable[[str], None]) -> None:
        await self._until(lull.start)
        say(f"{lull.start:4.0f} s: {len(self._history.staged)} faults, {len(self._history.operations)} operations")

    async def _stage(self, staging: Staging) -> None:
        await self._until(staging.at)
        start = time.perf_counter()
        if staging.target == REPLICAS:
            await self._stage_replicas(staging)
        elif staging.target == REDIS:
            await self._stage_redis(staging)
        else:
            await self._stage_backend(staging, int(staging.target.split()[1]))
        self._history.staged.append(Staged(staging.kind, staging.target, start, time.perf_counter()))

    async def _stage_replicas(self, staging: Staging) -> None:
        cluster = self._cluster
        if staging.kind == "rolling restart":
            cluster.command.send(signal.SIGHUP)
            await asyncio.sleep(staging.lasts_s)
            return
        pids = sorted(await cluster.workers())
        if not pids:
            return
        pid = self._random.choice(pids)
        if staging.kind == "pause":
            with cluster.paused(pid):
                await asyncio.sleep(staging.lasts_s)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(staging.lasts_s)

    async def _stage_redis(self, staging: Staging) -> None:
        cluster = self._cluster
        link = cluster.redis_link
        assert link is not None
        if staging.kind == "kill":
            # Its port refuses while it is down, as that of a killed process does; a link alone would accept, and reset.
            await cluster.links.do(link.put, Fault(FaultKind.REFUSE))
            await asyncio.to_thread(cluster.redis.kill)
            await asyncio.sleep(staging.lasts_s)
            await asyncio.to_thread(cluster.redis.start)
            await cluster.links.do(link.heal)
        elif staging.kind == "pause":
            with cluster.paused(cluster.redis.pid):
                await asyncio.sleep(staging.lasts_s)
        else:
            await self._stage_link(staging, 0)

    async def _stage_backend(self, staging: Staging, number: int) -> None:
        cluster = self._cluster
        if staging.kind == "kill":
            span = await cluster.kill_backend(number)
            self._history.wipes.append(Wipe(cluster.urls[number], *span))
            await asyncio.sleep(staging.lasts_s)
            await cluster.start_backend(number)
        elif staging.kind == "pause":
            with cluster.paused(cluster.backends[number].pid):
                await asyncio.sleep(staging.lasts_s)
        else:
            await self._stage_link(staging, number + 1)

    async def _stage_link(self, staging: Staging, number: int) -> None:
        cluster = self._cluster
        link = cluster.redis_link if number == 0 else cluster.backend_links[number - 1]
        assert link is not None
        assert staging.fault is not None
        if staging.kind == "reset":
            await cluster.links.reset(link, staging.fault.share)
            return
        await cluster.links.do(link.put, staging.fault)
        await asyncio.sleep(staging.lasts_s)
        await cluster.links.do(link.heal)


def _require_noticed(history: History) -> None:
    """Check that the log was understood: a Redis that was killed cannot have gone unnoticed."""
    for staged in history.staged:
        if (staged.kind, staged.target) == ("kill", REDIS):
            assert any(it.overlaps(staged.start, staged.end) for it in history.degraded), "nobody noticed"


def _keep(folder: Path, history: History, log: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [str(it) for it in sorted(history.operations, key=lambda it: it.end)]
    (folder / "operations.txt").write_text("\n".join(lines) + "\n")
    rest = history.rest
    kept = {
        "wipes": history.wipes,
        "staged": history.staged,
        "degraded": history.degraded,
        "sticky": {} if rest is None else dict(rest.sticky),
        "items": {} if rest is None else {name: dict(held) for name, held in rest.items.items()},
    }
    (folder / "events.json").write_text(json.dumps(kept, indent=1) + "\n")
    (folder / "distributer.log").write_text(log)

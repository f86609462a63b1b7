"""A million requests: memory stays flat, and no descriptor is left over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from operator import attrgetter

from bench.soak.finding import Finding
from bench.soak.worker import Descriptors, Memory, Worker
from distributer.load.client import Load
from distributer.load.requests import create, delete, get, post, read

CONNECTIONS = 64
FLAT = 0.02
"""How much of itself a worker may grow or shrink by over the last half of the requests."""

SAMPLE_S = 0.25
SETTLE_S = 8.0
"""Idle connections to backends are closed after 4 s."""

TO_REDIS = 4
"""Connections that a worker may have to Redis: the link of the requests, and those of what it does beside them."""

SILENCE_S = 15.0

_HOST = "bench.test"
_PING, _POST = get("/ping", _HOST), post("/events", _HOST, bytes(1 << 10))
_DOWNLOAD = get("/bytes/10240", _HOST)

_READ = 5_000
_MADE = 1_000
"""How many items are made and deleted over and over: what a worker remembers of items is bounded, but not small."""


def mixture(n: int) -> bytes:
    """Give the n-th request: the items first, then eight kinds in turn."""
    if n < _READ:
        return create(n, _HOST)
    turn, kind = divmod(n, 8)
    match kind:
        case 0 | 1:
            return _PING
        case 2:
            return _POST
        case 3:
            return _DOWNLOAD
        case 4 | 5:
            return read(n % _READ, _HOST)
        case 6:
            return create(_READ + turn % _MADE, _HOST)
        case _:
            return delete(_READ + (turn + _MADE // 2) % _MADE, _HOST)


async def steady(port: int, redis_port: int, workers: Sequence[Worker], requests: int) -> list[Finding]:
    """Send the requests, a mixture of all kinds, and watch the workers. Raises OSError if nobody listens."""
    warm = _load(port)
    await warm.connect()
    await warm.ask_until(_READ + 8 * _MADE)
    warm.close()
    before = await _settled(redis_port, workers)

    load = _load(port)
    load.asked = _READ
    await load.connect()
    samples: list[tuple[int, list[Memory]]] = []
    watch = asyncio.create_task(_watch(load, workers, samples))
    began_s = time.monotonic()
    await load.ask_until(load.asked + requests)
    took_s = time.monotonic() - began_s
    watch.cancel()
    samples.append((load.asked, [worker.memory() for worker in workers]))
    load.close()
    after = await _settled(redis_port, workers)
    return [
        Finding("requests", f"{requests:,} in {took_s:.0f} s, {requests / took_s:,.0f} a second"),
        Finding("errors", _listed(load.errors), "none", not load.errors),
        *flatness(samples),
        *(
            Finding(
                f"worker {n}: descriptors",
                f"{one.others} before, {other.others} after; to Redis {one.to_redis} and {other.to_redis}",
                f"the same; to Redis at most {TO_REDIS}",
                one.others == other.others and other.to_redis <= TO_REDIS,
            )
            for n, (one, other) in enumerate(zip(before, after, strict=True), 1)
        ),
    ]


def _load(port: int) -> Load:
    return Load(mixture, host="127.0.0.1", port=port, connections=CONNECTIONS, timeout_s=SILENCE_S)


async def _watch(load: Load, workers: Sequence[Worker], samples: list[tuple[int, list[Memory]]]) -> None:
    while True:
        samples.append((load.asked, [worker.memory() for worker in workers]))
        await asyncio.sleep(SAMPLE_S)


def flatness(samples: Sequence[tuple[int, list[Memory]]]) -> Iterator[Finding]:
    """Judge the workers by (requests asked so far, memory of each): did the last half of the requests leave them be?"""
    first, last = samples[0][0], samples[-1][0]
    half = [memories for asked, memories in samples if asked >= (first + last) / 2]
    for n, begin in enumerate(samples[0][1]):
        for name, size in (("resident", attrgetter("rss_kib")), ("its own", attrgetter("own_kib"))):
            sizes = [size(memories[n]) for memories in half]
            spread = (max(sizes) - min(sizes)) / max(sizes)
            yield Finding(
                f"worker {n + 1}: memory, {name}",
                f"{size(begin) / 1024:.1f} MiB at first, {min(sizes) / 1024:.1f}-{max(sizes) / 1024:.1f} in the last "
                f"half: {spread:.2%}",
                f"within {FLAT:.0%}",
                spread <= FLAT,
            )
        pss = [memories[n].pss_kib / 1024 for memories in half]
        yield Finding(f"worker {n + 1}: memory, proportional", f"{min(pss):.1f}-{max(pss):.1f} MiB in the last half")


async def _settled(redis_port: int, workers: Sequence[Worker]) -> list[Descriptors]:
    """Count the descriptors when connections that nobody uses are closed."""
    await asyncio.sleep(SETTLE_S)
    return [worker.descriptors(redis_port) for worker in workers]


def _listed(errors: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in errors.items()) or "none"

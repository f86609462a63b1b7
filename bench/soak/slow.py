"""A thousand clients that send a head byte by byte, and a thousand that send nothing, beside 64 that work."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from bench.scenarios import SCENARIOS
from bench.soak.finding import Finding
from bench.soak.worker import Worker, total_cpu_s
from distributer.load.client import NEVER, Load

SLOW, IDLE, WORKING = 1_000, 1_000, 64
BYTE_EVERY_S = 1.0
STEPS = 20
"""In how many parts of a second the slow ones have their turn."""

TOLERANCE = 0.10
"""What CPU time for a request may differ by from one window to the next without any reason, on a busy machine."""

ADDRESSES = 32
"""Clients come from so many loopback addresses: a bound for each address is not what is tested here."""

_HEAD = b"GET /ping HTTP/1.1\r\nHost: bench.test\r\nX-Slow: "
_SILENCE_S = 15.0


class Lingering(asyncio.Protocol):
    """One client that takes its time. It connects again when the server has had enough of it, which is its right."""

    def __init__(self, crowd: Crowd, is_slow: bool) -> None:
        self._crowd = crowd
        self._is_slow = is_slow
        self._sent = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._crowd.present.add(self)

    def send_a_byte(self) -> None:
        if self._is_slow and self._transport is not None:
            byte = _HEAD[self._sent : self._sent + 1] or b"a"
            self._sent += 1
            self._transport.write(byte)

    def data_received(self, data: bytes) -> None:
        status = data[9:12].decode("latin-1")
        self._crowd.ended[f"status {status}"] += 1

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._crowd.present.discard(self)
        self._crowd.lost(self._is_slow)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Crowd:
    """All the clients that take their time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._addresses = itertools.cycle(f"127.0.1.{n}" for n in range(1, ADDRESSES + 1))
        self._connects: set[asyncio.Task[None]] = set()
        self._is_over = False
        self.present: set[Lingering] = set()
        self.ended: Counter[str] = Counter()

    async def come(self) -> None:
        """Connect them all."""
        for is_slow in (True, False):
            for _ in range(SLOW if is_slow else IDLE):
                await self._connect(is_slow)

    async def trickle(self) -> None:
        """Send a byte on each slow connection every second, a few at a time."""
        for step in itertools.count():
            for client in list(self.present)[step % STEPS :: STEPS]:
                client.send_a_byte()
            await asyncio.sleep(BYTE_EVERY_S / STEPS)

    def lost(self, is_slow: bool) -> None:
        if self._is_over:
            return
        self.ended["closed"] += 1
        task = asyncio.ensure_future(self._connect(is_slow))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    def go(self) -> None:
        """End all the connections."""
        self._is_over = True
        for client in list(self.present):
            client.close()

    async def _connect(self, is_slow: bool) -> None:
        source = (next(self._addresses), 0) if sys.platform == "linux" else None
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Lingering(self, is_slow), "127.0.0.1", self._port, local_addr=source
            )
        except OSError as error:
            self.ended[f"refused: {error.strerror or error}"] += 1


class Window:
    """What the working connections had, and what it cost."""

    def __init__(self, answers: int, cpu_s: float, seconds: float) -> None:
        self.per_s = answers / seconds
        self.cpu_us = cpu_s * 1e6 / answers if answers else 0.0
        self.share = cpu_s / seconds
        """CPU seconds in a second."""

    def __str__(self) -> str:
        return f"{self.per_s:,.0f} requests/s, {self.cpu_us:.1f} us CPU each"


async def slow(port: int, workers: Sequence[Worker], seconds: float) -> list[Finding]:
    """Measure the working connections without the crowd, with it, and without again; and the crowd alone."""
    load = Load(SCENARIOS["ping"].requests(1), host="127.0.0.1", port=port, connections=WORKING, timeout_s=_SILENCE_S)
    await load.connect()
    await _window(load, workers, 1.0)
    before = await _window(load, workers, seconds)
    async with _crowd(port) as crowd:
        alone = await _idle_window(workers, seconds)
        during = await _window(load, workers, seconds)
        present = len(crowd.present)
    after = await _window(load, workers, seconds)
    load.close()

    return [
        *judge(before, during, after, alone),
        Finding("errors of the working ones", str(dict(load.errors) or "none"), "none", not load.errors),
        Finding(
            "the crowd is there",
            f"{present:,} connections; ended meanwhile: {dict(crowd.ended) or 'none'}",
            "none turned away: only 408 and closing, when their time is up",
            # Those whose time was up in the last moment are on their way back.
            present > 0.5 * (SLOW + IDLE) and crowd.ended.keys() <= {"status 408", "closed"},
        ),
    ]


def judge(before: Window, during: Window, after: Window, alone: Window) -> list[Finding]:
    """Say what the crowd took from the working ones: its own work, spread over their requests, and no more.

    In CPU time, which others on the machine do not take away; on a core that is used up, it is the throughput.
    """
    base_us, base_per_s = max(before.cpu_us, after.cpu_us), min(before.per_s, after.per_s)
    most_us = (base_us + alone.share * 1e6 / max(during.per_s, 1)) * (1 + TOLERANCE)
    return [
        Finding("before", str(before)),
        Finding(f"beside {SLOW:,} slow heads and {IDLE:,} idle", str(during)),
        Finding("after", str(after)),
        Finding("the crowd alone", f"{alone.share:.1%} of a core"),
        Finding("throughput kept", f"{during.per_s / base_per_s:.1%} of the lesser of before and after"),
        Finding(
            "CPU time for a request, during",
            f"{during.cpu_us:.1f} us",
            f"at most {most_us:.1f} us: what it was, the crowd's work, and {TOLERANCE:.0%}",
            during.cpu_us <= most_us,
        ),
    ]


@asynccontextmanager
async def _crowd(port: int) -> AsyncIterator[Crowd]:
    crowd = Crowd(port)
    await crowd.come()
    trickle = asyncio.create_task(crowd.trickle())
    try:
        yield crowd
    finally:
        trickle.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trickle
        crowd.go()


async def _window(load: Load, workers: Sequence[Worker], seconds: float) -> Window:
    load.forget()
    cpu_s = total_cpu_s(workers)
    load.go(NEVER)
    await asyncio.sleep(seconds)
    await load.drain()
    return Window(len(load.latencies_ns), total_cpu_s(workers) - cpu_s, seconds)


async def _idle_window(workers: Sequence[Worker], seconds: float) -> Window:
    cpu_s = total_cpu_s(workers)
    await asyncio.sleep(seconds)
    return Window(0, total_cpu_s(workers) - cpu_s, seconds)

"""One listening socket for each worker, or one that all share? `python -m bench.sockets` measures both.

Each way is asked three things. Do 64 keep-alive connections, opened at once, spread over four workers? How many
requests a second does that make? And when a worker is killed under a stream of new connections: how many of them fail,
and how long does the slowest wait?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis.asyncio as redis

from bench.child import Child, free_ports
from bench.redis_server import redis_server
from bench.table import render
from distributer.config import Settings
from distributer.control.registry import Registry
from distributer.process.serve import stopping_on_signals
from distributer.process.supervisor import Supervisor
from distributer.state.keys import Keys

WAYS = {"a socket each": False, "one shared": True}
WORKERS, CONNECTIONS, TRIALS = 4, 64, 5
KILL_WINDOW_S = 4.0
_ROOT = Path(__file__).resolve().parent.parent
_REQUEST = b"GET /ping HTTP/1.1\r\nHost: bench\r\n\r\n"


async def _serve(port: int, redis_url: str, backend: str, share: bool) -> None:
    settings = Settings(port=port, redis=redis_url, backends=(backend,), replicas=WORKERS)
    supervisor = Supervisor(settings, print, share_socket=share)
    with stopping_on_signals(supervisor.interrupt):
        await supervisor.start()
        await supervisor.run()


async def _ask(port: int) -> float:
    """Send one request on a connection of its own; return how long that took, in seconds."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_REQUEST)
        await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
    return time.perf_counter() - started


async def _requests_by_worker(registry: Registry) -> dict[int, int]:
    replicas = await registry.replicas()
    return {replica.snapshot["pid"]: replica.snapshot["metrics"]["requests"] for replica in replicas}


async def _spread(port: int, registry: Registry) -> list[int]:
    """Open CONNECTIONS connections at once, one request on each; count the connections of each worker."""
    before = await _requests_by_worker(registry)
    await asyncio.gather(*(_ask(port) for _ in range(CONNECTIONS)))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        after = await _requests_by_worker(registry)
        counts = sorted(after[pid] - before.get(pid, 0) for pid in after)
        if sum(counts) == CONNECTIONS and len(counts) == WORKERS:
            return counts
        await asyncio.sleep(0.1)  # the workers tell their counts once a second
    raise SystemExit("the workers did not tell their counts")


async def _kill_one(port: int, registry: Registry) -> tuple[int, int, float]:
    """Kill a worker under new connections: how many there were, how many failed, how long the slowest took."""
    pid = next(iter(await _requests_by_worker(registry)))
    results: list[asyncio.Task[float]] = []
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < KILL_WINDOW_S:
        results.append(asyncio.create_task(_ask(port)))
        if passed > 1 and pid:
            os.kill(pid, signal.SIGKILL)
            pid = 0
        await asyncio.sleep(0.005)
    done = await asyncio.gather(*results, return_exceptions=True)
    times = [result for result in done if isinstance(result, float)]
    return len(done), len(done) - len(times), max(times)


def _load(port: int) -> tuple[float, float]:
    """Return requests a second and p99 in seconds at CONNECTIONS connections."""
    command = [sys.executable, "-m", "bench.load", "--port", str(port), "--connections", str(CONNECTIONS)]
    output = subprocess.run([*command, "--seconds", "3"], check=True, capture_output=True, cwd=_ROOT).stdout
    measured = json.loads(output)
    counts = sorted((value, count) for value, count in measured["latencies"])
    total = sum(count for _, count in counts)
    seen = 0
    for value, count in counts:
        seen += count
        if seen >= 0.99 * total:
            return total / measured["window_s"], value / 1e9
    raise AssertionError("no latencies")


def _measure(name: str, redis_url: str, folder: Path) -> list[str]:
    origin, port = free_ports(2)
    with ExitStack() as stack:
        backend = Child(
            [sys.executable, "bench/origin.py", "--port", str(origin)], cores=None, log=folder / "origin", cwd=_ROOT
        )
        stack.enter_context(backend)
        backend.wait_until_listening(origin, 10)
        where = ["--port", str(port), "--redis", redis_url, "--backend", f"http://127.0.0.1:{origin}"]
        server = Child(
            [sys.executable, "-m", "bench.sockets", "--serve", name, *where],
            cores=None,
            log=folder / "server",
            cwd=_ROOT,
        )
        stack.enter_context(server)
        server.wait_until_listening(port, 10)
        return asyncio.run(_ask_all(name, port, redis_url))


async def _ask_all(name: str, port: int, redis_url: str) -> list[str]:
    client = redis.Redis.from_url(redis_url)
    registry = Registry(client, Keys())
    try:
        while len(await registry.replicas()) < WORKERS:  # noqa: ASYNC110 - they are other processes
            await asyncio.sleep(0.1)
        spreads = [await _spread(port, registry) for _ in range(TRIALS)]
        rate, p99_s = await asyncio.to_thread(_load, port)
        count, failed, slowest_s = await _kill_one(port, registry)
    finally:
        await client.aclose()
    least, most = statistics.median(s[0] for s in spreads), statistics.median(s[-1] for s in spreads)
    worst = max(spreads, key=lambda counts: counts[-1] - counts[0])
    return [
        name,
        f"{least:g}-{most:g}",
        "/".join(map(str, worst)),
        f"{rate:,.0f}",
        f"{p99_s * 1000:.1f}",
        f"{failed} of {count}",
        f"{slowest_s * 1000:.0f}",
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.sockets", description=__doc__.splitlines()[0])
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    for name in ("--redis", "--backend"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve(options.port, options.redis, options.backend, WAYS[options.serve]))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for way in WAYS:
            with redis_server(None, Path(name)) as server:
                rows.append(_measure(way, server.url, Path(name)))
    headers = ["sockets", "fewest-most", "worst trial", "requests/s", "p99 ms", "failed at the kill", "slowest ms"]
    print(f"{WORKERS} workers, {CONNECTIONS} connections, {TRIALS} trials\n\n{render(headers, rows)}")


if __name__ == "__main__":
    main()

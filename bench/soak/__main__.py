"""Run the parts one after the other, each on a distributer of its own, and print what they found."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import uvloop

from bench.child import free_ports
from bench.cores import on_cores
from bench.peers import PEERS
from bench.peers.peer import Unavailable
from bench.rig import Rig
from bench.soak.bodies import bodies, origin
from bench.soak.finding import Finding, table_of
from bench.soak.slow import slow
from bench.soak.steady import steady
from bench.soak.worker import workers_of

PARTS = ("steady", "slow", "bodies")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description="Does a worker stay the size it is? steady: a million requests of all kinds. slow: 1,000 clients "
        "that send a head byte by byte and 1,000 idle ones beside 64 that work. bodies: 200 MB each way, with a slow "
        "reader. Exit status 1 when a bound is broken.",
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"names with commas (default {','.join(PARTS)})")
    parser.add_argument("--door", default="express", choices=("express", "asgi"))
    parser.add_argument("--replicas", type=int, default=1, help="workers of the express door (default 1)")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the steady part (default 1,000,000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each window of the slow part (default 5)")
    return parser


async def _bodies(rig: Rig, options: argparse.Namespace) -> list[Finding]:
    (port,) = free_ports(1)
    async with origin(port):
        # Starting a peer blocks, and it asks the origin whether it is up: that must answer meanwhile.
        running = rig.running(PEERS[options.door], options.replicas, backends=(f"http://127.0.0.1:{port}",))
        target = await asyncio.to_thread(running.__enter__)
        try:
            workers = await asyncio.to_thread(workers_of, target.pid, options.replicas)
            return await bodies(target.port, workers)
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)


async def _on_a_target(rig: Rig, part: str, options: argparse.Namespace) -> list[Finding]:
    with rig.running(PEERS[options.door], options.replicas) as target:
        workers = workers_of(target.pid, options.replicas)
        if part == "steady":
            return await steady(target.port, rig.redis_port, workers, options.requests)
        return await slow(target.port, workers, options.seconds)


def _run(parts: Sequence[str], options: argparse.Namespace) -> list[Finding]:
    findings = []
    with Rig() as rig, on_cores(rig.cores.load):
        for part in parts:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found = runner.run(_bodies(rig, options) if part == "bodies" else _on_a_target(rig, part, options))
            print(f"\n{part}: {options.door}, {options.replicas} workers\n\n{table_of(found)}", flush=True)
            findings += found
    return findings


def _stop(*_: object) -> NoReturn:
    raise SystemExit(143)


def main(argv: list[str] | None = None) -> int:
    """Run the soak. Returns 1 when a bound is broken, or when it cannot run here."""
    parser = _parser()
    options = parser.parse_args(argv)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"parts: {', '.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    if options.requests < 1 or options.replicas < 1 or options.seconds <= 0:
        parser.error("requests, replicas and seconds must be positive")
    if options.door == "asgi" and options.replicas > 1:
        parser.error("replicas: the workers of another server are not found here; --door asgi has one")
    if sys.platform != "linux":
        parser.error("what a worker occupies is read from /proc: this runs on Linux only")
    signal.signal(signal.SIGTERM, _stop)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        findings = _run(parts, options)
    except Unavailable as reason:
        print(f"soak: {reason}", file=sys.stderr)
        return 1
    return 0 if all(finding.is_held for finding in findings) else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)

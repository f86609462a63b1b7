"""The load client with the benchmark's scenarios: prints one Measurement as JSON.

    python -m bench.load --port 8080 --connections 64 --seconds 3

It runs in a process of its own, so that it can be pinned, and so that nothing else is in its way.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
import sys

import uvloop

from bench.cpu import tree_cpu_s
from bench.scenarios import SCENARIOS
from distributer.load.client import Connection, Load, Window, measure
from distributer.load.measurement import Measurement


class CountingConnection(Connection):
    """Counts the answers of each backend by their bodies, `{"port": N}`: no peer has to name its backends."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.load.by_backend[_backend_of(self.body)] += 1
        self.body = b""
        super().on_message_complete()


@functools.cache
def _backend_of(body: bytes) -> bytes:
    try:
        return b"%d" % json.loads(body)["port"]
    except (ValueError, KeyError, TypeError):
        return b"other"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="A closed-loop HTTP/1.1 load client.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--scenario", choices=SCENARIOS, default="ping")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the window")
    parser.add_argument("--requests", type=int, default=0, help="end the window after so many requests instead")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before the window")
    parser.add_argument("--timeout", type=float, default=15.0, help="seconds of silence that count as an error")
    parser.add_argument("--first-item", type=int, default=1, help="number of the first item that is created")
    parser.add_argument("--count-backends", action="store_true", help="count the answers of each backend")
    parser.add_argument(
        "--cpu-of", type=int, metavar="PID", help="measure the CPU time of this process and its children"
    )
    return parser.parse_args(argv)


async def _run(options: argparse.Namespace) -> Measurement:
    scenario = SCENARIOS[options.scenario]
    load = Load(
        scenario.requests(options.first_item),
        host=options.host,
        port=options.port,
        connections=options.connections,
        timeout_s=options.timeout,
        lane=CountingConnection if options.count_backends and scenario.names_backend else Connection,
    )
    window = Window(options.seconds, options.requests, options.warmup, scenario.preparation)
    # Nothing here makes reference cycles on the hot path, and a collection in the window would be a latency of ours.
    gc.disable()
    try:
        return await measure(load, window, lambda: tree_cpu_s(options.cpu_of) if options.cpu_of else None)
    finally:
        load.close()


def main(argv: list[str] | None = None) -> None:
    """Run the load and print the measurement."""
    options = _parse(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            measurement = runner.run(_run(options))
        except OSError as error:
            sys.exit(f"cannot connect to {options.host}:{options.port}: {error}")
    print(measurement.to_json())


if __name__ == "__main__":
    main()

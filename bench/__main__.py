"""Arguments to one Plan to one run."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

from bench import machine, report
from bench.peers import PEERS
from bench.plan import Plan, peers_named, scenarios_named
from bench.rig import Rig
from bench.rounds import Rounds
from bench.scenarios import SCENARIOS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the distributer beside other proxies. bench/README.md: the method."
    )
    parser.add_argument("--peers", default="all", help=f"names with commas, or all: {', '.join(PEERS)}")
    parser.add_argument("--scenarios", default="ping", help=f"names with commas, or all: {', '.join(SCENARIOS)}")
    parser.add_argument("--connections", default="1,64", help="numbers with commas (default 1,64)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer is started and measured (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement (default 3)")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds of load before each of them (default 1)")
    parser.add_argument("--reference", default="aiohttp", choices=PEERS, help="what the ratios refer to")
    parser.add_argument(
        "--count-backends", action="store_true", help="count each backend's answers: is the rotation even?"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: one short round, 1 and 8 connections")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page to a file as well")
    parser.add_argument("--list", action="store_true", help="list peers and scenarios")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    """Read the options. Raises ValueError."""
    plan = Plan(
        peers=peers_named(options.peers),
        scenarios=scenarios_named(options.scenarios),
        connections=tuple(int(number) for number in options.connections.split(",")),
        rounds=options.rounds,
        seconds=options.seconds,
        warmup_s=options.warmup,
        reference=options.reference,
        count_backends=options.count_backends,
    )
    if plan.rounds < 1 or plan.seconds <= 0 or plan.warmup_s < 0 or min(plan.connections) < 1:
        raise ValueError("rounds, seconds and connections must be positive")
    return plan.quick() if options.quick else plan


def _command(argv: list[str]) -> str:
    """Return the command as anybody would repeat it: without the name of the file that the page went to."""
    words = list(argv)
    if "--markdown" in words:
        at = words.index("--markdown")
        del words[at : at + 2]
    return shlex.join(["python", "-m", "bench", *(word for word in words if not word.startswith("--markdown="))])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop(*_: object) -> NoReturn:
    # As an exception it unwinds the rig, which ends what it started.
    raise SystemExit(143)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark. Returns 1 if any request failed or nothing was measured: such figures are not to be used."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    options = parser.parse_args(argv)
    if options.list:
        for name, about in [(row.name, row.about) for row in PEERS.values()] + [
            (row.name, row.about) for row in SCENARIOS.values()
        ]:
            print(f"{name:14}{about}")
        return 0
    try:
        plan = _plan(options)
    except ValueError as error:
        parser.error(str(error))

    signal.signal(signal.SIGTERM, _stop)
    facts = machine.describe()
    _say(f"{plan.measurements()} measurements, about {plan.duration_s():.0f} s")
    with Rig() as rig:
        facts |= {"Redis": rig.redis.version() if rig.redis else "none", "Cores": str(rig.cores)}
        results = Rounds(plan, rig, _say).run()
    facts |= {
        "Rounds": f"{plan.rounds}, peers in turn, {plan.seconds:g} s each after {plan.warmup_s:g} s of warm-up",
        "Command": f"`{_command(argv)}`",
    }
    page = report.page(plan, results, facts)
    print(page)
    if options.markdown is not None:
        options.markdown.write_text(page, encoding="utf-8")
    return 0 if results.measurements and not results.has_errors() else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)

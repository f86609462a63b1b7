"""Arguments to one Plan to one run."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

from bench import machine, plot, report
from bench.peers import PEERS, doors
from bench.peers.peer import Unavailable
from bench.plan import HEADLINE, Cell, Plan, crossed, default_cells, numbers, peers_named, scenarios_named
from bench.rig import Rig
from bench.rounds import Results, Rounds
from bench.scenarios import SCENARIOS

PLOTTED = ("ping", "read", "create", "download-1m")
"""The scenarios that the picture shows."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the distributer beside other proxies. bench/README.md: the method. Without --scenarios, "
        "--connections and --workers: every scenario at 64 connections, the rotation at 1, 64 and 512 and with two "
        "workers, the slow peers in one cell.",
    )
    parser.add_argument("--peers", default="all", help=f"names with commas, or all: {', '.join(PEERS)}")
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help="measure the express door of another checkout too: peer before"
    )
    parser.add_argument("--scenarios", help=f"names with commas, or all: {', '.join(SCENARIOS)} (ping)")
    parser.add_argument("--connections", help="numbers with commas (1,64)")
    parser.add_argument("--workers", help="workers of each proxy, numbers with commas (1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer is started and measured (default 3)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each measurement (default 1.5)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds of load before each of them (default 0.5)")
    parser.add_argument(
        "--reference", default="nginx-lua-redis", help="what the ratios refer to (default nginx-lua-redis)"
    )
    parser.add_argument(
        "--count-backends", action="store_true", help="count each backend's answers: is the rotation even?"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test: one short round, 1 and 8 connections")
    parser.add_argument("--full", action="store_true", help="every scenario at 1, 64 and 512 connections, twice: hours")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page to a file as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the picture into an SVG file")
    parser.add_argument("--list", action="store_true", help="list peers and scenarios")
    return parser


def _cells(options: argparse.Namespace) -> tuple[Cell, ...]:
    """Read what is to be measured. Raises ValueError."""
    scenarios, connections, workers = options.scenarios, options.connections, options.workers
    if options.full:
        scenarios, connections, workers = scenarios or "all", connections or "1,64,512", workers or "1,2"
    elif not (scenarios or connections or workers):
        return default_cells()
    return crossed(scenarios_named(scenarios or "ping"), numbers(connections or "1,64"), numbers(workers or "1"))


def _plan(options: argparse.Namespace) -> Plan:
    """Read the options. Raises ValueError."""
    plan = Plan(
        peers=peers_named(options.peers) + ((doors.express_of(options.before),) if options.before else ()),
        cells=_cells(options),
        rounds=options.rounds,
        seconds=options.seconds,
        warmup_s=options.warmup,
        reference=options.reference,
        spares_slow=not (options.full or options.scenarios or options.connections or options.workers),
        count_backends=options.count_backends,
    )
    if plan.reference not in {*PEERS, *(peer.name for peer in plan.peers)}:
        raise ValueError(f"reference: {plan.reference!r} is no peer")
    least = min(min(cell.connections, cell.workers) for cell in plan.cells)
    if plan.rounds < 1 or plan.seconds <= 0 or plan.warmup_s < 0 or least < 1:
        raise ValueError("rounds, seconds, connections and workers must be positive")
    return plan.quick() if options.quick else plan


def _command(argv: list[str]) -> str:
    """Return the command as anybody would repeat it: without the names of the files that it wrote."""
    words, kept = iter(argv), []
    for word in words:
        if word in ("--markdown", "--plot"):
            next(words, None)
        elif not word.startswith(("--markdown=", "--plot=")):
            kept.append(word)
    return shlex.join(["python", "-m", "bench", *kept])


def _draw(plan: Plan, results: Results, options: argparse.Namespace) -> str | None:
    """Draw the picture, if one is asked for; return how the page is to refer to it."""
    if options.plot is None:
        return None
    cells = [cell for cell in plan.cells if cell.workers == 1 and cell.scenario.name in PLOTTED]
    widest = max((cell.connections for cell in cells if cell.connections <= HEADLINE.connections), default=0)
    try:
        plot.draw(plan, results, [cell for cell in cells if cell.connections == widest], options.plot)
    except Unavailable as reason:
        _say(f"no plot: {reason}")
        return None
    folder = options.markdown.parent if options.markdown else Path()
    return Path(os.path.relpath(options.plot, folder)).as_posix()


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
            print(f"{name:18}{about}")
        return 0
    try:
        plan = _plan(options)
    except ValueError as error:
        parser.error(str(error))

    signal.signal(signal.SIGTERM, _stop)
    facts = machine.describe()
    _say(f"{plan.measurements()} measurements, about {plan.duration_s() / 60:.0f} minutes")
    with Rig() as rig:
        facts |= {"Redis": rig.redis.version() if rig.redis else "none", "Cores": str(rig.cores)}
        results = Rounds(plan, rig, _say).run()
    facts |= {
        "Rounds": f"{plan.rounds}, peers in turn, {plan.seconds:g} s each after {plan.warmup_s:g} s of warm-up",
        "Command": f"`{_command(argv)}`",
    }
    page = report.page(plan, results, facts, _draw(plan, results, options))
    print(page)
    if options.markdown is not None:
        options.markdown.write_text(page, encoding="utf-8")
    return 0 if results.measurements and not results.has_errors() else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)

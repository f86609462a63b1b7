"""`python -m tests.cluster chaos|backend-kill|redis-kill|rolling`: stage faults on a real cluster, and check it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from tests.cluster import chaos, report, scenarios


def main() -> int:
    """Run one scenario. The exit status is 1 when a promise was broken, or a goal missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("scenario", choices=["chaos", *scenarios.SCENARIOS])
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the chaos (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the chaos; the time of day by default")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second of the chaos (%(default)s)")
    parser.add_argument("--markdown", type=Path, help="write the section of the chaos into that page")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--keep", type=Path, help="keep history and log of a run with violations there")
    arguments = parser.parse_args()
    if arguments.scenario != "chaos":
        found = asyncio.run(scenarios.SCENARIOS[arguments.scenario]())
        text = json.dumps(found.numbers, indent=2) + "\n"
        print(text, end="")
        for goal in found.missed:
            print(f"missed: {goal}", file=sys.stderr)
        _write(arguments.json, text)
        return 1 if found.missed else 0
    seed = int(time.time()) % 1_000_000 if arguments.seed is None else arguments.seed
    keep = arguments.keep or Path(f"chaos-{seed}")
    options = chaos.Options(seed=seed, seconds=arguments.seconds, rate=arguments.rate, keep=keep)
    outcome = asyncio.run(chaos.run(options, lambda text: print(f"chaos: {text}", file=sys.stderr)))
    _write(arguments.json, report.to_json(outcome))
    if arguments.markdown is not None:
        page = arguments.markdown.read_text() if arguments.markdown.exists() else ""
        arguments.markdown.write_text(report.into_page(page, report.to_markdown(outcome)))
    print(report.to_json(outcome), end="")
    is_available = report.availability(outcome.history.pings, with_retry=True) >= report.GOAL
    for violation in outcome.verdict.violations:
        print(f"violation: {violation}", file=sys.stderr)
    if not is_available:
        print(f"missed: {report.GOAL:.2%} of the rotated GETs served", file=sys.stderr)
    return 0 if outcome.verdict.is_clean and is_available else 1


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())

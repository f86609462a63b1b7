"""`python -m tests.simulation`: one seed with its story, or many on all cores."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.determinism import simulated
from tests.simulation.faults import BY_NAME, Profile
from tests.simulation.mutations import MUTATIONS
from tests.simulation.schedule import Result, run

CHUNK = 200
"""Seeds that a process runs at a time."""
MAX_SHOWN = 10


def main() -> int:
    """Read the arguments, and do what they say. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the seed, or the first of many")
    parser.add_argument("--schedules", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--profile", choices=sorted(BY_NAME), help="what goes wrong, instead of what the seed chooses")
    parser.add_argument("--trace", action="store_true", help="tell all that happens")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; all cores by default")
    parser.add_argument("--mutations", action="store_true", help="for each mutation, find a seed that falls")
    arguments = parser.parse_args()
    if arguments.mutations:
        return hunt()
    profile = BY_NAME[arguments.profile] if arguments.profile else None
    if arguments.schedules == 1:
        with simulated():
            result = run(arguments.seed, profile, print if arguments.trace else None)
        print(f"seed {result.seed} ({result.profile}), {result.requests} requests: {result.violation or 'all holds'}")
        return 1 if result.violation else 0
    return many(arguments.seed, arguments.schedules, profile, arguments.jobs)


def many(first: int, schedules: int, profile: Profile | None, jobs: int) -> int:
    """Run many seeds, and say how it goes. Returns the exit status."""
    started, done, requests = time.perf_counter(), 0, 0
    profiles: Counter[str] = Counter()
    fallen: list[Result] = []
    with ProcessPoolExecutor(jobs) as pool:
        starts = range(first, first + schedules, CHUNK)
        chunks = [pool.submit(chunk, start, min(CHUNK, first + schedules - start), profile) for start in starts]
        for future in as_completed(chunks):
            for result in future.result():
                done += 1
                requests += result.requests
                profiles[result.profile] += 1
                if result.violation:
                    fallen.append(result)
                    if len(fallen) <= MAX_SHOWN:
                        print(f"\n{explain(result, chosen=profile is not None)}", file=sys.stderr)
            took = time.perf_counter() - started
            print(f"\r{done:,} of {schedules:,} schedules, {done / took:.0f} a second, {len(fallen)} fell", end="",
                  file=sys.stderr, flush=True)  # fmt: skip
    print(file=sys.stderr)
    shares = ", ".join(f"{name} {count:,}" for name, count in sorted(profiles.items()))
    print(f"{done:,} schedules with {requests:,} requests: {len(fallen)} violations ({shares})")
    return 1 if fallen else 0


def hunt() -> int:
    """Find a seed for each mutation. Returns the exit status."""
    survived = 0
    for mutation in MUTATIONS:
        with simulated():
            result = mutation.hunt()
        gc.collect()
        survived += result is None
        print(f"{'-' if result is None else result.seed:>5}  {mutation.name}", flush=True)
        print(f"       {'SURVIVED' if result is None else result.violation}", flush=True)
    return 1 if survived else 0


def chunk(first: int, count: int, profile: Profile | None) -> list[Result]:
    """Run some seeds in this process."""
    return list(results(first, count, profile))


def results(first: int, count: int, profile: Profile | None = None) -> Iterator[Result]:
    """Run some seeds, one after the other."""
    with simulated():
        for seed in range(first, first + count):
            yield run(seed, profile)
            if seed % 50 == 49:
                gc.collect()
    gc.collect()


def explain(result: Result, *, chosen: bool = False) -> str:
    """Say what fell, and how to see it again."""
    option = f" --profile '{result.profile}'" if chosen else ""
    return (
        f"seed {result.seed} ({result.profile}): {result.violation}\n"
        f"  python -m tests.simulation --seed {result.seed}{option} --trace"
    )


if __name__ == "__main__":
    sys.exit(main())

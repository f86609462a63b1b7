"""The same seed tells the same story, in whichever process, and whatever was run before."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.simulation.determinism import simulated
from tests.simulation.faults import BY_NAME
from tests.simulation.schedule import run


def story(seed: int, profile: str) -> list[str]:
    lines: list[str] = []
    run(seed, BY_NAME[profile], lines.append)
    return lines


def test_a_seed_tells_the_same_story_whatever_was_run_before() -> None:
    with simulated():
        first = [story(seed, "storm") for seed in range(5)]
        run(5, BY_NAME["storm"])
        again = [story(seed, "storm") for seed in (4, 3, 2, 1, 0)]
    assert first == again[::-1]
    assert all(len(lines) > 50 for lines in first)


def test_a_seed_tells_the_same_story_in_another_process() -> None:
    def told(hash_seed: str) -> str:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "3", "--profile", "storm", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert told("1") == told("2")


def test_other_seeds_tell_other_stories() -> None:
    with simulated():
        stories = {tuple(story(seed, "calm")) for seed in range(20)}
    assert len(stories) == 20

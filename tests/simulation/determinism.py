"""Time and chance as the seed has them: for as long as a schedule runs, nobody sees those of the machine."""

from __future__ import annotations

import gc
import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

from distributer.control import lease, sweeper
from distributer.doors import express
from distributer.forwarding import core, exchange, pool
from distributer.state import redis_link, redis_store
from tests.simulation import replica
from tests.simulation.world import EPOCH_S, World

SCALED: tuple[tuple[Any, str, float], ...] = (
    (core, "UNREACHABLE_S", 0.3),
    (sweeper, "INTERVAL_S", 0.2),
    (lease, "TTL_S", 0.6),
    (lease, "RENEW_S", 0.2),
    (sweeper, "ASK_TIMEOUT_S", 0.3),
    (redis_link, "FIRST_BACKOFF_S", 0.01),
    (redis_link, "LAST_BACKOFF_S", 0.15),
    (redis_link, "CONNECT_TIMEOUT_S", 0.2),
    (redis_link, "STEADY_S", 0.3),
    (redis_store, "FIRST_PROBE_S", 0.02),
    (redis_store, "LAST_PROBE_S", 0.2),
)
"""What the product has as constants, at the pace of the simulation."""


@contextmanager
def simulated() -> Iterator[None]:
    """Have the product's parts watched, and at the simulation's pace. Holds for any number of schedules."""
    log = logging.getLogger("distributer")
    level, had_gc = log.level, gc.isenabled()
    patches: list[Any] = [patch.object(module, name, value) for module, name, value in SCALED]
    patches += [
        patch.object(express, "Exchange", replica.SimExchange),
        patch.object(exchange, "ClaimedRequest", replica.SimClaimedRequest),
        patch.object(pool, "UpstreamConnection", replica.SimConnection),
    ]
    try:
        for one in patches:
            one.start()
        log.setLevel(logging.CRITICAL)
        gc.disable()
        yield
    finally:
        for one in reversed(patches):
            one.stop()
        log.setLevel(level)
        if had_gc:
            gc.enable()


@contextmanager
def seeded(world: World, seed: int | str) -> Iterator[None]:
    """Have that world's time, and that seed's chance. For one schedule."""
    state = random.getstate()
    originals = time.time, time.monotonic, time.perf_counter, os.urandom
    chance = random.Random(f"urandom {seed}")
    random.seed(f"product {seed}")
    replica._serials = count(1)
    try:
        time.time = lambda: EPOCH_S + world.now
        time.monotonic = time.perf_counter = lambda: world.now
        os.urandom = chance.randbytes
        yield
    finally:
        time.time, time.monotonic, time.perf_counter, os.urandom = originals
        random.setstate(state)

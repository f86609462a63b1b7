"""What every test may use: the Hypothesis profile, and real Redis servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis
from hypothesis import settings

from tests.support.redis_server import RedisServer, find_servers

# The default finds the same examples in every run, so a failure is never a matter of luck. To look for new ones:
# HYPOTHESIS_PROFILE=explore pytest ...
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def redis_servers() -> Iterator[Callable[[str], RedisServer]]:
    """Start a server by name, once in a session; skip the test where there is none."""
    found = find_servers()
    running: dict[str, RedisServer] = {}
    with ExitStack() as stack:

        def server(name: str) -> RedisServer:
            if name not in found:
                pytest.skip(f"no {name} server can be started here")
            if name not in running:
                running[name] = stack.enter_context(RedisServer(found[name]))
            return running[name]

        yield server


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis")])
def redis_url(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> str:
    """Name an empty real server: the test runs once on Valkey and once on Redis."""
    url = redis_servers(request.param).url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url

"""The examples run as they stand."""

from __future__ import annotations

import importlib
import json

import pytest

from tests.support.cluster import SharedRedis, demo_backends, served
from tests.support.raw import ask, request
from tests.support.redis_server import RedisServer, find_servers


@pytest.mark.redis
async def test_an_application_forwards_some_paths_and_answers_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_servers()
    if not found:
        pytest.skip("no server can be started here")
    with RedisServer(next(iter(found.values()))) as server:
        async with demo_backends() as backends:
            urls = ",".join(SharedRedis(None).settings(backends).backends)
            monkeypatch.setenv("DISTRIBUTER_BACKENDS", urls)
            monkeypatch.setenv("DISTRIBUTER_REDIS", server.url)
            example = importlib.import_module("examples.embedded")
            async with served(example.app, lifespan="on") as (port,):
                pings = [json.loads((await ask(port, request())).body)["port"] for _ in range(4)]
                assert pings == backends
                own = await ask(port, request("GET", "/"))
                assert b"the application's own" in own.body
                assert (await ask(port, request("GET", "/elsewhere"))).status == 404

"""`distributer bench`: a load on a cluster that is up, and what it tells of it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.cluster import SharedRedis, demo_backends, distributers
from tests.support.ports import free_port
from tests.support.processes import Ended, run
from tests.support.raw import ask, origin, replies, request

PEN = b'{"name":"pen","price":1.5}'
FEW = ("--requests", "200", "--connections", "8", "--warmup-s", "0.1")


async def bench(port: int, path: str, *flags: str) -> Ended:
    """Run the command beside the servers of this process."""
    command = ("-m", "distributer", "bench", "--url", f"http://127.0.0.1:{port}{path}", *flags)
    return await asyncio.to_thread(run, *command)


async def test_it_tells_the_speed_and_which_backend_answered() -> None:
    shared = SharedRedis(None)
    async with (
        demo_backends(4) as backends,
        distributers("express", shared.settings(backends, routing_headers=True), shared, 1) as (port,),
    ):
        it = await bench(port, "/ping", *FEW, "--json")
        assert (it.status, it.errors) == (0, "")
        measured = json.loads(it.output)
        assert (measured["answers"], measured["errors"]) == (200, {})
        assert measured["requests_per_s"] == pytest.approx(200 / measured["window_s"], rel=0.05)
        assert 0 < measured["p50_ms"] <= measured["p99_ms"] <= measured["max_ms"]
        counts = measured["backends"]
        assert sorted(counts) == sorted(f"http://127.0.0.1:{backend}" for backend in backends)
        assert sum(counts.values()) >= 200
        assert max(counts.values()) - min(counts.values()) <= 1

        it = await bench(port, "/ping?a=b", *FEW)
        assert (it.status, it.errors) == (0, "")
        assert it.output.startswith(f"get http://127.0.0.1:{port}/ping?a=b, 8 connections, ")
        rows = {line.split()[0]: line.split()[1:] for line in it.output.splitlines() if line}
        assert (rows["answers"], rows["errors"]) == (["200"], ["0"])
        assert rows["p50"][1] == "ms"


@pytest.mark.parametrize("scenario", ["create", "read"])
async def test_it_leaves_no_items_behind(scenario: str) -> None:
    shared = SharedRedis(None)
    async with (
        demo_backends(2) as backends,
        distributers("express", shared.settings(backends), shared, 1) as (port,),
        shared.client() as client,
    ):
        await ask(port, request("POST", "/items/?item_id=7", "Content-Type: application/json", body=PEN))
        it = await bench(port, "", *FEW, "--scenario", scenario, "--first-item", "100", "--items", "20", "--json")
        assert (it.status, it.errors) == (0, "")
        assert json.loads(it.output)["answers"] == 200
        assert await client.hkeys("distributer:sticky") == [b"7"]
        assert (await ask(port, request("GET", "/items/100"))).status == 404


async def test_answers_that_are_errors_are_counted_and_the_exit_status_says_so() -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    async with origin(replies(*[busy] * 300)) as it:
        few = ("--requests", "20", "--connections", "1", "--warmup-s", "0")
        ended = await bench(it.port, "/", *few)
        assert (ended.status, ended.errors) == (1, "")
        assert "errors      20 status 503" in ended.output
        assert "answers     0\n" in ended.output
        for name in ("p50", "p99", "max"):
            assert f"\n{name}         -\n" in ended.output
        ended = await bench(it.port, "/", *few, "--json")
        measured = json.loads(ended.output)
        assert [measured[f"{name}_ms"] for name in ("p50", "p99", "max")] == [None] * 3


async def test_an_interim_answer_is_not_the_answer() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with origin(replies(*[hints + final] * 300)) as it:
        ended = await bench(it.port, "/", "--requests", "20", "--connections", "1", "--warmup-s", "0", "--json")
        assert ended.status == 0
        assert json.loads(ended.output)["answers"] == 20


async def test_nobody_there_is_one_line() -> None:
    port = free_port()
    it = await bench(port, "/", "--seconds", "1")
    assert it.status == 1
    assert it.errors == f"distributer: url: cannot connect to 127.0.0.1:{port}: Connection refused\n"


async def test_a_name_that_nobody_has_is_one_line() -> None:
    it = await asyncio.to_thread(run, "-m", "distributer", "bench", "--url", "http://nosuch.invalid/")
    assert it.status == 1
    assert it.errors.startswith("distributer: url: cannot connect to nosuch.invalid:80: ")
    assert it.errors.count("\n") == 1

"""Looking at the shared state: `distributer status`, `sticky`, `redis-cli`, and the control plane."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.load import quick_backends
from tests.support.ports import free_port
from tests.support.processes import Ended, clean, run, serve
from tests.support.raw import Message, ask, request
from tests.support.redis_server import RedisServer, find_servers
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.redis

HERE, THERE, GONE = "http://127.0.0.1:8000", "http://[fe80::1]:8000", "http://10.9.9.9:8000"


@pytest.fixture
def state(redis_servers: Callable[[str], RedisServer]) -> Iterator[redis.Redis]:
    """An empty Redis."""
    with redis.Redis.from_url(redis_servers("valkey").url) as client:
        client.flushall()
        yield client


@pytest.fixture
def look(redis_servers: Callable[[str], RedisServer]) -> Callable[..., Ended]:
    """Run a command that looks at it."""
    url = redis_servers("valkey").url
    return lambda *command: run("-m", "distributer", *command, "--redis", url)


def seed(state: redis.Redis) -> None:
    """Write what two backends, one replica and some requests leave behind, and owners that are no backends."""
    state.set("distributer:rotation", 41)
    owners = {1: HERE, 2: HERE, 3: THERE, 4: GONE, 5: GONE, 6: GONE, 7: "[/red]\x1b[2J"}
    state.hset("distributer:sticky", mapping={str(item): owner for item, owner in owners.items()})
    state.hset("distributer:claims", "3", "{}")
    backends = {"127.0.0.1:8000": (HERE, 0), "[fe80::1]:8000": (THERE, 1)}
    for backend, (url, position) in backends.items():
        member = {"url": url, "position": position, "state": "ready", "joined": position == 0, "source": "settings"}
        state.hset("distributer:backends", backend, json.dumps(member))
    now = float(state.time()[0])
    down = {"status": "down", "since": now - 300, "reason": "3 probes in a row failed: \x1b[2J"}
    state.hset("distributer:health", "[fe80::1]:8000", json.dumps(down))
    state.hset("distributer:health", "127.0.0.1:8000", "{}")
    counted = {"127.0.0.1:8000": {"requests": 20, "failures": 1, "in_flight": 2}}
    snapshot = {
        "version": "1.2.3",
        "pid": 77,
        "address": "127.0.0.1:8080",
        "redis_mode": "refused",
        "redis_trouble": "Redis is out of memory",
        "redis_mode_changes": 4,
        "metrics": {"requests": 21, "in_flight": 2, "backends": counted},
    }
    state.zadd("distributer:replicas", {"seen": now, "silent": now - 30})
    state.set("distributer:replica:seen", json.dumps(snapshot))


def cells(output: str, name: str) -> list[str]:
    """The cells of the row that begins with name."""
    (row,) = [line.split() for line in output.splitlines() if line.split()[:1] == [name]]
    return row[1:]


def test_status_shows_replicas_backends_and_owners_that_are_no_backends(
    state: redis.Redis, look: Callable[..., Ended]
) -> None:
    seed(state)
    shown = look("status")
    assert (shown.status, shown.errors) == (0, "")
    first = shown.output.splitlines()[0]
    assert "tickets taken 41   items 7   claims in flight 1" in first
    assert cells(shown.output, "seen")[:3] == ["127.0.0.1:8080", "77", "1.2.3"]
    assert "refused (Redis is out of memory), 3 changes" in shown.output
    assert "silent" not in shown.output
    assert cells(shown.output, HERE) == ["2", "20", "2", "1", "ready", "up", "not", "probed"]
    counts, health = cells(shown.output, THERE)[:4], cells(shown.output, THERE)[4:]
    assert counts == ["1", "0", "0", "0"]
    assert " ".join(health) == r"ready, not joined down 5 min 3 probes in a row failed: \x1b[2J"
    assert cells(shown.output, GONE) == ["(no", "backend)", "3"]
    # Nothing of what anyone may have written there is taken for markup, or gets at the terminal.
    assert cells(shown.output, r"[/red]\x1b[2J") == ["(no", "backend)", "1"]
    assert "\x1b" not in shown.output


def test_status_as_json_says_the_same(state: redis.Redis, look: Callable[..., Ended]) -> None:
    seed(state)
    status = json.loads(look("status", "--json").output)
    assert (status["tickets"], status["items"], status["claims"]) == (41, 7, 1)
    assert [(backend["url"], backend["items"], backend["requests"]) for backend in status["backends"]] == [
        (HERE, 2, 20),
        (THERE, 1, 0),
    ]
    here, there = status["backends"]
    assert (here["health"]["status"], here["health"]["reason"], here["health_age_s"]) == ("up", "not probed", None)
    assert (there["health"]["status"], there["state"], there["joined"]) == ("down", "ready", False)
    assert 300 <= there["health_age_s"] < 330
    assert (there["ejected_for_s"], status["prober"]) == (None, None)
    assert status["unknown_owners"] == {GONE: 3, "[/red]\x1b[2J": 1}
    assert [replica["id"] for replica in status["replicas"]] == ["seen"]


def test_status_of_an_empty_redis_says_that_there_is_nothing(state: redis.Redis, look: Callable[..., Ended]) -> None:
    shown = look("status")
    assert (shown.status, shown.errors) == (0, "")
    assert "tickets taken 0   items 0   claims in flight 0" in shown.output
    assert "no replica is alive" in shown.output
    assert "no backends are announced yet" in shown.output
    # Items whose owners nobody has announced are there all the same.
    state.hset("distributer:sticky", "1", GONE)
    assert cells(look("status").output, GONE) == ["(no", "backend)", "1"]


def test_sticky_get_shows_the_owner_or_exits_with_3(state: redis.Redis, look: Callable[..., Ended]) -> None:
    seed(state)
    assert look("sticky", "get", "001")[:3] == (0, f"1 {HERE}\n", "")
    assert look("sticky", "get", "3")[:3] == (0, f"3 {THERE} (a create or delete is in flight)\n", "")
    assert look("sticky", "get", "8")[:3] == (3, "8 is bound to no backend\n", "")
    assert json.loads(look("sticky", "get", "3", "--json").output) == {"item": "3", "backend": THERE, "claimed": True}
    unbound = look("sticky", "get", "8", "--json")
    assert (unbound.status, json.loads(unbound.output)["backend"]) == (3, None)
    wrong = look("sticky", "get", "pen")
    assert (wrong.status, wrong.output) == (1, "")
    assert "item: 'pen' is no item id" in wrong.errors


def test_sticky_list_can_be_limited_and_filtered(state: redis.Redis, look: Callable[..., Ended]) -> None:
    seed(state)
    assert sorted(look("sticky", "list").output.splitlines()) == [
        f"1 {HERE}",
        f"2 {HERE}",
        f"3 {THERE}",
        f"4 {GONE}",
        f"5 {GONE}",
        f"6 {GONE}",
        r"7 [/red]\x1b[2J",
    ]
    for name in (HERE + "/", "127.0.0.1:8000"):
        assert sorted(look("sticky", "list", "--backend", name).output.split()) == ["1", "2", HERE, HERE]
    limited = look("sticky", "list", "--limit", "3")
    assert (limited.status, limited.output.count("\n")) == (0, 3)
    assert "--limit 0 shows all" in limited.errors
    assert json.loads(look("sticky", "list", "--limit", "3", "--json").output)["more"] is True
    assert look("sticky", "list", "--limit", "7").errors == ""


def test_a_long_list_can_be_cut_off_by_its_reader(
    state: redis.Redis, redis_servers: Callable[[str], RedisServer]
) -> None:
    state.hset("distributer:sticky", mapping={str(item): HERE for item in range(5_000)})
    command = [sys.executable, "-m", "distributer", "sticky", "list", "--limit", "0", "--redis"]
    with subprocess.Popen(
        [*command, redis_servers("valkey").url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith(f" {HERE}\n".encode())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_redis_cli_prints_what_redis_cli_prints(state: redis.Redis, look: Callable[..., Ended]) -> None:
    seed(state)
    assert look("redis-cli", "GET", "distributer:rotation")[:3] == (0, '"41"\n', "")
    assert look("redis-cli", "HLEN", "distributer:sticky")[:3] == (0, "(integer) 7\n", "")
    assert look("redis-cli", "HGET", "distributer:sticky", "8")[:3] == (0, "(nil)\n", "")
    assert look("redis-cli", "HGETALL", "nothing")[:3] == (0, "(empty array)\n", "")
    nested = look("redis-cli", "EVAL", "return {1, {2, 'a'}, false}", "0")
    assert nested.output == '1) (integer) 1\n2) 1) (integer) 2\n   2) "a"\n3) (nil)\n'
    wrong = look("redis-cli", "NOSUCH")
    assert wrong.status == 1
    assert wrong.output.startswith("(error) ")


async def test_the_control_plane_says_when_redis_is_away_and_when_it_is_back() -> None:
    found = find_servers()
    if not found:
        pytest.skip("no server can be started here")
    async with quick_backends(1) as backends:
        port, admin = free_port(), free_port()
        with (
            RedisServer(next(iter(found.values()))) as server,
            serve(port, server.url, [backends[0].port], "--admin-port", str(admin)),
        ):

            async def answer(path: str) -> Message:
                return await ask(admin, request("GET", path))

            async def ready() -> bool:
                return (await answer("/readyz")).status == 200

            await wait_until_async(ready, "a replica has given a sign of life")
            assert json.loads((await answer("/api/v1/status")).body)["replicas"][0]["snapshot"]["draining"] is False
            server.stop()
            for path in ("/readyz", "/api/v1/status"):
                away = await answer(path)
                assert (away.status, away.value("content-type")) == (503, b"application/problem+json")
                assert away.value("retry-after") == b"1"
            assert (await answer("/healthz")).status == 200
            await asyncio.to_thread(server.start)
            await wait_until_async(ready, "Redis and the replica are seen again")


@pytest.mark.redis
def test_edited_numbers_do_not_keep_the_rest_from_being_seen(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("distributer:rotation", "many")
        client.set("distributer:topology", "1.5")
        client.hset("distributer:backends", "a:1", '{"url":"http://a:1","position":"first"}')
    ended = run("-m", "distributer", "status", "--redis", redis_url)
    assert ended.status == 0
    assert "http://a:1" in ended.output

"""`distributer backends` and `distributer sticky rebuild`: the cluster is changed from the command line."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import redis

from distributer import cli
from distributer.control.removal import Removal
from distributer.errors import ChangeRefusedError
from distributer.state.keys import Keys
from tests.support.cluster import SharedRedis, demo_backends
from tests.support.processes import Ended, clean
from tests.support.raw import Message, Origin, ask, ok, origin
from tests.support.raw import request as raw_request
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

A, B, C = (f"http://127.0.0.1:{port}" for port in (8000, 8001, 8002))
STICKY, CLAIMS = "distributer:sticky", "distributer:claims"

Rebuild = Callable[..., Awaitable[Ended]]


@pytest.fixture
def url(redis_servers: Callable[[str], RedisServer]) -> str:
    return redis_servers("valkey").url


@pytest.fixture
def state(url: str) -> Iterator[Any]:
    """A Redis that knows of the backends A, B and C."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        found(client, [A, B, C])
        yield client


@pytest.fixture
def do(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run a command on it: in this process, since starting one takes longer than what it does."""
    app = cli.app
    # There is no terminal to ask on.
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def run(*command: str) -> Ended:
        monkeypatch.setattr(cli, "app", partial(app, [*command, "--redis", url]))
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        output, errors = capsys.readouterr()
        return Ended(status, output, errors, 0.0)

    return run


def found(client: Any, urls: Sequence[str]) -> None:
    """Write a topology of those backends."""
    for place, base in enumerate(urls):
        member = {"url": base, "position": place, "state": "ready", "joined": True, "source": "settings"}
        client.hset("distributer:backends", base.removeprefix("http://"), json.dumps(member))
    client.set("distributer:topology", 7)
    client.set("distributer:epoch", '{"after":0,"first":0}')


def states(client: Any) -> dict[str, str]:
    backends = client.hgetall("distributer:backends")
    return {json.loads(text)["url"]: json.loads(text)["state"] for text in backends.values()}


def test_backends_are_listed(state: Any, do: Callable[..., Ended]) -> None:
    state.hset(STICKY, mapping={"1": A, "2": A, "3": C})
    state.hset("distributer:health", "127.0.0.1:8001", '{"status":"down","since":5.0,"reason":"refused"}')
    listed = json.loads(do("backends", "list", "--json").output)
    assert listed["topology"] == 7
    assert [row["items"] for row in listed["backends"]] == [2, 0, 1]
    assert listed["backends"][1] == {
        "id": "127.0.0.1:8001",
        "url": B,
        "state": "ready",
        "health": {"status": "down", "since": 5.0, "reason": "refused", "until": None, "times": 0},
        "joined": True,
        "source": "settings",
        "items": 0,
    }
    shown = do("backends", "list").output
    assert "down (refused)" in shown
    assert len(shown.splitlines()) == 4


def test_states_are_set_and_backends_added(state: Any, do: Callable[..., Ended]) -> None:
    assert do("backends", "drain", "127.0.0.1:8001").output == "127.0.0.1:8001 is drain\n"
    assert do("backends", "maint", C).output == "127.0.0.1:8002 is maint\n"
    assert states(state) == {A: "ready", B: "drain", C: "maint"}
    changed = json.loads(do("backends", "ready", B, "--json").output)
    assert (changed["backend"], changed["state"], changed["joined"]) == ("127.0.0.1:8001", "ready", True)
    added = do("backends", "add", "http://127.0.0.1:8003")
    assert added.output.startswith("127.0.0.1:8003 is ready; it joins")
    member = json.loads(state.hget("distributer:backends", "127.0.0.1:8003"))
    assert (member["position"], member["joined"], member["source"]) == (3, False, "admin")


def test_mistakes_are_one_line(state: Any, do: Callable[..., Ended]) -> None:
    for command, status, words in [
        (("backends", "drain", "127.0.0.1:9"), 1, "there is no backend 127.0.0.1:9"),
        (("backends", "add", "https://x"), 2, "url: 'https://x' is not an http:// URL"),
        (("backends", "add", A), 1, "one of the backends already"),
        (("backends", "rm", A), 2, "--yes"),
        (("sticky", "rebuild"), 2, "list_path: it is not set"),
        (("sticky", "rebuild", "--list-path", "items"), 2, "list_path: "),
    ]:
        ended = do(*command)
        assert (ended.status, ended.output) == (status, "")
        assert words in ended.errors
        assert ended.errors.count("\n") == 1
    assert set(states(state)) == {A, B, C}


def test_the_last_backend_that_is_drained_is_told_of(state: Any, do: Callable[..., Ended]) -> None:
    for base in (A, B):
        assert do("backends", "drain", base).errors == ""
    assert "no backend is in the rotation now" in do("backends", "drain", C).errors


def test_a_backend_with_items_is_not_removed(state: Any, do: Callable[..., Ended]) -> None:
    state.hset(STICKY, mapping={"1": B, "2": B, "3": C})
    refused = do("backends", "rm", B, "--yes")
    assert refused.status == 1
    assert f"2 items are bound to {B}: drain it until none is, or release them (--release)" in refused.errors
    assert states(state) == {A: "ready", B: "ready", C: "ready"}, "nothing has changed"
    state.hdel(STICKY, "1", "2")
    assert do("backends", "rm", B, "--yes").output == f"{B} is removed\n"
    assert set(states(state)) == {A, C}
    assert int(state.get("distributer:topology")) > 7


def test_released_items_are_bound_nowhere_and_others_stay(state: Any, do: Callable[..., Ended]) -> None:
    bound = {str(number): B if number % 3 else C for number in range(3000)}
    state.hset(STICKY, mapping=bound)
    removed = json.loads(do("backends", "rm", B, "--release", "--yes", "--json").output)
    assert (removed["url"], removed["released"]) == (B, 2000)
    assert set(state.hvals(STICKY)) == {C.encode()}
    assert state.hlen(STICKY) == 1000
    assert set(states(state)) == {A, C}


async def test_items_with_claims_are_waited_for_and_reported(state: Any, url: str) -> None:
    state.hset(STICKY, mapping={"1": B, "2": B})
    state.hset(CLAIMS, "2", "{}")
    async with SharedRedis(url).client() as client:
        removal = Removal(client, Keys())
        with pytest.raises(ChangeRefusedError, match=r"1 item is being created or deleted .* 1 were released"):
            await removal.remove(B, releases=True, wait_s=0)
        assert states(state)[B] == "maint", "nobody looks for its items there meanwhile"
        assert state.hgetall(STICKY) == {b"2": B.encode()}

        async def settle() -> None:
            state.hdel(CLAIMS, "2")

        removed, _ = await asyncio.gather(removal.remove(B, releases=True), settle())
    assert removed.released == 1
    assert state.hlen(STICKY) == 0


@pytest.mark.parametrize(("said", "is_removed"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_it_asks(state: Any, url: str, said: str, is_removed: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "distributer", "backends", "rm", B, "--redis", url]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean({})) as it:
        os.close(theirs)
        os.write(ours, f"{said}\n".encode())
        _, errors = it.communicate(timeout=20)
        os.close(ours)
    assert f"remove {B}? [y/N]" in errors.decode()
    assert it.returncode == (0 if is_removed else 1)
    assert (B not in states(state)) is is_removed


# Rebuilding.


async def seeded(ports: Sequence[int], items: Sequence[Sequence[int]]) -> None:
    """Create items on the backends themselves."""
    for port, ids in zip(ports, items, strict=True):
        for item in ids:
            target, body = f"/items/?item_id={item}", b'{"name":"pen","price":1}'
            answer = await ask(port, raw_request("POST", target, "Content-Type: application/json", body=body))
            assert answer.status == 200


@pytest.fixture
def rebuild(do: Callable[..., Ended]) -> Callable[..., Awaitable[Ended]]:
    """Run `sticky rebuild`."""
    return lambda *flags: asyncio.to_thread(do, "sticky", "rebuild", "--list-path", "/items/", *flags)


async def test_a_lost_map_is_rebuilt_from_what_the_backends_list(state: Any, rebuild: Rebuild) -> None:
    async with demo_backends(3) as ports:
        a, b, _ = urls = [f"http://127.0.0.1:{port}" for port in ports]
        state.flushall()
        found(state, urls)
        await seeded(ports, [(1, 2, 10), (-3, 4), ()])
        state.hset(STICKY, "4", b)
        state.hset(CLAIMS, "2", "{}")
        state.hset(CLAIMS, "10", '{"v":5,"p":0,"c":{"x":["c",9999999999999,0,"' + a + '"]}}')
        dry = json.loads((await rebuild("--dry-run", "--json")).output)
        assert (dry["dry_run"], dry["listed"], dry["bound"], dry["kept"]) == (True, 5, 4, 1)
        assert state.hgetall(STICKY) == {b"4": b.encode()}, "a dry run binds nothing"
        ended = await rebuild()
        assert (ended.status, ended.errors) == (0, "")
        words = "5 items listed, 3 bound anew, 1 bound already, 1 left to the creates and deletes on them\n"
        assert ended.output == words
        bound = {"1": a, "2": a, "-3": b, "4": b}
        assert state.hgetall(STICKY) == {item.encode(): owner.encode() for item, owner in bound.items()}
        again = json.loads((await rebuild("--json")).output)
        assert (again["bound"], again["kept"], again["conflicts"]) == (0, 4, [])


async def test_what_does_not_fit_together_is_reported_and_left_alone(state: Any, rebuild: Rebuild) -> None:
    async with demo_backends(2) as ports:
        a, b = urls = [f"http://127.0.0.1:{port}" for port in ports]
        state.flushall()
        found(state, [*urls, C])
        await seeded(ports, [(1, 2, 3), (1,)])
        bound = {"2": b, "3": "http://127.0.0.1:1"}
        state.hset(STICKY, mapping=bound)
        ended = await rebuild()
        assert ended.status == 1
        assert f"conflict: item 1 is on {b}, but bound to {a}, which has it too\n" in ended.output
        assert f"conflict: item 2 is on {a}, but bound to {b}, which has it not\n" in ended.output
        assert "conflict: item 3 is on" in ended.output
        assert f"failed: {C}: " in ended.output, "a backend that is away does not stop it"
        assert state.hgetall(STICKY) == {b"1": a.encode(), b"2": b.encode(), b"3": b"http://127.0.0.1:1"}
        planned = json.loads((await rebuild("--dry-run", "--json")).output)
        assert len(planned["conflicts"]) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"items":[1]}', "the list is dict, not a JSON list"),
        (b"[1,", "the list is not JSON"),
        (b"[1.5]", "1.5 is no item id"),
        (b"[true]", "true is no item id"),
        (b'["x"]', '"x" is no item id'),
        (b'[{"name":"pen"}]', "is no item id"),
        (b"[1,2]", "lists items that came before: does it heed `after`?"),
    ],
)
async def test_a_list_that_is_read_wrongly_is_not_read_at_all(
    state: Any, rebuild: Rebuild, body: bytes, words: str
) -> None:
    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(body))

    it: Origin
    async with origin(script) as it:
        base = f"http://127.0.0.1:{it.port}"
        state.flushall()
        found(state, [base])
        ended = json.loads((await rebuild("--json")).output)
        assert words in ended["failures"][base]
        assert state.hlen(STICKY) == (2 if body == b"[1,2]" else 0)

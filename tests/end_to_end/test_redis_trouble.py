"""Every trouble that a Redis can have: what clients see, what the operator sees, and how it ends by itself.

With `-s`, each prints how long after its end creates were served again: the numbers in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from distributer.control.registry import Registry
from distributer.state.keys import Keys
from distributer.state.redis_client import close
from tests.support.between import Between, between
from tests.support.cluster import SharedRedis, demo_backends, distributers
from tests.support.ports import free_port
from tests.support.raw import Message, ask, connected, request
from tests.support.redis_server import RedisServer, find_servers
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.redis

JSON = "Content-Type: application/json"
BODY = b'{"name":"pen","price":1.5}'
BUDGET_S = 0.25
AWAY = "shared state is away; serving degraded"
REFUSED = "shared state refuses writes; serving degraded"
BACK = "shared state is back"
MANY = 60
KEYS = Keys("distributer")


@dataclass
class Scene:
    """A replica, its Redis, and a relay between them."""

    server: RedisServer
    relay: Between
    port: int
    admin: redis.Redis
    numbers: list[int] = field(default_factory=lambda: [100])

    async def create(self, item: int | None = None) -> Message:
        """Create an item, by default one that there never was."""
        self.numbers[0] += 1
        target = f"/items/?item_id={item if item is not None else self.numbers[0]}"
        return await ask(self.port, request("POST", target, JSON, body=BODY))

    async def get(self, target: str = "/ping") -> int:
        """Ask for something."""
        return (await ask(self.port, request("GET", target))).status

    async def rotated(self, count: int = MANY) -> Counter[bytes]:
        """Ask one after the other, over one connection; all must be served, and evenly, without a wait for each."""
        counts: Counter[bytes] = Counter()
        started = time.monotonic()
        async with connected(self.port) as connection:
            for _ in range(count):
                answer = await connection.ask(request())
                assert answer.status == 200
                counts[answer.body] += 1
        assert time.monotonic() - started < count * BUDGET_S / 3, "a time-out for each"
        return counts


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    found = find_servers()
    if not found:
        pytest.skip("no server can be started here")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer(next(iter(found.values())), aof=True))
        relay = await stack.enter_async_context(between(server.port))
        backends = await stack.enter_async_context(demo_backends())
        shared = SharedRedis(f"redis://127.0.0.1:{relay.port}/0")
        settings = shared.settings(backends, redis_budget_s=BUDGET_S)
        (port,) = await stack.enter_async_context(distributers("express", settings, shared, 1))
        admin = redis.Redis(unix_socket_path=str(server._socket))
        stack.push_async_callback(close, admin)
        it = Scene(server, relay, port, admin)
        assert (await it.create(1)).status == 200
        yield it


Step = Callable[[Scene], Awaitable[Any]]


@dataclass(frozen=True)
class Fault:
    """One trouble: how it begins and ends, and what is seen of it."""

    name: str
    begin: Step
    end: Step
    log: tuple[str, ...]
    reason: str
    reads: bool = False
    """Redis still answers lookups: an item that is bound nowhere goes round, and is not found."""


async def _kill(it: Scene) -> None:
    it.server.kill()


async def _start(it: Scene) -> None:
    it.server.start()


async def _pause(it: Scene) -> None:
    it.server.pause()


async def _resume(it: Scene) -> None:
    it.server.resume()


def _relayed(**how: Any) -> Step:
    async def change(it: Scene) -> None:
        for name, value in how.items():
            setattr(it.relay, name, value)

    return change


def _told(*commands: str) -> Step:
    async def tell(it: Scene) -> None:
        for command in commands:
            await it.admin.execute_command(*command.split())  # type: ignore[no-untyped-call]

    return tell


async def _fail_to_save(it: Scene) -> None:
    # Not the log: where the snapshot should go, there is a directory.
    directory = Path(str((await it.admin.config_get("dir"))["dir"]))
    (directory / "dump.rdb").mkdir()
    await it.admin.config_set("save", "3600 1")
    await _saved(it, ok=False)


async def _save_again(it: Scene) -> None:
    directory = Path(str((await it.admin.config_get("dir"))["dir"]))
    (directory / "dump.rdb").rmdir()
    await _saved(it, ok=True)


async def _saved(it: Scene, *, ok: bool) -> None:
    await it.admin.bgsave()

    async def done() -> bool:
        info = await it.admin.info("persistence")
        return not info["rdb_bgsave_in_progress"] and (info["rdb_last_bgsave_status"] == "ok") is ok

    await wait_until_async(done, "the snapshot is done")


LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"

FAULTS = [
    Fault("killed", _kill, _start, (AWAY, BACK), "has closed the connection"),
    Fault("paused", _pause, _resume, (AWAY, BACK), "does not answer in time"),
    Fault("slow", _relayed(delay_s=0.6), _relayed(delay_s=0.0), (AWAY, BACK), "does not answer in time"),
    Fault("half open", _relayed(swallows=True), _relayed(swallows=False), (AWAY, BACK), "does not answer in time"),
    Fault("loading", _relayed(says=LOADING), _relayed(says=None), (AWAY, BACK), ""),
    Fault("garbage", _relayed(says=b"HTTP/1.1 400\r\n"), _relayed(says=None), (AWAY, BACK), "does not speak"),
    Fault(
        "read-only",
        _told(f"REPLICAOF 127.0.0.1 {free_port()}"),
        _told("REPLICAOF NO ONE"),
        (REFUSED, BACK),
        "is read-only",
    ),
    Fault(
        "out of memory",
        _told("CONFIG SET maxmemory 1"),
        _told("CONFIG SET maxmemory 0"),
        (REFUSED, BACK),
        "is out of memory",
        reads=True,
    ),
    Fault(
        "no replicas",
        _told("CONFIG SET min-replicas-to-write 1"),
        _told("CONFIG SET min-replicas-to-write 0"),
        (REFUSED, BACK),
        "has too few replicas",
        reads=True,
    ),
    Fault("cannot save", _fail_to_save, _save_again, (REFUSED, BACK), "cannot save its data", reads=True),
    Fault(
        "wrong type",
        _told("DEL distributer:rotation", "LPUSH distributer:rotation 1"),
        _told("DEL distributer:rotation"),
        (REFUSED, BACK),
        "holds something else",
        reads=True,
    ),
    Fault(
        "no number",
        _told("SET distributer:rotation pen"),
        _told("SET distributer:rotation 7"),
        (REFUSED, BACK),
        "holds something else",
        reads=True,
    ),
    Fault(
        "not permitted",
        _told("ACL SETUSER default -incrby"),
        _told("ACL SETUSER default +@all"),
        (REFUSED, BACK),
        "does not permit a command",
        reads=True,
    ),
    Fault(
        "wrong password",
        _told("CONFIG SET requirepass other", "CLIENT KILL TYPE NORMAL SKIPME YES"),
        _told("ACL SETUSER default nopass"),
        (AWAY, AWAY, BACK),
        "refuses us",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_clients_see_little_of_it_and_the_operator_a_line_at_each_end(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene() as it:
        caplog.clear()
        await fault.begin(it)
        at_once = await asyncio.gather(*(it.get() for _ in range(30)))
        assert set(at_once) == {200}, "not one fails, nor those of the round trip that was late"
        counts = await it.rotated()
        assert max(counts.values()) - min(counts.values()) <= 1
        assert await it.get("/items/1") == 200, "it is known where it is"
        refused = await it.create()
        if fault.name != "not permitted":  # the scripts have rights of their own, on some servers
            assert (refused.status, refused.value("retry-after")) == (503, b"1")
        assert await it.get("/items/2") == (404 if fault.reads else 503)
        assert await it.get("/items/1") == 200
        assert BACK not in _said(caplog)
        await fault.end(it)
        ended = time.monotonic()

        async def returned() -> bool:
            return (await it.create()).status == 200 and _said(caplog)[-1] == BACK

        await wait_until_async(returned, "creates are served again")
        print(f"{fault.name}: {time.monotonic() - ended:.2f} s")
        assert await it.get("/items/1") == 200
        assert (await it.rotated(8)).most_common()[-1][1] == 2
    assert _said(caplog) == list(fault.log), [line.__dict__ for line in caplog.records]
    reasons = [getattr(line, "reason", "") for line in caplog.records if line.name == "distributer.state"]
    assert any(fault.reason in reason for reason in reasons)


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of the mode."""
    lines = [line.getMessage() for line in caplog.records if line.name == "distributer.state"]
    return [line for line in lines if line.startswith("shared state")]


async def test_killed_connections_and_flushed_scripts_are_hardly_seen(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as it:
        caplog.clear()
        await it.admin.script_flush()
        assert (await it.create()).status == 200, "the scripts are sent again"
        await it.admin.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")  # type: ignore[no-untyped-call]
        await it.rotated(20)

        async def created() -> bool:
            return (await it.create()).status == 200

        await wait_until_async(created, "creates are served again")
    assert set(_said(caplog)) <= {AWAY, BACK}


async def test_an_unsteady_redis_is_no_flood_of_lines_and_no_storm_of_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene() as it:
        caplog.clear()
        before = it.relay.connections
        for _ in range(5):
            await it.admin.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")  # type: ignore[no-untyped-call]
            await it.rotated(3)

            async def created() -> bool:
                return (await it.create()).status == 200

            await wait_until_async(created, "creates are served again")
        assert it.relay.connections - before < 30, "with those of the heartbeat and the follower"
    assert _said(caplog) == [AWAY, BACK, "shared state comes and goes; no more of it until it has held for 3 s"]


@pytest.mark.parametrize(
    ("names", "creates", "lines"),
    # The epoch and the backends are read together.
    [("sticky", 503, 1), ("claims", 503, 1), ("topology", 503, 1), ("epoch backends health replicas prober", 200, 4)],
)
async def test_a_wrong_type_under_any_key_leaves_the_rest_working(
    names: str, creates: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene() as it:
        caplog.clear()
        keys = [f"distributer:{name}" for name in names.split()]
        for key in keys:
            await it.admin.delete(key)
            # A stream is what none of them is.
            await it.admin.xadd(key, {"not": "ours"})
        await it.rotated()
        assert await it.get("/items/1") == 200
        created = await it.create()
        assert created.status == creates
        assert b"WRONGTYPE" not in created.body, "what Redis said is for the log"
        assert b"Redis" not in created.body

        async def said() -> bool:
            texts = [str(getattr(line, "redis_said", "")) for line in caplog.records]
            return sum("WRONGTYPE" in text for text in texts) >= lines

        await wait_until_async(said, "the operator is told")
        for key in keys:
            await it.admin.delete(key)

        async def returned() -> bool:
            return (await it.create()).status == 200

        await wait_until_async(returned, "creates are served again")
        await it.rotated(8)
    assert not [line for line in caplog.records if line.exc_info], "no traceback"
    texts = [str(getattr(line, "redis_said", "")) for line in caplog.records]
    assert len(texts) <= len(keys) + 2, "each once"


async def test_the_mode_is_in_the_snapshot_that_status_shows() -> None:
    async with scene() as it:
        registry = Registry(it.admin, KEYS)

        async def shows(mode: str) -> dict[str, Any] | None:
            seen = [replica.snapshot for replica in await registry.replicas()]
            return dict(seen[0]) if seen and seen[0]["redis_mode"] == mode else None

        first = await wait_until_async(lambda: shows("shared"), "the mode is shown")
        assert first is not None
        assert (first["redis_trouble"], first["redis_mode_changes"]) == ("", 1)
        await it.admin.set(KEYS.rotation, "pen")
        await it.rotated(2)
        then = await wait_until_async(lambda: shows("refused"), "the mode is shown")
        assert then is not None
        assert then["redis_trouble"] == "Redis holds something else under a key of ours"
        assert (then["redis_mode_changes"], then["redis_mode_since"] > first["redis_mode_since"]) == (2, True)

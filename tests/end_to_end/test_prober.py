"""The one prober of the cluster, in real processes: handed over when its holder dies, and quick when a backend does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from distributer.state.keys import Keys
from tests.support.load import Result, load
from tests.support.ports import free_port, free_port_row
from tests.support.processes import Command, is_alive, serve
from tests.support.raw import Message, ok, origin
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.redis

KEYS = Keys()
HANDOVER_S = 3.0
REJOIN_S = 6.0

BACKEND = """
import asyncio, sys
async def serve(reader, writer):
    body = b'{"port": %d}' % int(sys.argv[1])
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture
def url(redis_servers: Callable[[str], RedisServer]) -> str:
    url = redis_servers("valkey").url
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


def holder_of(client: redis.Redis, workers: Sequence[int]) -> int | None:
    """The pid of the worker that holds the lease."""
    raw = client.get(KEYS.prober)
    text = raw.decode() if isinstance(raw, bytes) else ""
    return next((pid for pid in workers if text.startswith(f"{pid:x}-")), None)


async def test_the_lease_is_handed_over_when_its_holder_dies_and_at_once_when_it_stops(url: str) -> None:
    async def script(_message: Message, _reader: object, writer: asyncio.StreamWriter) -> None:
        writer.write(ok())

    async with origin(script) as backend:
        with (
            redis.Redis.from_url(url) as client,
            serve(free_port(), url, [backend.port], "--replicas", "2") as first,
            serve(free_port(), url, [backend.port]) as second,
        ):
            everybody = [*first.workers, *second.workers]

            async def held() -> int | None:
                return holder_of(client, everybody)

            holder = await wait_until_async(held, "a worker holds the lease")
            assert holder is not None
            os.kill(holder, signal.SIGKILL)
            killed_at = time.monotonic()
            left = [pid for pid in everybody if pid != holder]

            async def taken() -> int | None:
                return holder_of(client, [*left, *first.workers])

            heir = await wait_until_async(taken, "another has it", HANDOVER_S + 2)
            print(f"handed over after {time.monotonic() - killed_at:.2f} s")
            assert time.monotonic() - killed_at < HANDOVER_S
            # One that stops in peace gives it back, and does not leave the others to wait for its end.
            others = [pid for pid in (*first.workers, *second.workers) if pid != heir]
            assert heir is not None
            os.kill(heir, signal.SIGTERM)

            async def given_back() -> bool:
                return not is_alive(heir)

            await wait_until_async(given_back, "it has stopped")
            stopped_at = time.monotonic()

            async def taken_again() -> int | None:
                return holder_of(client, others)

            await wait_until_async(taken_again, "another has it", HANDOVER_S)
            print(f"given back and taken after {time.monotonic() - stopped_at:.2f} s")
            assert time.monotonic() - stopped_at < 1.5, "sooner than it would have expired"


async def test_a_backend_that_is_killed_under_load_is_down_and_back_within_six_seconds_of_its_return(
    url: str, tmp_path: Path
) -> None:
    program = tmp_path / "quick_backend.py"
    program.write_text(BACKEND)
    ports = list(free_port_row(4))
    commands = {port: Command(str(program), str(port)) for port in ports}
    try:
        for port, command in commands.items():
            command.wait_for_port(port)
        front, victim = free_port(), ports[1]
        with redis.Redis.from_url(url) as client, serve(front, url, ports, "--replicas", "2") as command:

            def health() -> str:
                raw = client.hget(KEYS.health, f"127.0.0.1:{victim}")
                return str(json.loads(raw)["status"]) if isinstance(raw, bytes) else ""

            async def is_up() -> bool:
                return health() == "up"

            async def is_not_up() -> bool:
                return health() == "down"

            await wait_until_async(is_up, "the backend is known")
            result = Result()
            sending = asyncio.create_task(load(front, 10_000_000, 64, result))

            async def going() -> bool:
                return result.answered > 500

            await wait_until_async(going, "the load is going")
            commands[victim].end(signal.SIGKILL)
            killed_at = time.monotonic()
            await wait_until_async(is_not_up, "it is down")
            print(f"down after {time.monotonic() - killed_at:.2f} s")
            quiet_from = result.ports[victim]
            commands[victim].__exit__(None, None, None)
            commands[victim] = Command(str(program), str(victim))
            await asyncio.to_thread(commands[victim].wait_for_port, victim)
            back_at = time.monotonic()

            async def serves() -> bool:
                return result.ports[victim] > quiet_from

            await wait_until_async(serves, "it serves again", REJOIN_S + 4)
            print(f"serves again {time.monotonic() - back_at:.2f} s after its return")
            assert time.monotonic() - back_at < REJOIN_S
            result.left = 0
            await sending
            others = [result.ports[port] for port in ports if port != victim]
            print(result.ports, result.statuses, "broken", result.broken)
            assert max(others) - min(others) <= 0.01 * max(others) + 64
            assert result.broken == 0
            # What was in flight on the victim when it died had been sent: that is no matter of health.
            assert result.answered - result.statuses[200] <= 64
            assert "backend is down" in command.output
            assert "backend is up" in command.output
    finally:
        for one in commands.values():
            one.__exit__(None, None, None)

"""Large bodies and slow readers do not fill a worker's memory, either way."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import Command, serve
from tests.support.raw import Message, connected, ok, origin, read_head, request
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until_async

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from Linux' /proc"),
]

SIZE = 200_000_000
PIECE = b"x" * 200_000
BOUND_BYTES = 4_000_000


@contextmanager
def worker(door: str, redis_url: str, backend: int) -> Iterator[tuple[int, int]]:
    """Start one replica; yield its port and the pid that serves."""
    port = free_port()
    if door == "express":
        with serve(port, redis_url, [backend]) as command:
            yield port, command.workers[0]
        return
    settings = {"DISTRIBUTER_BACKENDS": f"http://127.0.0.1:{backend}", "DISTRIBUTER_REDIS": redis_url}
    application = ("-m", "uvicorn", "distributer.app:app", "--port", str(port), "--no-access-log")
    with Command(*application, environment=settings) as command:
        command.wait_for_port(port)
        yield port, command.process.pid


def memory(pid: int, what: str) -> int:
    """Read VmRSS, what it has now, or VmHWM, the most it has had, in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) * 1024


async def stalls(value: Callable[[], int]) -> None:
    """Wait until value grows no more."""
    last = -1

    async def stands() -> bool:
        nonlocal last
        await asyncio.sleep(0.2)
        stood, last = last == value() > 0, value()
        return stood

    await wait_until_async(stands, "it grows no more")


@pytest.mark.parametrize("door", ["express", "asgi"])
async def test_two_hundred_megabytes_each_way_past_who_is_slow_take_less_than_four(
    door: str, redis_servers: Callable[[str], RedisServer]
) -> None:
    moved = 0
    go_on = asyncio.Event()

    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal moved
        if message.start.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // len(PIECE)):
                writer.write(PIECE)
                await writer.drain()
                moved += len(PIECE)
        else:
            await go_on.wait()
            left = SIZE
            while left:
                left -= len(await reader.read(left))
            writer.write(ok())

    async with origin(script, reads_body=False) as it:
        with worker(door, redis_servers("valkey").url, it.port) as (port, pid):
            async with connected(port) as client:
                before = memory(pid, "VmRSS")

                await client.send(request())
                await read_head(client.reader)
                await stalls(lambda: moved)
                assert moved < SIZE // 2, "the backend is held back"
                left = SIZE
                while left:
                    left -= len(await client.reader.read(1 << 20))

                moved = 0
                await client.send(request("PUT", "/", f"Content-Length: {SIZE}"))

                async def send_all() -> None:
                    nonlocal moved
                    for _ in range(SIZE // len(PIECE)):
                        await client.send(PIECE)
                        moved += len(PIECE)

                sending = asyncio.create_task(send_all())
                await stalls(lambda: moved)
                assert moved < SIZE // 2, "the client is held back"
                go_on.set()
                await sending
                assert (await client.answer()).status == 200
                grown = memory(pid, "VmHWM") - before
    assert grown < BOUND_BYTES
    print(door, "grew by", grown)

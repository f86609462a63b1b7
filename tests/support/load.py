"""A bounded load over keep-alive connections, and backends quick enough for it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tests.support.raw import Message, Origin, connected, ok, origin, request


@dataclass
class Result:
    """What became of the requests of a load."""

    ports: Counter[int] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Requests that got no answer: the connection broke."""
    left: int = 0
    """Requests that are not sent yet. Set to 0, it ends the load."""
    progress: list[int] = field(default_factory=list)
    """How many requests each client has had answered."""

    @property
    def answered(self) -> int:
        """How many were answered, with whatever status."""
        return sum(self.statuses.values())


async def load(
    port: int, requests: int, connections: int, result: Result | None = None, payload: bytes = request()
) -> Result:
    """Send that many requests over that many connections, opening a new one where one breaks."""
    it = result if result is not None else Result()
    it.left = requests
    it.progress = [0] * connections

    async def client(number: int) -> None:
        while it.left:
            async with connected(port) as connection:
                while it.left:
                    it.left -= 1
                    try:
                        answer = await connection.ask(payload)
                    except (ConnectionError, asyncio.IncompleteReadError):
                        it.broken += 1
                        break
                    it.progress[number] += 1
                    it.statuses[answer.status] += 1
                    if answer.status == 200:
                        it.ports[json.loads(answer.body)["port"]] += 1
                    if answer.value("connection") == b"close":
                        break

    await asyncio.gather(*(client(number) for number in range(connections)))
    return it


@asynccontextmanager
async def quick_backends(count: int = 4, delay_s: float = 0.0) -> AsyncIterator[list[Origin]]:
    """Run backends that answer each request with their port."""
    async with AsyncExitStack() as stack:
        origins: list[Origin] = []
        for _ in range(count):
            place = len(origins)

            async def script(
                _message: Message, _reader: object, writer: asyncio.StreamWriter, place: int = place
            ) -> None:
                if delay_s:
                    await asyncio.sleep(delay_s)
                writer.write(ok(b'{"port": %d}' % origins[place].port))

            origins.append(await stack.enter_async_context(origin(script)))
        yield origins

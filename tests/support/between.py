"""What may stand between a replica and its Redis: a TCP relay that delays, swallows, or answers in Redis' stead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Between:
    """A relay on a port of its own. What it does may be changed at any time, for connections that are open as well."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self.port = 0
        self.delay_s = 0.0
        """How long each answer takes."""
        self.swallows = False
        """Nothing goes either way, and nobody is told: a network that is half open."""
        self.says: bytes | None = None
        """What is answered instead of what Redis would say."""
        self.connections = 0
        """How many were accepted so far."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        self.connections += 1
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._relay(reader, behind_writer, writer, answers=False),
                self._relay(behind_reader, writer, None, answers=True),
            )
        for end in (writer, behind_writer):
            end.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter | None,
        *,
        answers: bool,
    ) -> None:
        while data := await reader.read(65536):
            if self.swallows:
                continue
            if self.says is not None and back is not None:
                back.write(self.says)
                continue
            if answers and self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
        with contextlib.suppress(OSError):
            writer.write_eof()


@asynccontextmanager
async def between(port: int) -> AsyncIterator[Between]:
    """Run a relay to that port of 127.0.0.1."""
    it = Between(port)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await it.accept(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

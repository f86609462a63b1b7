"""A backend that holds items and is quick about it: for tests that send very many requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from tests.support.raw import Message, Origin, origin


class ItemBackend:
    """The items of one backend, and where it listens."""

    def __init__(self) -> None:
        self.items: set[int] = set()
        self.port = 0

    async def answer(self, message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Create, find or delete an item; the statuses are the demo application's. Of `/ping`, all is well."""
        method, target, _ = message.start.decode().split(" ")
        parts = urlsplit(target)
        if parts.path == "/ping":
            status = 200
        elif method == "POST":
            item = int(parse_qs(parts.query)["item_id"][-1])
            status = 400 if item in self.items else 200
            self.items.add(item)
        else:
            item = int(parts.path.rpartition("/")[2])
            status = 200 if item in self.items else 404
            if method == "DELETE":
                self.items.discard(item)
        writer.write(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n\r\n" % status)


@asynccontextmanager
async def item_backend() -> AsyncIterator[ItemBackend]:
    """Run one."""
    backend = ItemBackend()
    it: Origin

    async def script(message: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.answer(message, reader, writer)

    async with origin(script) as it:
        backend.port = it.port
        yield backend

"""Raw bytes in, raw bytes out: a client and a scripted origin that leave nothing to a library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

TIMEOUT_S = 10.0


@dataclass
class Message:
    """A head and a body, as they came."""

    start: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    raw_body: bytes = b""
    trailing: bytes = b""

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(b" ")[1])

    def values(self, name: str) -> list[bytes]:
        """List the values of all fields of that name, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower().encode()]

    def value(self, name: str) -> bytes | None:
        """Return the one value of that name, None if there is no such field."""
        values = self.values(name)
        assert len(values) <= 1, f"{name} is repeated: {values}"
        return values[0] if values else None


async def read_head(reader: asyncio.StreamReader) -> Message:
    """Read a head."""
    raw = await reader.readuntil(b"\r\n\r\n")
    start, *lines = raw[:-4].split(b"\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name, value.strip(b" \t")))
    return Message(start, headers)


async def read_message(reader: asyncio.StreamReader, *, has_body: bool = True, until_close: bool = False) -> Message:
    """Read a message with its body. `until_close`: a response without length ends when the connection does."""
    message = await read_head(reader)
    if not has_body:
        return message
    length, coding = message.value("content-length"), message.value("transfer-encoding")
    if coding is not None:
        assert coding.lower() == b"chunked"
        assert length is None, "both lengths"
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            data = await reader.readexactly(size)
            message.raw_body += line + data
            message.body += data
            ending = await reader.readexactly(2)
            assert ending == b"\r\n"
            message.raw_body += ending
            if size == 0:
                break
    elif length is not None:
        message.body = message.raw_body = await reader.readexactly(int(length))
    elif until_close:
        message.body = message.raw_body = await reader.read()
    return message


class Client:
    """One client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, has_body: bool = True, until_close: bool = False) -> Message:
        """Read one answer."""
        async with asyncio.timeout(TIMEOUT_S):
            return await read_message(self.reader, has_body=has_body, until_close=until_close)

    async def ask(self, data: bytes, *, has_body: bool = True) -> Message:
        """Send bytes and read one answer."""
        await self.send(data)
        return await self.answer(has_body=has_body)

    async def rest(self) -> bytes:
        """Read until the other side closes; a reset counts as closing."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def leave(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """Open a client connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def ask(port: int, data: bytes, *, has_body: bool = True) -> Message:
    """Send bytes on a connection of their own and read one answer."""
    async with connected(port) as client:
        return await client.ask(data, has_body=has_body)


Script = Callable[[Message, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Origin:
    """A backend that does what its script says for each request."""

    script: Script
    requests: list[Message] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    port: int = 0
    reads_body: bool = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                message = await (read_message(reader) if self.reads_body else read_head(reader))
                self.requests.append(message)
                await self.script(message, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open_connections -= 1
            writer.close()


def replies(*answers: bytes, close: bool = False) -> Script:
    """Script: give these answers in turn, the last one again and again; `close`: and close after each."""
    left = list(answers)

    async def script(_message: Message, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        if close:
            await writer.drain()
            writer.close()

    return script


def ok(body: bytes = b"ok", *headers: str) -> bytes:
    """Make a plain 200."""
    lines = "".join(f"{line}\r\n" for line in headers).encode()
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


@asynccontextmanager
async def origin(script: Script, *, reads_body: bool = True) -> AsyncIterator[Origin]:
    """Run a scripted backend."""
    it = Origin(script, reads_body=reads_body)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(it._serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def request(method: str = "GET", target: str = "/ping", *headers: str, body: bytes = b"") -> bytes:
    """Make a request; one with a body gets its Content-Length."""
    lines = ["Host: test", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body


__all__: Sequence[str] = [
    "Client",
    "Message",
    "Origin",
    "Script",
    "ask",
    "connected",
    "ok",
    "origin",
    "read_head",
    "read_message",
    "replies",
    "request",
]

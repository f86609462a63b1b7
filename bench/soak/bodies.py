"""A body of 200 MB each way, with a reader that is slower than the writer: the worker holds back, and does not grow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bench.soak.finding import Finding
from bench.soak.worker import Worker

SIZE = 200_000_000
GROWTH_KIB = 4 * 1024
PIECE = 256 * 1024
PAUSE_S = 0.005
"""After each piece that is read: 50 MB/s at most, which any writer here exceeds many times."""

_SAMPLE_S = 0.02
_CHUNK = bytes(PIECE)


async def _drink(reader: asyncio.StreamReader, size: int) -> int:
    """Read a body slowly. Returns how much came."""
    left = size
    while left:
        data = await reader.read(min(PIECE, left))
        if not data:
            break
        left -= len(data)
        await asyncio.sleep(PAUSE_S)
    return size - left


async def _pour(writer: asyncio.StreamWriter, size: int) -> None:
    """Write a body as fast as it is taken."""
    for at in range(0, size, PIECE):
        writer.write(_CHUNK[: min(PIECE, size - at)])
        await writer.drain()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection of the origin: GET pours, POST drinks."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if head.startswith(b"post"):
                got = b"%d" % await _drink(reader, size)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(got), got))
            elif head.startswith(b"get /pour"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
                await _pour(writer, SIZE)
            else:
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"port":1}')
    writer.close()


@asynccontextmanager
async def origin(port: int) -> AsyncIterator[None]:
    """Run the backend that is as slow as its bodies are big."""
    server = await asyncio.start_server(_answer, "127.0.0.1", port, limit=PIECE)
    async with server:
        yield


async def _download(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE)
    writer.write(b"GET /pour HTTP/1.1\r\nHost: bench.test\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    got = await _drink(reader, SIZE)
    writer.close()
    return got


async def _upload(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE)
    writer.write(b"POST /drink HTTP/1.1\r\nHost: bench.test\r\nContent-Length: %d\r\n\r\n" % SIZE)
    await _pour(writer, SIZE)
    head = await reader.readuntil(b"\r\n\r\n")
    got = int(await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])))
    writer.close()
    return got


async def bodies(port: int, workers: Sequence[Worker]) -> list[Finding]:
    """Send the bodies through, one way and the other. Whichever worker takes one is watched, since all are."""
    findings = []
    for name, transfer in (("200 MB down, slow client", _download), ("200 MB up, slow backend", _upload)):
        base_kib = [worker.rss_kib() for worker in workers]
        peak_kib = list(base_kib)
        began_s = time.monotonic()
        task = asyncio.create_task(transfer(port))
        while not task.done():
            peak_kib = [max(peak, worker.rss_kib()) for peak, worker in zip(peak_kib, workers, strict=True)]
            await asyncio.wait([task], timeout=_SAMPLE_S)
        got, took_s = await task, time.monotonic() - began_s
        growth_kib = max(peak - base for peak, base in zip(peak_kib, base_kib, strict=True))
        findings += [
            Finding(name, f"{got:,} bytes in {took_s:.1f} s", "all of it", got == SIZE),
            Finding(
                "a worker's growth meanwhile",
                f"{growth_kib / 1024:.2f} MiB",
                f"less than {GROWTH_KIB / 1024:.0f} MiB",
                growth_kib < GROWTH_KIB,
            ),
        ]
    return findings

"""The backends of the benchmark: as little work for a request as Python allows.

One process listens on all the ports. They share a core with the load and with Redis, and one process with four
sockets spares the kernel the switching between four, which the figures would otherwise hold.

    python bench/origin.py --port 9001 --port 9002 --port 9003 --port 9004

Every path is answered with `{"port":N}`, whatever the method, once the body has been read to its end; so a health probe
of any path finds it up. `/bytes/N` is answered with N bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
from typing import cast

import httptools
import uvloop


def answer(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (content_type, len(body), body)


@functools.cache
def answer_of_bytes(size: int) -> bytes:
    return answer(bytes(size), b"application/octet-stream")


class OriginConnection(asyncio.Protocol):
    """Answer each request when it is complete."""

    def __init__(self, small: bytes) -> None:
        self.small = small
        self.url = b""
        self.transport: asyncio.Transport
        self.parser = httptools.HttpRequestParser(self)
        self.data_received = self.parser.feed_data  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def on_url(self, url: bytes) -> None:
        self.url += url  # it comes in pieces when the head does

    def on_message_complete(self) -> None:
        url, self.url = self.url, b""
        if url.startswith(b"/bytes/"):
            self.transport.write(answer_of_bytes(int(url[7:])))
        else:
            self.transport.write(self.small)
        if not self.parser.should_keep_alive():
            self.transport.close()


async def serve(host: str, ports: list[int]) -> None:
    """Listen on all the ports until cancelled."""
    loop = asyncio.get_running_loop()
    for port in ports:
        small = answer(b'{"port":%d}' % port)
        await loop.create_server(functools.partial(OriginConnection, small), host, port, backlog=1024)
    gc.freeze()
    await asyncio.Event().wait()


def main() -> None:
    """Serve the ports that the command line names."""
    parser = argparse.ArgumentParser(description="The benchmark's backends.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, action="append", required=True)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()

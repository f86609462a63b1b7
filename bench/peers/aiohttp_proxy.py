"""A reverse proxy as one writes it with aiohttp when one takes care: one session, streaming both ways, uvloop.

python bench/peers/aiohttp_proxy.py --port 8080 --backend http://127.0.0.1:8000 --backend http://127.0.0.1:8001
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import AsyncIterator, Mapping

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

# RFC 9110 section 7.6.1
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

SESSION = web.AppKey("session", ClientSession)


def end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Copy the fields that a proxy passes on."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


class Proxy:
    """Send each request to the next backend; every process has a rotation of its own."""

    def __init__(self, backends: list[str]) -> None:
        self._rotation = itertools.cycle(backends)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        headers = end_to_end(request.headers)
        headers["X-Forwarded-For"] = request.remote or ""
        async with request.app[SESSION].request(
            request.method,
            URL(next(self._rotation) + request.raw_path, encoded=True),
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as upstream:
            response = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=end_to_end(upstream.headers)
            )
            await response.prepare(request)
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


async def session(app: web.Application) -> AsyncIterator[None]:
    """Keep one session open for as long as the application runs."""
    async with ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=60),
        auto_decompress=False,
    ) as app[SESSION]:
        yield


def main() -> None:
    """Serve the port that the command line names, with as many processes."""
    parser = argparse.ArgumentParser(description="A streaming aiohttp reverse proxy.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", action="append", required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for _ in range(options.workers - 1):
        multiprocessing.Process(target=serve, args=(options,), daemon=True).start()
    serve(options)


def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM; the workers listen on the port each for itself."""
    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", Proxy(options.backend).forward)
    web.run_app(
        app,
        host=options.host,
        port=options.port,
        reuse_port=options.workers > 1 or None,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()

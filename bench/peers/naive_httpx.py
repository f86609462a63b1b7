"""A reverse proxy as first written with FastAPI and httpx: a new client for each request, bodies read whole.

With --shared-client one client is kept, which is the first thing that one learns to change.

    python bench/peers/naive_httpx.py --port 8080 --backend http://127.0.0.1:8000 --backend http://127.0.0.1:8001
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

# The server frames the answer itself, and httpx has undone the content coding already.
NOT_PASSED_ON = frozenset({"connection", "content-encoding", "content-length", "keep-alive", "transfer-encoding"})


class Proxy:
    """Send each request to the next backend."""

    def __init__(self, backends: list[str]) -> None:
        self._rotation = itertools.cycle(backends)
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def shared_client(self, _app: FastAPI) -> AsyncIterator[None]:
        """Keep one client for as long as the application runs."""
        async with httpx.AsyncClient() as self._client:
            yield

    async def forward(self, request: Request) -> Response:
        if self._client is not None:
            return await self._forward(self._client, request)
        async with httpx.AsyncClient() as client:
            return await self._forward(client, request)

    async def _forward(self, client: httpx.AsyncClient, request: Request) -> Response:
        upstream = await client.request(
            request.method,
            str(request.url.replace(scheme="http", netloc=httpx.URL(next(self._rotation)).netloc.decode())),
            headers=dict(request.headers),
            content=await request.body(),
        )
        headers = {name: value for name, value in upstream.headers.items() if name.lower() not in NOT_PASSED_ON}
        return Response(upstream.content, upstream.status_code, headers)


def build(backends: list[str], *, shares_client: bool) -> FastAPI:
    """Build the application."""
    proxy = Proxy(backends)
    app = FastAPI(lifespan=proxy.shared_client if shares_client else None, openapi_url=None)
    app.add_api_route("/{path:path}", proxy.forward, methods=METHODS)
    return app


def main() -> None:
    """Serve the port that the command line names."""
    parser = argparse.ArgumentParser(description="A FastAPI + httpx reverse proxy.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", action="append", required=True)
    parser.add_argument("--shared-client", action="store_true", help="keep one client, not one for each request")
    options = parser.parse_args()

    app = build(options.backend, shares_client=options.shared_client)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()

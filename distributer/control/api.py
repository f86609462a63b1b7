"""The control plane's HTTP interface. Reads Redis only, so any node's shows the whole cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from distributer.config import Settings
from distributer.control.registry import Registry
from distributer.control.replica import CONTROL_TIMEOUT_S, version
from distributer.errors import StateError
from distributer.state.keys import Keys
from distributer.state.redis_client import client_of, close


def create_api(settings: Settings) -> FastAPI:
    """Make the application."""
    client = client_of(settings.redis, CONTROL_TIMEOUT_S)
    registry = Registry(client, Keys(settings.prefix))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await close(client)

    api = FastAPI(title="distributer", version=version(), lifespan=lifespan)

    @api.exception_handler(StateError)
    async def state_away(_request: object, error: StateError) -> Response:
        text = {"type": "about:blank", "title": "Shared state unavailable", "status": 503, "detail": str(error)}
        return JSONResponse(text, 503, {"Retry-After": "1"}, media_type="application/problem+json")

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that this process lives."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> Response:
        """Say whether some replica serves, and Redis answers: 503 if not."""
        alive = [replica for replica in await registry.replicas() if not replica.snapshot.get("draining")]
        return JSONResponse({"replicas": len(alive)}, 200 if alive else 503)

    @api.get("/api/v1/status")
    async def status() -> dict[str, Any]:
        """Show the whole cluster."""
        return (await registry.status()).as_dict()

    return api

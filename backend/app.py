"""The routes of one backend: `uvicorn backend.app:app --port 8000`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from backend.config import Settings
from backend.model import Item
from backend.store import ItemStore, MemoryStore


def create_app(settings: Settings) -> FastAPI:
    """Build an application with a store of its own."""
    app = FastAPI(title="backend")
    app.add_exception_handler(RequestValidationError, _refuse)
    # Without latency there is no dependency at all: what a benchmark measures here should be the distributer.
    waits = [Depends(_wait(settings.latency_s))] if settings.latency_s else []
    app.include_router(_items(MemoryStore()), dependencies=waits)
    app.include_router(_ping(), dependencies=waits)
    app.include_router(_healthz())
    return app


def _wait(latency_s: float) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await asyncio.sleep(latency_s)

    return wait


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    # As FastAPI does it, but without echoing the input: a NaN or half a surrogate pair in it cannot be written as
    # JSON, and the answer to a bad item would be a 500.
    assert isinstance(error, RequestValidationError)
    detail = [{name: fault[name] for name in ("type", "loc", "msg")} for fault in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)


def _items(store: ItemStore) -> APIRouter:
    router = APIRouter(prefix="/items")

    @router.get("/{item_id}")
    async def read(item_id: int) -> Item:
        item = await store.get(item_id)
        if item is None:
            raise _missing(item_id)
        return item

    @router.post("/")
    async def create(item_id: int, item: Item) -> Item:
        if not await store.create(item_id, item):
            raise HTTPException(400, f"Item {item_id} already exists")
        return item

    @router.put("/{item_id}")
    async def replace(item_id: int, item: Item) -> Item:
        if not await store.replace(item_id, item):
            raise _missing(item_id)
        return item

    @router.delete("/{item_id}")
    async def delete(item_id: int) -> dict[str, int]:
        if not await store.delete(item_id):
            raise _missing(item_id)
        return {"deleted": item_id}

    return router


def _missing(item_id: int) -> HTTPException:
    return HTTPException(404, f"Item {item_id} not found")


def _ping() -> APIRouter:
    router = APIRouter()

    @router.get("/ping")
    async def ping(request: Request) -> dict[str, int | None]:
        # The listening socket's own port, so it is right however the server was started; None on a Unix socket.
        server = request.scope["server"]
        return {"port": server[1] if server else None}

    return router


def _healthz() -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return router


app = create_app(Settings())

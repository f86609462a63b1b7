"""The routes of one backend: `uvicorn backend.app:app --port 8000`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

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
    app.include_router(_events())
    app.include_router(_echo())
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

    @router.get("/")
    async def ids(after: int | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000) -> list[int]:
        """List the ids of items, in order, page by page: the next one is that `after` the last id of this one."""
        return await store.ids(after, limit)

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


def _events() -> APIRouter:
    router = APIRouter()

    @router.get("/events")
    async def events(
        request: Request,
        count: Annotated[int, Query(ge=0, le=1000)] = 5,
        every_s: Annotated[float, Query(ge=0, le=60)] = 1.0,
    ) -> StreamingResponse:
        """Send count server-sent events, one every_s seconds after the other: `curl -N …/events`."""
        server = request.scope["server"]

        async def stream() -> AsyncIterator[str]:
            for number in range(1, count + 1):
                yield f'id: {number}\ndata: {{"port":{server[1] if server else "null"},"number":{number}}}\n\n'
                if number < count:
                    await asyncio.sleep(every_s)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    return router


def _echo() -> APIRouter:
    router = APIRouter()

    @router.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        """Send each message back, until the client closes: `websockets ws://…/ws`."""
        await websocket.accept()
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])

    return router


def _healthz() -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return router


app = create_app(Settings())

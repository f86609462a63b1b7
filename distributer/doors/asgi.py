"""The ASGI door: middleware for any ASGI application, FastAPI's among them.

    app = FastAPI()
    app.add_middleware(DistributerMiddleware, open_core=replica(Settings(...)), paths=["/items", "/ping"])

Requests under `paths` are forwarded, the rest is the application's. What ASGI does not carry is lost on the way: the
spelling of field names, an empty query's question mark, 1xx answers. What the server in front decides is its own:
framing toward the client, Date and Server (which it adds, so the backend's are left out), Expect: 100-continue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from distributer.doors.lifespan import CORE_KEY, OpenCore
from distributer.doors.messages import ASGIApp, Message, Receive, Scope, Send
from distributer.doors.websocket import Handshake, handshake_fields, new_key
from distributer.errors import ClientError, DistributerError, RequestError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.limits import HIGH_WATER_BYTES
from distributer.forwarding.tunnel import End
from distributer.wire.head import Field, Framing, RequestHead, ResponseHead, origin_fields
from distributer.wire.problem import problem

WATCH_AFTER_S = 0.25
"""An exchange that takes longer is watched for the client's leaving. A watcher costs a task: short ones have none."""

_HTTP_SCHEMES = {"ws": "http", "wss": "https"}
_SERVER_FIELDS = frozenset({b"date", b"server"})


class DistributerMiddleware:
    """Forwards requests under `paths` (prefixes) to the backends; hands all others to the application."""

    def __init__(self, app: ASGIApp, open_core: OpenCore, paths: Sequence[str] = ("/",)) -> None:
        self._app = app
        self._open_core = open_core
        self._paths = tuple(paths)
        self._forwards_all = "/" in self._paths
        self._core: ForwardingCore | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and (self._forwards_all or scope["path"].startswith(self._paths)):
            await self._forward(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind == "websocket" and (self._forwards_all or scope["path"].startswith(self._paths)):
            await self._forward_websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        core = self._opened()
        try:
            head = head_of(scope)
        except ClientError as error:
            await _send_problem(send, error, scope["method"] == "HEAD", None)
            return
        head.upgrade = None  # ASGI has no word for a protocol that is neither HTTP nor WebSocket
        downstream = _AsgiDownstream(head)
        exchange = Exchange(core, head, downstream, _origin_of(scope))
        await downstream.run(exchange, receive, send)

    async def _forward_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        core = self._opened()
        await receive()  # websocket.connect: the client waits
        key = new_key()
        try:
            head = head_of({**scope, "method": "GET", "headers": handshake_fields(scope["headers"], key)})
        except ClientError:
            await send({"type": "websocket.close"})
            return
        can_reject = "websocket.http.response" in (scope.get("extensions") or {})
        handshake = Handshake(key, scope["subprotocols"], can_reject=can_reject)
        await handshake.run(Exchange(core, head, handshake, _origin_of(scope)), receive, send)

    def _opened(self) -> ForwardingCore:
        if self._core is None:
            raise RuntimeError("the server in front runs no lifespan: start it with lifespan on")
        return self._core

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the core before the application starts, and close it after it has stopped."""
        context: AbstractAsyncContextManager[ForwardingCore] = self._open_core()

        async def open_then_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    self._core = await context.__aenter__()
                except DistributerError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise _StartupFailed from None
                if "state" in scope:
                    scope["state"][CORE_KEY] = self._core
            elif message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed") and self._core:
                self._core = None
                await context.__aexit__(None, None, None)
            await send(message)

        try:
            await self._app(scope, receive, open_then_send)
        except _StartupFailed:
            return


class _StartupFailed(Exception):
    """The core could not be opened; the server has been told."""


async def lifespan_only(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without requests of its own, for a distributer that forwards all of them."""
    if scope["type"] != "lifespan":
        raise RuntimeError(f"nothing here answers {scope['type']} requests")
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _origin_of(scope: Scope) -> bytes:
    client = scope.get("client")
    scheme: str = scope["scheme"]
    scheme = _HTTP_SCHEMES.get(scheme, scheme)
    return origin_fields(client[0].encode() if client else b"unknown", scheme.encode(), scope["http_version"].encode())


def head_of(scope: Scope) -> RequestHead:
    """Read the head of an ASGI request. Raises ClientError."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
    query: bytes = scope["query_string"]
    headers: list[Field] = [field for field in scope["headers"] if field[0] != b"expect"]
    version = scope["http_version"]
    if version not in ("1.0", "1.1") and all(name != b"host" for name, _ in headers):
        # HTTP/2 and later say it in :authority, which servers hand on as Host or leave out.
        headers.insert(0, (b"host", b"%b" % (scope["server"][0].encode() if scope.get("server") else b"")))
    head = RequestHead(
        scope["method"].encode("latin-1"),
        raw_path + b"?" + query if query else raw_path,
        headers,
        is_http11=version != "1.0",
    )
    if head.framing is Framing.NONE and version not in ("1.0", "1.1") and head.method in (b"POST", b"PUT", b"PATCH"):
        head.framing = Framing.CHUNKED  # their framing is not the message's
    return head


class _AsgiDownstream:
    """The client's side of one exchange behind an ASGI server."""

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._events: deque[ResponseHead | bytes | RequestError | None] = deque()
        self._buffered = 0
        self._paused = False
        self._wake: asyncio.Future[None] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None

    async def run(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Carry one request and its answer between the server and the exchange."""
        self._exchange = exchange
        reader: asyncio.Task[None] | None = None
        watch: asyncio.TimerHandle | None = None

        def read_on() -> None:
            nonlocal reader
            reader = self._loop.create_task(self._read(exchange, receive))

        try:
            if self._head.framing is Framing.NONE:
                # Nothing to read but the client's leaving.
                exchange.body_finished()
                exchange.start()
                watch = self._loop.call_later(WATCH_AFTER_S, read_on)
            else:
                exchange.start()
                read_on()
            await self._write(exchange, send)
        finally:
            if watch is not None:
                watch.cancel()
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            exchange.client_gone()  # nothing, once the answer is complete

    async def _read(self, exchange: Exchange, receive: Receive) -> None:
        more = self._head.framing is not Framing.NONE
        while True:
            if more:
                await self._may_read.wait()
            message = await receive()
            if message["type"] == "http.disconnect":
                exchange.client_gone()
                self._push(None)
                return
            if not more:
                continue
            if message.get("body"):
                exchange.body(message["body"])
            if not message.get("more_body", False):
                more = False
                exchange.body_finished()

    async def _write(self, exchange: Exchange, send: Send) -> None:
        started = False
        while True:
            while not self._events:
                self._wake = self._loop.create_future()
                await self._wake
            event = self._events.popleft()
            if isinstance(event, bytes):
                self._buffered -= len(event)
                last = len(self._events) > 0 and self._events[0] is None
                await send({"type": "http.response.body", "body": event, "more_body": not last})
                if last:
                    return
                if self._paused and self._buffered < HIGH_WATER_BYTES:
                    self._paused = False
                    exchange.resume_answer()
            elif isinstance(event, ResponseHead):
                started = True
                left_out = _SERVER_FIELDS
                if event.status in (204, 304):
                    left_out = _SERVER_FIELDS | {b"content-length"}  # servers would wait for that much of a body
                headers = [(name.lower(), value) for name, value in event.headers if name.lower() not in left_out]
                await send({"type": "http.response.start", "status": event.status, "headers": headers})
            elif event is None:
                if started:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            elif started:
                return  # without the end of the answer: the server must cut the connection
            else:
                await _send_problem(send, event, self._head.method == b"HEAD", exchange.request_id)
                return

    def _push(self, event: ResponseHead | bytes | RequestError | None) -> None:
        self._events.append(event)
        self.flush()

    # What the exchange calls.

    def interim(self, head: ResponseHead) -> None:
        """ASGI has no word for 1xx answers."""

    def start(self, head: ResponseHead) -> None:
        self._events.append(head)

    def write(self, data: bytes) -> None:
        self._events.append(data)
        self._buffered += len(data)
        if self._buffered > HIGH_WATER_BYTES and not self._paused and self._exchange is not None:
            self._paused = True
            self._exchange.pause_answer()

    def flush(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def finish(self) -> None:
        self._push(None)

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        raise ValueError("it switched to another protocol unasked")

    def abort(self, error: RequestError) -> None:
        self._push(error)

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()


async def _send_problem(send: Send, error: RequestError, answers_head: bool, request_id: bytes | None) -> None:
    head, body = problem(error, request_id)
    headers = [(name.lower(), value) for name, value in head.headers]
    if isinstance(error, ClientError):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": head.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if answers_head else body, "more_body": False})

"""The ASGI door: middleware for any ASGI application, FastAPI's among them.

    app = FastAPI()
    app.add_middleware(DistributerMiddleware, open_core=replica(Settings(...)), paths=["/items", "/ping"])

Requests under `paths` are forwarded, the rest is the application's. What ASGI does not carry is lost on the way: the
spelling of field names, an empty query's question mark, 1xx answers. What the server in front decides is its own:
framing toward the client, Date and Server (which it adds, so the backend's are left out), Expect: 100-continue, how
many connections there may be, and how long a head may take.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from distributer.doors.lifespan import CORE_KEY, OpenCore
from distributer.doors.peer import peer_of_scope
from distributer.errors import ClientError, DistributerError, RequestError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.pace import BodyPace, body_too_slow
from distributer.wire.head import Field, Framing, RequestHead, RequestSection, ResponseHead
from distributer.wire.problem import problem

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

WATCH_AFTER_S = 0.25
"""An exchange that takes longer is watched for the client's leaving. A watcher costs a task: short ones have none."""

_VERSIONS = ("1.1", "2", "1.0", "3")
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
        elif kind == "websocket" and self._forwards_all:
            await receive()
            await send({"type": "websocket.close", "code": 1011})
        else:
            await self._app(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        core = self._core
        if core is None:
            raise RuntimeError("the server in front runs no lifespan: start it with lifespan on")
        peer = scope.get("client")
        client = peer[0].encode() if peer else b"unknown"
        try:
            head = head_of(scope)
        except ClientError as error:
            core.metrics.refused(error.status)
            core.refusals.note(error, client, None, core.clock.now)
            await _send_problem(send, error, answers_head=scope["method"] == "HEAD")
            return
        peer, scheme = peer_of_scope(scope, receive, head.forwarded)
        origin = core.origins.of(peer, scheme, scope["http_version"].encode())
        downstream = _AsgiDownstream(core, head, client)
        exchange = Exchange(core, head, downstream, origin)
        await downstream.run(exchange, receive, send)

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


def head_of(scope: Scope) -> RequestHead:
    """Read the head of an ASGI request. Raises ClientError."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
    query: bytes = scope["query_string"]
    headers: list[Field] = [field for field in scope["headers"] if field[0] != b"expect"]
    version = scope["http_version"]
    if version not in _VERSIONS:  # uvicorn hands on whatever stands in the request line
        raise ClientError(f"HTTP/{version}", 505, "HTTP version not supported")
    if version not in ("1.0", "1.1") and all(name != b"host" for name, _ in headers):
        # HTTP/2 and later say it in :authority, which servers hand on as Host or leave out.
        headers.insert(0, (b"host", b"%b" % (scope["server"][0].encode() if scope.get("server") else b"")))
    head = RequestHead(
        scope["method"].encode("latin-1"),
        raw_path + b"?" + query if query else raw_path,
        RequestSection.of(headers, is_http11=version != "1.0"),
    )
    if head.framing is Framing.NONE and version not in ("1.0", "1.1") and head.method in (b"POST", b"PUT", b"PATCH"):
        head.framing = Framing.CHUNKED  # their framing is not the message's
    return head


class _AsgiDownstream:
    """The client's side of one exchange behind an ASGI server."""

    def __init__(self, core: ForwardingCore, head: RequestHead, client: bytes) -> None:
        self._core = core
        self._head = head
        self._client = client
        self._most_buffered = core.options.clients.answer_buffer_bytes
        self._pace: BodyPace | None = None
        self.slot = 0
        self._events: deque[ResponseHead | bytes | RequestError | None] = deque()
        self._buffered = 0
        self._started = False
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
            self._core.wheel.forget(self)
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
                self._pace = None
                exchange.body_finished()
            elif self._pace is None:
                self._pace = BodyPace(exchange, self._core.options.clients.body_timeout_s, self._core.clock.now)
                self._core.wheel.watch(self, self._pace.deadline)

    def check(self, now: float) -> float:
        """Refuse a body that comes too slowly. Called by the wheel."""
        pace, exchange = self._pace, self._exchange
        if pace is None or exchange is None:
            return 0.0
        if not self._may_read.is_set():
            pace.restart(now)
        elif pace.is_too_slow(now):
            exchange.refuse(body_too_slow(self._core.options.clients.body_timeout_s))
            return 0.0
        return pace.deadline

    async def _write(self, exchange: Exchange, send: Send) -> None:
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
                if self._paused and self._buffered <= self._most_buffered // 4:
                    self._paused = False
                    exchange.resume_answer()
            elif isinstance(event, ResponseHead):
                self._started = True
                left_out = _SERVER_FIELDS
                if event.status in (204, 304):
                    left_out = _SERVER_FIELDS | {b"content-length"}  # servers would wait for that much of a body
                headers = [(name.lower(), value) for name, value in event.headers if name.lower() not in left_out]
                await send({"type": "http.response.start", "status": event.status, "headers": headers})
            elif event is None:
                if self._started:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            elif self._started:
                self._core.refusals.note(event, self._client, self._head, self._core.clock.now)
                return  # without the end of the answer: the server must cut the connection
            else:
                self._core.refusals.note(event, self._client, self._head, self._core.clock.now)
                await _send_problem(send, event, exchange, answers_head=self._head.method == b"HEAD")
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
        if self._buffered > self._most_buffered and not self._paused and self._exchange is not None:
            self._paused = True
            self._exchange.pause_answer()

    def flush(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def finish(self, trailers: bytes = b"") -> None:
        self._push(None)

    def abort(self, error: RequestError) -> None:
        if not self._started:
            self._events.clear()  # the head has not gone out: the error can be the answer
        self._push(error)

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        if self._pace is not None:
            self._pace.restart(self._core.clock.now)
        self._may_read.set()


async def _send_problem(
    send: Send, error: RequestError, exchange: Exchange | None = None, *, answers_head: bool
) -> None:
    head, body = problem(error, exchange.request_id, exchange.routing_fields) if exchange else problem(error)
    headers = [(name.lower(), value) for name, value in head.headers]
    if isinstance(error, ClientError):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": head.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if answers_head else body, "more_body": False})

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
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache

from distributer.doors.lifespan import CORE_KEY, OpenCore
from distributer.doors.messages import ASGIApp, Message, Receive, Scope, Send
from distributer.doors.peer import peer_of_scope
from distributer.doors.websocket import Handshake, handshake_fields, new_key
from distributer.errors import ClientError, DistributerError, RequestError
from distributer.forwarding.core import ForwardingCore
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.pace import BodyPace, body_too_slow
from distributer.forwarding.tunnel import End
from distributer.wire.fields import Field, Framing, serialised
from distributer.wire.forwarded import Origin
from distributer.wire.parser import HEAD_LIMITS, MAX_REMEMBERED_BYTES, HeadLimits
from distributer.wire.problem import problem
from distributer.wire.request import RequestHead, RequestSection
from distributer.wire.response import ResponseHead

WATCH_AFTER_S = 0.25
"""An exchange that takes longer is watched for the client's leaving. A watcher costs a task: short ones have none."""

_VERSIONS = ("1.1", "2", "1.0", "3")
_HTTP_SCHEMES = {b"ws": b"http", b"wss": b"https"}
_EXPECT = frozenset({b"expect"})
_EXPECT_AND_UPGRADE = frozenset({b"expect", b"upgrade"})
"""What the server decides, and a protocol that is neither HTTP nor WebSocket, for which ASGI has no word."""
_SERVER_FIELDS = frozenset({b"date", b"server"})
_SERVER_FIELDS_AND_LENGTH = _SERVER_FIELDS | {b"content-length"}

MAX_SECTIONS = 512
"""Header sections that are remembered: those of one client, and often of many, are the same bytes again and again."""


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
        peer = scope.get("client")
        client = peer[0].encode() if peer else b"unknown"
        try:
            head = head_of(scope, core.options.heads)
        except ClientError as error:
            core.metrics.refused(error.status)
            core.refusals.note(error, client, None, core.clock.now)
            await _send_problem(send, error, answers_head=scope["method"] == "HEAD")
            return
        downstream = _AsgiDownstream(core, head, client)
        exchange = Exchange(core, head, downstream, _origin_of(core, scope, receive, head))
        await downstream.run(exchange, receive, send)

    async def _forward_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        core = self._opened()
        await receive()  # websocket.connect: the client waits
        key = new_key()
        request = {**scope, "method": "GET", "headers": handshake_fields(scope["headers"], key)}
        try:
            head = head_of(request, core.options.heads, left_out=_EXPECT)
        except ClientError:
            await send({"type": "websocket.close"})
            return
        can_reject = "websocket.http.response" in (scope.get("extensions") or {})
        handshake = Handshake(key, scope["subprotocols"], can_reject=can_reject)
        exchange = Exchange(core, head, handshake, _origin_of(core, scope, receive, head))
        await handshake.run(exchange, receive, send)

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


def _origin_of(core: ForwardingCore, scope: Scope, receive: Receive, head: RequestHead) -> Origin:
    peer, scheme = peer_of_scope(scope, receive, head.forwarded)
    return core.origins.of(peer, _HTTP_SCHEMES.get(scheme, scheme), scope["http_version"].encode())


def head_of(
    scope: Scope, limits: HeadLimits = HEAD_LIMITS, left_out: frozenset[bytes] = _EXPECT_AND_UPGRADE
) -> RequestHead:
    """Read the head of an ASGI request. Raises ClientError."""
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
    query: bytes = scope["query_string"]
    version = scope["http_version"]
    if version not in _VERSIONS:  # uvicorn hands on whatever stands in the request line
        raise ClientError(f"HTTP/{version}", 505, "HTTP version not supported")
    headers: list[Field] = scope["headers"]
    if version not in ("1.0", "1.1"):
        headers = list(headers)
        names = {name for name, _ in headers}
        if b"host" not in names:
            # HTTP/2 and later say it in :authority, which servers hand on as Host or leave out.
            headers.insert(0, (b"host", scope["server"][0].encode() if scope.get("server") else b""))
        if scope["method"] in ("POST", "PUT", "PATCH") and not names & {b"content-length", b"transfer-encoding"}:
            headers.append((b"transfer-encoding", b"chunked"))  # their framing is not the message's
    target = raw_path + b"?" + query if query else raw_path
    raw = serialised([field for field in headers if field[0] not in left_out])
    if len(target) + len(raw) >= MAX_REMEMBERED_BYTES or len(headers) > limits.max_fields:
        # The server has read it all the same, but no backend will have to.
        limits.check_target(len(target))
        limits.check_head(len(target) + len(raw))
        limits.check_section(raw)
    if b"#" in target:
        raise ClientError("a fragment in the target")
    return RequestHead(scope["method"].encode("latin-1"), target, _section_of(raw, version != "1.0"))


def _section_of(raw: bytes, is_http11: bool) -> RequestSection:
    if len(raw) > MAX_REMEMBERED_BYTES:
        return RequestSection(raw, is_http11=is_http11)
    return _remembered_section(raw, is_http11)


@lru_cache(MAX_SECTIONS)
def _remembered_section(raw: bytes, is_http11: bool) -> RequestSection:
    return RequestSection(raw, is_http11=is_http11)


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
        self._may_read: asyncio.Event | None = None  # None: always
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._receive: Receive | None = None
        self._reader: asyncio.Task[None] | None = None

    async def run(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Carry one request and its answer between the server and the exchange."""
        self._exchange = exchange
        self._receive = receive
        try:
            if self._head.framing is Framing.NONE:
                # Nothing to read but the client's leaving.
                exchange.body_finished()
                exchange.start()
                self._core.wheel.watch(self, self._core.clock.now + WATCH_AFTER_S)
            else:
                exchange.start()
                self._read_on(exchange, receive)
            await self._write(exchange, send)
        finally:
            self._core.wheel.forget(self)
            if self._reader is not None:
                self._reader.cancel()
                await asyncio.gather(self._reader, return_exceptions=True)
            exchange.client_gone()  # nothing, once the answer is complete
            self._exchange = None  # which knows us: they would wait for the garbage collector together

    def _read_on(self, exchange: Exchange, receive: Receive) -> None:
        self._reader = self._loop.create_task(self._read(exchange, receive))

    async def _read(self, exchange: Exchange, receive: Receive) -> None:
        more = self._head.framing is not Framing.NONE
        while True:
            if more and self._may_read is not None:
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
        """Refuse a body that comes too slowly; look for the client's leaving. Called by the wheel."""
        pace, exchange, receive = self._pace, self._exchange, self._receive
        if exchange is None or receive is None:
            return 0.0
        if self._reader is None:
            self._read_on(exchange, receive)
            return 0.0
        if pace is None:
            return 0.0
        if self._may_read is not None and not self._may_read.is_set():
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
                # Of an answer without its body: servers would wait for that much of one.
                left_out = _SERVER_FIELDS_AND_LENGTH if event.status in (204, 304) else _SERVER_FIELDS
                headers = event.lowered(left_out)
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

    def withdraw(self) -> None:
        self._events.clear()
        self._buffered = 0
        self._paused = False

    def finish(self, trailers: bytes = b"") -> None:
        self._push(None)

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        raise ValueError("it switched to another protocol unasked")

    def abort(self, error: RequestError) -> None:
        if not self._started:
            self._events.clear()  # the head has not gone out: the error can be the answer
        self._push(error)

    def pause_reading(self) -> None:
        if self._may_read is None:
            self._may_read = asyncio.Event()
        self._may_read.clear()

    def resume_reading(self) -> None:
        if self._pace is not None:
            self._pace.restart(self._core.clock.now)
        if self._may_read is not None:
            self._may_read.set()


async def _send_problem(
    send: Send, error: RequestError, exchange: Exchange | None = None, *, answers_head: bool
) -> None:
    head, body = exchange.problem(error) if exchange else problem(error)
    headers = [(name.lower(), value) for name, value in head.headers]
    if isinstance(error, ClientError):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": head.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if answers_head else body, "more_body": False})

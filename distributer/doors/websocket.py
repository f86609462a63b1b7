"""WebSockets behind an ASGI server: whole messages on its side, frames on the backend's.

    client ◄─ frames ─► ASGI server ◄─ messages ─► MessageEnd ◄─ frames ─► Tunnel ─► backend

The server in front has settled with the client what concerns those two: the key, extensions such as compression, pings.
So the backend gets a handshake and frames of our own, without extensions; the rest of the client's head goes along as
for any request, and is routed alike. Close codes are passed on both ways.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable

from websockets.exceptions import ProtocolError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol, Side, State

from distributer.doors.messages import Message, Receive, Send
from distributer.errors import RequestError
from distributer.forwarding.exchange import Exchange
from distributer.forwarding.limits import HIGH_WATER_BYTES
from distributer.forwarding.tunnel import CLOSE_WAIT_S, Direction, End
from distributer.wire.fields import Field
from distributer.wire.response import ResponseHead
from distributer.wire.websocket import BAD_GATEWAY

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The largest message from a backend; uvicorn takes as much from a client."""

_OURS = frozenset(
    {
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that are settled on each side of its own."""
_SERVER_FIELDS = frozenset({b"date", b"server"})
_ANSWERED_BY_SERVER = _OURS | _SERVER_FIELDS | {b"sec-websocket-protocol"}

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

log = logging.getLogger("distributer.websocket")


def handshake_fields(headers: list[Field], key: bytes) -> list[Field]:
    """Make the fields of our own handshake with the backend, out of those of the client's (RFC 6455 section 4.1)."""
    return [
        *(field for field in headers if field[0] not in _OURS),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"websocket"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", key),
    ]


def new_key() -> bytes:
    """Make a nonce for a handshake."""
    return base64.b64encode(os.urandom(16))


class Outbox:
    """Messages for the server in front, sent by its own task."""

    def __init__(self) -> None:
        self.on_sent: Callable[[Message], None] | None = None
        self._messages: deque[Message | None] = deque()  # None is the end
        self._wake: asyncio.Future[None] | None = None

    def push(self, *messages: Message | None) -> None:
        """Send messages in their turn; None ends it."""
        self._messages += messages
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self, send: Send) -> None:
        """Send until the end."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._messages:
                self._wake = loop.create_future()
                await self._wake
            message = self._messages.popleft()
            if message is None:
                return
            await send(message)
            if self.on_sent is not None:
                self.on_sent(message)


class Handshake:
    """The client's side of a handshake: what the exchange answers goes to the server in front."""

    def __init__(self, key: bytes, subprotocols: list[str], *, can_reject: bool) -> None:
        """`can_reject`: whether the server takes another refusal than 403."""
        self._key = key
        self._subprotocols = subprotocols
        self._can_reject = can_reject
        self._outbox = Outbox()
        self._end: MessageEnd | None = None
        self._exchange: Exchange | None = None
        self._refusal: ResponseHead | None = None
        self._body = b""

    async def run(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        """Carry a WebSocket between the server and the backend, until either is done."""
        self._exchange = exchange
        exchange.body_finished()
        exchange.start()
        reader = asyncio.get_running_loop().create_task(self._read(exchange, receive))
        try:
            await self._outbox.run(send)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            exchange.client_gone()  # nothing, once it is answered
            if self._end is not None:
                self._end.lost()

    async def _read(self, exchange: Exchange, receive: Receive) -> None:
        while True:
            message = await receive()
            end = self._end
            if message["type"] == "websocket.disconnect":
                if end is not None:
                    end.client_left(message.get("code", CloseCode.NO_STATUS_RCVD), message.get("reason") or "")
                else:
                    exchange.client_gone()
                    self._outbox.push(None)
                return
            if end is not None:
                await end.send(message)

    # What the exchange calls.

    def interim(self, head: ResponseHead) -> None:
        """ASGI has no word for 1xx answers."""

    def start(self, head: ResponseHead) -> None:
        self._refusal = head

    def write(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > HIGH_WATER_BYTES and self._refusal is not None and self._exchange is not None:
            # Servers take the body of a refusal whole: one that is too long is left out.
            self._refusal = self._refusal.with_fields((), instead_of=frozenset({b"content-length"}))
            self._body = b""
            self.finish()
            self._exchange.client_gone()

    def flush(self) -> None:
        """Nothing: a refusal is handed over whole."""

    def withdraw(self) -> None:
        self._refusal = None
        self._body = b""

    def finish(self, trailers: bytes = b"") -> None:
        if self._refusal is not None:
            self._refuse(self._refusal, self._body)
            self._refusal = None

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        fields = {name.lower(): value for name, value in head.headers}
        expected = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        if fields.get(b"sec-websocket-accept") != expected:
            raise ValueError("its Sec-WebSocket-Accept is not for our key")
        if b"sec-websocket-extensions" in fields:
            raise ValueError("it uses a WebSocket extension unasked")
        subprotocol = fields.get(b"sec-websocket-protocol", b"").decode("latin-1") or None
        if subprotocol is not None and subprotocol not in self._subprotocols:
            raise ValueError("it chose a WebSocket subprotocol that was not offered")
        headers = head.lowered(_ANSWERED_BY_SERVER)
        self._outbox.push({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        self._end = MessageEnd(self._outbox)
        return self._end, b""

    def abort(self, error: RequestError) -> None:
        assert self._exchange is not None
        self._refuse(*self._exchange.problem(error))

    def pause_reading(self) -> None:
        """Nothing: the request has no body."""

    def resume_reading(self) -> None:
        """Nothing, as above."""

    def _refuse(self, head: ResponseHead, body: bytes) -> None:
        if not self._can_reject:
            self._outbox.push({"type": "websocket.close"}, None)  # before it is accepted: the server answers 403
            return
        headers = head.lowered(_SERVER_FIELDS)
        self._outbox.push(
            {"type": "websocket.http.response.start", "status": head.status, "headers": headers},
            {"type": "websocket.http.response.body", "body": body, "more_body": False},
            None,
        )


class MessageEnd:
    """The client's end of a tunnel, where the server in front speaks in messages: frames them, and reads frames."""

    is_writable = True
    _outgoing: Direction
    _incoming: Direction

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._protocol = Protocol(Side.CLIENT, state=State.OPEN, max_size=MAX_MESSAGE_BYTES, logger=log)
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._buffered = 0  # bytes that the server has not taken
        self._is_paused = False
        self._parts: list[bytes] = []  # of a message from the backend that has not come whole
        self._is_text = False
        self._is_closed = False  # the client has been told of the end, or has said it
        outbox.on_sent = self._sent

    # What the handshake calls.

    async def send(self, message: Message) -> None:
        """Send a client's message to the backend, and wait until that takes more."""
        if self._protocol.state is not State.OPEN:
            return  # the backend has closed
        text = message.get("text")
        if text is not None:
            self._protocol.send_text(text.encode())
        else:
            self._protocol.send_binary(message["bytes"])
        self._flush()
        await self._may_send.wait()

    def client_left(self, code: int, reason: str) -> None:
        """Tell the backend that the client has closed, and wait a little for its Close frame."""
        self._is_closed = True
        if code == CloseCode.ABNORMAL_CLOSURE or self._protocol.state is not State.OPEN:
            self._outbox.push(None)  # it sent no Close frame, or the backend has closed already
            return
        try:
            self._protocol.send_close(None if code == CloseCode.NO_STATUS_RCVD else code, reason)
        except ProtocolError:
            self._protocol.send_close(CloseCode.PROTOCOL_ERROR)  # a code that may not be sent
        self._flush()
        asyncio.get_running_loop().call_later(CLOSE_WAIT_S, self._outbox.push, None)

    def lost(self) -> None:
        """The server has let go of the client."""
        self._outgoing.lost()

    # What the tunnel calls.

    @property
    def unsent(self) -> int:
        return self._buffered

    @property
    def has_failed(self) -> bool:
        return False  # the server tells

    def join(self, outgoing: Direction, incoming: Direction) -> None:
        self._outgoing = outgoing
        self._incoming = incoming

    def start(self) -> None:
        """Nothing: messages have been waited for since the handshake."""

    def write(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for frame in self._protocol.events_received():
            if isinstance(frame, Frame):
                self._got(frame)
        self._flush()
        if self._protocol.parser_exc is not None:
            sent = self._protocol.close_sent
            is_too_big = sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG
            self._close(CloseCode.MESSAGE_TOO_BIG if is_too_big else BAD_GATEWAY)

    def write_eof(self) -> None:
        self._close(BAD_GATEWAY)

    def pause_reading(self) -> None:
        self._may_send.clear()

    def resume_reading(self) -> None:
        self._may_send.set()

    def close(self) -> None:
        self._close(BAD_GATEWAY)

    def abort(self) -> None:
        self._close(BAD_GATEWAY)

    def reset(self) -> None:
        self._close(BAD_GATEWAY)

    def _got(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            received = self._protocol.close_rcvd
            assert received is not None
            # ASGI cannot close without a code.
            is_without = received.code == CloseCode.NO_STATUS_RCVD
            self._close(CloseCode.NORMAL_CLOSURE if is_without else received.code, received.reason)
            return
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # pings have been answered
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if frame.fin and not self._is_closed:
            data, self._parts = b"".join(self._parts), []
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        message: Message = {"type": "websocket.send"}
        if not self._is_text:
            message["bytes"] = data
        else:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA, "not UTF-8")
                self._close(BAD_GATEWAY)
                return
        self._buffered += _size(message)
        self._outbox.push(message)
        if self._buffered > HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            self._incoming.pause()

    def _sent(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self._buffered -= _size(message)
            if self._is_paused and self._buffered < HIGH_WATER_BYTES:
                self._is_paused = False
                self._incoming.resume()

    def _close(self, code: int, reason: str = "") -> None:
        """Tell the client of the end, unless it has said it itself."""
        if not self._is_closed:
            self._is_closed = True
            self._outbox.push({"type": "websocket.close", "code": int(code), "reason": reason})
        self._outbox.push(None)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._outgoing.received(data)


def _size(message: Message) -> int:
    return len(message["bytes"] if "bytes" in message else message["text"])

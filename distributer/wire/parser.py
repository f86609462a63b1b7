"""httptools callbacks → events. The one place that knows httptools.

A parser feeds bytes to llhttp and hands complete events to its sink: a head, body bytes, the end. What breaks HTTP
raises one error, whatever layer of llhttp found it.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from distributer.errors import ClientError
from distributer.wire.head import Field, RequestHead, ResponseHead

MAX_HEAD_BYTES = 64 * 1024
"""The largest head: nginx takes 32 KiB, HAProxy 16 KiB, Envoy 60 KiB, uvicorn with h11 64 KiB."""


class RequestSink(Protocol):
    """Takes the events of requests, in order."""

    def request_started(self, head: RequestHead) -> None: ...
    def request_data(self, data: bytes) -> None: ...
    def request_finished(self) -> None: ...


class ResponseSink(Protocol):
    """Takes the events of responses, in order."""

    def response_started(self, head: ResponseHead) -> None: ...
    def response_data(self, data: bytes) -> None: ...
    def response_finished(self) -> None: ...


def _bounded(head_bytes: int) -> int:
    """Check how much of an unfinished head has come: what llhttp holds back must stay bounded."""
    if head_bytes > MAX_HEAD_BYTES:
        raise ClientError("the head is too large", 431, "Request header fields too large")
    return head_bytes


class RequestParser:
    """Requests of one client connection. After an error it is of no more use."""

    __slots__ = ("_head_bytes", "_headers", "_parser", "_sink", "_target")

    def __init__(self, sink: RequestSink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[Field] = []
        self._head_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes. Raises ClientError.

        Returns None, or, after a request that asks for another protocol (Upgrade or CONNECT), the bytes behind it: the
        parser takes no more from then on.
        """
        in_head = self._head_bytes > 0
        if in_head:
            self._head_bytes = _bounded(self._head_bytes + len(data))
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, ClientError) else error from None
        except httptools.HttpParserError as error:
            raise ClientError(f"not HTTP/1.1: {error}") from error
        if self._head_bytes and not in_head:
            self._head_bytes = _bounded(self._head_bytes + len(data))
        return None

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._head_bytes = 1

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        parser = self._parser
        is_http11 = parser.get_http_version() == "1.1"
        self._sink.request_started(RequestHead(parser.get_method(), self._target, self._headers, is_http11=is_http11))

    def on_body(self, data: bytes) -> None:
        self._sink.request_data(data)

    def on_message_complete(self) -> None:
        self._sink.request_finished()


class ResponseParser:
    """Responses of one backend connection, one `expect` for each."""

    __slots__ = ("_answers_head", "_ended_early", "_head_bytes", "_headers", "_parser", "_reason", "_sink")

    def __init__(self, sink: ResponseSink) -> None:
        self._sink = sink
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Field] = []
        self._reason = b""
        self._answers_head = False
        self._ended_early = False
        self._head_bytes = 0

    def expect(self, *, answers_head: bool) -> None:
        """Say what the next response answers: one to HEAD has no body, whatever its head says."""
        self._answers_head = answers_head
        if self._ended_early:
            self._parser = httptools.HttpResponseParser(self)
            self._ended_early = False

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a further message has come."""
        return self._head_bytes == 0

    def feed(self, data: bytes) -> None:
        """Parse bytes. Raises ValueError, saying why, if they are no HTTP response."""
        if self._head_bytes:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise ValueError("its head is too large")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise ValueError("it switched to another protocol unasked") from None
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, ValueError) else error from None
        except httptools.HttpParserError as error:
            raise ValueError(f"not HTTP/1.1: {error}") from error

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self._headers = []
        self._reason = b""
        self._head_bytes = 1

    def on_status(self, part: bytes) -> None:
        self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        parser = self._parser
        head = ResponseHead(
            parser.get_status_code(),
            self._reason,
            self._headers,
            is_http11=parser.get_http_version() == "1.1",
            answers_head=self._answers_head,
        )
        self._sink.response_started(head)
        if self._answers_head and head.status >= 200:
            # llhttp cannot be told that no body follows; it is left waiting for one, and replaced before the next use.
            self._ended_early = True
            self._sink.response_finished()

    def on_body(self, data: bytes) -> None:
        if not self._ended_early:
            self._sink.response_data(data)
        else:
            raise ValueError("a body follows the answer to HEAD")

    def on_message_complete(self) -> None:
        if not self._ended_early:
            self._sink.response_finished()

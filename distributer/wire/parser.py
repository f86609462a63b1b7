"""httptools callbacks → events. The one place that knows httptools.

A parser feeds bytes to llhttp and hands complete events to its sink: a head, body bytes, the end. What breaks HTTP
raises one error, whatever layer of llhttp found it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import httptools

from distributer.errors import ClientError
from distributer.wire.head import Field, Framing, RequestHead, ResponseHead

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


class _Parser(ABC):
    """What both parsers share: the bound on heads, and on all else that llhttp holds back.

    Without a bound, a head, a trailer section or a chunk extension that never ends would fill the memory.
    """

    __slots__ = ("_at_most", "_fed", "_headers", "_is_quiet", "_parser", "_quiet_bytes")

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._headers: list[Field] = []
        self._fed = 0
        self._at_most = 0  # what has come of the present head, and possibly a little before it
        self._is_quiet = False  # no event yet in this feed
        self._quiet_bytes = 0  # fed since the last event

    def _parse(self, data: bytes) -> None:
        self._fed = size = len(data)
        self._at_most += size
        self._is_quiet = True
        self._parser.feed_data(data)
        if not self._is_quiet:
            self._quiet_bytes = 0
        elif (quiet_bytes := self._quiet_bytes + size) > MAX_HEAD_BYTES:
            raise self._too_large()
        else:
            self._quiet_bytes = quiet_bytes

    def _check_size(self, first_line: bytes) -> None:
        """Refuse a head that is too large, the same one however it was split."""
        size = len(first_line) + sum(len(name) + len(value) + len(b": \r\n") for name, value in self._headers)
        if size > MAX_HEAD_BYTES:
            raise self._too_large()

    @abstractmethod
    def _too_large(self) -> Exception:
        """Say it to whoever sent it."""


class RequestParser(_Parser):
    """Requests of one client connection. After an error it is of no more use."""

    __slots__ = ("_body_of", "_is_resumed", "_sink", "_target")

    def __init__(self, sink: RequestSink) -> None:
        super().__init__(httptools.HttpRequestParser(self))
        self._sink = sink
        self._target = b""
        self._body_of: RequestHead | None = None
        self._is_resumed = False

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes. Raises ClientError.

        Returns None, or, after a request without a body that asks for another protocol (Upgrade or CONNECT), the bytes
        behind it: what they are depends on the answer.
        """
        while True:
            try:
                self._parse(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            except httptools.HttpParserCallbackError as error:
                raise error.__context__ or error from None  # what the callback raised
            except httptools.HttpParserError as error:
                raise ClientError(f"not HTTP/1.1: {error}") from error
            else:
                return None
            if self._body_of is None:
                return rest
            data = self._resume(self._body_of) + rest

    def _resume(self, head: RequestHead) -> bytes:
        """Go on with the body of a request that asks for another protocol, behind the head that is returned.

        Whoever does not switch reads it as any other (RFC 9110 section 7.8; Java's client offers h2c with each first
        request), but httptools takes such a message to end with its head. So the body is parsed behind another head,
        that says no more than how long it is.
        """
        self._is_resumed = True
        is_chunked = head.framing is Framing.CHUNKED
        framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % head.content_length
        return b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing

    def _too_large(self) -> ClientError:
        return ClientError("the head, or the trailer section, is too large", 431, "Request header fields too large")

    # What llhttp calls.

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._at_most = self._fed

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._is_resumed:
            self._is_resumed = False
            self._body_of = None
            return
        self._is_quiet = False
        if self._at_most > MAX_HEAD_BYTES:
            self._check_size(self._target)
        parser = self._parser
        version = parser.get_http_version()
        is_http11 = version == "1.1"
        if not is_http11 and version != "1.0":
            raise ClientError(f"HTTP/{version}", 505, "HTTP version not supported")
        head = RequestHead(parser.get_method(), self._target, self._headers, is_http11=is_http11)
        if head.framing is not Framing.NONE and parser.should_upgrade():
            self._body_of = head
        if head.upgrade is not None and not parser.should_upgrade():
            head.upgrade = None
        self._sink.request_started(head)

    def on_body(self, data: bytes) -> None:
        self._is_quiet = False
        self._sink.request_data(data)

    def on_message_complete(self) -> None:
        self._is_quiet = False
        if self._body_of is None:
            self._sink.request_finished()


class ResponseParser(_Parser):
    """Responses of one backend connection, one `expect` for each."""

    __slots__ = ("_answers_head", "_ended_early", "_is_in_head", "_reason", "_sink")

    def __init__(self, sink: ResponseSink) -> None:
        super().__init__(httptools.HttpResponseParser(self))
        self._sink = sink
        self._reason = b""
        self._answers_head = False
        self._ended_early = False
        self._is_in_head = False

    def expect(self, *, answers_head: bool) -> None:
        """Say what the next response answers: one to HEAD has no body, whatever its head says."""
        self._answers_head = answers_head
        if self._ended_early:
            self._parser = httptools.HttpResponseParser(self)
            self._ended_early = False

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of a further message has come."""
        return not self._is_in_head

    def feed(self, data: bytes) -> bytes | None:
        """Parse bytes. Raises ValueError, saying why, if they are no HTTP response.

        Returns None, or, behind a 101 that the sink has taken, the bytes behind it: they are of another protocol.
        """
        try:
            self._parse(data)
        except httptools.HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # what the callback raised
        except httptools.HttpParserError as error:
            raise ValueError(f"not HTTP/1.1: {error}") from error
        if self._ended_early and not _BLANK_LINE.endswith(data[-len(_BLANK_LINE) :]):
            # Such as the size of a chunk: llhttp has said nothing of it yet, and will be replaced.
            raise ValueError("something follows the answer to HEAD")
        return None

    def _too_large(self) -> ValueError:
        return ValueError("its head, or its trailer section, is too large")

    # What llhttp calls.

    def on_message_begin(self) -> None:
        if self._ended_early:
            raise ValueError("something follows the answer to HEAD")
        self._reason = b""
        self._is_in_head = True
        self._headers = []
        self._at_most = self._fed

    def on_status(self, part: bytes) -> None:
        self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._is_quiet = False
        if self._at_most > MAX_HEAD_BYTES:
            self._check_size(self._reason)
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
        self._is_quiet = False
        if not self._ended_early:
            self._sink.response_data(data)
        else:
            raise ValueError("a body follows the answer to HEAD")

    def on_message_complete(self) -> None:
        self._is_quiet = False
        if not self._ended_early:
            self._sink.response_finished()


_BLANK_LINE = b"\r\n\r\n"

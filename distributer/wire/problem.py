"""Answers that distributer gives itself: a small `application/problem+json` (RFC 9457) that says what and where."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

from distributer.errors import RequestError
from distributer.wire.fields import Field
from distributer.wire.response import ResponseHead


def problem(
    error: RequestError, request_id: bytes | None = None, more: Iterable[Field] = (), *, tells_all: bool = False
) -> tuple[ResponseHead, bytes]:
    """Make the head and the body of the answer to an error.

    `more`: fields that it has besides. `tells_all`: the client may know the inside, and is told what the log is.
    """
    detail = str(error) if tells_all else error.detail
    text = {"type": "about:blank", "title": error.title, "status": error.status, "detail": detail}
    if request_id is not None:
        text["request_id"] = request_id.decode("latin-1")
    body = json.dumps(text).encode() + b"\n"
    headers: list[Field] = [
        (b"Content-Type", b"application/problem+json"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
    ]
    if error.retry_after_s is not None:
        headers.append((b"Retry-After", b"%d" % error.retry_after_s))
    if request_id is not None:
        headers.append((b"X-Request-ID", request_id))
    headers += more
    return ResponseHead.of(error.status, _phrase(error.status), headers), body


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Error"

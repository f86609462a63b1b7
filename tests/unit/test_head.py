"""Heads: what is read of them, what is forwarded and what is left out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.errors import (
    ClientError,
    ConnectFailed,
    ConnectionStale,
    RequestError,
    StateError,
    Unroutable,
    UpstreamError,
    UpstreamTimeout,
)
from distributer.model import Backend, ItemId
from distributer.routing.ring import Ring
from distributer.routing.route import Reason, choose_by_owner
from distributer.wire.body import chunk
from distributer.wire.fields import HOP_BY_HOP, PROTECTED, Field, Framing, serialised
from distributer.wire.forwarded import UNTRUSTED, Origin, OriginRules
from distributer.wire.problem import problem
from distributer.wire.request import RequestHead, RequestSection, is_sound_request_id, upstream_head
from distributer.wire.response import ResponseHead, downstream_head

HOST = (b"Host", b"shop")
ID = b"0123-4"
ORIGIN = Origin(OriginRules(), "10.0.0.1", b"http")


def request(*fields: Field, method: bytes = b"GET", target: bytes = b"/", is_http11: bool = True) -> RequestHead:
    """Read the head of a request that names its host."""
    return RequestHead(method, target, RequestSection(serialised([HOST, *fields]), is_http11=is_http11))


def response(
    status: int, *fields: Field, reason: bytes = b"OK", is_http11: bool = True, answers_head: bool = False
) -> ResponseHead:
    return ResponseHead.of(status, reason, fields, is_http11=is_http11, answers_head=answers_head)


# Requests: what is forwarded.


def test_fields_are_forwarded_in_their_order_and_spelling_repeated_ones_too() -> None:
    head = request((b"aCCept", b"a"), (b"X-Trace", b"1 "), (b"cookie", b"a=b"), (b"x-TRACE", b""), (b"cookie", b"\xff"))
    assert (
        head.section.lines == b"Host: shop\r\naCCept: a\r\nX-Trace: 1 \r\ncookie: a=b\r\nx-TRACE: \r\ncookie: \xff\r\n"
    )


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP - {b"transfer-encoding"}))
def test_what_speaks_of_one_connection_is_left_out(name: bytes) -> None:
    assert request((name.title(), b"x"), (b"A", b"b")).section.lines == b"Host: shop\r\nA: b\r\n"


@pytest.mark.parametrize(
    "connection",
    [
        [(b"Connection", b"X-One, x-two")],
        [(b"connection", b"X-ONE"), (b"CONNECTION", b"keep-alive ,\tX-Two ")],
        [(b"Connection", b"close,, x-one,x-two,")],
    ],
    ids=repr,
)
def test_fields_that_connection_names_are_left_out_wherever_they_stand(connection: list[Field]) -> None:
    head = request((b"x-One", b"1"), *connection, (b"X-TWO", b"2"), (b"X-Three", b"3"))
    assert head.section.lines == b"Host: shop\r\nX-Three: 3\r\n"


@pytest.mark.parametrize("name", sorted(PROTECTED - UNTRUSTED - {b"host", b"content-length", b"x-request-id"}))
def test_connection_cannot_name_away_what_the_backend_must_see(name: bytes) -> None:
    head = request((b"Connection", b"X-One, " + name), (name, b"5"))
    assert head.section.lines == b"Host: shop\r\n%b: 5\r\n" % name


def test_connection_cannot_name_away_host_length_or_request_id() -> None:
    head = request(
        (b"Connection", b"host, content-length, x-request-id"), (b"Content-Length", b"5"), (b"X-Request-ID", ID)
    )
    assert head.section.lines == b"Host: shop\r\nContent-Length: 5\r\n"
    assert (head.host, head.framing, head.content_length, head.request_id) == (b"shop", Framing.LENGTH, 5, ID)


def test_what_a_client_says_of_where_it_comes_from_is_set_aside() -> None:
    said = [
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"x-forwarded-proto", b"https"),
        (b"X-FORWARDED-HOST", b"bank"),
        (b"Forwarded", b"for=1.2.3.4"),
        (b"Via", b"1.1 other"),
        (b"X-Forwarded-For", b"5.6.7.8"),
    ]
    head = request(*said)
    assert head.section.lines == b"Host: shop\r\n"
    assert head.section.forwarded == [(name.lower(), value) for name, value in said]
    sent = upstream_head(head, b"127.0.0.1:8000", ORIGIN, ID)
    assert sent.count(b"X-Forwarded-For:") == sent.count(b"Via:") == 1
    assert b"1.2.3.4" not in sent
    assert b"Via: 1.1 other, 1.1 distributer\r\n" in sent


def test_a_request_is_sent_on_with_what_the_backend_should_know() -> None:
    head = request((b"Accept", b"*/*"), (b"Connection", b"close"), method=b"DELETE", target=b"/items/%37?x=y")
    assert upstream_head(head, b"127.0.0.1:8000", ORIGIN, ID) == (
        b"DELETE /items/%37?x=y HTTP/1.1\r\n"
        b"Host: shop\r\n"
        b"Accept: */*\r\n"
        b"X-Forwarded-For: 10.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: shop\r\n"
        b"Via: 1.1 distributer\r\n"
        b"X-Request-ID: 0123-4\r\n"
        b"\r\n"
    )


def test_a_chunked_request_stays_chunked() -> None:
    sent = upstream_head(request((b"Transfer-Encoding", b"Chunked")), b"127.0.0.1:8000", ORIGIN, ID)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in sent
    assert sent.lower().count(b"transfer-encoding") == 1


def test_a_request_of_http_1_0_without_a_host_gets_the_backends() -> None:
    head = RequestHead(b"GET", b"/", RequestSection(serialised([]), is_http11=False))
    sent = upstream_head(head, b"127.0.0.1:8000", ORIGIN, ID)
    assert sent.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert b"X-Forwarded-Host" not in sent, "the client named none"
    assert b"\r\nVia: 1.0 distributer\r\n" in sent


def test_the_backend_may_be_told_its_own_name() -> None:
    fields = [(b"A-Host", b"host: 1"), (b"hOst", b"shop:80"), (b"Host-B", b"2")]
    head = RequestHead(b"GET", b"/", RequestSection(serialised(fields)))
    assert head.section.lines in upstream_head(head, b"127.0.0.1:8000", ORIGIN, ID)
    own = Origin(OriginRules(rewrites_host=True), "10.0.0.1", b"http")
    sent = upstream_head(head, b"127.0.0.1:8000", own, ID)
    assert sent.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nA-Host: host: 1\r\nHost-B: 2\r\n")
    assert b"X-Forwarded-Host: shop:80\r\n" in sent


NAMES = st.sampled_from(
    [b"A", b"a", b"X-One", b"x-one", b"Cookie", b"Keep-Alive", b"TE", b"Upgrade", b"Via", b"Trailer"]
)
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([b"", b"1", b"x, y"])), max_size=8)


@given(FIELDS, st.lists(st.sampled_from([b"close", b"x-one", b"A", b"cookie", b"host"]), max_size=3))
def test_exactly_the_end_to_end_fields_are_forwarded(fields: list[Field], named: list[bytes]) -> None:
    away = HOP_BY_HOP | UNTRUSTED | ({name.lower() for name in named} - PROTECTED)
    head = request(*fields, (b"Connection", b", ".join(named)))
    kept = [field for field in fields if field[0].lower() not in away]
    assert head.section.lines == b"Host: shop\r\n" + b"".join(b"%b: %b\r\n" % field for field in kept)
    answer = response(200, *fields, (b"Connection", b", ".join(named)))
    away -= UNTRUSTED
    assert answer.headers == [field for field in fields if field[0].lower() not in away]


# Requests: what is refused.

BAD_LENGTHS = [b"", b"+5", b"-1", b"5, 6", b"5,5", b"0x5", b"5.0", b"5 6", b"\xb2", b"five", b"1" * 19, b"9" * 5_000]
BAD_REQUESTS: list[tuple[list[Field], int]] = [
    *(([HOST, (b"Content-Length", length)], 400) for length in BAD_LENGTHS),
    ([HOST, (b"Content-Length", b"5"), (b"content-length", b"5")], 400),
    ([HOST, (b"Content-Length", b"5"), (b"Content-Length", b"6")], 400),
    ([HOST, (b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked")], 400),
    ([HOST, (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"0")], 400),
    ([HOST, (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")], 400),
    ([HOST, (b"Transfer-Encoding", b"gzip")], 501),
    ([HOST, (b"Transfer-Encoding", b"gzip, chunked")], 501),
    ([HOST, (b"Transfer-Encoding", b"chunked, gzip")], 501),
    ([HOST, (b"Transfer-Encoding", b"identity")], 501),
    ([HOST, (b"Transfer-Encoding", b"")], 501),
    ([HOST, (b"Transfer-Encoding", b"\x0bchunked")], 400),
    ([], 400),
    ([(b"Accept", b"*/*")], 400),
    ([HOST, HOST], 400),
    ([HOST, (b"hOST", b"bank")], 400),
]


@pytest.mark.parametrize(("fields", "status"), BAD_REQUESTS, ids=lambda value: repr(value)[:60])
def test_an_ambiguous_request_is_refused(fields: list[Field], status: int) -> None:
    with pytest.raises(ClientError) as refusal:
        RequestSection(serialised(fields))
    assert refusal.value.status == status


def test_http_1_0_knows_no_chunks_but_needs_no_host() -> None:
    with pytest.raises(ClientError, match=r"chunked in an HTTP/1\.0 request"):
        request((b"Transfer-Encoding", b"chunked"), is_http11=False)
    assert RequestHead(b"GET", b"/", RequestSection(serialised([]), is_http11=False)).host is None
    with pytest.raises(ClientError, match="more than one Host"):
        request(HOST, is_http11=False)


@pytest.mark.parametrize(
    ("fields", "framing", "length"),
    [
        ([], Framing.NONE, 0),
        ([(b"Content-Length", b"0")], Framing.LENGTH, 0),
        ([(b"Content-Length", b"005")], Framing.LENGTH, 5),
        ([(b"Content-Length", b"9" * 18)], Framing.LENGTH, 10**18 - 1),
        ([(b"content-LENGTH", b"5 \t")], Framing.LENGTH, 5),
        ([(b"Transfer-Encoding", b"chunked")], Framing.CHUNKED, 0),
        ([(b"transfer-ENCODING", b"CHUNKED ")], Framing.CHUNKED, 0),
    ],
    ids=repr,
)
def test_the_length_of_a_requests_body_is_read(fields: list[Field], framing: Framing, length: int) -> None:
    head = request(*fields, method=b"POST")
    assert (head.framing, head.content_length) == (framing, length)


KEEP_ALIVE = [
    # connection fields -> kept alive by HTTP/1.1, by HTTP/1.0
    ([], True, False),
    ([b"close"], False, False),
    ([b"Keep-Alive"], True, True),
    ([b"x, CLOSE ,y"], False, False),
    ([b"close, keep-alive"], False, False),
    ([b"close", b"keep-alive"], False, False),
    ([b"keep-alive", b"close"], False, False),
    ([b"closed"], True, False),
]


@pytest.mark.parametrize(("values", "by_http11", "by_http10"), KEEP_ALIVE, ids=repr)
def test_a_connection_is_kept_alive_unless_either_says_close(
    values: list[bytes], by_http11: bool, by_http10: bool
) -> None:
    fields: list[Field] = [(b"Connection", value) for value in values]
    length = (b"Content-Length", b"0")
    assert request(*fields).keep_alive is by_http11
    assert request(*fields, is_http11=False).keep_alive is by_http10
    assert response(200, *fields, length).keep_alive is by_http11
    assert response(200, *fields, length, is_http11=False).keep_alive is by_http10


@pytest.mark.parametrize(
    ("value", "is_http11", "expects"),
    [
        (b"100-continue", True, True),
        (b"100-Continue ", True, True),
        (b"100-continue", False, False),
    ],
)
def test_only_http_1_1_expects_to_continue(value: bytes, is_http11: bool, expects: bool) -> None:
    head = request((b"Expect", value), is_http11=is_http11)
    assert head.expects_continue is expects
    assert (b"Expect" in head.section.lines) is expects


SOUND_IDS = [b"a", b"a" * 128, b"1-2_3.4=5+6/7:8@Z"]
UNSOUND_IDS = [b"", b"a" * 129, b"a b", b"a\tb", b"a,b", b'"', b"\xff", b"%0A"]


@pytest.mark.parametrize("value", SOUND_IDS)
def test_a_sound_request_id_is_kept(value: bytes) -> None:
    assert is_sound_request_id(value)
    head = request((b"x-request-id", value))
    assert head.request_id == value
    assert head.section.lines == b"Host: shop\r\n", "it is sent once, by upstream_head"


@pytest.mark.parametrize("value", UNSOUND_IDS)
def test_an_unsound_request_id_is_left_out(value: bytes) -> None:
    assert not is_sound_request_id(value)
    head = request((b"X-Request-ID", value))
    assert head.request_id is None
    assert head.section.lines == b"Host: shop\r\n"


def test_of_several_request_ids_the_first_sound_one_counts() -> None:
    assert request((b"X-Request-ID", b"a b"), (b"X-Request-ID", b"c"), (b"X-Request-ID", b"d")).request_id == b"c"


@pytest.mark.parametrize(
    ("fields", "has_key"),
    [
        ([(b"Idempotency-Key", b'"8e03"')], True),
        ([(b"X-First", b"1"), (b"idempotency-key", b"8e03")], True),
        ([], False),
        ([(b"Idempotency-Key", b"")], False),
        ([(b"X-Idempotency-Key", b"8e03")], False),
        ([(b"X", b"Idempotency-Key: 8e03")], False),
        ([(b"Idempotency-Key", b"8e03"), (b"Connection", b"idempotency-key")], False),  # the backend is not told
    ],
)
def test_an_idempotency_key_is_one_that_the_backend_is_told(fields: list[Field], has_key: bool) -> None:
    assert request(*fields, method=b"POST").has_idempotency_key is has_key


@pytest.mark.parametrize(
    ("method", "is_idempotent"),
    [(b"GET", True), (b"HEAD", True), (b"PUT", True), (b"DELETE", True), (b"POST", False), (b"PATCH", False)],
)
def test_idempotent_methods_are_those_of_the_rfc(method: bytes, is_idempotent: bool) -> None:
    assert request(method=method).is_idempotent is is_idempotent


@pytest.mark.parametrize("value", [b"x", b"y 100-continue", b"100-continue, x", b""], ids=repr)
def test_what_else_a_client_expects_cannot_be_met(value: bytes) -> None:
    with pytest.raises(ClientError) as refusal:
        request((b"Expect", value))
    assert refusal.value.status == 417


@pytest.mark.parametrize(
    "host", [b"", b"shop", b"shop:80", b"shop:", b"127.0.0.1:8080", b"[::1]", b"[::1]:8080", b"a_b.c~d", b"%41"]
)
def test_a_host_is_a_host_and_perhaps_a_port(host: bytes) -> None:
    assert RequestSection(serialised([(b"Host", host)])).host == host


@pytest.mark.parametrize(
    "host",
    [b"a b", b"a@b", b"a/b", b"a:x", b"a:80:80", b"[::1", b"::1", b"a,b", b"a?b", b"a#b", b"a\\b", b"%4", b"a:123456"],
)
def test_what_is_no_host_is_refused(host: bytes) -> None:
    with pytest.raises(ClientError, match="Host is not a host"):
        RequestSection(serialised([(b"Host", host)]))


TARGETS = [
    # method, target as sent -> as forwarded, host
    (b"GET", b"/a?b=[1]|{2}", b"/a?b=[1]|{2}", b"shop"),
    (b"GET", b"//a", b"//a", b"shop"),
    (b"GET", b"http://bank/a?b", b"/a?b", b"bank"),
    (b"GET", b"HTTPS://bank:8443", b"/", b"bank:8443"),
    (b"GET", b"http://bank?b", b"/?b", b"bank"),
    (b"OPTIONS", b"*", b"*", b"shop"),
    (b"OPTIONS", b"http://bank", b"*", b"bank"),
    (b"OPTIONS", b"http://bank/", b"/", b"bank"),
]


@pytest.mark.parametrize(("method", "target", "forwarded", "host"), TARGETS, ids=repr)
def test_a_target_is_forwarded_in_the_form_for_a_server(
    method: bytes, target: bytes, forwarded: bytes, host: bytes
) -> None:
    """RFC 9112 section 3.2: in absolute form it brings its own host."""
    head = request(method=method, target=target)
    assert (head.target, head.host) == (forwarded, host)
    assert head.section.lines == b"Host: %b\r\n" % host


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"a",
        b"shop:80",
        b"http://",
        b"http:///a",
        b"http://a@b/",
        b"http://a/#",
        b"ftp://a/",
        b"http://a b/",
    ],
)
def test_what_is_no_target_is_refused(target: bytes) -> None:
    with pytest.raises(ClientError, match="target"):
        request(target=target)


# Responses.

LENGTH = (b"Content-Length", b"5")
CHUNKED = (b"Transfer-Encoding", b"chunked")
FRAMINGS = [
    # status, fields, answers HEAD -> framing, kept alive
    (200, [LENGTH], False, Framing.LENGTH, True),
    (200, [(b"content-length", b"5 ")], False, Framing.LENGTH, True),
    (200, [CHUNKED], False, Framing.CHUNKED, True),
    (200, [(b"transfer-encoding", b"Chunked ")], False, Framing.CHUNKED, True),
    (200, [], False, Framing.UNTIL_CLOSE, False),
    (205, [], False, Framing.UNTIL_CLOSE, False),
    (404, [LENGTH], False, Framing.LENGTH, True),
    # No body, whatever the head says.
    (200, [LENGTH], True, Framing.NONE, True),
    (200, [CHUNKED], True, Framing.NONE, True),
    (200, [], True, Framing.NONE, True),
    (204, [], False, Framing.NONE, True),
    (204, [LENGTH], False, Framing.NONE, True),
    (304, [], False, Framing.NONE, True),
    (304, [LENGTH], False, Framing.NONE, True),
    (304, [CHUNKED], False, Framing.NONE, True),
    (100, [], False, Framing.NONE, True),
    (103, [LENGTH], False, Framing.NONE, True),
]


@pytest.mark.parametrize(("status", "fields", "answers_head", "framing", "keep_alive"), FRAMINGS, ids=repr)
def test_the_length_of_a_responses_body_is_read(
    status: int, fields: list[Field], answers_head: bool, framing: Framing, keep_alive: bool
) -> None:
    head = response(status, *fields, answers_head=answers_head)
    assert (head.framing, head.keep_alive) == (framing, keep_alive)


def test_a_body_until_close_is_never_kept_alive() -> None:
    assert not response(200, (b"Connection", b"keep-alive")).keep_alive


@pytest.mark.parametrize(
    "fields",
    [
        *([(b"Content-Length", length)] for length in BAD_LENGTHS),
        [LENGTH, LENGTH],
        [LENGTH, CHUNKED],
        [CHUNKED, LENGTH],
        [CHUNKED, CHUNKED],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"identity")],
    ],
    ids=lambda value: repr(value)[:60],
)
@pytest.mark.parametrize("answers_head", [False, True])
def test_an_ambiguous_response_is_refused(fields: list[Field], answers_head: bool) -> None:
    with pytest.raises(ValueError, match=r"Content-Length|transfer coding"):
        response(200, *fields, answers_head=answers_head)


def test_http_1_0_answers_in_no_chunks() -> None:
    with pytest.raises(ValueError, match="transfer coding"):
        response(200, CHUNKED, is_http11=False)


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_what_is_no_status_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match=f"{status} is not an HTTP status"):
        response(status, LENGTH)


def test_a_response_is_sent_on_with_its_fields_in_their_order_and_spelling() -> None:
    fields = [
        (b"sErver", b"x"),
        (b"Set-Cookie", b"a=1"),
        LENGTH,
        (b"set-cookie", b"b=2"),
        (b"WWW-Authenticate", b"Basic"),
    ]
    head = response(401, *fields, (b"Keep-Alive", b"5"), (b"Connection", b"keep-alive"), reason=b"No \xe9")
    assert downstream_head(head, is_http11=True, keep_alive=True) == (
        b"HTTP/1.1 401 No \xe9\r\nsErver: x\r\nSet-Cookie: a=1\r\nContent-Length: 5\r\nset-cookie: b=2\r\n"
        b"WWW-Authenticate: Basic\r\n\r\n"
    )


def test_fields_that_a_responses_connection_names_are_left_out() -> None:
    head = response(200, (b"X-One", b"1"), (b"Connection", b"x-one, content-length, cache-control"), LENGTH)
    assert head.headers == [LENGTH]


@pytest.mark.parametrize("status", [100, 103, 204])
def test_a_response_that_never_has_a_body_tells_no_length(status: int) -> None:
    assert response(status, LENGTH, (b"A", b"b")).headers == [(b"A", b"b")]


@pytest.mark.parametrize(("status", "answers_head"), [(304, False), (200, True)])
def test_a_response_without_its_body_still_tells_how_long_it_would_be(status: int, answers_head: bool) -> None:
    assert response(status, LENGTH, answers_head=answers_head).headers == [LENGTH]


DOWNSTREAM = [
    # backend's fields, HTTP/1.1, kept alive -> lines
    ([LENGTH], True, True, [b"Content-Length: 5"]),
    ([LENGTH], True, False, [b"Content-Length: 5", b"Connection: close"]),
    ([LENGTH], False, True, [b"Content-Length: 5", b"Connection: keep-alive"]),
    ([LENGTH], False, False, [b"Content-Length: 5", b"Connection: close"]),
    ([CHUNKED], True, True, [b"Transfer-Encoding: chunked"]),
    ([CHUNKED], False, False, [b"Connection: close"]),
    ([], True, True, [b"Transfer-Encoding: chunked"]),
    ([], True, False, [b"Transfer-Encoding: chunked", b"Connection: close"]),
    ([], False, False, [b"Connection: close"]),
]


@pytest.mark.parametrize(("fields", "is_http11", "keep_alive", "lines"), DOWNSTREAM, ids=repr)
def test_a_client_can_tell_where_the_body_ends(
    fields: list[Field], is_http11: bool, keep_alive: bool, lines: list[bytes]
) -> None:
    sent = downstream_head(response(200, *fields), is_http11=is_http11, keep_alive=keep_alive)
    assert sent.split(b"\r\n") == [b"HTTP/1.1 200 OK", *lines, b"", b""]


@pytest.mark.parametrize(("data", "framed"), [(b"a", b"1\r\na\r\n"), (b"x" * 255, b"ff\r\n" + b"x" * 255 + b"\r\n")])
def test_a_chunk_tells_its_size_in_hexadecimal(data: bytes, framed: bytes) -> None:
    assert chunk(data) == framed


# Problems.


@pytest.mark.parametrize(
    ("error", "start", "retry_after"),
    [
        (ClientError("no Host field"), b"HTTP/1.1 400 Bad Request\r\n", None),
        (ClientError("too large", 431, "Too large"), b"HTTP/1.1 431 Request Header Fields Too Large\r\n", None),
        (UpstreamError('it said "no"\r\n\x00é', sent=True), b"HTTP/1.1 502 Bad Gateway\r\n", None),
        (Unroutable("nobody is up", retry_after_s=7), b"HTTP/1.1 503 Service Unavailable\r\n", b"7"),
        (ClientError("odd", 599), b"HTTP/1.1 599 Error\r\n", None),
    ],
    ids=repr,
)
def test_a_problem_says_what_and_where(error: RequestError, start: bytes, retry_after: bytes | None) -> None:
    head, body = problem(error, ID, tells_all=True)
    assert json.loads(body) == {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "request_id": "0123-4",
    }
    assert (head.framing, head.content_length) == (Framing.LENGTH, len(body))
    fields = dict(head.headers)
    assert fields[b"Content-Type"] == b"application/problem+json"
    assert fields[b"Cache-Control"] == b"no-store"
    assert fields[b"X-Request-ID"] == ID
    assert fields.get(b"Retry-After") == retry_after
    assert downstream_head(head, is_http11=True, keep_alive=True).startswith(start)


INSIDE = "http://10.0.0.7:8000: MISCONF Redis is configured to save"


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError(INSIDE, sent=True),
        ConnectFailed(INSIDE),
        ConnectionStale(INSIDE, sent=True),
        UpstreamTimeout(INSIDE, sent=True),
        Unroutable(INSIDE, detail="another time"),
        choose_by_owner(ItemId("7"), StateError(INSIDE), Ring((Backend.from_url("http://a"),)), Reason.STICKY),
    ],
    ids=repr,
)
def test_a_problem_tells_nothing_about_the_inside_to_who_may_not_know_it(error: RequestError) -> None:
    told, told_all = (json.loads(problem(error, tells_all=tells_all)[1])["detail"] for tells_all in (False, True))
    assert told
    assert INSIDE not in told
    assert INSIDE in told_all


def test_a_problem_before_there_is_a_request_has_no_request_id() -> None:
    head, body = problem(ClientError("not HTTP"))
    assert "request_id" not in json.loads(body)
    assert b"X-Request-ID" not in dict(head.headers)


def test_a_problem_tells_how_its_request_was_routed_where_that_is_known() -> None:
    head, _ = problem(Unroutable("nobody is up"), ID, [(b"X-Distributer-Route", b"sticky")])
    assert head.headers[-1] == (b"X-Distributer-Route", b"sticky")


def test_an_answer_without_a_date_gets_one() -> None:
    for date in (b"Tue, 24 Nov 2026 13:00:00 GMT", b"Tue, 24 Nov 2026 13:00:01 GMT"):
        line = b"Date: " + date + b"\r\n"
        for keep_alive in (True, False):
            undated = response(200, LENGTH)
            assert line in downstream_head(undated, is_http11=True, keep_alive=keep_alive, date=date)
            dated = response(200, LENGTH, (b"date", b"yesterday"))
            assert line not in downstream_head(dated, is_http11=True, keep_alive=keep_alive, date=date)


# Upgrades.

CONNECTION = (b"Connection", b"Upgrade")


@pytest.mark.parametrize(
    ("headers", "offer"),
    [
        ([CONNECTION, (b"Upgrade", b"websocket")], b"websocket"),
        ([(b"upgrade", b"a/1 ,"), (b"connection", b"x,\tUPGRADE"), (b"Upgrade", b"B")], b"a/1, B"),
        ([CONNECTION, (b"Upgrade", b"h2c, H2C/1, HTTP/2.0, tls/1.2, x")], b"x"),
        ([CONNECTION, (b"Upgrade", b"h2c")], None),
        ([CONNECTION, (b"Upgrade", b'"h2c", h2c ;a, HTTP /2, x/, /x, x')], b"x"),
        ([CONNECTION], None),
        ([(b"Upgrade", b"x")], None),
        ([(b"Connection", b"keep-alive"), (b"Upgrade", b"x")], None),
        ([(b"Connection", b"expect, max-forwards, upgrade"), (b"Upgrade", b"x")], b"x"),
        ([CONNECTION, (b"Upgrade", b"x"), (b"Content-Length", b"1")], None),
        ([CONNECTION, (b"Upgrade", b"x"), (b"Transfer-Encoding", b"chunked")], None),
    ],
)
def test_what_a_request_offers_is_offered_to_the_backend(headers: list[Field], offer: bytes | None) -> None:
    head = request(*headers)
    assert head.upgrade == offer
    lines = upstream_head(head, b"backend", ORIGIN, b"id").split(b"\r\n")
    sent = [line for line in lines if line.lower().startswith((b"connection:", b"upgrade:"))]
    assert sent == ([] if offer is None else [b"Connection: Upgrade", b"Upgrade: " + offer])


def test_an_http_1_0_client_offers_nothing() -> None:
    assert request(CONNECTION, (b"Upgrade", b"x"), is_http11=False).upgrade is None


@pytest.mark.parametrize(
    ("headers", "offer", "is_as_offered"),
    [
        ([CONNECTION, (b"Upgrade", b"x")], b"x", True),
        ([CONNECTION, (b"Upgrade", b"X")], b"y, x", True),
        ([CONNECTION, (b"Upgrade", b"x"), (b"Upgrade", b"y")], b"x, y", True),
        ([CONNECTION, (b"Upgrade", b"x, y")], b"x", False),
        ([CONNECTION, (b"Upgrade", b"x")], None, False),
        ([CONNECTION], b"x", False),
        ([(b"Upgrade", b"x")], b"x", False),
    ],
)
def test_a_101_is_taken_when_it_is_for_what_was_offered(
    headers: list[Field], offer: bytes | None, is_as_offered: bool
) -> None:
    assert response(101, *headers).switches_as_offered(offer) is is_as_offered


def test_a_101_and_a_426_name_their_protocols_to_the_client_and_other_answers_do_not() -> None:
    fields = b"Connection: Upgrade\r\nUpgrade: x\r\n"
    for status in (101, 200, 426):
        head = response(status, CONNECTION, (b"Upgrade", b"x"), LENGTH)
        assert (fields in downstream_head(head, is_http11=True, keep_alive=True)) is (status != 200)

"""An answer's body, its end, and what comes behind it (RFC 9112 sections 6.3, 7, 8)."""

from __future__ import annotations

from tests.conformance.cases.case import AnswerCase, BadGateway, Broken, Delivered, Rule, answer, answer_rule, joined

_FIVE, _TE = "Content-Length: 5", "Transfer-Encoding: chunked"
_STOLEN = answer("Content-Length: 6", body=b"stolen")
_OK = answer(_FIVE, body=b"hello")
LAST = b"0\r\n\r\n"
HEAD = b"HEAD /case HTTP/1.1\r\nHost: case.test\r\n\r\n"


def _chunked(body: bytes) -> bytes:
    return answer(_TE, body=body)


def _size(size: str | bytes) -> bytes:
    return _chunked((size.encode("latin-1") if isinstance(size, str) else size) + b"\r\nhello\r\n" + LAST)


RULES: tuple[Rule[AnswerCase], ...] = (
    joined(
        answer_rule(
            "answer-chunks-sound",
            "RFC 9112 7.1",
            "an answer in chunks is delivered, in whatever pieces it comes",
            Delivered(),
            {
                "plain": _size("5"),
                "leading-zeros": _size("0005"),
                "extension": _size('5;a=1;b="c d"'),
                "five-chunks": _chunked(b"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n" + LAST),
                "last-of-zeros": _chunked(b"5\r\nhello\r\n000\r\n\r\n"),
                "spelling": answer("transfer-encoding: CHUNKED", body=b"5\r\nhello\r\n" + LAST),
                "in-pieces": (_chunked(b"5"), b"\r", b"\nhe", b"llo\r\n0", b"\r\n", b"\r", b"\n"),
                "trailers": _chunked(b"5\r\nhello\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"),
            },
        ),
        answer_rule("answer-chunks-sound", "RFC 9112 7.1", "", Delivered(body=b""), {"empty": _chunked(LAST)}),
        answer_rule(
            "answer-chunks-sound",
            "RFC 9112 7.1",
            "",
            Delivered(body=b"x" * 70_000),
            {"large": _chunked(b"11170\r\n" + b"x" * 70_000 + b"\r\n" + LAST)},
        ),
        answer_rule(
            "answer-chunks-sound",
            "RFC 9112 7, C.2.1: an HTTP/1.0 client knows no chunks",
            "",
            Delivered(fields={b"transfer-encoding": ()}),
            {"http-1.0-client": _size("5")},
            asks=b"GET /case HTTP/1.0\r\nHost: case.test\r\n\r\n",
        ),
    ),
    answer_rule(
        "answer-chunk-size-malformed",
        "RFC 9112 7.1, 8: an incomplete or malformed answer is an error",
        "a malformed chunk size breaks the answer off",
        Broken(),
        {
            **{size: _size(size) for size in ("0x5", "+5", "-5", "5_", "5.0", "5h", "g", "x", "5,5", "'5'")},
            "empty": _size(""),
            "only-extension": _size(";a"),
            "space-before": _size(" 5"),
            "vertical-tab": _size("5\x0b"),
            "nul": _size("5\x00"),
            "fullwidth": _size("\uff15".encode()),
            "2^64+5": _size("10000000000000005"),
            "2^64-1": _size("ffffffffffffffff"),
            "2^63": _size("8000000000000000"),
            "300-digits": _size("f" * 300),
            "no-chunks": _chunked(b"hello"),
            "second": _chunked(b"5\r\nhello\r\nx\r\nhello\r\n" + LAST),
            "crlf-first": _chunked(b"\r\n5\r\nhello\r\n" + LAST),
        },
        ends="close",
    ),
    answer_rule(
        "answer-chunk-size-space-behind",
        "RFC 9112 7.1.1",
        "whitespace behind a chunk size breaks the answer off",
        Broken(),
        {"space": _size("5 "), "tab": _size("5\t"), "padded": _size("5     ")},
        also=(Delivered(),),
    ),
    answer_rule(
        "answer-chunk-line-ending",
        "RFC 9112 7.1, 2.2; Funky Chunks (2025)",
        "bare LF and CR in an answer's chunk lines break it off",
        Broken(),
        {
            "lf-behind-size": _chunked(b"5\nhello\r\n" + LAST),
            "lf-all": _chunked(b"5\nhello\n0\n\n"),
            "lf-behind-last": _chunked(b"5\r\nhello\r\n0\n\r\n"),
            "lf-at-the-end": _chunked(b"5\r\nhello\r\n0\r\n\n"),
            "cr-behind-size": _chunked(b"5\rhello\r\n" + LAST),
            "cr-cr-lf": _chunked(b"5\r\r\nhello\r\n" + LAST),
            "lf-in-extension": _chunked(b"5;a\nb\r\nhello\r\n" + LAST),
            "cr-in-extension": _chunked(b"5;a\rb\r\nhello\r\n" + LAST),
            "nul-in-extension": _chunked(b"5;a\x00b\r\nhello\r\n" + LAST),
            "extension-without-semicolon": _chunked(b"5 a\r\nhello\r\n" + LAST),
        },
        ends="close",
        also=(Delivered(), Delivered(reuse=False)),
    ),
    answer_rule(
        "answer-chunk-data-ending",
        "RFC 9112 7.1; CVE-2025-43859 (h11)",
        "anything but CRLF behind a chunk's data breaks the answer off",
        Broken(),
        {
            "nothing": _chunked(b"5\r\nhello0\r\n\r\n"),
            "lf": _chunked(b"5\r\nhello\n" + LAST),
            "cr": _chunked(b"5\r\nhello\r" + LAST),
            "lf-lf": _chunked(b"5\r\nhello\n\n" + LAST),
            "two-other-bytes": _chunked(b"5\r\nhelloXX" + LAST),
            "one-byte-more": _chunked(b"5\r\nhello!\r\n" + LAST),
            "many-bytes-more": _chunked(b"5\r\nhello, world\r\n" + LAST),
        },
        ends="close",
    ),
    answer_rule(
        "answer-trailers-malformed",
        "RFC 9112 7.1.2, 5",
        "a malformed trailer breaks the answer off",
        Broken(),
        {
            "no-colon": _chunked(b"5\r\nhello\r\n0\r\ntrailer\r\n\r\n"),
            "space-before-colon": _chunked(b"5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
            "folded": _chunked(b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
            "nul": _chunked(b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n"),
            "lf": _chunked(b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n"),
            "cr": _chunked(b"5\r\nhello\r\n0\r\nX: y\rz\r\n\r\n"),
            "answer": _chunked(b"5\r\nhello\r\n0\r\n" + _STOLEN),
        },
        ends="close",
        also=(Delivered(), Delivered(reuse=False)),
    ),
    answer_rule(
        "answer-trailers-forbidden",
        "RFC 9110 6.5.1",
        "framing in a trailer frames nothing, and no trailer becomes a field of the head",
        Delivered(fields={b"set-cookie": (), b"x-a": ()}),
        {
            "content-length": _chunked(b"5\r\nhello\r\n0\r\nContent-Length: 100\r\n\r\n"),
            "transfer-encoding": _chunked(b"5\r\nhello\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n"),
            "set-cookie": _chunked(b"5\r\nhello\r\n0\r\nSet-Cookie: a=b\r\n\r\n"),
            "plain": _chunked(b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n"),
        },
        also=(Broken(),),
    ),
    answer_rule(
        "answer-trailers-endless",
        "RFC 9112 7.1.2",
        "endless trailers or extensions break the answer off, or are thrown away",
        Broken(),
        {
            "trailers": _chunked(b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 60_000 + b"\r\n"),
            "extension": _chunked(b"5;" + b"a" * 300_000 + b"\r\nhello\r\n" + LAST),
        },
        also=(Delivered(),),
    ),
    answer_rule(
        "answer-cut-short",
        "RFC 9112 8: a cache or client MUST NOT take it for complete; 6.3",
        "an answer that the backend cuts short is cut short for the client",
        Broken(),
        {
            "length-none": answer(_FIVE),
            "length-some": answer(_FIVE, body=b"hell"),
            "length-most": answer("Content-Length: 300000", body=b"x" * 299_999),
            "chunks-none": _chunked(b""),
            "chunks-no-last": _chunked(b"5\r\nhello\r\n"),
            "chunks-in-size": _chunked(b"5\r\nhello\r\n5"),
            "chunks-in-data": _chunked(b"5\r\nhel"),
            "chunks-before-data-end": _chunked(b"5\r\nhello"),
            "chunks-half-last": _chunked(b"5\r\nhello\r\n0\r\n"),
            "chunks-last-no-crlf": _chunked(b"5\r\nhello\r\n0"),
            "chunks-in-trailer": _chunked(b"5\r\nhello\r\n0\r\nX-A: 1\r\n"),
            "chunks-last-cr": _chunked(b"5\r\nhello\r\n0\r\n\r"),
        },
        ends="close",
    ),
    answer_rule(
        "answer-reset",
        "RFC 9112 8",
        "an answer within which the backend resets its connection is cut short for the client",
        Broken(),
        {
            "length": answer(_FIVE, body=b"hel"),
            "chunks": _chunked(b"5\r\nhello\r\n"),
            "until-close": answer(body=b"hello"),
        },
        ends="reset",
    ),
    joined(
        answer_rule(
            "answer-until-close",
            "RFC 9112 6.3 item 8",
            "an answer without length ends with its connection, and is delivered as complete",
            Delivered(reuse=False),
            {
                "http-1.1": answer(body=b"hello"),
                "http-1.0": answer(body=b"hello", start="HTTP/1.0 200 OK"),
                "connection-close": answer("Connection: close", body=b"hello"),
                "in-pieces": (answer(), b"he", b"llo"),
                "keep-alive-1.0": answer("Connection: keep-alive", body=b"hello", start="HTTP/1.0 200 OK"),
            },
            ends="close",
        ),
        answer_rule(
            "answer-until-close",
            "RFC 9112 6.3 item 8",
            "",
            Delivered(body=b"", reuse=False),
            {"empty": answer()},
            ends="close",
        ),
        answer_rule(
            "answer-until-close",
            "RFC 9112 6.3 item 8",
            "",
            Delivered(body=_STOLEN, reuse=False),
            {"looks-like-answer": answer(body=_STOLEN)},
            ends="close",
        ),
    ),
    joined(
        answer_rule(
            "answer-closes",
            "RFC 9112 9.3, 9.6",
            "a connection that the backend will close is not used again; one that it keeps may be",
            Delivered(reuse=False),
            {
                "close": answer(_FIVE, "Connection: close", body=b"hello"),
                "capitals": answer(_FIVE, "CONNECTION: Close", body=b"hello"),
                "in-list": answer(_FIVE, "Connection: keep-alive, close", body=b"hello"),
                "http-1.0": answer(_FIVE, body=b"hello", start="HTTP/1.0 200 OK"),
                "chunks": answer(_TE, "Connection: close", body=b"5\r\nhello\r\n" + LAST),
            },
        ),
        answer_rule(
            "answer-closes",
            "RFC 9112 9.3",
            "",
            Delivered(),
            {
                "kept-1.1": _OK,
                "kept-1.0": answer(_FIVE, "Connection: keep-alive", body=b"hello", start="HTTP/1.0 200 OK"),
            },
        ),
    ),
    joined(
        answer_rule(
            "bytes-behind-answer",
            "RFC 9112 6.3: MUST NOT process as a separate response; 9.2: close; response-queue poisoning",
            "what comes behind an answer is never another one's answer: the connection is not used again",
            Delivered(reuse=False),
            {
                "answer": _OK + _STOLEN,
                "answer-later": (_OK, _STOLEN),
                "two-answers": _OK + _STOLEN + _STOLEN,
                "text": _OK + b"more",
                "one-byte": _OK + b"x",
                "nul": _OK + b"\x00",
                "html": _OK + b"<html></html>",
                "half-an-answer": _OK + _STOLEN[:30],
                "half-an-answer-later": (_OK, _STOLEN[:9]),
                "interim": _OK + b"HTTP/1.1 100 Continue\r\n\r\n",
                "chunks-answer": _size("5") + _STOLEN,
                "chunks-text": _size("5") + b"more",
                "chunks-last-again": _size("5") + LAST,
                "length-then-close-field": answer(_FIVE, "Connection: close", body=b"hello") + _STOLEN,
                "408-later": (_OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            },
        ),
        answer_rule(
            "bytes-behind-answer",
            "RFC 9112 6.3",
            "",
            Delivered(body=b"", reuse=False),
            {
                "length-zero": answer("Content-Length: 0", body=_STOLEN),
                "length-zero-text": answer("Content-Length: 0", body=b"hello"),
            },
        ),
        answer_rule(
            "bytes-behind-answer",
            "RFC 9112 2.2",
            "",
            Delivered(reuse=False),
            {"crlf": _OK + b"\r\n", "lf": _OK + b"\n"},
            also=(Delivered(),),
        ),
    ),
    joined(
        *(
            answer_rule(
                "answer-without-body",
                "RFC 9112 6.3 item 1; RFC 9110 15.3.5, 15.4.5",
                "204 and 304 have no body, whatever their fields say",
                Delivered(status=status, body=b""),
                {f"{status}-{variant}": answer(*lines, start=f"HTTP/1.1 {status} X")},
            )
            for status in (204, 304)
            for variant, lines in (("plain", ()), ("length-zero", ("Content-Length: 0",)), ("etag", ('ETag: "a"',)))
        ),
        *(
            answer_rule(
                "answer-without-body",
                "RFC 9112 6.1, 6.3; RFC 9110 8.6",
                "",
                Delivered(status=status, body=b""),
                {f"{status}-{variant}": answer(*lines, start=f"HTTP/1.1 {status} X")},
                also=(BadGateway(),),
            )
            for status in (204, 304)
            for variant, lines in (("length", (_FIVE,)), ("coding", (_TE,)))
        ),
        *(
            answer_rule(
                "answer-without-body",
                "RFC 9112 6.3 item 1; response-queue poisoning",
                "",
                Delivered(status=status, body=b"", reuse=False),
                {f"{status}-{variant}": answer(*lines, body=body, start=f"HTTP/1.1 {status} X")},
                also=(BadGateway(),),
            )
            for status in (204, 304)
            for variant, lines, body in (
                ("body", (_FIVE,), b"hello"),
                ("body-unannounced", (), b"hello"),
                ("chunks", (_TE,), b"5\r\nhello\r\n" + LAST),
                ("last-chunk", (_TE,), LAST),
                ("answer-as-body", (f"Content-Length: {len(_STOLEN)}",), _STOLEN),
                ("answer-behind", (), _STOLEN),
            )
        ),
    ),
    joined(
        answer_rule(
            "answer-to-head",
            "RFC 9112 6.3 item 1; RFC 9110 9.3.2",
            "an answer to HEAD has no body, whatever its fields say",
            Delivered(body=b""),
            {
                "length": answer(_FIVE),
                "length-zero": answer("Content-Length: 0"),
                "chunked": answer(_TE),
                "plain": answer("X: y"),
                "404": answer(_FIVE),
            },
            asks=HEAD,
        ),
        answer_rule(
            "answer-to-head",
            "RFC 9112 6.3 item 1; response-queue poisoning by HEAD",
            "",
            Delivered(body=b"", reuse=False),
            {
                "body": answer(_FIVE, body=b"hello"),
                "chunks": _size("5"),
                "last-chunk": _chunked(LAST),
                "body-unannounced": answer("X: y", body=b"hello"),
                "answer-as-body": answer(f"Content-Length: {len(_STOLEN)}", body=_STOLEN),
                "body-later": (answer(_FIVE), b"hello"),
                "answer-later": (answer(f"Content-Length: {len(_STOLEN)}"), _STOLEN),
            },
            asks=HEAD,
            also=(BadGateway(),),
        ),
    ),
)

"""An answer's fields: lengths, names, values, line ends, hop-by-hop (RFC 9112 sections 5, 6)."""

from __future__ import annotations

from tests.conformance.cases.case import (
    TOKEN_BYTES,
    AnswerCase,
    BadGateway,
    Delivered,
    Rule,
    answer,
    answer_rule,
    byte_name,
    joined,
)

_FIVE, _TE = "Content-Length: 5", "Transfer-Encoding: chunked"
CHUNKED_HELLO = b"5\r\nhello\r\n0\r\n\r\n"


def _with(*lines: str | bytes) -> bytes:
    return answer(_FIVE, *lines, body=b"hello")


def _coding(value: str | bytes) -> bytes:
    return answer(
        b"Transfer-Encoding: " + (value.encode("latin-1") if isinstance(value, str) else value), body=CHUNKED_HELLO
    )


def _length(value: str | bytes, body: bytes = b"hello") -> bytes:
    return answer(b"Content-Length: " + (value.encode("latin-1") if isinstance(value, str) else value), body=body)


RULES: tuple[Rule[AnswerCase], ...] = (
    answer_rule(
        "answer-both-lengths",
        "RFC 9112 6.1, 6.3: ought to be handled as an error; response splitting",
        "both lengths are a 502",
        BadGateway(),
        {
            "cl-te": answer(_FIVE, _TE, body=CHUNKED_HELLO),
            "te-cl": answer(_TE, _FIVE, body=CHUNKED_HELLO),
            "zero": answer("Content-Length: 0", _TE, body=CHUNKED_HELLO),
            "short": answer("Content-Length: 1", _TE, body=CHUNKED_HELLO),
            "bad-length": answer("Content-Length: x", _TE, body=CHUNKED_HELLO),
            "repeated-length": answer(_FIVE, _FIVE, _TE, body=CHUNKED_HELLO),
        },
        also=(Delivered(fields={b"content-length": ()}, reuse=False),),
    ),
    joined(
        answer_rule(
            "answer-length-malformed",
            "RFC 9112 6.3 item 5: a proxy MUST close the connection, discard the response, and send 502",
            "a Content-Length that is not 1*DIGIT is a 502",
            BadGateway(),
            {
                **{
                    value: _length(value)
                    for value in ("+5", "-1", "-5", "0x5", "5_0", "5.0", "5e0", "5 5", "five", "5;", "5,", ",5", "5h")
                },
                "empty": _length(""),
                "blank": _length(" \t "),
                "vertical-tab": _length("5\x0b"),
                "nul": _length("5\x00"),
                "no-break-space": _length("5\xa0"),
                "fullwidth-digit": _length("\uff15".encode()),
                "superscript": _length("\xb2"),
            },
            ends="close",
        ),
        answer_rule(
            "answer-length-malformed",
            "RFC 9110 8.6",
            "",
            BadGateway(),
            {
                "2^63": _length("9223372036854775808"),
                "2^64+5": _length("18446744073709551621"),
                "300-digits": _length("9" * 300),
            },
            ends="close",
        ),
        answer_rule(
            "answer-length-malformed",
            "RFC 9110 8.6",
            "",
            BadGateway(),
            {
                "different-list": _length("5, 6", b"hello!"),
                "different-fields": answer(_FIVE, "Content-Length: 6", body=b"hello!"),
                "different-fields-reversed": answer("Content-Length: 6", _FIVE, body=b"hello!"),
            },
            ends="close",
        ),
        answer_rule(
            "answer-length-malformed",
            "RFC 9110 8.6: equal values MAY be taken for one",
            "",
            BadGateway(),
            {"equal-list": _length("5, 5"), "equal-fields": answer(_FIVE, _FIVE, body=b"hello")},
            also=(Delivered(fields={b"content-length": (b"5",)}),),
        ),
    ),
    joined(
        answer_rule(
            "answer-length-sound",
            "RFC 9112 6.2",
            "a sound length frames the answer, in whatever pieces it comes",
            Delivered(),
            {
                "plain": _with(),
                "spaces": _length("  5  "),
                "tab": _length("\t5\t"),
                "no-space": answer("Content-Length:5", body=b"hello"),
                "in-pieces": (b"HTTP/1.", b"1 200 OK\r", b"\nContent-Length", b": 5\r\n\r\nhe", b"llo"),
                "byte-by-byte": tuple(b"%c" % byte for byte in _with()),
            },
        ),
        answer_rule("answer-length-sound", "RFC 9112 6.2", "", Delivered(body=b""), {"zero": _length("0", b"")}),
        answer_rule(
            "answer-length-sound",
            "RFC 9110 8.6",
            "",
            Delivered(body=b"0123456789"),
            {"leading-zeros": _length("0010", b"0123456789")},
            also=(BadGateway(),),
        ),
        answer_rule(
            "answer-length-sound",
            "RFC 9112 6.2",
            "",
            Delivered(body=b"x" * 300_000),
            {"large": _length("300000", b"x" * 300_000)},
        ),
    ),
    answer_rule(
        "answer-coding-unknown",
        "RFC 9112 6.1, 6.3: with chunked not last, the body ends with the connection",
        "a Transfer-Encoding that is not exactly `chunked` is a 502",
        BadGateway(),
        {
            **{
                value: _coding(value)
                for value in (
                    "gzip, chunked",
                    "chunked, gzip",
                    "chunked, chunked",
                    "gzip",
                    "identity",
                    "xchunked",
                    "chunkedx",
                    "chunked;q=1",
                    ",chunked",
                    "chunked,",
                    "chunked, identity",
                    "x, chunked",
                )
            },
            "empty": _coding(""),
            "vertical-tab": _coding("\x0bchunked"),
            "vertical-tab-behind": _coding("chunked\x0b"),
            "nul": _coding("chunked\x00"),
            "quoted": _coding('"chunked"'),
            "kelvin-sign": _coding("chun\u212aed".encode()),
            "no-break-space": _coding("\xa0chunked"),
            "two-fields": answer(_TE, _TE, body=CHUNKED_HELLO),
            "identity-behind": answer(_TE, "Transfer-Encoding: identity", body=CHUNKED_HELLO),
            "identity-before": answer("Transfer-Encoding: identity", _TE, body=CHUNKED_HELLO),
        },
        ends="close",
        also=(Delivered(body=b"hello", reuse=False), Delivered(body=CHUNKED_HELLO, reuse=False)),
    ),
    answer_rule(
        "answer-coding-in-http-1.0",
        "RFC 9112 6.1: a client MUST treat it as if the framing is faulty",
        "Transfer-Encoding in an HTTP/1.0 answer is a 502",
        BadGateway(),
        {
            "plain": answer(_TE, body=CHUNKED_HELLO, start="HTTP/1.0 200 OK"),
            "kept-alive": answer(_TE, "Connection: keep-alive", body=CHUNKED_HELLO, start="HTTP/1.0 200 OK"),
        },
        ends="close",
        also=(Delivered(reuse=False), Delivered(body=CHUNKED_HELLO, reuse=False)),
    ),
    answer_rule(
        "answer-line-ending",
        "RFC 9112 2.2: a single LF MAY be recognized; a bare CR is invalid",
        "bare LF and CR in an answer's head are a 502",
        BadGateway(),
        {
            "lf-status-line": b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
            "lf-field": b"HTTP/1.1 200 OK\r\nContent-Length: 5\nX: y\r\n\r\nhello",
            "lf-end": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello",
            "lf-all": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
            "cr-status-line": b"HTTP/1.1 200 OK\rContent-Length: 5\r\n\r\nhello",
            "cr-field": b"HTTP/1.1 200 OK\r\nX: y\rContent-Length: 5\r\n\r\nhello",
            "cr-cr-lf": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\r\n\r\nhello",
            "cr-end": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\rhello",
            "hidden-length": b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
        },
        ends="close",
        also=(Delivered(reuse=False), Delivered()),
    ),
    answer_rule(
        "answer-folded",
        "RFC 9112 5.2: a proxy MUST discard the response with 502, or replace the fold with spaces",
        "obs-fold in an answer is a 502",
        BadGateway(),
        {
            "space": _with("X: y\r\n z"),
            "tab": _with("X: y\r\n\tz"),
            "looks-like-field": _with("X: y\r\n Set-Cookie: a=b"),
            "hides-length": answer("X: y\r\n Content-Length: 3", _FIVE, body=b"hello"),
            "first-line": answer(" X: y", _FIVE, body=b"hello"),
            "length-folded": answer("Content-Length:\r\n 5", body=b"hello"),
        },
        also=(Delivered(),),
    ),
    answer_rule(
        "answer-space-before-colon",
        "RFC 9112 5.1: a proxy MUST remove it from a response",
        "whitespace before a colon is a 502",
        BadGateway(),
        {
            "space": _with("X : y"),
            "tab": _with("X\t: y"),
            "length": answer("Content-Length : 5", body=b"hello"),
            "coding": answer("Transfer-Encoding : chunked", body=CHUNKED_HELLO),
        },
        ends="close",
        also=(Delivered(reuse=False), Delivered()),
    ),
    answer_rule(
        "answer-names",
        "RFC 9110 5.1, 5.6.2",
        "a field name that is no token, or empty, or a line without a colon, is a 502",
        BadGateway(),
        {
            **{
                byte_name(byte): _with(b"X%cY: z" % byte)
                for byte in range(0x100)
                if byte not in TOKEN_BYTES and byte not in b"\r\n: \t" and (byte < 0x80 or byte in (0x80, 0xA0, 0xFF))
            },
            "empty": _with(": y"),
            "no-colon": _with("X"),
            "two-words": _with("X Y: z"),
            "status-line": _with("HTTP/1.1 200 OK"),
        },
        also=(Delivered(),),
    ),
    answer_rule(
        "answer-values",
        "RFC 9110 5.5; response splitting",
        "a control other than tab within a value is a 502",
        BadGateway(),
        {
            **{byte_name(byte): _with(b"X: y%cz" % byte) for byte in (*range(0x20), 0x7F) if byte not in b"\t\n"},
            "cr-last": _with("X: y\r"),
            "nul-first": _with("X: \x00y"),
        },
        also=(Delivered(),),
    ),
    joined(
        *(
            answer_rule(
                "answer-field-kept",
                "RFC 9110 5.5, 5.3",
                "a sound field is forwarded byte for byte, repeated ones in their order",
                Delivered(fields={name.lower().encode(): tuple(value.encode("latin-1") for value in values)}),
                {variant: _with(*lines)},
            )
            for variant, name, values, lines in (
                ("plain", "X", ("y",), ("X: y",)),
                ("empty", "X", ("",), ("X:",)),
                ("obs-text", "X", ("\xe9\x80\xff",), ("X: \xe9\x80\xff",)),
                ("tab-within", "X", ("a\tb",), ("X: a\tb",)),
                (
                    "set-cookie",
                    "Set-Cookie",
                    ("a=1; Expires=Thu, 01 Jan 2026", "b=2"),
                    ("Set-Cookie: a=1; Expires=Thu, 01 Jan 2026", "X: y", "Set-Cookie: b=2"),
                ),
                ("token-characters", "!#$%&'*+-.^_`|~9a", ("y",), ("!#$%&'*+-.^_`|~9a: y",)),
                ("etag", "ETag", ('W/"a"',), ('ETag: W/"a"',)),
                ("long", "X", ("y" * 4_000,), ("X: " + "y" * 4_000,)),
                ("location", "Location", ("http://other.test/a b",), ("Location: http://other.test/a b",)),
            )
        )
    ),
    answer_rule(
        "answer-hop-by-hop",
        "RFC 9110 7.6.1: MUST remove each field that Connection names",
        "hop-by-hop fields of an answer stop here",
        Delivered(fields={b"x-hop": (), b"keep-alive": (), b"proxy-connection": (), b"x-end": (b"2",)}),
        {
            "named": _with("Connection: X-Hop", "X-Hop: 1", "X-End: 2"),
            "several": _with("Connection: keep-alive, X-Hop", "Keep-Alive: timeout=5", "X-Hop: 1", "X-End: 2"),
            "unnamed": _with("Proxy-Connection: keep-alive", "Keep-Alive: timeout=5", "X-End: 2"),
        },
    ),
    answer_rule(
        "answer-connection-names-end-to-end",
        "RFC 9110 7.6.1",
        "Connection does not take away the length of an answer, or its cookies",
        Delivered(fields={b"set-cookie": (b"a=b",)}),
        {
            "content-length": _with("Connection: Content-Length", "Set-Cookie: a=b"),
            "set-cookie": _with("Connection: Set-Cookie", "Set-Cookie: a=b"),
        },
        also=(BadGateway(), Delivered()),
    ),
    answer_rule(
        "answer-head-too-large",
        "RFC 9110 5.4",
        "an answer's head beyond the bound is a 502",
        BadGateway(),
        {
            "one-value": _with("X: " + "y" * 300_000),
            "many-fields": _with(*["X: y"] * 40_000),
            "reason": answer(_FIVE, body=b"hello", start="HTTP/1.1 200 " + "y" * 300_000),
            "no-end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000,
        },
    ),
    answer_rule(
        "answer-too-many-fields",
        "RFC 9110 5.4",
        "an answer of very many small fields is a 502, or forwarded",
        Delivered(),
        {"5000": _with(*["a:"] * 5_000)},
        also=(BadGateway(),),
    ),
)

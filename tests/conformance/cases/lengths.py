"""How long a request's body is: Content-Length, Transfer-Encoding, and both (RFC 9112 section 6)."""

from __future__ import annotations

from tests.conformance.cases.case import SMUGGLED, Case, Forwarded, Refused, Rule, Seen, get, joined, post, rule

HELLO = Forwarded((Seen(method=b"POST", body=b"hello"),))
CHUNKED_HELLO = b"5\r\nhello\r\n0\r\n\r\n"
EMPTY = b"0\r\n\r\n"


def _length(value: str | bytes, body: bytes = b"hello") -> bytes:
    return post(b"Content-Length: " + (value.encode("latin-1") if isinstance(value, str) else value), body=body)


def _coding(value: str | bytes, body: bytes = CHUNKED_HELLO) -> bytes:
    return post(b"Transfer-Encoding: " + (value.encode("latin-1") if isinstance(value, str) else value), body=body)


_TE, _SIX = "Transfer-Encoding: chunked", "Content-Length: 6"

RULES: tuple[Rule[Case], ...] = (
    rule(
        "both-lengths",
        "RFC 9112 6.1, 6.3; CL.TE and TE.CL request smuggling",
        "Content-Length together with Transfer-Encoding is refused",
        Refused(),
        {
            "cl-te": post("Content-Length: 5", _TE, body=EMPTY),
            "te-cl": post(_TE, "Content-Length: 5", body=EMPTY),
            "cl.te-attack": post(f"Content-Length: {5 + len(SMUGGLED)}", _TE, body=EMPTY + SMUGGLED),
            "te.cl-attack": post("Content-Length: 4", _TE, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
            "apart": post(_SIX, "X: 1", "Y: 2", _TE, body=b"0\r\n\r\nX"),
            "length-zero": post("Content-Length: 0", _TE, body=EMPTY),
            "upper-and-lower-case": post("CONTENT-LENGTH: 5", "transfer-encoding: CHUNKED", body=EMPTY),
            "lengths-around": post("Content-Length: 5", _TE, "Content-Length: 5", body=EMPTY),
            "codings-around": post(_TE, "Content-Length: 5", _TE, body=EMPTY),
            "bad-length": post("Content-Length: x", _TE, body=EMPTY),
            "bad-coding": post("Content-Length: 5", "Transfer-Encoding: xchunked", body=b"hello"),
            "get": get("Content-Length: 5", _TE) + EMPTY,
            "http-1.0": post("Content-Length: 5", _TE, body=EMPTY, start="POST /case HTTP/1.0"),
        },
        also=(
            Forwarded((Seen(fields={b"content-length": ()}),), closes=True),
            Forwarded((Seen(body=b"", fields={b"transfer-encoding": ()}),), closes=True),
            Refused((501,)),
        ),
    ),
    rule(
        "content-length-malformed",
        "RFC 9112 6.3; RFC 9110 8.6; CVE-2023-40225 (HAProxy, empty)",
        "a Content-Length that is not 1*DIGIT is refused",
        Refused(),
        {
            **{
                value: _length(value)
                for value in (
                    "+5",
                    "-1",
                    "-0",
                    "0x5",
                    "5_0",
                    "5.0",
                    "5e0",
                    "5 5",
                    "five",
                    "5;",
                    "5,",
                    ",5",
                    "5h",
                    "'5'",
                )
            },
            "quoted": _length('"5"'),
            "empty": _length(""),
            "blank": _length(" \t "),
            "vertical-tab": _length("5\x0b"),
            "form-feed": _length("\x0c5"),
            "nul": _length("5\x00"),
            "no-break-space": _length("5\xa0"),
            "superscript-digit": _length("\xb2"),
            "fullwidth-digit": _length("\uff15".encode()),
            "arabic-digit": _length("\u0665".encode()),
        },
        also=(Forwarded((Seen(body=b"hello", fields={b"content-length": (b"5",)}),)),),
    ),
    rule(
        "content-length-overflow",
        "RFC 9110 8.6: prevent integer conversion overflows",
        "a Content-Length beyond all numbers is refused, never taken modulo something",
        Refused((400, 413)),
        {
            "2^63": _length("9223372036854775808"),
            "2^64": _length("18446744073709551616", b""),
            "2^64+5": _length("18446744073709551621"),
            "2^128+5": _length("340282366920938463463374607431768211461"),
            "300-digits": _length("9" * 300),
        },
    ),
    joined(
        rule(
            "content-length-repeated",
            "RFC 9110 8.6; RFC 9112 6.3 item 5",
            "repeated lengths are refused, equal or not",
            Refused(),
            {
                "different-list": _length("5, 6", b"hello!"),
                "different-fields": post("Content-Length: 5", _SIX, body=b"hello!"),
                "different-third": post("Content-Length: 5", "Content-Length: 5", _SIX, body=b"hello!"),
                "same-number-spelt-differently": post("Content-Length: 5", "Content-Length: 05", body=b"hello"),
                "second-empty": post("Content-Length: 5", "Content-Length:", body=b"hello"),
                "second-malformed": post("Content-Length: 5", "Content-Length: +5", body=b"hello"),
                "attack": post("Content-Length: 0", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
            },
        ),
        rule(
            "content-length-repeated",
            "RFC 9110 8.6; RFC 9112 6.3 item 5",
            "",
            Refused(),
            {
                "equal-list": _length("5, 5"),
                "equal-list-without-space": _length("5,5"),
                "equal-fields": post("Content-Length: 5", "Content-Length: 5", body=b"hello"),
            },
            also=(Forwarded((Seen(body=b"hello", fields={b"content-length": (b"5",)}),)),),
        ),
    ),
    rule(
        "content-length-forwarded",
        "RFC 9112 6.2, 6.3; RFC 9110 5.5",
        "a sound Content-Length frames the body, with whitespace around it or leading zeros",
        HELLO,
        {
            "plain": _length("5"),
            "spaces": _length("  5  "),
            "tabs": _length("\t5\t"),
            "no-space": post("Content-Length:5", body=b"hello"),
            "lower-case": post("content-length: 5", body=b"hello"),
            "body-in-pieces": (post("Content-Length: 5"), b"he", b"l", b"lo"),
            "head-in-pieces": (
                b"POST /case HT",
                b"TP/1.1\r\nHost: case.test\r",
                b"\nContent-Le",
                b"ngth: 5\r\n\r",
                b"\nhello",
            ),
        },
    ),
    rule(
        "content-length-leading-zeros",
        "RFC 9110 8.6: 1*DIGIT",
        "leading zeros are digits; they may be refused, and never read as octal",
        Forwarded((Seen(body=b"0123456789"),)),
        {"two": _length("0010", b"0123456789"), "many": _length("0" * 15 + "10", b"0123456789")},
        also=(Refused(),),
    ),
    rule(
        "transfer-coding-not-chunked",
        "RFC 9112 6.1, 6.3 item 4, 7; PortSwigger TE.TE; CVE-2022-32213 (llhttp), CVE-2019-18277 (HAProxy, \\x0b)",
        "a Transfer-Encoding whose last coding is not exactly `chunked` is refused",
        Refused((400, 501)),
        {
            **{
                value: _coding(value)
                for value in (
                    "gzip",
                    "identity",
                    "xchunked",
                    "chunkedx",
                    "x chunked",
                    "chunked x",
                    "chunk",
                    "chunked;q=1",
                    "chunked, gzip",
                    "chunked, identity",
                    "chunked, x",
                    "chunke\xd0",
                    "'chunked'",
                    "chunked:",
                    "chunked=",
                )
            },
            "quoted": _coding('"chunked"'),
            "empty": _coding(""),
            "vertical-tab-before": _coding("\x0bchunked"),
            "vertical-tab-behind": _coding("chunked\x0b"),
            "form-feed": _coding("\x0cchunked"),
            "nul": _coding("chunked\x00"),
            "backspace": _coding("\x08chunked"),
            "no-break-space": _coding("\xa0chunked"),
            "kelvin-sign": _coding("chun\u212aed".encode()),
            "encoded-word": _coding("=?iso-8859-1?B?Y2h1bmtlZA==?="),
            "gzip-attack": _coding("gzip", EMPTY + SMUGGLED),
        },
    ),
    rule(
        "transfer-coding-before-chunked",
        "RFC 9112 6.1: a server that does not understand a coding ought to respond with 501",
        "codings under `chunked` are refused: nothing here decodes them",
        Refused((400, 501)),
        {value: _coding(value) for value in ("gzip, chunked", "x, chunked", "gzip;q=1, chunked", "identity, chunked")},
        also=(Forwarded((Seen(method=b"POST"),)),),
    ),
    rule(
        "transfer-coding-repeated",
        "RFC 9112 6.1: chunked MUST NOT be applied more than once; PortSwigger TE.TE; CVE-2022-32215 (llhttp)",
        "more than one coding, in one field or several, is refused",
        Refused((400, 501)),
        {
            "chunked, chunked": _coding("chunked, chunked"),
            "chunked,chunked": _coding("chunked,chunked"),
            "two-fields": post(_TE, _TE, body=CHUNKED_HELLO),
            "identity-behind": post(_TE, "Transfer-Encoding: identity", body=CHUNKED_HELLO),
            "identity-before": post("Transfer-Encoding: identity", _TE, body=CHUNKED_HELLO),
            "cow-behind": post(_TE, "Transfer-encoding: cow", body=CHUNKED_HELLO),
            "empty-before": post("Transfer-Encoding:", _TE, body=CHUNKED_HELLO),
            "empty-behind": post(_TE, "Transfer-Encoding:", body=CHUNKED_HELLO),
        },
    ),
    rule(
        "transfer-coding-empty-elements",
        "RFC 9110 5.6.1.2: a recipient MUST parse and ignore a reasonable number of empty list elements",
        "an empty element beside `chunked` is refused: too few send it honestly",
        Refused((400, 501)),
        {value: _coding(value) for value in (",chunked", "chunked,", ", ,chunked")},
        also=(Forwarded((Seen(body=b"hello"),)),),
    ),
    rule(
        "transfer-coding-in-http-1.0",
        "RFC 9112 6.1: a server MUST treat it as if the framing is faulty; 3.3",
        "Transfer-Encoding in HTTP/1.0 is refused",
        Refused((400, 501)),
        {
            "plain": post(_TE, body=CHUNKED_HELLO, start="POST /case HTTP/1.0"),
            "kept-alive": post(_TE, "Connection: keep-alive", body=CHUNKED_HELLO, start="POST /case HTTP/1.0"),
            "get": post(_TE, body=CHUNKED_HELLO, start="GET /case HTTP/1.0"),
        },
        also=(Forwarded((Seen(body=b"hello"),), closes=True),),
    ),
    rule(
        "transfer-coding-forwarded",
        "RFC 9112 6.1, 7.1; RFC 9110 5.1",
        "`chunked`, in any case and with whitespace around it, frames the body",
        HELLO,
        {
            "plain": _coding("chunked"),
            "capital": _coding("Chunked"),
            "capitals": _coding("CHUNKED"),
            "spaces": _coding("  chunked  "),
            "tabs": _coding("\tchunked\t"),
            "no-space": post("Transfer-Encoding:chunked", body=CHUNKED_HELLO),
            "in-pieces": (_coding("chunked", b""), *(b"%c" % byte for byte in CHUNKED_HELLO)),
        },
    ),
    joined(
        rule(
            "hidden-length",
            "RFC 9112 2.2, 5.1, 5.2; PortSwigger TE.TE obfuscation; CVE-2019-16869 (Netty), CVE-2021-22959 (llhttp)",
            "a length under a name or line that is not well-formed is neither honoured nor passed on: refused",
            Refused((400, 501)),
            {
                "te-space-before-colon": post("Transfer-Encoding : chunked", body=CHUNKED_HELLO),
                "te-tab-before-colon": post("Transfer-Encoding\t: chunked", body=CHUNKED_HELLO),
                "te-nul-before-colon": post("Transfer-Encoding\x00: chunked", body=CHUNKED_HELLO),
                "te-cr-before-colon": post("Transfer-Encoding\r: chunked", body=CHUNKED_HELLO),
                "te-vertical-tab-before-colon": post("Transfer-Encoding\x0b: chunked", body=CHUNKED_HELLO),
                "te-crlf-before-colon": post("Transfer-Encoding\r\n: chunked", body=CHUNKED_HELLO),
                "te-behind-bare-cr": post("X: y\rTransfer-Encoding: chunked", "Content-Length: 5", body=b"hello"),
                "te-behind-nul": post("X: y\x00Transfer-Encoding: chunked", "Content-Length: 5", body=b"hello"),
                "te-non-ascii-name": post("Transfer-Encodin\xe7: chunked", "Content-Length: 5", body=b"hello"),
                "te-double-colon": post("Transfer-Encoding:: chunked", body=CHUNKED_HELLO),
                "te-semicolon": post("Transfer-Encoding;: chunked", "Content-Length: 5", body=b"hello"),
                "te-first-line": get(
                    " Transfer-Encoding: chunked",
                    "Host: case.test",
                    "Content-Length: 5",
                    start="POST /case HTTP/1.1",
                    host=None,
                )
                + b"hello",
                "cl-space-before-colon": post("Content-Length : 5", body=b"hello"),
                "cl-nul-before-colon": post("Content-Length\x00: 5", body=b"hello"),
                "cl-behind-bare-cr": post("X: y\rContent-Length: 5", body=b"hello"),
                "cl-behind-lf-colon": post("Content-Length: 5\n: x", body=b"hello"),
            },
        ),
        rule(
            "hidden-length",
            "RFC 9112 2.2, 5.2: a bare LF MAY end a line, and a fold MAY be replaced with spaces",
            "",
            Refused((400, 501)),
            {
                "te-folded-name": post("X: y\r\n Transfer-Encoding: chunked", "Content-Length: 5", body=b"hello"),
                "te-folded-value": post("Transfer-Encoding:\r\n chunked", body=CHUNKED_HELLO),
                "te-folded-value-lf": post("Transfer-Encoding:\n chunked", body=CHUNKED_HELLO),
                "te-folded-onto-gzip": post("Transfer-Encoding: gzip\r\n\tchunked", body=CHUNKED_HELLO),
                "te-behind-bare-lf": post("X: y\nTransfer-Encoding: chunked", "Content-Length: 5", body=b"hello"),
                "cl-folded": post("Content-Length:\r\n 5", body=b"hello"),
                "cl-folded-behind": post("Content-Length: 5\r\n ", body=b"hello"),
                "cl-behind-bare-lf": post("X: y\nContent-Length: 5", body=b"hello"),
            },
            also=(HELLO,),
        ),
    ),
    rule(
        "other-field",
        "RFC 9110 5.1; CVE-2021-40346 (HAProxy, a name of 270 bytes)",
        "a field whose name only looks like a length is a field like others",
        Forwarded((Seen(body=b"hello"),)),
        {
            "te-underscore": post("Transfer_Encoding: chunked", "Content-Length: 5", body=b"hello"),
            "cl-underscore": post("Content_Length: 1", "Content-Length: 5", body=b"hello"),
            "te-x": post("X-Transfer-Encoding: chunked", "Content-Length: 5", body=b"hello"),
            "te-plural": post("Transfer-Encodings: chunked", "Content-Length: 5", body=b"hello"),
            "cl-long-name": post("Content-Length0" + "a" * 255 + ":", "Content-Length: 5", body=b"hello"),
            "te-value-of-another": post("X: Transfer-Encoding: chunked", "Content-Length: 5", body=b"hello"),
        },
        also=(Refused(),),
    ),
    rule(
        "bodies-of-all-methods",
        "RFC 9110 9.3; RFC 9112 6: the presence of a body is signalled by its length, whatever the method; CL.0, TE.0",
        "a body is framed whatever the method is, and what is in it is not a request",
        Forwarded((Seen(body=SMUGGLED),)),
        {
            **{
                f"cl-{method}": post(
                    f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED, start=f"{method} /case HTTP/1.1"
                )
                for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "POST")
            },
            **{
                f"te-{method}": post(
                    _TE, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), start=f"{method} /case HTTP/1.1"
                )
                for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "POST")
            },
        },
    ),
    rule(
        "no-length-no-body",
        "RFC 9112 6.3 item 7",
        "a request without a length has no body, even a POST; Content-Length: 0 is none as well",
        Forwarded((Seen(body=b""),)),
        {
            "post": post(),
            "put": post(start="PUT /case HTTP/1.1"),
            "zero": post("Content-Length: 0"),
            "get": get(),
            "empty-chunked": post(_TE, body=EMPTY),
        },
    ),
    rule(
        "garbage-behind-body",
        "RFC 9112 6.3, 2.2",
        "what follows a body and is no request is refused; the request before it is answered",
        Refused(before=(Seen(body=b"hello"),)),
        {
            "cl-too-short": post("Content-Length: 5", body=b"hello, world\r\n\r\n"),
            "cl-nul": post("Content-Length: 5", body=b"hello\x00\x00\r\n\r\n"),
            "chunked-text": post(_TE, body=CHUNKED_HELLO + b"more: text\r\n\r\n"),
            "chunked-last-chunk-again": post(_TE, body=CHUNKED_HELLO + EMPTY),
        },
        also=(Refused((505,), before=(Seen(body=b"hello"),)),),
    ),
)

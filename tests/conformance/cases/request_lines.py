"""The line that a request begins with: its parts, its version, its method, and what comes before it (RFC 9112 3)."""

from __future__ import annotations

from tests.conformance.cases.case import (
    SMUGGLED,
    TOKEN_BYTES,
    Answered,
    Case,
    Forwarded,
    Refused,
    Rule,
    Seen,
    byte_name,
    get,
    joined,
    rule,
)


def _version(text: str) -> bytes:
    return get(start=f"GET /case {text}")


RULES: tuple[Rule[Case], ...] = (
    rule(
        "request-line-whitespace",
        "RFC 9112 3: single SP; splitting on whitespace leniently can cause smuggling",
        "one space stands between the parts of a request line, none before it or behind; anything else is refused",
        Refused((400, 505)),
        {
            "two-before-target": get(start="GET  /case HTTP/1.1"),
            "two-before-version": get(start="GET /case  HTTP/1.1"),
            "tab-before-target": get(start="GET\t/case HTTP/1.1"),
            "tab-before-version": get(start="GET /case\tHTTP/1.1"),
            "tabs": get(start="GET\t/case\tHTTP/1.1"),
            "vertical-tab": get(start="GET\x0b/case HTTP/1.1"),
            "form-feed": get(start="GET /case\x0cHTTP/1.1"),
            "no-break-space": get(start="GET\xa0/case HTTP/1.1"),
            "leading-space": get(start=" GET /case HTTP/1.1"),
            "leading-tab": get(start="\tGET /case HTTP/1.1"),
            "trailing-space": get(start="GET /case HTTP/1.1 "),
            "trailing-tab": get(start="GET /case HTTP/1.1\t"),
            "trailing-word": get(start="GET /case HTTP/1.1 x"),
            "cr-within": get(start="GET /case\rHTTP/1.1"),
            "cr-cr-lf": get(start="GET /case HTTP/1.1\r"),
            "nul-behind": get(start="GET /case HTTP/1.1\x00"),
            "space-in-target": get(start="GET /ca se HTTP/1.1"),
            "two-versions": get(start="GET /case HTTP/1.1 HTTP/1.1"),
            "attack": get(start="GET /case HTTP/1.1\rHost: evil.test"),
        },
        also=(Forwarded((Seen(method=b"GET"),)),),
    ),
    rule(
        "request-line-incomplete",
        "RFC 9112 3, 2.3; HTTP/0.9 is no part of HTTP/1.1",
        "a request line with a part missing is refused",
        Refused((400, 505)),
        {
            "no-version": get(start="GET /case"),
            "no-version-space": get(start="GET /case "),
            "http-0.9": b"GET /case\r\n",
            "http-0.9-lf": b"GET /case\n",
            "no-target": get(start="GET HTTP/1.1"),
            "empty-target": get(start="GET  HTTP/1.1"),
            "no-method": get(start="/case HTTP/1.1"),
            "empty-method": get(start=" /case HTTP/1.1"),
            "only-method": get(start="GET"),
            "field-first": b"Host: case.test\r\nGET /case HTTP/1.1\r\n\r\n",
            "answer": get(start="HTTP/1.1 200 OK"),
        },
    ),
    joined(
        rule(
            "version-not-1.x",
            "RFC 9110 15.6.6; RFC 9112 2.3",
            "another major version is refused",
            Refused((400, 505)),
            {
                version: _version(version)
                for version in ("HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/0.9", "HTTP/0.0", "HTTP/9.9", "HTTP/11.1")
            },
        ),
        rule(
            "version-malformed",
            'RFC 9112 2.3: HTTP-name is case-sensitive; DIGIT "." DIGIT',
            "",
            Refused((400, 505)),
            {
                version: _version(version)
                for version in (
                    "http/1.1",
                    "Http/1.1",
                    "hTTP/1.1",
                    "HTTP/1.10",
                    "HTTP/1.01",
                    "HTTP/01.1",
                    "HTTP/1.",
                    "HTTP/.1",
                    "HTTP/1",
                    "HTTP/",
                    "HTTP",
                    "HTTP/1,1",
                    "HTTP/1-1",
                    "HTTP/+1.1",
                    "HTTP/1.1x",
                    "HTTP/1.x",
                    "HTTP/x.1",
                    "HTTP/1.1.1",
                    "HTTP/1 .1",
                    "HTTP /1.1",
                    "HTTPS/1.1",
                    "HTTP\\1.1",
                    "HTP/1.1",
                    "XHTTP/1.1",
                    "HTTP/1.\xb2",
                    "1.1",
                )
            },
        ),
    ),
    rule(
        "version-minor-higher",
        "RFC 9110 2.5, 6.2: process as the highest minor version that is understood",
        "HTTP/1.2 is taken for HTTP/1.1, or refused with 505",
        Forwarded(),
        {version: _version(version) for version in ("HTTP/1.2", "HTTP/1.9")},
        also=(Refused((400, 505)),),
    ),
    rule(
        "version-1.0",
        "RFC 9112 3.2, 9.3, C.2.1",
        "HTTP/1.0 is answered, without Host too; the connection ends unless it asks otherwise",
        Forwarded((Seen(method=b"GET"),), closes=True),
        {
            "plain": get(start="GET /case HTTP/1.0") + SMUGGLED,
            "no-host": get(start="GET /case HTTP/1.0", host=None) + SMUGGLED,
            "connection-close": get("Connection: close", start="GET /case HTTP/1.0") + SMUGGLED,
            "close-and-keep-alive": get("Connection: keep-alive, close", start="GET /case HTTP/1.0") + SMUGGLED,
        },
    ),
    rule(
        "version-1.0-kept-alive",
        "RFC 9112 9.3, C.2.2",
        "HTTP/1.0 with keep-alive may be kept",
        Forwarded((Seen(method=b"GET"),)),
        {
            "plain": get("Connection: keep-alive", start="GET /case HTTP/1.0"),
            "spelling": get("connection: Keep-Alive", start="GET /case HTTP/1.0"),
        },
        also=(Forwarded(closes=True),),
    ),
    rule(
        "method-malformed",
        "RFC 9110 9.1, 5.6.2: method = token",
        "a method with a character that no token has is refused",
        Refused((400, 405, 501)),
        {
            **{
                byte_name(byte): get(start=b"G%cT /case HTTP/1.1" % byte)
                for byte in (*range(0x80), 0x80, 0xA0, 0xFF)
                if byte not in TOKEN_BYTES and byte not in b"\r\n \t\x0b\x0c"
            },
            "utf-8": get(start="G\u00cbT /case HTTP/1.1".encode()),
            "first-brace": get(start="{GET /case HTTP/1.1"),
            "first-nul": get(start="\x00GET /case HTTP/1.1"),
        },
        also=(Refused((400, 505)),),
    ),
    joined(
        *(
            rule(
                "method-forwarded",
                "RFC 9110 9.1: case-sensitive token",
                "any token is a method, and is forwarded as it came",
                Forwarded((Seen(method=method.encode()),)),
                {method: get(start=f"{method} /case HTTP/1.1")},
                also=(Refused((400, 405, 501)), Answered((400, 405, 501))),
            )
            for method in (
                "PATCH",
                "PROPFIND",
                "PURGE",
                "M-SEARCH",
                "QUERY",
                "get",
                "Get",
                "BREW",
                "GETT",
                "G",
                "X_Y",
                "!#$%&'*+-.^_`|~",
                "0",
                "DELETE",
                "TRACE",
                "LOCK",
                "UNSUBSCRIBE",
                "A" * 60,
                "PRI",
                "SOURCE",
            )
        )
    ),
    joined(
        rule(
            "empty-lines-before",
            "RFC 9112 2.2: a server SHOULD ignore at least one empty line (CRLF) received prior to the request-line",
            "an empty line before a request is passed over",
            Forwarded(),
            {
                "one": b"\r\n" + get(),
                "one-in-pieces": (b"\r", b"\n", get()),
                "between": get("Content-Length: 0", start="POST /case HTTP/1.1") + b"\r\n",
            },
        ),
        rule(
            "empty-lines-before",
            "RFC 9112 2.2",
            "",
            Forwarded(),
            {"two": b"\r\n\r\n" + get(), "ten": b"\r\n" * 10 + get()},
            also=(Refused(),),
        ),
        rule(
            "empty-lines-before",
            "RFC 9112 2.2",
            "",
            Refused(),
            {"lf": b"\n" + get(), "lf-lf": b"\n\n" + get()},
            also=(Forwarded(),),
        ),
        rule(
            "empty-lines-before",
            "RFC 9112 2.2",
            "",
            Refused(),
            {
                "cr": b"\r" + get(),
                "cr-cr-lf": b"\r\r\n" + get(),
                "lf-cr": b"\n\r" + get(),
                "space": b" \r\n" + get(),
                "nul": b"\x00\r\n" + get(),
            },
            also=(Forwarded(),),
        ),
    ),
)

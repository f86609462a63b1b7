"""Host: there, once, and well-formed (RFC 9112 section 3.2, RFC 9110 section 7.2)."""

from __future__ import annotations

from tests.conformance.cases.case import Case, Forwarded, Refused, Rule, Seen, get, joined, rule


def _host(value: str | bytes) -> bytes:
    return get(host=value.encode("latin-1") if isinstance(value, str) else value)


RULES: tuple[Rule[Case], ...] = (
    rule(
        "host-missing",
        "RFC 9112 3.2: MUST respond 400",
        "HTTP/1.1 without Host is refused",
        Refused(),
        {
            "get": get(host=None),
            "post": get("Content-Length: 0", start="POST /case HTTP/1.1", host=None),
            "options": get(start="OPTIONS * HTTP/1.1", host=None),
            "other-name": get("Hosts: case.test", host=None),
            "only-forwarded": get("X-Forwarded-Host: case.test", host=None),
        },
    ),
    rule(
        "host-repeated",
        "RFC 9112 3.2: MUST respond 400 to more than one",
        "more than one Host is refused",
        Refused(),
        {
            "different": get("Host: evil.test"),
            "equal": get("Host: case.test"),
            "case": get("HOST: evil.test"),
            "empty-behind": get("Host:"),
            "empty-before": get("Host: case.test", host=b""),
            "apart": get("A: 1", "B: 2", "host: evil.test"),
            "http-1.0": get("Host: evil.test", start="GET /case HTTP/1.0"),
        },
    ),
    rule(
        "host-malformed",
        "RFC 9112 3.2: MUST respond 400 to an invalid field value; RFC 3986 3.2.2; PortSwigger Host header attacks",
        'a Host that is not uri-host [ ":" port ] is refused',
        Refused(),
        {
            **{
                value: _host(value)
                for value in (
                    "a b",
                    "a@b",
                    "user:password@a",
                    "a/b",
                    "a?b",
                    "a#b",
                    "/",
                    "@",
                    ":x",
                    "a:x",
                    "a:80:80",
                    "a:8 0",
                    "a:-1",
                    "a:+80",
                    "a:0x50",
                    "a:80/",
                    "a:80@b:90",
                    "[::1",
                    "::1",
                    "[::g]",
                    "[]",
                    "[::1]x",
                    "[::1]x:80",
                    "x[::1]",
                    "]",
                    "http://a",
                    "a\\b",
                    'a"b',
                    "<a>",
                    "a{b}",
                    "a|b",
                    "a^b",
                    "a`b",
                    "a%",
                    "a%zz",
                )
            },
            "tab-within": _host("a\tb"),
            "nul": _host("a\x00"),
            "delete": _host("a\x7f"),
            "vertical-tab": _host("a\x0b"),
            "two-by-comma-space": _host("a, b"),
            "latin-1": _host("\xe9.test"),
            "utf-8": _host("\u00e9.test".encode()),
            "fullwidth-dot": _host("a\uff0eb".encode()),
            "http-1.0": get(start="GET /case HTTP/1.0", host=b"a b"),
        },
    ),
    rule(
        "host-suspicious",
        "RFC 3986 3.2.2, 3.2.3: sub-delims are grammatical, and a port is any number of digits",
        "a Host that only the letter of the grammar allows is refused, or forwarded as it came",
        Forwarded((Seen(),)),
        {
            **{
                value: _host(value)
                for value in (
                    "a,b",
                    "a;b",
                    "a=b",
                    "a'b",
                    "a!b",
                    "a$b",
                    "a&b",
                    "(a)",
                    "a*",
                    "a+b",
                    "a:65536",
                    "a:99999999999999999999",
                    "[v1.x]",
                )
            },
            "empty": _host(""),
            "blank": _host("  "),
            "only-port": _host(":80"),
        },
        also=(Refused(),),
    ),
    joined(
        *(
            rule(
                "host-kept",
                "RFC 9110 7.2; RFC 3986 3.2",
                "a sound Host is forwarded as it came",
                Forwarded((Seen(fields={b"host": (value,)}),)),
                {value.decode(): get(host=value)},
            )
            for value in (
                b"case.test",
                b"CASE.Test",
                b"case.test:80",
                b"127.0.0.1",
                b"127.0.0.1:1",
                b"[::1]",
                b"[::1]:80",
                b"[2001:db8::A]:8080",
                b"a.b.c.",
                b"a_b.test",
                b"xn--bcher-kva.test",
                b"a-b~c",
                b"localhost",
                b"a.test:00080",
            )
        ),
        rule(
            "host-kept",
            "RFC 9110 5.5",
            "",
            Forwarded((Seen(fields={b"host": (b"case.test",)}),)),
            {
                "spaces-around": _host("  case.test  "),
                "tabs-around": _host("\tcase.test\t"),
                "no-space": get("Host:case.test", host=None),
                "last": get("A: 1", "B: 2", "Host: case.test", host=None),
                "lower-case-name": get("host: case.test", host=None),
            },
        ),
        *(
            rule(
                "host-kept",
                "RFC 3986 3.2",
                "",
                Forwarded((Seen(fields={b"host": (value,)}),)),
                {value.decode(): get(host=value)},
                also=(Refused(),),
            )
            for value in (b"case.test:", b"a%2eb")
        ),
    ),
    rule(
        "host-hidden",
        "RFC 9112 5.1, 5.2; PortSwigger Host header attacks",
        "a second Host under a line that is not well-formed is neither honoured nor passed on: refused",
        Refused(),
        {
            "space-before-colon": get("Host : evil.test"),
            "only-space-before-colon": get("Host : case.test", host=None),
            "folded-behind": get(" Host: evil.test"),
            "folded-first": b"GET /case HTTP/1.1\r\n Host: evil.test\r\nHost: case.test\r\n\r\n",
            "folded-value": get("Host:\r\n evil.test", host=None),
            "bare-lf": get("X: y\nHost: evil.test"),
            "bare-cr": get("X: y\rHost: evil.test"),
            "nul": get("Host\x00: evil.test"),
        },
    ),
)

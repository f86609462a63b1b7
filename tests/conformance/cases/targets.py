"""What is asked for: the four forms of a target, and what may stand in it (RFC 9112 section 3.2)."""

from __future__ import annotations

from tests.conformance.cases.case import Answered, Case, Forwarded, Refused, Rule, Seen, byte_name, get, joined, rule


def _target(target: str | bytes, *lines: str) -> bytes:
    return get(*lines, start=b"GET %b HTTP/1.1" % (target.encode("latin-1") if isinstance(target, str) else target))


def _as_is(*targets: str) -> tuple[Rule[Case], ...]:
    return tuple(
        rule(
            "target-kept",
            "RFC 9112 3.2.1; RFC 3986 2.2, 6: what is equivalent is the application's to say",
            "a path and query are forwarded byte for byte: escapes, dots, slashes, parameters",
            Forwarded((Seen(target=target.encode()),)),
            {target: _target(target)},
        )
        for target in targets
    )


_ABSOLUTE = "RFC 9112 3.2.2: MUST accept the absolute-form, and MUST ignore the received Host"


def _to(host: bytes) -> Forwarded:
    return Forwarded((Seen(target=None, fields={b"host": (host,)}),))


RULES: tuple[Rule[Case], ...] = (
    rule(
        "target-controls",
        "RFC 9112 3.2; RFC 3986 2",
        "controls and NUL in a target are refused",
        Refused(),
        {byte_name(byte): _target(b"/ca%cse" % byte) for byte in (*range(0x20), 0x7F) if byte not in b"\r\n"},
        also=(Refused((400, 505)),),
    ),
    rule(
        "target-not-ascii",
        "RFC 9112 3.2; RFC 3986 2: octets beyond ASCII are percent-encoded",
        "bytes beyond ASCII in a target are refused",
        Refused(),
        {
            "0x80": _target("/case\x80"),
            "0xff": _target("/case\xff"),
            "latin-1": _target("/caf\xe9"),
            "utf-8": _target("/caf\u00e9".encode()),
            "query": _target("/case?\xe9"),
            "no-break-space": _target("/case\xa0"),
        },
        also=(Forwarded((Seen(target=None),)),),
    ),
    rule(
        "target-fragment",
        "RFC 9112 3.2: a target has no fragment; CVE-2023-45539 (HAProxy)",
        "`#` in a target is refused",
        Refused(),
        {target: _target(target) for target in ("/case#x", "/case?a=b#c", "/#", "/case#/../private.png", "#/case")},
    ),
    rule(
        "target-form",
        "RFC 9112 3.2",
        "a target of no form, or of one that its method does not take, is refused",
        Refused((400, 405, 501)),
        {
            "no-slash": _target("case"),
            "query-only": _target("?case"),
            "authority": _target("case.test:80"),
            "authority-no-port": _target("case.test"),
            "asterisk": _target("*"),
            "asterisk-path": _target("*/case"),
            "options-asterisk-path": get(start="OPTIONS */case HTTP/1.1"),
            "dot": _target("."),
            "dots": _target("../case"),
            "backslash": _target("\\case"),
            "percent-slash": _target("%2fcase"),
            "colon": _target(":80/case"),
            "semicolon": _target(";/case"),
            "at": _target("@evil.test/case"),
        },
        also=(Refused((400, 404)),),
    ),
    rule(
        "target-absolute-malformed",
        "RFC 9110 4.2.1, 4.2.4; RFC 9112 3.2.2",
        "an absolute target that is no http URI with a host, or has a user, is refused",
        Refused((400, 421)),
        {
            target: _target(target)
            for target in (
                "http://",
                "http:///case",
                "http:/case",
                "http:case",
                "http//case.test/",
                "http:\\\\case.test\\case",
                "http://:80/case",
                "http://user@case.test/case",
                "http://user:password@case.test/case",
                "http://case.test:x/case",
                "http://[::1/case",
                "http://case.test:80:80/case",
                "http://a,b@case.test/case",
                "1http://case.test/case",
                "://case.test/case",
            )
        },
        also=(Forwarded((Seen(target=None),)),),
    ),
    rule(
        "target-absolute-other-scheme",
        "RFC 9110 7.4, 4.2: a server must reject what it is not an authority for",
        "an absolute target of another scheme is refused",
        Refused((400, 421)),
        {
            target: _target(target)
            for target in (
                "ftp://case.test/case",
                "file:///case",
                "gopher://case.test/",
                "javascript:alert(1)",
                "ws://case.test/case",
                "data:,x",
            )
        },
        also=(Forwarded((Seen(target=None),)),),
    ),
    joined(
        rule(
            "target-absolute",
            _ABSOLUTE,
            "an absolute target is accepted; its authority, not the Host sent with it, is the Host forwarded",
            _to(b"case.test"),
            {
                "same-host": _target("http://case.test/case"),
                "no-path": _target("http://case.test"),
                "query-only": _target("http://case.test?case"),
                "options-no-path": get(start="OPTIONS http://case.test HTTP/1.1"),
            },
        ),
        rule(
            "target-absolute",
            _ABSOLUTE,
            "",
            _to(b"case.test:8080"),
            {"port": get(start="GET http://case.test:8080/case HTTP/1.1", host=b"case.test:8080")},
        ),
        rule(
            "target-absolute",
            _ABSOLUTE,
            "",
            _to(b"[::1]:80"),
            {"ipv6": get(start="GET http://[::1]:80/case HTTP/1.1", host=b"[::1]:80")},
        ),
        rule(
            "target-absolute",
            _ABSOLUTE,
            "",
            _to(b"case.test"),
            {"scheme-in-capitals": _target("HTTP://case.test/case"), "https": _target("https://case.test/case")},
            also=(Refused((400, 421)),),
        ),
        rule(
            "target-absolute",
            _ABSOLUTE,
            "",
            _to(b"other.test"),
            {
                "other-host": _target("http://other.test/case"),
                "other-host-1.0": get(start="GET http://other.test/case HTTP/1.0", host=None),
            },
            also=(
                Refused((400, 421)),
                Forwarded((Seen(target=None, fields={b"host": (b"other.test",)}),), closes=True),
            ),
        ),
        rule(
            "target-absolute",
            _ABSOLUTE,
            "",
            Refused(),
            {"no-host-field": get(start="GET http://case.test/case HTTP/1.1", host=None)},
        ),
    ),
    joined(
        *_as_is(
            "/",
            "//case",
            "/a//b",
            "/a/../b/./c",
            "/..",
            "/../../etc/passwd",
            "/a;p=1/b;q",
            "/a+b?c+d=e+f",
            "/%7euser/%E2%82%AC?q=%26&r=1",
            "/%00",
            "/%2e%2e/%2f",
            "/a?x=1?y=2&&z",
            "/a?b=/../c",
            "/a:b@c",
            "/a?http://x/",
            "/!$&'()*+,;=:@-._~",
            "/a?",
            "/?",
            "/a%2Fb",
            "/%0d%0aX:%20y",
            "/*",
        )
    ),
    joined(
        *(
            rule(
                "target-outside-grammar",
                "RFC 3986 2; RFC 9112 3.2: SHOULD respond 400, or redirect",
                "printable characters that no URI has are forwarded as they came, or refused: never changed",
                Forwarded((Seen(target=target.encode()),)),
                {target: _target(target)},
                also=(Refused(),),
            )
            for target in ("/a?b=[1]|{2}", "/a%zz", "/%", "/a\\b", "/a^b", "/a`b", '/a"b', "/<script>", "/a[1]")
        )
    ),
    rule(
        "target-options-asterisk",
        "RFC 9112 3.2.4; RFC 9110 9.3.7",
        "`OPTIONS *` is forwarded as `*`",
        Forwarded((Seen(target=b"*", method=b"OPTIONS"),)),
        {"plain": get(start="OPTIONS * HTTP/1.1"), "length-zero": get("Content-Length: 0", start="OPTIONS * HTTP/1.1")},
        also=(Answered((200, 204, 405, 501)), Refused((400,))),
    ),
    rule(
        "target-connect",
        "RFC 9110 9.3.6; RFC 9112 3.2.3",
        "CONNECT is refused: this is no proxy that a client has chosen, and no tunnel is made",
        Refused((400, 405, 501)),
        {
            "authority": get(start="CONNECT case.test:443 HTTP/1.1", host=b"case.test:443"),
            "path": get(start="CONNECT /case HTTP/1.1"),
            "with-body": get("Content-Length: 5", start="CONNECT case.test:443 HTTP/1.1") + b"hello",
            "http-1.0": get(start="CONNECT case.test:443 HTTP/1.0"),
        },
    ),
    rule(
        "target-too-long",
        "RFC 9112 3: 414; at least 8000 octets ought to be supported",
        "an over-long target is 414",
        Refused((414,)),
        {
            "path": _target("/" + "a" * 100_000),
            "query": _target("/case?" + "a" * 100_000),
            "no-end": b"GET /" + b"a" * 200_000,
            "absolute": _target("http://case.test/" + "a" * 100_000),
        },
        also=(Refused((400, 414, 431)),),
    ),
    rule(
        "target-long",
        "RFC 9112 3: at least 8000 octets ought to be supported",
        "a target of 8000 octets is forwarded",
        Forwarded((Seen(target=b"/" + b"a" * 7_980),)),
        {
            "8000": _target("/" + "a" * 7_980),
            "in-pieces": (b"GET /" + b"a" * 4_000, b"a" * 3_980 + b" HTTP/1.1\r\nHost: case.test\r\n\r\n"),
        },
    ),
    rule(
        "method-too-long",
        "RFC 9112 3: SHOULD respond 501 to a method longer than any that is implemented",
        "an endless method is refused",
        Refused((400, 405, 414, 431, 501)),
        {"no-end": b"A" * 200_000, "line": get(start="A" * 100_000 + " /case HTTP/1.1")},
    ),
)

"""What concerns one connection: hop-by-hop fields, pipelining, closing, Expect, Upgrade, Max-Forwards."""

from __future__ import annotations

from tests.conformance.cases.case import (
    HOST,
    SMUGGLED,
    Answered,
    Case,
    Forwarded,
    Refused,
    Rule,
    Seen,
    chunked,
    get,
    joined,
    post,
    rule,
)

_NAMED = {
    "Host": HOST.decode(),
    "Content-Length": "5",
    "Cookie": "a=b",
    "Authorization": "Basic eDp5",
    "Cache-Control": "no-cache",
}


def _named_away(name: str, value: str) -> Rule[Case]:
    lines = [f"Connection: {name}"]
    if name not in ("Host", "Content-Length"):
        lines.append(f"{name}: {value}")
    return rule(
        "connection-names-end-to-end",
        "RFC 9110 7.6.1: MUST NOT name a field intended for all recipients; hop-by-hop header abuse (2019)",
        "Connection does not take away a field that an answer hangs on: it is forwarded, or the request refused",
        Forwarded((Seen(body=b"hello", fields={name.lower().encode(): (value.encode(),)}),)),
        {name.lower(): post(*lines, "Content-Length: 5", body=b"hello")},
        also=(Refused(),),
    )


_TWO = (Seen(target=b"/case"), Seen(target=b"/case/2"))
_SECOND = get(start="GET /case/2 HTTP/1.1")
_SECOND_POST = post("Content-Length: 5", body=b"hello", start="POST /case/2 HTTP/1.1")
_SECOND_CHUNKED = post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n", start="POST /case/2 HTTP/1.1")
_BEFORE = (Seen(method=b"GET"),)

RULES: tuple[Rule[Case], ...] = (
    joined(
        *(_named_away(name, value) for name, value in _NAMED.items()),
        rule(
            "connection-names-end-to-end",
            "RFC 9110 7.6.1",
            "",
            Forwarded((Seen(body=b"abc"),)),
            {
                "transfer-encoding": post(
                    "Connection: Transfer-Encoding", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n"
                )
            },
            also=(Refused(),),
        ),
    ),
    joined(
        rule(
            "connection-names-hop-by-hop",
            "RFC 9110 7.6.1: an intermediary MUST remove each field that Connection names, and Connection itself",
            "a field that Connection names stops here",
            Forwarded((Seen(fields={b"x-hop": (), b"x-end": (b"2",)}),)),
            {
                "one": get("Connection: X-Hop", "X-Hop: 1", "X-End: 2"),
                "list": get("Connection: keep-alive, X-Hop", "X-Hop: 1", "X-End: 2"),
                "other-case": get("Connection: x-hop", "X-HOP: 1", "X-End: 2"),
                "before": get("X-Hop: 1", "X-End: 2", "Connection: X-Hop"),
                "two-fields": get("Connection: keep-alive", "Connection: X-Hop", "X-Hop: 1", "X-End: 2"),
                "repeated": get("Connection: X-Hop", "X-Hop: 1", "X-Hop: 1", "X-End: 2"),
                "empty-elements": get("Connection: , ,X-Hop,,", "X-Hop: 1", "X-End: 2"),
            },
        ),
        rule(
            "connection-names-hop-by-hop",
            "RFC 9110 7.6.1",
            "",
            Forwarded((Seen(fields={b"keep-alive": (), b"proxy-connection": (), b"te": ()}),)),
            {
                "keep-alive": get("Connection: keep-alive", "Keep-Alive: timeout=5"),
                "unnamed": get("Keep-Alive: timeout=5", "Proxy-Connection: keep-alive"),
                "te": get("Connection: TE", "TE: gzip"),
            },
        ),
    ),
    rule(
        "connection-close",
        "RFC 9112 9.6: MUST NOT process any further requests received on that connection",
        "behind a request with `close` the connection ends, and what was sent behind it is not read",
        Forwarded(closes=True),
        {
            "plain": get("Connection: close") + SMUGGLED,
            "capitals": get("CONNECTION: CLOSE") + SMUGGLED,
            "in-list": get("Connection: keep-alive, close") + SMUGGLED,
            "second-field": get("Connection: keep-alive", "Connection: close") + SMUGGLED,
            "post": post("Connection: close", "Content-Length: 5", body=b"hello") + SMUGGLED,
            "chunked": post("Connection: close", "Transfer-Encoding: chunked", body=b"0\r\n\r\n") + SMUGGLED,
        },
    ),
    joined(
        rule(
            "pipelined",
            "RFC 9112 9.3.2: MUST send the responses in the same order",
            "pipelined requests are forwarded and answered in their order",
            Forwarded(_TWO),
            {
                "two": get() + _SECOND,
                "with-body": post("Content-Length: 5", body=b"hello") + _SECOND,
                "chunked": chunked(b"5\r\nhello\r\n0\r\n\r\n") + _SECOND,
                "head-first": get(start="HEAD /case HTTP/1.1") + _SECOND,
                "options-first": get(start="OPTIONS /case HTTP/1.1") + _SECOND,
                "cut-in-the-middle": (get() + _SECOND[:20], _SECOND[20:]),
                "cut-in-the-second's-body": (get() + _SECOND_POST[:-3], _SECOND_POST[-3:]),
                "cut-in-the-second's-chunks": (get() + _SECOND_CHUNKED[:-9], _SECOND_CHUNKED[-9:]),
                "cut-before-the-second's-body": (get() + _SECOND_POST[:-5], _SECOND_POST[-5:]),
            },
        ),
        rule(
            "pipelined",
            "RFC 9112 9.3.2",
            "",
            Forwarded(tuple(Seen(target=b"/case/%d" % number) for number in range(20))),
            {
                "twenty": b"".join(get(start=f"GET /case/{number} HTTP/1.1") for number in range(20)),
                "twenty-posts": b"".join(
                    post("Content-Length: 3", body=b"abc", start=f"POST /case/{number} HTTP/1.1")
                    for number in range(20)
                ),
            },
        ),
    ),
    joined(
        rule(
            "pipelined-bad-second",
            "RFC 9112 9.3.2, 2.2",
            "behind a good request that is answered, a bad one is refused, and nothing of it forwarded",
            Refused((400, 501, 505), before=_BEFORE),
            {
                "no-host": get() + get(host=None, start="GET /second HTTP/1.1"),
                "both-lengths": get() + post("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
                "bad-length": get() + post("Content-Length: +5", body=b"hello"),
                "nul": get() + get("X: \x00"),
                "garbage": get() + b"garbage\r\n\r\n",
                "http-2": get() + get(start="GET /second HTTP/2.0"),
                "bare-lf": get() + b"GET /second HTTP/1.1\nHost: case.test\n\n",
                "folded": get() + get("X: y\r\n z"),
                "space-before-colon": get() + get("X : y"),
                "in-pieces": (get(), b"GET /sec", b"ond HTTP/1.1\r\nHo", b"st : case.test\r\n\r\n"),
            },
        ),
        rule(
            "pipelined-bad-second",
            "RFC 9112 9.3.2",
            "",
            Refused((400, 501, 505), before=_TWO),
            {
                "behind-two": get() + _SECOND + get("X : y"),
                "behind-two-in-pieces": (get() + _SECOND, get("X : y")),
                "behind-two-posts": post("Content-Length: 5", body=b"hello") + _SECOND_POST + b"garbage\r\n\r\n",
            },
        ),
    ),
    rule(
        "pipelined-bad-body",
        "RFC 9112 9.3.2",
        "a bad body behind a good request: the good one is answered, the other one never complete at the origin",
        Refused(before=_BEFORE, begun=True),
        {
            "bad-chunk": get() + chunked(b"3\r\nabc\r\nx\r\n\r\n"),
            "no-crlf-behind-chunk": get() + chunked(b"3\r\nabcdef\r\n0\r\n\r\n"),
        },
    ),
    rule(
        "expect-continue",
        "RFC 9110 10.1.1; PortSwigger 0.CL and CL.0 by Expect (2025)",
        "a body that is sent without waiting for 100 is that request's body",
        Forwarded((Seen(body=SMUGGLED),)),
        {
            "length": post("Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
            "chunked": post(
                "Expect: 100-continue",
                "Transfer-Encoding: chunked",
                body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
            ),
            "capitals": post("Expect: 100-CONTINUE", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
            "get": post(
                "Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED, start="GET /case HTTP/1.1"
            ),
            "in-pieces": (post("Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}"), SMUGGLED),
        },
    ),
    rule(
        "expect-continue-no-body",
        "RFC 9110 10.1.1: MAY omit 100 if there is no content",
        "100-continue without a body, or in HTTP/1.0, is answered like any other",
        Forwarded((Seen(body=b""),)),
        {"get": get("Expect: 100-continue"), "length-zero": post("Expect: 100-continue", "Content-Length: 0")},
    ),
    rule(
        "expect-other",
        "RFC 9110 10.1.1: MAY respond 417; PortSwigger: obfuscated Expect desynchronizes (2025)",
        "any other expectation is 417, or the request is forwarded with its body whole",
        Forwarded((Seen(body=SMUGGLED),)),
        {
            value: post(f"Expect: {value}", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED)
            for value in (
                "x",
                "y 100-continue",
                "100-continue, x",
                "100-continue=x",
                "100",
                "",
                "100-continued",
                "200-ok",
                '"100-continue"',
            )
        },
        also=(Answered((417,)), Refused((400, 417))),
    ),
    rule(
        "expect-repeated",
        "RFC 9110 10.1.1",
        "likewise if it is repeated",
        Forwarded((Seen(body=SMUGGLED),)),
        {
            "two-fields": post(
                "Expect: 100-continue", "Expect: 100-continue", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED
            ),
            "folded-is-refused-elsewhere": post(
                "Expect: 100-continue, 100-continue", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED
            ),
        },
        also=(Answered((417,)), Refused((400, 417))),
    ),
    rule(
        "upgrade-h2c",
        "RFC 9113 3.1: the h2c upgrade is no longer in use; h2c smuggling (Bishop Fox, 2020)",
        "an offer of h2c reaches no origin, and the bytes behind it are HTTP/1.1",
        Forwarded((Seen(fields={b"upgrade": (), b"http2-settings": ()}),)),
        {
            "plain": get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
            "not-named": get("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
            "only-upgrade-named": get("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
            "body": post(
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQAAP__",
                "Content-Length: 5",
                body=b"hello",
            ),
        },
    ),
    rule(
        "upgrade-not-taken-up",
        "RFC 9110 7.8: a server MAY ignore Upgrade; websocket smuggling (2019)",
        "when the origin does not switch, the connection goes on with HTTP/1.1: nothing is tunnelled",
        Forwarded((Seen(method=b"GET"),)),
        {
            "websocket": get(
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            "websocket-bad-version": get(
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 1337",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ),
            "other": get("Connection: Upgrade", "Upgrade: x/1"),
            "not-named": get("Upgrade: websocket"),
            "http-1.0": get("Connection: Upgrade, keep-alive", "Upgrade: websocket", start="GET /case HTTP/1.0"),
        },
        also=(Forwarded(closes=True), Answered((400, 426, 501))),
    ),
    rule(
        "upgrade-with-body",
        "RFC 9110 7.8",
        "a body beside an offer to switch is that request's body",
        Forwarded((Seen(body=SMUGGLED),)),
        {
            "websocket": post(
                "Connection: Upgrade", "Upgrade: websocket", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED
            ),
            "chunked": post(
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Transfer-Encoding: chunked",
                body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
            ),
        },
        also=(Refused((400, 501)), Answered((400, 426, 501))),
    ),
    joined(
        rule(
            "max-forwards",
            "RFC 9110 7.6.2: an intermediary MUST check and update it for TRACE and OPTIONS",
            "OPTIONS and TRACE are not forwarded with Max-Forwards: 0, above it with one less; others as they are",
            Answered((200, 204, 400, 405, 501)),
            {
                "options-0": get("Max-Forwards: 0", start="OPTIONS /case HTTP/1.1"),
                "trace-0": get("Max-Forwards: 0", start="TRACE /case HTTP/1.1"),
            },
        ),
        rule(
            "max-forwards",
            "RFC 9110 7.6.2",
            "",
            Forwarded((Seen(fields={b"max-forwards": (b"4",)}),)),
            {"options-5": get("Max-Forwards: 5", start="OPTIONS /case HTTP/1.1")},
        ),
        rule(
            "max-forwards",
            "RFC 9110 7.6.2",
            "",
            Forwarded((Seen(fields={b"max-forwards": (b"0",)}),)),
            {"get-0": get("Max-Forwards: 0")},
            also=(Forwarded((Seen(fields={b"max-forwards": ()}),)),),
        ),
    ),
)

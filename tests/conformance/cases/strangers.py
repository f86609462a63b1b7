"""What is not HTTP/1.1 at all, on a port that speaks nothing else."""

from __future__ import annotations

from tests.conformance.cases.case import Case, Forwarded, Refused, Rule, get, rule

REFUSED = Refused((400, 405, 501, 505), silently=True)

_HELLO = (
    bytes.fromhex("16030100c8010000c40303")
    + bytes(range(32))
    + b"\x20"
    + bytes(range(32))
    + b"\x00\x06\x13\x01\x13\x02\x13\x03\x01\x00"
)

RULES: tuple[Rule[Case], ...] = (
    rule(
        "http-2-preface",
        "RFC 9113 3.4",
        "the preface of HTTP/2 is refused",
        REFUSED,
        {
            "plain": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            "in-pieces": (b"PRI * HTTP/2.0\r\n\r\n", b"SM\r\n\r\n", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
            "as-http-1.1": b"PRI * HTTP/1.1\r\nHost: case.test\r\n\r\nSM\r\n\r\n",
            "behind-a-crlf": b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        },
    ),
    rule(
        "tls-hello",
        "RFC 8446 4.1.2",
        "a TLS ClientHello is refused",
        REFUSED,
        {
            "tls-1.3": _HELLO + b"\r\n\r\n",
            "first-bytes": _HELLO[:11],
            "ssl-2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + b"\r\n\r\n",
            "with-request-inside": _HELLO + get(),
        },
    ),
    rule(
        "other-protocol",
        "RFC 9112 2.1; cross-protocol attacks",
        "lines and bytes of other protocols are refused",
        REFUSED,
        {
            "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
            "smtp": b"EHLO case.test\r\nMAIL FROM:<a@b>\r\n",
            "ftp": b"USER anonymous\r\n",
            "redis": b"*1\r\n$4\r\nPING\r\n",
            "redis-inline": b"PING\r\n",
            "memcached": b"get case\r\n",
            "irc": b"NICK case\r\nUSER a b c d\r\n",
            "rtsp": get(start="DESCRIBE rtsp://case.test/ RTSP/1.0"),
            "rtsp-path": get(start="OPTIONS /case RTSP/1.0"),
            "sip": get(start="INVITE sip:a@case.test SIP/2.0"),
            "ice": get(start="SOURCE /case ICE/1.0"),
            "icap": get(start="REQMOD icap://case.test/ ICAP/1.0"),
            "gemini": b"gemini://case.test/\r\n",
            "socks-5": b"\x05\x01\x00\r\n\r\n",
            "socks-4": b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00\r\n\r\n",
            "zeros": b"\x00" * 64 + b"\r\n\r\n",
            "ones": b"\xff" * 64 + b"\r\n\r\n",
            "json": b'{"a": 1}\r\n\r\n',
            "byte-order-mark": b"\xef\xbb\xbf" + get(),
            "utf-16": get().decode().encode("utf-16-le"),
            "web-socket-frame": b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\r\n\r\n",
        },
    ),
    rule(
        "proxy-protocol",
        "haproxy.org/download/1.8/doc/proxy-protocol.txt: a receiver MUST NOT guess",
        "a PROXY header is refused where none is configured: it would forge the client's address",
        REFUSED,
        {
            "version-1": b"PROXY TCP4 6.6.6.6 127.0.0.1 1 80\r\n" + get(),
            "version-2": bytes.fromhex("0d0a0d0a000d0a515549540a2111000c060606067f00000100010050") + get(),
        },
    ),
    rule(
        "nothing",
        "RFC 9112 2.2",
        "empty lines alone are passed over, up to a bound",
        Forwarded(()),
        {"crlf": b"\r\n"},
    ),
    rule(
        "empty-lines-endless",
        "RFC 9112 2.2: at least one",
        "endless empty lines are refused, or passed over",
        Forwarded(()),
        {"many": b"\r\n" * 100_000},
        also=(Refused((400, 431)),),
    ),
)

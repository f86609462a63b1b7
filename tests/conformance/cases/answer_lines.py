"""The line that an answer begins with, and answers that come before the answer (RFC 9112 section 4)."""

from __future__ import annotations

from tests.conformance.cases.case import AnswerCase, BadGateway, Delivered, Rule, answer, answer_rule, joined

_FIVE = "Content-Length: 5"
_OK = answer(_FIVE, body=b"hello")
_CONTINUE = answer(start="HTTP/1.1 100 Continue")
_HINTS = answer("Link: </a>", start="HTTP/1.1 103 Early Hints")
_SWITCH = answer("Upgrade: x", "Connection: upgrade", start="HTTP/1.1 101 Switching Protocols")


def _start(line: str | bytes) -> bytes:
    return answer(_FIVE, body=b"hello", start=line)


RULES: tuple[Rule[AnswerCase], ...] = (
    joined(
        *(
            answer_rule(
                "status-forwarded",
                "RFC 9110 15: a client treats an unknown status as the x00 of its class",
                "any status of three digits from 200 to 599 is forwarded, known or not",
                Delivered(status=status),
                {str(status): _start(f"HTTP/1.1 {status} Reason")},
            )
            for status in (200, 201, 206, 226, 299, 302, 399, 400, 404, 416, 418, 451, 499, 500, 503, 511, 599)
        )
    ),
    answer_rule(
        "status-malformed",
        "RFC 9112 4: 3DIGIT; RFC 9110 15",
        "a status that is not three digits is a 502",
        BadGateway(),
        {
            **{
                text: _start(f"HTTP/1.1 {text} OK")
                for text in (
                    "abc",
                    "2",
                    "20",
                    "2000",
                    "1000",
                    "0200",
                    "+200",
                    "-200",
                    "2xx",
                    "0x200",
                    "200.0",
                    "2 00",
                    "\u00b2\u00b3\u00b9",
                )
            },
            "none": _start("HTTP/1.1"),
            "empty": _start("HTTP/1.1  OK"),
            "only-reason": _start("HTTP/1.1 OK"),
            "glued": _start("HTTP/1.1 200OK"),
            "fullwidth": _start("HTTP/1.1 \uff12\uff10\uff10 OK".encode()),
        },
        ends="close",
    ),
    joined(
        *(
            answer_rule(
                "status-out-of-range",
                "RFC 9110 15: values outside 100..599 are invalid; a client SHOULD treat them as a 5xx",
                "a status below 100 or above 599 is a 502",
                BadGateway(),
                {text: _start(f"HTTP/1.1 {text} Reason")},
                also=(Delivered(status=int(text)),),
            )
            for text in ("000", "001", "099", "600", "700", "999")
        )
    ),
    answer_rule(
        "status-line-malformed",
        "RFC 9112 4, 2.3",
        "a status line that is not HTTP/1.x is a 502",
        BadGateway(),
        {
            line: _start(line)
            for line in (
                "HTTP/2.0 200 OK",
                "HTTP/2 200 OK",
                "HTTP/0.9 200 OK",
                "HTTP/3.0 200 OK",
                "http/1.1 200 OK",
                "HTTP/1 200 OK",
                "HTTP/1. 200 OK",
                "HTTP/.1 200 OK",
                "HTTP/1.10 200 OK",
                "HTTP/01.1 200 OK",
                "HTTP/1.x 200 OK",
                "HTTP/1.1200 OK",
                "HTTP/1,1 200 OK",
                "HTTP 200 OK",
                "HTTPS/1.1 200 OK",
                "ICY 200 OK",
                "RTSP/1.0 200 OK",
                "200 OK",
                " HTTP/1.1 200 OK",
                "HTTP/1.1\t200\tOK",
                "HTTP/1.1\x0b200 OK",
                "\x00HTTP/1.1 200 OK",
                "\rHTTP/1.1 200 OK",
                "xHTTP/1.1 200 OK",
                "GET / HTTP/1.1",
            )
        },
        ends="close",
    ),
    answer_rule(
        "status-line-lenient",
        "RFC 9112 4, 2.2: parsing on whitespace-delimited word boundaries is a MAY; RFC 9110 2.5",
        "a status line that a lenient reader would take is a 502, or forwarded as it should have been",
        Delivered(),
        {
            "no-reason": _start("HTTP/1.1 200"),
            "minor-version-higher": _start("HTTP/1.2 200 OK"),
            "two-spaces-before-status": _start("HTTP/1.1  200 OK"),
            "two-spaces-before-reason": _start("HTTP/1.1 200  OK"),
            "tab-before-reason": _start("HTTP/1.1 200\tOK"),
            "empty-line-before": b"\r\n" + _OK,
        },
        also=(BadGateway(),),
    ),
    answer_rule(
        "reason-forwarded",
        "RFC 9112 4: reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ), or none",
        "any reason, or none, is forwarded or left out",
        Delivered(),
        {
            "none-with-space": _start("HTTP/1.1 200 "),
            "words": _start("HTTP/1.1 200 All is well"),
            "obs-text": _start("HTTP/1.1 200 No \xe9"),
            "tab": _start("HTTP/1.1 200 O\tK"),
            "digits": _start("HTTP/1.1 200 404"),
            "long": _start("HTTP/1.1 200 " + "y" * 1_000),
        },
    ),
    answer_rule(
        "reason-malformed",
        "RFC 9112 4, 2.2; RFC 9110 5.5: CR, LF and NUL are dangerous",
        "a control or NUL in a reason is a 502",
        BadGateway(),
        {
            "nul": _start("HTTP/1.1 200 O\x00K"),
            "cr": _start("HTTP/1.1 200 O\rK"),
            "delete": _start("HTTP/1.1 200 O\x7fK"),
            "vertical-tab": _start("HTTP/1.1 200 O\x0bK"),
            "cr-looks-like-field": _start("HTTP/1.1 200 OK\rX: y"),
            "bell": _start("HTTP/1.1 200 O\x07K"),
        },
        also=(Delivered(),),
    ),
    answer_rule(
        "no-answer",
        "RFC 9110 15.6.3; RFC 9112 8",
        "what is no answer is a 502",
        BadGateway(),
        {
            "garbage": b"garbage\r\n\r\n",
            "html": b"<html><body>hello</body></html>",
            "tls-alert": bytes.fromhex("15030100020246"),
            "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
            "http-2-settings": bytes.fromhex("000000040000000000"),
            "nul": b"\x00" * 16,
            "nothing": b"",
            "half-a-status-line": b"HTTP/1.1 20",
            "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
            "no-empty-line": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
            "only-100": b"HTTP/1.1 100 Continue\r\n\r\n",
            "only-103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            "100-and-half-a-head": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
        },
        ends="close",
        also=(),
    ),
    joined(
        answer_rule(
            "interim",
            "RFC 9110 15.2: a proxy MUST forward 1xx responses, unless it asked for a 100 itself; RFC 8297",
            "answers before the answer are forwarded, or left out, and never taken for the answer",
            Delivered(),
            {
                "100": b"HTTP/1.1 100 Continue\r\n\r\n" + _OK,
                "102": b"HTTP/1.1 102 Processing\r\n\r\n" + _OK,
                "103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK,
                "199": b"HTTP/1.1 199 X\r\n\r\n" + _OK,
                "several": _CONTINUE + _HINTS + _HINTS + _OK,
                "in-pieces": (b"HTTP/1.1 103 Early", b" Hints\r\n", b"\r\n", _OK[:9], _OK[9:]),
            },
        ),
        answer_rule(
            "interim",
            "RFC 9110 15.2, 8.6: no 1xx has a body or a Content-Length; RFC 9112 6.1",
            "",
            Delivered(),
            {
                "with-length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + _OK,
                "with-coding": b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + _OK,
            },
            also=(BadGateway(),),
        ),
        answer_rule(
            "interim",
            "RFC 9110 15.2: MUST NOT send a 1xx response to an HTTP/1.0 client",
            "",
            Delivered(interim=()),
            {"http-1.0-client": b"HTTP/1.1 103 Early Hints\r\n\r\n" + _OK},
            asks=b"GET /case HTTP/1.0\r\nHost: case.test\r\n\r\n",
        ),
    ),
    answer_rule(
        "interim-flood",
        "RFC 9110 15.2; CVE-2023-30589's like in clients",
        "endless answers before the answer are a 502, or passed on; they fill no memory",
        Delivered(),
        {"20000": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000 + _OK},
        also=(BadGateway(),),
    ),
    answer_rule(
        "switch-unasked",
        "RFC 9110 7.8, 15.2.2: MUST NOT switch to a protocol that was not indicated",
        "a 101 that nobody asked for is a 502",
        BadGateway(),
        {
            "plain": _SWITCH,
            "with-answer": _SWITCH + _OK,
            "no-upgrade": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "websocket": answer("Upgrade: websocket", "Connection: Upgrade", body=b"\x81\x00", start="HTTP/1.1 101 X"),
            "behind-103": b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        },
        ends="close",
    ),
)

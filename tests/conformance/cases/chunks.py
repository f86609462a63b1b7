"""Chunks of a request's body: sizes, endings, extensions, trailers (RFC 9112 section 7.1)."""

from __future__ import annotations

from tests.conformance.cases.case import SMUGGLED, Case, Forwarded, Refused, Rule, Seen, chunked, joined, post, rule

ABC = Forwarded((Seen(body=b"abc"),))
BAD = Refused(begun=True)
LAST = b"0\r\n\r\n"


def _size(text: str | bytes) -> bytes:
    size = text.encode("latin-1") if isinstance(text, str) else text
    return chunked(size + b"\r\nabc\r\n" + LAST)


def _trailer(lines: str | bytes) -> bytes:
    """Make a body of one chunk with these bytes between the last chunk's size line and the end."""
    return chunked(b"3\r\nabc\r\n0\r\n" + (lines.encode("latin-1") if isinstance(lines, str) else lines) + b"\r\n")


_ATTACK_CHUNK = b"%x\r\n" % len(b"\r\n0\r\n\r\n" + SMUGGLED)

RULES: tuple[Rule[Case], ...] = (
    rule(
        "chunk-size-malformed",
        "RFC 9112 7.1: 1*HEXDIG; CVE-2022-24761 (waitress), CVE-2023-47627 (aiohttp)",
        "a chunk size that is not 1*HEXDIG is refused",
        BAD,
        {
            **{
                size: _size(size)
                for size in (
                    "0x3",
                    "0X3",
                    "+3",
                    "-3",
                    "-0",
                    "3_0",
                    "3.0",
                    "3h",
                    "g",
                    "h3",
                    "3,3",
                    "x",
                    "'3'",
                    "#3",
                    "3:",
                )
            },
            "empty": _size(""),
            "only-extension": _size(";ext"),
            "quoted": _size('"3"'),
            "space-before": _size(" 3"),
            "tab-before": _size("\t3"),
            "space-within": _size("3 3"),
            "vertical-tab": _size("3\x0b"),
            "nul": _size("3\x00"),
            "nul-before": _size("\x003"),
            "fullwidth-digit": _size("\uff13".encode()),
            "superscript-digit": _size("\xb3"),
            "minus-zero-last": chunked(b"3\r\nabc\r\n-0\r\n\r\n"),
            "0x0-last": chunked(b"3\r\nabc\r\n0x0\r\n\r\n"),
            "second-chunk": chunked(b"3\r\nabc\r\n+3\r\nabc\r\n0\r\n\r\n"),
            "no-size-at-all": chunked(b"xyz\r\n\r\n"),
            "crlf-first": chunked(b"\r\n3\r\nabc\r\n0\r\n\r\n"),
            "crlf-before-second": chunked(b"3\r\nabc\r\n\r\n0\r\n\r\n"),
        },
        also=(ABC,),
    ),
    rule(
        "chunk-size-space-behind",
        "RFC 9112 7.1.1: BWS stands only around an extension's `;` and `=`",
        "whitespace behind a chunk size is refused",
        BAD,
        {"space": _size("3 "), "tab": _size("3\t"), "last": chunked(b"3\r\nabc\r\n0 \r\n\r\n")},
        also=(ABC,),
    ),
    rule(
        "chunk-size-overflow",
        "RFC 9112 7.1: recipients MUST anticipate potentially large hexadecimal numerals and prevent errors",
        "a chunk size beyond all numbers is refused, never taken modulo something",
        Refused((400, 413), begun=True),
        {
            "2^64+3": _size("10000000000000003"),
            "2^64": _size("10000000000000000"),
            "2^68+3": _size("100000000000000003"),
            "2^128+3": _size("100000000000000000000000000000003"),
            "300-digits": _size("f" * 300),
            "last-2^64": chunked(b"3\r\nabc\r\n10000000000000000\r\n\r\n"),
        },
    ),
    joined(
        rule(
            "chunk-size-sound",
            "RFC 9112 7.1",
            "any hexadecimal number in either case frames its data, however it is split",
            ABC,
            {
                "plain": _size("3"),
                "leading-zero": _size("03"),
                "last-of-zeros": chunked(b"3\r\nabc\r\n000\r\n\r\n"),
                "three-chunks": chunked(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"),
                "split-in-data": (chunked(b"3\r\na"), b"b", b"c\r", b"\n0", b"\r\n", b"\r\n"),
                "split-in-size": (chunked(b""), b"0", b"3\r", b"\nabc\r\n0", b"0\r\n\r", b"\n"),
            },
        ),
        rule(
            "chunk-size-sound",
            "RFC 9112 7.1",
            "",
            Forwarded((Seen(body=b"0123456789"),)),
            {
                "upper-case": chunked(b"A\r\n0123456789\r\n" + LAST),
                "lower-case": chunked(b"a\r\n0123456789\r\n" + LAST),
            },
        ),
        rule(
            "chunk-size-sound",
            "RFC 9112 7.1",
            "",
            Forwarded((Seen(body=b"x" * 70_000),)),
            {"large": chunked(b"11170\r\n" + b"x" * 70_000 + b"\r\n" + LAST)},
        ),
        rule(
            "chunk-size-sound",
            "RFC 9112 7.1",
            "",
            Forwarded((Seen(body=b"x" * 3_000),)),
            {"very-many": chunked(b"1\r\nx\r\n" * 3_000 + LAST)},
        ),
        rule("chunk-size-sound", "RFC 9112 7.1", "", ABC, {"many-leading-zeros": _size("0" * 30 + "3")}, also=(BAD,)),
    ),
    rule(
        "chunk-line-ending",
        "RFC 9112 7.1, 2.2; CVE-2023-30589 (llhttp), CVE-2025-22871 (Go); Funky Chunks TERM.EXT (2025)",
        "chunk lines end with CRLF; a bare LF or CR there is refused",
        BAD,
        {
            "lf-behind-size": chunked(b"3\nabc\r\n" + LAST),
            "lf-everywhere": chunked(b"3\nabc\n0\n\n"),
            "lf-behind-last-size": chunked(b"3\r\nabc\r\n0\n\r\n"),
            "lf-at-the-end": chunked(b"3\r\nabc\r\n0\r\n\n"),
            "lf-twice-at-the-end": chunked(b"3\r\nabc\r\n0\n\n"),
            "lf-behind-extension": chunked(b"3;ext\nabc\r\n" + LAST),
            "lf-behind-last-extension": chunked(b"3\r\nabc\r\n0;ext\n\r\n"),
            "cr-behind-size": chunked(b"3\rabc\r\n" + LAST),
            "cr-cr-lf-behind-size": chunked(b"3\r\r\nabc\r\n" + LAST),
            "cr-x-behind-size": chunked(b"3\rxabc\r\n" + LAST),
            "cr-behind-last-size": chunked(b"3\r\nabc\r\n0\r\r\n"),
            "cr-at-the-end": chunked(b"3\r\nabc\r\n0\r\n\r") + b"x" + SMUGGLED,
            "lf-cr": chunked(b"3\n\rabc\r\n" + LAST),
        },
        also=(ABC,),
    ),
    rule(
        "chunk-data-ending",
        "RFC 9112 7.1; CVE-2025-43859 (h11); Funky Chunks TERM.SPILL, ONE.TWO, TWO.ONE, ZERO.TWO (2025)",
        "behind a chunk's data comes CRLF and nothing else, or it is refused",
        BAD,
        {
            "nothing": chunked(b"3\r\nabc0\r\n\r\n"),
            "nothing-second": chunked(b"3\r\nabc3\r\nabc\r\n" + LAST),
            "lf": chunked(b"3\r\nabc\n" + LAST),
            "cr": chunked(b"3\r\nabc\r" + LAST),
            "cr-cr": chunked(b"3\r\nabc\r\r" + LAST),
            "lf-lf": chunked(b"3\r\nabc\n\n" + LAST),
            "lf-cr": chunked(b"3\r\nabc\n\r" + LAST),
            "two-other-bytes": chunked(b"3\r\nabcXX" + LAST),
            "one-byte-more": chunked(b"3\r\nabcd\r\n" + LAST),
            "many-bytes-more": chunked(b"3\r\nabcdefghijklmnop\r\n" + LAST),
            "space-cr-lf": chunked(b"3\r\nabc \r\n" + LAST),
            "attack": chunked(b"3\r\nabcXX" + _ATTACK_CHUNK + b"\r\n" + LAST + SMUGGLED + b"\r\n" + LAST),
        },
        also=(ABC,),
    ),
    rule(
        "chunk-extension-malformed",
        "RFC 9112 7.1.1; CVE-2021-22960 (llhttp), CVE-2025-55315 (Kestrel); Funky Chunks TERM.EXT, EXT.TERM (2025)",
        "line ends, controls and NUL within a chunk extension are refused",
        BAD,
        {
            "lf": _size("3;a\nb"),
            "lf-quoted": _size('3;ext="a\nb"'),
            "cr": _size("3;a\rb"),
            "cr-quoted": _size('3;ext="a\rb"'),
            "crlf-quoted": _size('3;ext="a\r\nb"'),
            "escaped-lf": _size('3;ext="a\\\nb"'),
            "nul": _size("3;a\x00b"),
            "nul-quoted": _size('3;ext="a\x00b"'),
            "vertical-tab": _size("3;a\x0bb"),
            "delete": _size("3;a\x7fb"),
            "term.ext-attack": chunked(b"2;\nxx\r\n%x\r\n" % (len(SMUGGLED) + 5) + LAST + SMUGGLED + b"\r\n" + LAST),
            "ext.term-attack": chunked(b"3;\n0\r\n\r\n" + SMUGGLED),
            "lf-in-last": chunked(b"3\r\nabc\r\n0;a\nb\r\n\r\n"),
        },
    ),
    rule(
        "chunk-extension-not-grammar",
        "RFC 9112 7.1.1",
        "what follows a size and is no extension by the grammar is refused",
        BAD,
        {
            "no-semicolon": _size("3 ext"),
            "empty": _size("3;"),
            "empty-twice": _size("3;;"),
            "no-name": _size("3;=x"),
            "no-value": _size("3;ext="),
            "unended-quote": _size('3;ext="a'),
            "two-words": _size("3;a b"),
            "behind-quote": _size('3;ext="a"b'),
            "delimiter": _size("3;a@b"),
        },
        also=(ABC,),
    ),
    rule(
        "chunk-extension-too-long",
        "RFC 9112 7.1.1: limit the total length; CVE-2023-39326 (Go)",
        "endless extensions are refused",
        Refused((400, 413, 431), begun=True),
        {"one-line": _size("3;ext=" + "a" * 200_000)},
        also=(ABC,),
    ),
    rule(
        "chunk-extension-sound",
        "RFC 9112 7.1.1: a recipient MUST ignore unrecognized chunk extensions",
        "a sound extension changes nothing",
        ABC,
        {
            "name": _size("3;ext"),
            "value": _size("3;ext=1"),
            "quoted": _size('3;ext="a b"'),
            "escaped": _size('3;ext="a\\"b"'),
            "quoted-semicolon": _size('3;ext="a;b=0"'),
            "several": _size("3;a;b=1;c"),
            "bad-whitespace": _size("3 ; ext = 1"),
            "last": chunked(b"3\r\nabc\r\n0;ext=1\r\n\r\n"),
            "obs-text": _size('3;ext="\xe9"'),
        },
        also=(BAD,),
    ),
    rule(
        "trailers-malformed",
        "RFC 9112 7.1.2, 5; CVE-2023-46589 (Tomcat), CVE-2025-53643 (aiohttp)",
        "trailer lines are checked as all field lines are: malformed ones are refused",
        Refused((400, 431), begun=True),
        {
            "no-colon": _trailer("trailer\r\n"),
            "space-before-colon": _trailer("X : y\r\n"),
            "empty-name": _trailer(": y\r\n"),
            "folded": _trailer("X: y\r\n z\r\n"),
            "folded-first": _trailer(" X: y\r\n"),
            "nul": _trailer("X: y\x00\r\n"),
            "cr": _trailer("X: y\rz\r\n"),
            "lf": _trailer("X: y\nZ: z\r\n"),
            "lf-ends": _trailer("X: y\n"),
            "name-with-space": _trailer("X y: z\r\n"),
            "name-not-ascii": _trailer("\xe9: z\r\n"),
            "request-line": chunked(b"3\r\nabc\r\n0\r\n" + SMUGGLED),
            "request-line-with-colon": chunked(
                b"3\r\nabc\r\n0\r\nGET http://evil.test/smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n"
            ),
        },
        also=(ABC,),
    ),
    rule(
        "trailers-too-large",
        "RFC 9110 5.4; RFC 9112 7.1.2",
        "a trailer section is bounded",
        Refused((400, 413, 431), begun=True),
        {"long": _trailer("X: " + "y" * 200_000 + "\r\n"), "many": _trailer("X: y\r\n" * 20_000)},
        also=(ABC,),
    ),
    rule(
        "trailers-forbidden",
        "RFC 9110 6.5.1: a sender MUST NOT generate framing, routing, controls or authentication in trailers; 6.5.2",
        "such fields in a trailer do not become fields of the head: they are dropped, or the request is refused",
        Forwarded((Seen(body=b"abc", fields={b"host": (b"case.test",), b"authorization": (), b"cookie": ()}),)),
        {
            "content-length": _trailer("Content-Length: 100\r\n"),
            "transfer-encoding": _trailer("Transfer-Encoding: gzip\r\n"),
            "host": _trailer("Host: evil.test\r\n"),
            "authorization": _trailer("Authorization: Basic eA==\r\n"),
            "cookie": _trailer("Cookie: a=b\r\n"),
            "x-forwarded-for": _trailer("X-Forwarded-For: 6.6.6.6\r\n"),
            "connection": _trailer("Connection: close\r\n"),
        },
        also=(BAD,),
    ),
    rule(
        "trailers-sound",
        "RFC 9112 7.1.2: discard or forward",
        "a sound trailer leaves the body as it is",
        ABC,
        {
            "one": _trailer("X-Checksum: 1\r\n"),
            "several": _trailer("X-A: 1\r\nX-B: 2\r\nX-A: 3\r\n"),
            "announced": post("Trailer: X-A", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\nX-A: 1\r\n\r\n"),
            "empty-value": _trailer("X-A:\r\n"),
            "in-pieces": (chunked(b"3\r\nabc\r\n0\r\nX-"), b"A: 1", b"\r", b"\n\r", b"\n"),
        },
    ),
)

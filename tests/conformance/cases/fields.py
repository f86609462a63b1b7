"""Field lines: names, values, line ends, folding, how many and how large (RFC 9112 section 5, RFC 9110 section 5)."""

from __future__ import annotations

from tests.conformance.cases.case import (
    HOST,
    SMUGGLED,
    TOKEN_BYTES,
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


def _kept(line: str, *values: str) -> Forwarded:
    name = line.partition(":")[0].lower().encode()
    return Forwarded((Seen(fields={name: tuple(value.encode("latin-1") for value in values)}),))


RULES: tuple[Rule[Case], ...] = (
    rule(
        "space-before-colon",
        "RFC 9112 5.1: a server MUST reject with 400",
        "whitespace between a name and its colon is refused",
        Refused(),
        {
            "space": get("X : y"),
            "tab": get("X\t: y"),
            "spaces": get("X   : y"),
            "known-field": get("Cookie : y"),
            "empty-value": get("X :"),
        },
    ),
    rule(
        "folded-line",
        "RFC 9112 5.2: a server MUST reject with 400, or replace the fold with spaces",
        "obs-fold is refused",
        Refused(),
        {
            "space": get("X: y\r\n z"),
            "tab": get("X: y\r\n\tz"),
            "looks-like-field": get("X: y\r\n Z: z"),
            "blank": get("X: y\r\n "),
            "only-space-at-the-end": get("X: y\r\n  \r\n "),
            "empty-value": get("X:\r\n y"),
            "twice": get("X: y\r\n z\r\n z"),
            "cookie": get("Cookie: a=b;\r\n c=d"),
            "behind-host": get("\tx"),
        },
        also=(Forwarded(),),
    ),
    rule(
        "first-line-folded",
        "RFC 9112 2.2: reject, or consume without processing, whitespace before the first field",
        "whitespace at the start of the first field line is refused",
        Refused(),
        {
            "space": b"GET /case HTTP/1.1\r\n X: y\r\nHost: case.test\r\n\r\n",
            "tab": b"GET /case HTTP/1.1\r\n\tX: y\r\nHost: case.test\r\n\r\n",
            "blank": b"GET /case HTTP/1.1\r\n \r\nHost: case.test\r\n\r\n",
            "continues-line": b"GET /case\r\n HTTP/1.1\r\nHost: case.test\r\n\r\n",
        },
        also=(Forwarded((Seen(fields={b"x": ()}),)), Refused((400, 505))),
    ),
    rule(
        "name-empty",
        "RFC 9110 5.1; CVE-2023-25725 (HAProxy)",
        "an empty field name, or a line without a colon, is refused",
        Refused(),
        {
            "no-name": get(": y"),
            "only-colon": get(":"),
            "first": b"GET /case HTTP/1.1\r\n: y\r\nHost: case.test\r\n\r\n",
            "no-colon": get("X"),
            "two-words": get("X y"),
            "no-colon-first": b"GET /case HTTP/1.1\r\nX\r\nHost: case.test\r\n\r\n",
            "equals-sign": get("X=y"),
            "hides-length": get(": x", "Content-Length: 5") + b"hello",
            "request-line": get("GET /smuggled HTTP/1.1"),
        },
    ),
    rule(
        "name-characters",
        "RFC 9110 5.1, 5.6.2; CVE-2021-43797 (Netty)",
        "a name with a character that no token has is refused",
        Refused(),
        {
            byte_name(byte): get(b"X%cY: z" % byte)
            for byte in range(0x100)
            if byte not in TOKEN_BYTES
            and byte not in b"\r\n:"
            and (byte < 0x80 or byte in (0x80, 0x85, 0xA0, 0xC3, 0xFF))
        },
    ),
    rule(
        "name-characters-at-the-ends",
        "RFC 9110 5.1, 5.6.2",
        "likewise at a name's beginning and end",
        Refused(),
        {
            **{f"first-{byte_name(byte)}": get(b"%cX: y" % byte) for byte in b'\x00\x01\x0b\x7f\x80\xa0"(,/;=@[{'},
            **{f"last-{byte_name(byte)}": get(b"X%c: y" % byte) for byte in b'\x00\x01\x0b\x7f\x80\xa0"(,/;=@[{'},
        },
    ),
    joined(
        *(
            rule(
                "name-kept",
                "RFC 9110 5.6.2",
                "a name of any token's characters is forwarded",
                _kept(f"{name}: y", "y"),
                {name: get(f"{name}: y")},
            )
            for name in ("X-Case", "x", "0", "X_Y", "X.Y", "!#$%&'*+-.^_`|~", "a" * 200)
        )
    ),
    rule(
        "value-must-not",
        "RFC 9110 5.5: CR, LF and NUL: reject, or replace each with SP; response splitting",
        "CR, LF or NUL within a value is refused",
        Refused(),
        {
            "nul": get("X: y\x00z"),
            "nul-first": get("X: \x00"),
            "nul-last": get("X: y\x00"),
            "cr": get("X: y\rz"),
            "cr-first": get("X: \ry"),
            "cr-last": get("X: y\r"),
            "cr-looks-like-field": get("X: y\rZ: z"),
            "lf-looks-like-text": get("X: y\nz"),
            "lf-empty-line-attack": get("X: y\n\nGET /second HTTP/1.1\nHost: evil.test\n\n"),
            "known-field": get("Cookie: a=\x00b"),
            "user-agent": get("User-Agent: a\rb"),
        },
        also=(Forwarded((Seen(fields={b"x": (b"y z",)}),)),),
    ),
    rule(
        "value-controls",
        "RFC 9110 5.5: other controls are invalid",
        "a control other than tab within a value is refused",
        Refused(),
        {byte_name(byte): get(b"X: y%cz" % byte) for byte in (*range(0x20), 0x7F) if byte not in b"\x00\t\r\n"},
        also=(Forwarded(),),
    ),
    joined(
        *(
            rule(
                "value-kept",
                "RFC 9110 5.5; RFC 9112 5.1",
                "a sound value is forwarded byte for byte, without the whitespace around it",
                _kept("X: y", kept),
                {name: get(f"X:{given}")},
            )
            for name, given, kept in (
                ("plain", " y", "y"),
                ("no-space", "y", "y"),
                ("many-spaces", "   y  ", "y"),
                ("tabs", "\ty\t", "y"),
                ("within", " a  b\tc", "a  b\tc"),
                ("empty", "", ""),
                ("blank", " \t ", ""),
                ("colons", " a:b: c", "a:b: c"),
                ("quotes", ' "a, \\"b"', '"a, \\"b"'),
                ("printable", " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
                ("obs-text", " \x80\xa0\xe9\xff", "\x80\xa0\xe9\xff"),
                ("utf-8", " \u00c3\u00a9", "\u00c3\u00a9"),
                ("long", " " + "y" * 4_000, "y" * 4_000),
            )
        ),
        rule("value-kept", "RFC 9110 5.3", "", _kept("X:", "1", "2", "1"), {"repeated": get("X: 1", "x: 2", "X: 1")}),
        rule(
            "value-kept",
            "RFC 9110 5.3",
            "",
            _kept("X:", "y"),
            {"in-pieces": (b"GET /case HTTP/1.1\r\nHost: case.test\r\nX", b":", b" ", b"y", b"\r", b"\n\r", b"\n")},
        ),
    ),
    rule(
        "line-ending-lf",
        "RFC 9112 2.2: a recipient MAY recognize a single LF as a line terminator",
        "a line that ends with a bare LF is refused",
        Refused(),
        {
            "request-line": b"GET /case HTTP/1.1\nHost: case.test\r\n\r\n",
            "field": b"GET /case HTTP/1.1\r\nHost: case.test\nX: y\r\n\r\n",
            "last-field": b"GET /case HTTP/1.1\r\nHost: case.test\r\nX: y\n\r\n",
            "empty-line": b"GET /case HTTP/1.1\r\nHost: case.test\r\n\n",
            "all": b"GET /case HTTP/1.1\nHost: case.test\n\n",
            "request-line-pieces": (b"GET /case HTTP/1.1", b"\n", b"Host: case.test\r\n\r\n"),
        },
        also=(Forwarded(),),
    ),
    rule(
        "line-ending-cr",
        "RFC 9112 2.2: a bare CR is invalid, or replaced with SP",
        "a bare CR, and CR CR LF, is refused",
        Refused((400, 505)),
        {
            "request-line": b"GET /case HTTP/1.1\rHost: case.test\r\n\r\n",
            "field": b"GET /case HTTP/1.1\r\nHost: case.test\rX: y\r\n\r\n",
            "all": b"GET /case HTTP/1.1\rHost: case.test\r\r",
            "cr-cr-lf-field": b"GET /case HTTP/1.1\r\nHost: case.test\r\r\n\r\n",
            "cr-cr-lf-end": b"GET /case HTTP/1.1\r\nHost: case.test\r\n\r\r\n",
            "cr-cr-lf-in-name": b"GET /case HTTP/1.1\r\nHost: case.test\r\n\rX: y\r\n\r\n",
            "empty-line": b"GET /case HTTP/1.1\r\nHost: case.test\r\n\r" + SMUGGLED,
            "lf-cr": b"GET /case HTTP/1.1\n\rHost: case.test\n\r\n\r",
        },
        also=(Forwarded(),),
    ),
    rule(
        "head-too-large",
        "RFC 9110 5.4; RFC 6585 5",
        "a head beyond the bound is 431",
        Refused((431,)),
        {
            "one-value": get("X: " + "y" * 200_000),
            "one-name": get("x" * 200_000 + ": y"),
            "no-end": get("X: " + "y" * 200_000)[:-4],
            "cookies": get(*["Cookie: " + "c" * 4_000] * 60),
            "many-fields": get(*[f"X-{number}: y" for number in range(20_000)]),
        },
        also=(Refused((400, 431)),),
    ),
    rule(
        "too-many-fields",
        "RFC 9110 5.4; RFC 6585 5: algorithmic complexity",
        "more fields than the bound are 431, however small",
        Refused((431,)),
        {"2000": get(*["a:"] * 2_000), "2000-different": get(*[f"{number}:" for number in range(2_000)])},
        also=(Refused((400, 431)), Forwarded()),
    ),
    rule(
        "head-large",
        "RFC 9110 5.4",
        "a head of a size that is met in practice is forwarded",
        Forwarded(),
        {"7-kilobytes": get("Cookie: " + "c" * 7_000), "60-fields": get(*[f"X-{number}: y" for number in range(60)])},
    ),
    rule(
        "request-line-inside-head",
        "RFC 9112 2.1",
        "a request line within a head that has not ended begins no request: refused",
        Refused(),
        {
            "glued": b"GET /case HTTP/1.1\r\nHost: " + HOST + b"\r\nX",
            "line": b"GET /case HTTP/1.1\r\nHost: " + HOST + b"\r\n",
        },
    ),
)

"""The grammar of HTTP/1.1 heads, as strict as the RFCs allow, and words for what breaks it.

One regular expression decides about a whole header section. It holds nothing but what RFC 9110 section 5 and RFC 9112
sections 3 and 5 derive, so that no byte reaches a backend that two implementations could read in two ways. The slow
half of this module only finds the words: it runs when a head has been refused already.

All quantifiers are possessive: the time to match is linear in the length, whatever is sent.
"""

from __future__ import annotations

import re

CRLF = b"\r\n"
END_OF_HEAD = b"\r\n\r\n"

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
"""RFC 9110 section 5.6.2."""

REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!\"$-~]++) (HTTP/[0-9]\.[0-9])")
"""RFC 9112 section 3, with single spaces, and no fragment in the target. Groups: method, target, version."""

STATUS_LINE = re.compile(rb"(HTTP/[0-9]\.[0-9]) ([0-9]{3})(?: ([\t -~\x80-\xff]*+))?+")
"""RFC 9112 section 4; the space before a missing reason may be missing too. Groups: version, status, reason."""

FIELDS = re.compile(rb"(?:" + TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+")
"""RFC 9112 section 5: no space before the colon, no folded lines, no control characters but tabs."""

ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?#]++)([^#]*+)")
"""RFC 9112 section 3.2.2. Groups: authority, and path with query, either of which may be missing."""

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]++\]|(?:[0-9A-Za-z\-._~]|%[0-9A-Fa-f]{2})*+)(?::[0-9]{0,5})?+")
"""uri-host [":" port] (RFC 9110 section 7.2), without what no name of a host has had yet: sub-delims, IPvFuture."""

PROTOCOL = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?+")
"""An element of Upgrade (RFC 9110 section 7.8)."""

IDEMPOTENCY_KEY = re.compile(rb"(?:^|\n)(?i:idempotency-key):[ \t]*+[^ \t\r]")
"""A field of that name with a value, among the lines of a section."""

_QUOTED = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+\""
_BWS = rb"[\t ]*+"
_EXTENSION = _BWS + rb";" + _BWS + TOKEN + rb"(?:" + _BWS + rb"=" + _BWS + rb"(?:" + TOKEN + rb"|" + _QUOTED + rb"))?+"
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*+")
"""chunk-size [ chunk-ext ] (RFC 9112 section 7.1). The size is below 2**60."""

_NEVER_LEGAL = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def illegal_byte(data: bytes, at: int = 0) -> str | None:
    """Say what in an unfinished head can't become legal any more: a bare CR or LF, a control character. Or None."""
    found = _NEVER_LEGAL.search(data, at)
    return None if found is None else _word_for(found.group()[0])


def why_no_request_line(line: bytes) -> str:
    """Say what is wrong with a request line that REQUEST_LINE does not match."""
    if (illegal := illegal_byte(line)) is not None:
        return f"{illegal} in the request line"
    parts = line.split(b" ")
    if len(parts) == 2:
        return "a request line without a version (HTTP/0.9)"
    if len(parts) != 3 or not all(parts):
        return "a request line that is not method, target and version with one space between"
    if re.fullmatch(TOKEN, parts[0]) is None:
        return "a method that is no token"
    if b"#" in parts[1]:
        return "a fragment in the target"
    if re.fullmatch(rb"[!-~]+", parts[1]) is None:
        return "a target with characters that must be percent-encoded"
    return "a version that is not one of HTTP's"


def why_no_fields(section: bytes) -> str:
    """Say what is wrong with a header section that FIELDS does not match."""
    if (illegal := illegal_byte(section)) is not None:
        return f"{illegal} in the head"
    for line in section.split(CRLF):
        if not line or FIELDS.fullmatch(line + CRLF):
            continue
        name, colon, _ = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            return "a folded line, or white space before the first field"
        if not colon:
            return "a field without a colon"
        if not name:
            return "a field without a name"
        if name[-1:] in (b" ", b"\t"):
            return "white space between a field's name and its colon"
        return "an illegal character in the name of a field"
    return "a malformed field"


def _word_for(byte: int) -> str:
    return {0x0A: "a bare line feed", 0x0D: "a bare carriage return", 0: "a NUL"}.get(byte, "a control character")

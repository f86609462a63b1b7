"""What the ASGI server in front decides (uvicorn with httptools), not distributer behind it.

For these, the ASGI door's outcome is reported and only its safety asserted: nothing malformed and nothing smuggled
reaches an origin, answers are not mixed up, and the next client is served.
"""

from __future__ import annotations

_CHUNKS = "llhttp reads the chunks, and takes what it takes: extensions without name or value, or of any length"
_TRAILERS = "uvicorn adds trailers to the head's fields if they come with it, and bounds neither"
_TARGET = (
    "uvicorn hands over a path and a query: fragment, scheme, authority and an empty query's question mark are lost"
)
_LINE = "llhttp passes over what stands before a request line, and over spaces within it"
_PIPELINE = "uvicorn answers a malformed request at once with 400, before the answers that it still owes"
_BOUNDS = "uvicorn bounds no head"
_UPGRADE = "llhttp stops reading behind an offer to change protocols; uvicorn answers, drops the rest, and waits"

SERVER_DECIDES: dict[str, str] = {
    "chunk-extension-not-grammar": _CHUNKS,
    "chunk-extension-too-long": _CHUNKS,
    "trailers-too-large": _TRAILERS,
    "trailers-forbidden": _TRAILERS,
    "target-absolute": _TARGET,
    "target-absolute-malformed": _TARGET,
    "target-absolute-other-scheme": _TARGET,
    "target-fragment": _TARGET,
    "target-kept//?": _TARGET,
    "target-kept//a?": _TARGET,
    "request-line-whitespace": _LINE,
    "empty-lines-before": _LINE,
    "garbage-behind-body": _PIPELINE,
    "pipelined-bad-second": _PIPELINE,
    "pipelined-bad-body": _PIPELINE,
    "upgrade-h2c": _UPGRADE,
    "upgrade-not-taken-up": _UPGRADE,
    "upgrade-with-body": _UPGRADE,
    "method-too-long": _BOUNDS,
    "other-protocol/rtsp": "llhttp takes RTSP's and Icecast's lines for HTTP's",
    "other-protocol/rtsp-path": "llhttp takes RTSP's and Icecast's lines for HTTP's",
    "other-protocol/ice": "llhttp takes RTSP's and Icecast's lines for HTTP's",
    "method-forwarded": "llhttp knows a list of methods and takes no other",
    "transfer-coding-forwarded/tabs": "llhttp takes no tab around `chunked`",
    "answer-chunks-sound/http-1.0-client": "uvicorn frames answers, and sends chunks to HTTP/1.0 clients too",
}
"""A rule's name, or a case's, to the reason."""


def server_decides(case: str) -> str:
    """Say why the ASGI server decides that case; empty if it does not."""
    return SERVER_DECIDES.get(case) or SERVER_DECIDES.get(case.partition("/")[0], "")

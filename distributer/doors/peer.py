"""Who holds a client's connection, as the doors see it: an address, UNIX or UNKNOWN; and the scheme that it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

from distributer.wire.fields import Field
from distributer.wire.node import UNIX, UNKNOWN


def peer_of(transport: asyncio.BaseTransport) -> tuple[str, bytes]:
    """Ask a transport."""
    scheme = b"https" if transport.get_extra_info("sslcontext") else b"http"
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return str(peer[0]), scheme
    return UNIX if isinstance(transport.get_extra_info("sockname"), str) else UNKNOWN, scheme


def peer_of_scope(scope: MutableMapping[str, Any], receive: object, forwarded: Sequence[Field]) -> tuple[str, bytes]:
    """Ask an ASGI server, and do not let it speak for the client.

    Servers may write what X-Forwarded-For and -Proto say over the scope, before anybody here can see who is speaking:
    uvicorn does, for peers at 127.0.0.1, unless told not to. Whom to believe is for our settings to say, for both doors
    alike. So where such fields have come (`forwarded`, as RequestHead has them), the transport is asked, which
    uvicorn's `receive` knows. Of another server, or behind middleware that hides `receive`, a scope that agrees with
    these fields is not believed.
    """
    client, scheme = scope.get("client"), scope["scheme"].encode()
    server = scope.get("server")
    peer = client[0] if client else UNIX if server and server[1] is None else UNKNOWN
    if not forwarded:
        return peer, scheme
    transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)
    if hasattr(transport, "get_extra_info"):  # uvloop's transports are asyncio's in all but name
        return peer_of(transport)
    said = [value for name, value in forwarded if name == b"x-forwarded-for"]
    if any(peer.encode() in value for value in said):
        peer = UNKNOWN
    if any(name == b"x-forwarded-proto" for name, _ in forwarded):
        scheme = b"http"
    return peer, scheme

"""Resets: a connection that ends before what it carried was whole must not end like one that is done."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, 0 s: closing sends a reset."""


def reset(transport: asyncio.WriteTransport) -> None:
    """Close at once, by a reset. What is not sent yet is dropped."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def has_failed(transport: asyncio.WriteTransport) -> bool:
    """Ask the socket whether its connection is broken, which nobody is told who does not read from it.

    That takes the error off the socket: abort the transport then.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    except (OSError, ValueError):
        return False  # closed already

"""Resets: a connection that ends before what it carried was whole must not end like one that is done.

And what only a connection's socket knows: that it broke, that the peer has left, that something has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, 0 s: closing sends a reset."""

_LEFT = getattr(select, "POLLRDHUP", 0)
"""The peer has closed its half, whatever of it is unread. Only Linux tells; elsewhere, when both halves are closed."""


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


def has_left(transport: asyncio.WriteTransport) -> bool:
    """Ask the socket whether its peer has closed or broken the connection, though nobody reads from it."""
    return _polled(transport, _LEFT)


def has_unread(transport: asyncio.WriteTransport) -> bool:
    """Ask the socket whether something has come that the transport has not read yet."""
    return _polled(transport, select.POLLIN)


def _polled(transport: asyncio.WriteTransport, events: int) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return False
    poll = select.poll()
    try:
        poll.register(sock.fileno(), events)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return False  # closed already

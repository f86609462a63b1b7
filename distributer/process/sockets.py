"""The listening sockets: opened by the supervisor, lent to the workers.

On Linux each worker slot has a socket of its own in one SO_REUSEPORT group: the kernel spreads new connections evenly,
and a slot's queue outlives its worker, whose successor goes on with it. Elsewhere SO_REUSEPORT does not spread, and all
slots share one socket. docs/architecture.md has the measurement.
"""

from __future__ import annotations

import errno
import socket
import sys

from distributer.errors import StartupError

BACKLOG = 2048
SHARE_ONE_SOCKET = sys.platform != "linux"


def listen(
    host: str, port: int, slots: int, *, share: bool = SHARE_ONE_SOCKET, setting: str = "port"
) -> list[socket.socket]:
    """Open one listening socket for each slot, or one for all if `share`.

    Raises StartupError that names what the user has to change: `setting`, or the host that goes with it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # of a name that cannot be one, such as "a..b"
        raise _not_ours(host, setting) from error
    sockets: list[socket.socket] = []
    try:
        # First alone: a SO_REUSEPORT group lets in any socket of the same user, another cluster's too.
        probe = _bound(family, kind, protocol, address, reuse_port=False)
        if share or slots == 1:
            probe.listen(BACKLOG)
            return [probe] * slots
        probe.close()
        while len(sockets) < slots:
            sockets.append(_bound(family, kind, protocol, address, reuse_port=True))
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise _not_ours(host, setting) from error
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"{setting}: {port} on {host} is in use") from error
        raise StartupError(f"{setting}: {port} on {host} cannot be used: {error.strerror}") from error
    return sockets


def _not_ours(host: str, setting: str) -> StartupError:
    return StartupError(f"{setting.replace('port', 'host')}: {host!r} is no address of this machine")


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock

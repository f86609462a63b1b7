"""What the service manager is told: sd_notify's protocol, over the socket that it names in the environment.

systemd starts a service of `Type=notify`, waits for READY=1, and shows the STATUS line in `systemctl status`. With
`WatchdogSec=` it ends a service from which nothing comes for so long. Where there is no such manager, nothing is sent.
See sd_notify(3); the datagrams are lines `NAME=value`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Self

WAIT_S = 5.0
"""The longest that a step is told to a manager which does not read for now. What can come again is not waited for."""


class Notifier:
    """Tells the service manager, if there is one, how the service stands."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """`address`: of the manager's socket; an abstract one begins with `@`. `watchdog_s`: how long it bears no sign
        of life, if it does not bear that for ever."""
        self._address = address
        self._status = ""
        self.watchdog_s = watchdog_s

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> Self:
        """Read what the manager has put into the environment, and take it out: it is for this process alone."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        is_meant = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = is_meant and microseconds.isdecimal() and int(microseconds) > 0
        # Of other kinds (vsock, for virtual machines) none is a service's.
        return cls(address if address[:1] in ("/", "@") else None, int(microseconds) / 1e6 if watched else None)

    def ready(self, status: str) -> None:
        """It serves; or a reload is over."""
        self._send(WAIT_S, "READY=1", f"STATUS={self._shown(status)}")

    def reloading(self, status: str) -> None:
        """A reload has begun. `ready` is to follow."""
        # By this time the manager tells whether it is the reload that it has asked for.
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(WAIT_S, "RELOADING=1", f"MONOTONIC_USEC={now_us}", f"STATUS={self._shown(status)}")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send(WAIT_S, "STOPPING=1", f"STATUS={self._shown(status)}")

    def status(self, line: str) -> None:
        """Show that line, if another is shown."""
        if line != self._status:
            self._send(0, f"STATUS={self._shown(line)}")

    async def keep_alive(self) -> None:
        """Give a sign of life at half the time within which one is expected, until cancelled."""
        while self.watchdog_s is not None:
            self._send(0, "WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2)

    def _shown(self, line: str) -> str:
        self._status = line
        return line.replace("\n", " ")

    def _send(self, wait_s: float, *lines: str) -> None:
        address = self._address
        if address is None:
            return
        where = "\0" + address[1:] if address.startswith("@") else address
        # Nothing of the service hangs on it, and a manager that misses it does what it must.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait_s)
            sock.sendto("\n".join(lines).encode(), where)

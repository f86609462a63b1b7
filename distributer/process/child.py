"""What a child process of the supervisor is told, and how it notices that the supervisor is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from distributer import log
from distributer.config import Settings

READY_LINE = "ready"
SIGN_LINE = "alive"
SIGN_EVERY_S = 1.0
DRAIN_GRACE_S = 0.5
"""How long a draining worker keeps idle connections, and for half of it takes new ones: clients that send meanwhile are
answered `Connection: close`, rather than find their connection closed under their request."""
KILL_MARGIN_S = 3.0
"""How much longer than their drain may take children are waited for, before they are killed."""


def longest_drain_s(settings: Settings) -> float:
    """Say how long after SIGTERM a child that has not ended is killed."""
    return settings.drain_timeout_s + DRAIN_GRACE_S + KILL_MARGIN_S


def sign_every_s(settings: Settings) -> float:
    """Say how often a child gives a sign of life, and is looked after by the supervisor."""
    return min(SIGN_EVERY_S, settings.worker_timeout_s / 4) or SIGN_EVERY_S


@dataclass(frozen=True, slots=True)
class Order:
    """What the supervisor wants: settings, and the listening socket that it lends."""

    settings: Settings
    socket: socket.socket


def take_order() -> Order:
    """Read the order: one line of JSON on standard input, which stays open as long as the supervisor lives."""
    # It is for the supervisor, yet whoever signals all processes of a service, as systemctl does, sends it to us too.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(1)
    order = json.loads(line)
    settings = Settings.model_validate(order["settings"])
    log.configure(settings.log_level, settings.log_format, source=order["name"])
    sock = socket.socket(fileno=order["fd"])
    sock.setblocking(False)
    return Order(settings, sock)


class ChildServer(uvicorn.Server):
    """uvicorn's server, as a child: says when it is ready, and that it lives; ends with the supervisor, and with exit
    status 0."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        os.set_blocking(sys.stdout.fileno(), False)  # a supervisor that is stopped reads nothing
        _tell_supervisor(READY_LINE)
        if self._settings.worker_timeout_s:
            self._give_sign(asyncio.get_running_loop())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on a signal. uvicorn would end itself by the same signal again, when it has stopped."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_reader(sys.stdin.fileno(), self._supervisor_gone)
        yield
        loop.remove_reader(sys.stdin.fileno())

    def _give_sign(self, loop: asyncio.AbstractEventLoop) -> None:
        # As long as the loop runs, through the drain too.
        _tell_supervisor(SIGN_LINE)
        loop.call_later(sign_every_s(self._settings), self._give_sign, loop)

    def _supervisor_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self.should_exit = True
        # Nobody is left to kill it. A thread, not a timer of the loop: that may be what hangs.
        limit = threading.Timer(longest_drain_s(self._settings), os._exit, (1,))
        limit.daemon = True
        limit.start()


def _tell_supervisor(line: str) -> None:
    # If the supervisor has gone, standard input tells us; if it is stopped, it has enough to read.
    with contextlib.suppress(BrokenPipeError, BlockingIOError):
        os.write(sys.stdout.fileno(), f"{line}\n".encode())

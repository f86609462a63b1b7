"""`distributer serve`: a supervisor until a signal ends it. SIGHUP restarts its children, one after another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from distributer.config import Settings
from distributer.model import bracketed
from distributer.process.supervisor import Supervisor

_STDIN = 0


async def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError or StartupError."""
    supervisor = Supervisor(settings, say)
    has_terminal = os.isatty(_STDIN)

    def hang_up() -> None:
        # The same signal says that the terminal it was started from is gone: then it is meant to end.
        if has_terminal and not os.isatty(_STDIN):
            supervisor.interrupt()
        else:
            supervisor.restart()

    with stopping_on_signals(supervisor.interrupt), on_signals((signal.SIGHUP,), hang_up):
        try:
            await supervisor.start()
            workers = f"{settings.replicas} replica{'s' if settings.replicas > 1 else ''}"
            if supervisor.is_interrupted:
                return
            where = f"http://{bracketed(settings.host)}:{settings.port}"
            backends = f"{len(settings.backends)} backend{'s' if len(settings.backends) > 1 else ''}"
            say(f"serving on {where} with {workers}, {backends}")
            await supervisor.run()
        finally:
            await supervisor.stop()


def stopping_on_signals(interrupt: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Call interrupt on SIGTERM and SIGINT."""
    return on_signals((signal.SIGTERM, signal.SIGINT), interrupt)


@contextlib.contextmanager
def on_signals(numbers: Iterable[signal.Signals], act: Callable[[], None]) -> Iterator[None]:
    """Call act on each of these signals."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)

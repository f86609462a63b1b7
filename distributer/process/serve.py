"""`distributer serve`: a supervisor until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

from distributer.config import Settings
from distributer.model import bracketed
from distributer.process.supervisor import Supervisor


async def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError or StartupError."""
    supervisor = Supervisor(settings, say)
    with stopping_on_signals(supervisor.interrupt):
        try:
            await supervisor.start()
            workers = f"{settings.replicas} replica{'s' if settings.replicas > 1 else ''}"
            if supervisor.is_interrupted:
                return
            where = f"http://{bracketed(settings.host)}:{settings.port}"
            say(f"serving on {where} with {workers}, {len(settings.backends)} backends")
            await supervisor.run()
        finally:
            await supervisor.stop()


@contextlib.contextmanager
def stopping_on_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call interrupt on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

"""`distributer serve`: a supervisor until a signal ends it. SIGHUP restarts its children, one after another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Callable, Collection, Iterator

from distributer.config import Settings
from distributer.model import bracketed
from distributer.process.notify import Notifier
from distributer.process.supervisor import Supervisor
from distributer.tasks import end

_STDIN = 0


async def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError or StartupError."""
    notifier = Notifier.taken_from(os.environ)
    supervisor = Supervisor(settings, say, notifier=notifier)
    had_terminal = _is_terminal_or_was()

    def hang_up() -> None:
        # The same signal says that the terminal it was started from is gone: then it is meant to end.
        if had_terminal and not os.isatty(_STDIN):
            supervisor.interrupt()
        else:
            supervisor.restart()

    with stopping_on_signals(supervisor.interrupt), on_signals((signal.SIGHUP,), hang_up):
        watchdog = asyncio.create_task(notifier.keep_alive(), name="watchdog")
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
            await end([watchdog])


def _is_terminal_or_was() -> bool:
    """Whether a terminal is what it was started from; one that has hung up meanwhile is no `isatty` any more."""
    with contextlib.suppress(OSError):
        stdin = os.fstat(_STDIN)
        return stat.S_ISCHR(stdin.st_mode) and stdin.st_rdev != os.stat(os.devnull).st_rdev
    return False


def stopping_on_signals(interrupt: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Call interrupt on SIGTERM and SIGINT."""
    return on_signals((signal.SIGTERM, signal.SIGINT), interrupt)


@contextlib.contextmanager
def on_signals(numbers: Collection[signal.Signals], act: Callable[[], None]) -> Iterator[None]:
    """Call act on each of these signals, those too that were held until now. Afterwards they are held.

    For the process is about to end then, with an exit status of its own: one more SIGTERM must not change that.
    """
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, act)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            loop.remove_signal_handler(number)

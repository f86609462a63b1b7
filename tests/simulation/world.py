"""Virtual time, and the processes that live in it.

Each process has an event loop of its own, which keeps asyncio's promise: what is ready runs in the order in which it
became ready. Which process runs next is a matter of chance, and so is how long everything takes on its way between
them. When no process has anything to do, the clock jumps to the next thing that is due.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tests.simulation.network import Network, Wire
    from tests.simulation.truth import Truth

EPOCH_S = 1_700_000_000.0
"""What `time.time` says at the beginning."""

MAX_STEPS = 200_000
"""Far more than any schedule takes: one that goes on is going round in circles."""


class Violation(Exception):
    """Something that must hold did not."""


class World:
    """The clock, what is due, and whose turn it is."""

    network: Network
    truth: Truth

    def __init__(self, seed: int | str, trace: Callable[[str], None] | None = None) -> None:
        self.random = Random(seed)
        self.chance = self.random.random
        self.now = 0.0
        self.steps = 0
        self.awake: list[Process] = []
        self.processes: list[Process] = []
        self.violation: str | None = None
        self.is_traced = trace is not None
        self._trace = trace
        self._due: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when: float, do: Callable[..., Any], *args: Any) -> None:
        """Do something at that time, in seconds of the virtual clock."""
        self._serial += 1
        heappush(self._due, (when, self._serial, do, args))

    def after(self, delay_s: float, do: Callable[..., Any], *args: Any) -> None:
        """Do something when so much time has passed."""
        self.at(self.now + delay_s, do, *args)

    def between(self, least: float, most: float) -> float:
        """Choose a number."""
        return least + (most - least) * self.chance()

    def fail(self, what: str) -> None:
        """Note what did not hold. What is noted first counts."""
        if self.violation is None:
            self.violation = what
            self.tell("truth", f"VIOLATION {what}")

    def tell(self, who: str, what: str) -> None:
        """Add a line to the trace. Ask `is_traced` first where the text costs time."""
        if self._trace is not None:
            self._trace(f"{self.now * 1000:10.3f} ms  {who:<6} {what}")

    def run(self, until: float) -> None:
        """Let things happen until that time. Raises Violation as soon as something that must hold does not."""
        due, awake, chance = self._due, self.awake, self.chance
        while True:
            if awake:
                process = awake[0] if len(awake) == 1 else awake[int(chance() * len(awake))]
                process.step()
                self.steps += 1
            elif due and due[0][0] <= until:
                self.now, _, do, args = heappop(due)
                do(*args)
            else:
                self.now = until
                return
            if self.violation is not None:
                raise Violation(self.violation)
            if self.steps > MAX_STEPS:
                raise Violation(f"{MAX_STEPS} steps, and no end")


class Process:
    """One operating system process: its event loop (as much of one as is asked for), its connections, and its end."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.loop = cast(asyncio.AbstractEventLoop, self)
        self.is_alive = True
        self.is_buried = False
        self.wires: dict[Wire, None] = {}
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self.is_frozen = False
        self._context = contextvars.Context()
        world.processes.append(self)

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    # Turns.

    def step(self) -> None:
        """Run what has been ready for longest."""
        handle = self._ready.popleft()
        if not self._ready:
            self.world.awake.remove(self)
        self._run(handle)

    def _run(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            events._set_running_loop(self.loop)
            try:
                handle._run()
            finally:
                events._set_running_loop(None)

    def deliver(self, do: Callable[..., Any], *args: Any) -> None:
        """Have something that has come from outside taken up by the process, when its turn comes."""
        if self.is_alive:
            self._add(asyncio.Handle(do, args, self.loop, self._context))

    def _add(self, handle: asyncio.Handle) -> None:
        ready = self._ready
        ready.append(handle)
        if len(ready) == 1 and not self.is_frozen:
            self.world.awake.append(self)

    def _timer_is_due(self, handle: asyncio.Handle) -> None:
        if self.is_alive and not handle.cancelled():
            self._add(handle)

    # Fates.

    def freeze(self, for_s: float) -> None:
        """Stop the process, as by SIGSTOP: what comes meanwhile waits for it."""
        if self.is_alive and not self.is_frozen:
            self.is_frozen = True
            if self._ready:
                self.world.awake.remove(self)
            self.world.after(for_s, self._go_on)

    def _go_on(self) -> None:
        self.is_frozen = False
        if self.is_alive and self._ready:
            self.world.awake.append(self)

    def kill(self) -> None:
        """End the process, as by SIGKILL. The system closes its connections; what they had sent still arrives."""
        self.is_alive = False
        if self._ready and not self.is_frozen:
            self.world.awake.remove(self)
        self._ready.clear()
        for wire in tuple(self.wires):
            wire.orphan()

    def bury(self) -> None:
        """Have its tasks end, so that none complains when it is collected. Whatever they do has no effect any more."""
        self.is_alive, self.is_buried = True, True
        for task in self._tasks:
            task.cancel()
        self.is_frozen = True  # nobody else is to run what is ready
        while self._ready:
            self._run(self._ready.popleft())
        self.is_alive = False

    # What asyncio and the product ask of an event loop.

    def time(self) -> float:
        return self.world.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.loop, context)
        if self.is_alive:
            self._add(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self.loop, context)
        if self.is_alive:
            self.world.at(when, self._timer_is_due, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.loop)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self.loop, **options)
        self._tasks.append(task)
        return task

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        made: asyncio.Future[tuple[Any, Any]] = self.create_future()
        self.world.network.connect(self, (host, port), protocol_factory, made)
        return await made

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.is_alive and not self.is_buried:
            error = context.get("exception")
            self.world.fail(f"{self.name}: {context.get('message')}: {type(error).__name__}: {error}")
            if error is not None and self.world.is_traced:
                for line in "".join(traceback.format_exception(error)).splitlines():
                    self.world.tell(self.name, f"  {line}")

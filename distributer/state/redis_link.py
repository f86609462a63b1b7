"""One pipelined connection to Redis: commands out in one write, replies back in one callback.

redis-py makes the connection (URL, password, TLS, unix socket, Sentinel, database). Then its transport is taken over by
a push-style protocol on hiredis, which saves a task switch and two stream layers on each round trip. `ClientLink` does
the same job through an ordinary redis-py client, where there is no transport to take over: an in-process fake, or a
client that the embedding application brings along.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import hiredis
import redis.asyncio as redis
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ResponseError

from distributer.errors import StateError
from distributer.state.backoff import Backoff
from distributer.state.commit import Command, Reply
from distributer.state.mode import STEADY_S
from distributer.state.redis_client import disconnect
from distributer.state.trouble import FAILURES, RedisTrouble, Trouble, trouble_of
from distributer.tasks import end

Deliver = Callable[[Sequence[Reply] | StateError], None]

FIRST_BACKOFF_S = 0.05
LAST_BACKOFF_S = 1.0
CONNECT_TIMEOUT_S = 2.0
SENTINEL_POLL_S = 1.0
"""How often Sentinel is asked, if the URL names one, whether the master is still the master."""

STALL_GRACE_S = 0.01
"""When this process itself stalled, its timers fire before it reads what came meanwhile: look once more after this."""


class Link(Protocol):
    """A way to make one round trip at a time."""

    def send(self, commands: Sequence[Command], deliver: Deliver) -> None:
        """Send commands as one pipeline; deliver their replies in order, or a StateError. Only while the link is up."""

    async def start(self, on_change: Callable[[StateError | None], None]) -> None:
        """Connect, and stay connected. `on_change` hears of each loss (the reason) and each return (None)."""

    def drop(self, error: StateError) -> None:
        """Give the connection up, and look for another: what it leads to is of no use."""

    async def stop(self) -> None:
        """Close the connection and stop reconnecting."""


class _HotProtocol:
    """Speaks the Redis protocol on a transport that redis-py has connected and authenticated."""

    def __init__(self, on_lost: Callable[[StateError], None]) -> None:
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=ResponseError)
        self._replies: list[Reply] = []
        self._expected = 0
        self._deliver: Deliver | None = None

    def send(self, transport: asyncio.Transport, commands: Sequence[Command], deliver: Deliver) -> None:
        assert self._deliver is None, "one round trip at a time"
        self._expected = len(commands)
        self._deliver = deliver
        transport.write(b"".join([hiredis.pack_command(cast(Any, tuple(command))) for command in commands]))

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._replies.append(reply)
        except hiredis.HiredisError as error:
            self.fail(RedisTrouble(Trouble.GARBAGE, str(error)))
            return
        if len(self._replies) < self._expected:
            return
        if self._deliver is None or len(self._replies) > self._expected:
            self.fail(RedisTrouble(Trouble.GARBAGE, "a reply that nobody asked for"))
            return
        deliver, replies = self._deliver, self._replies
        self._deliver, self._replies = None, []
        deliver(replies)

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    # One batch is under way at a time, whose size is that of what waits: there is no need to hold anybody back.

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(RedisTrouble(Trouble.LOST, str(exc or "")))

    def fail(self, error: StateError) -> None:
        on_lost, self._on_lost = self._on_lost, lambda _error: None
        on_lost(error)
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(error)


class HotLink:
    """A connection of its own, kept up in the background.

    A round trip that takes longer than `budget_s` fails, and the connection with it: replies that come too late would
    be taken for the next ones. Reconnecting backs off from 50 ms to 1 s, until a connection has held for STEADY_S. Each
    one asks Sentinel anew where the master is, if it is Sentinel that knows. The link counts as up again only when a
    PING was answered within the budget.
    """

    def __init__(self, pool: redis.ConnectionPool, budget_s: float) -> None:
        self._pool = pool
        self._budget_s = budget_s
        self._connection: Any = None
        self._protocol: _HotProtocol | None = None
        self._transport: asyncio.Transport | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._on_change: Callable[[StateError | None], None] = lambda _error: None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._awaited: Deliver | None = None
        self._loop = asyncio.get_running_loop()

    def send(self, commands: Sequence[Command], deliver: Deliver) -> None:
        transport, protocol = self._transport, self._protocol
        assert transport is not None, "the link is down"
        assert protocol is not None
        self._awaited = deliver
        self._sent_at = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._budget_s, self._look, None)
        protocol.send(transport, commands, self._replied)

    def _replied(self, replies: Sequence[Reply] | StateError) -> None:
        deliver, self._awaited = self._awaited, None
        if deliver is not None:
            deliver(replies)

    def _look(self, suspect: Deliver | None) -> None:
        """Check the round trip under way. One timer serves all of them: under load it fires once a budget."""
        self._timer = None
        awaited = self._awaited
        if awaited is None or self._protocol is None:
            return
        left_s = self._sent_at + self._budget_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look, None)
        elif suspect is not awaited:
            self._timer = self._loop.call_later(STALL_GRACE_S, self._look, awaited)
        else:
            self._protocol.fail(RedisTrouble(Trouble.LATE, f"no answer within {self._budget_s * 1000:.0f} ms"))

    async def start(self, on_change: Callable[[StateError | None], None]) -> None:
        self._on_change = on_change
        self._keeper = asyncio.create_task(self._keep(), name="redis-link")

    def drop(self, error: StateError) -> None:
        if self._protocol is not None:
            self._protocol.fail(error)

    async def stop(self) -> None:
        if self._keeper is not None:
            await end([self._keeper])
        if self._timer is not None:
            self._timer.cancel()
        self.drop(RedisTrouble(Trouble.STOPPING))
        await self._drop_connection()
        await disconnect(self._pool)

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*FAILURES):
                await connection.disconnect(nowait=True)

    async def _keep(self) -> None:
        backoff = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S, STEADY_S)
        while True:
            held_s = 0.0
            try:
                await self._connect()
            except StateError as error:
                self._on_change(error)
            else:
                up_at = self._loop.time()
                self._on_change(None)
                await self._until_lost()
                held_s = self._loop.time() - up_at
            await asyncio.sleep(backoff.next_s(held_s))

    async def _until_lost(self) -> None:
        """Wait for the loss; bring it about when Sentinel names another master.

        The old one may not know yet, for up to ten seconds, and would take writes that are lost when it does.
        """
        pool = self._pool
        if not isinstance(pool, SentinelConnectionPool):
            await self._lost.wait()
            return
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SENTINEL_POLL_S):
                    await self._lost.wait()
            # A Sentinel that does not answer, or knows of no master, changes nothing.
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    master = await pool.get_master_address()  # type: ignore[no-untyped-call]
                if self._connection is not None and master != (self._connection.host, self._connection.port):
                    self.drop(RedisTrouble(Trouble.DEMOTED, f"Sentinel names {master[0]}:{master[1]}"))

    async def _connect(self) -> None:
        """Let redis-py connect and authenticate, then take its transport over. Raises StateError."""
        await self._drop_connection()
        connection = self._connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connection.connect()
            async with asyncio.timeout(self._budget_s):
                await connection.send_command("PING")
                await connection.read_response()
        except FAILURES as error:
            await self._drop_connection()
            raise trouble_of(error) from error
        # redis-py names no public way to its stream; this is the one place that knows the private one.
        transport = cast(asyncio.Transport, connection._writer.transport)
        self._protocol = _HotProtocol(self._went_down)
        transport.set_protocol(cast(asyncio.BaseProtocol, self._protocol))
        transport.resume_reading()
        self._transport = transport
        self._lost.clear()

    def _went_down(self, error: StateError) -> None:
        transport, self._transport = self._transport, None
        self._protocol = None
        if transport is not None:
            transport.abort()
        self._on_change(error)
        self._lost.set()


class ClientLink:
    """The same through a redis-py client: slower, and at home with fakes.

    One long-lived task makes all round trips, since a redis-py connection does not survive a cancelled command.
    """

    def __init__(self, client: redis.Redis, budget_s: float) -> None:
        self._client = client
        self._budget_s = budget_s
        self._queue: asyncio.Queue[tuple[Sequence[Command], Deliver]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._on_change: Callable[[StateError | None], None] = lambda _error: None
        self._up = False

    def send(self, commands: Sequence[Command], deliver: Deliver) -> None:
        self._queue.put_nowait((commands, deliver))

    async def start(self, on_change: Callable[[StateError | None], None]) -> None:
        self._on_change = on_change
        self._worker = asyncio.create_task(self._work(), name="redis-client-link")

    def drop(self, error: StateError) -> None:
        if self._up:
            self._up = False
            self._on_change(error)

    async def stop(self) -> None:
        if self._worker is not None:
            await end([self._worker])

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S, STEADY_S)
        while True:
            held_s = 0.0
            hello = await self._round_trip([("PING",)])
            if isinstance(hello, StateError):
                self._on_change(hello)
            else:
                up_at = loop.time()
                self._up = True
                self._on_change(None)
                await self._serve()
                held_s = loop.time() - up_at
            await asyncio.sleep(backoff.next_s(held_s))

    async def _serve(self) -> None:
        """Make round trips until one fails, or the link is dropped. Whoever waits then gets the reason."""
        while self._up:
            commands, deliver = await self._queue.get()
            replies = await self._round_trip(commands)
            if isinstance(replies, StateError):
                self.drop(replies)
            deliver(replies)

    async def _round_trip(self, commands: Sequence[Command]) -> Sequence[Reply] | StateError:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(self._budget_s):
                return cast(Sequence[Reply], await pipeline.execute(raise_on_error=False))
        except FAILURES as error:
            return trouble_of(error)


def decoded(value: bytes | str | int) -> str:
    """Read a reply as text, whatever stands in it."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

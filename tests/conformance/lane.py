"""One proxy between a client and an origin that leave nothing to a library, and one case after the other through it.

Lanes run beside each other, each with an origin and a port of the proxy to itself: what an origin sees is of one case.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Container, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from tests.conformance.cases.case import PROBE, AnswerCase, Case, Raw
from tests.support.strict import Answers, Message, Requests

DEADLINE_S = 10.0
"""How long anything may take. What is in order takes no time to speak of."""


def sound(name: str) -> bytes:
    """Make a sound request, the last one of its connection."""
    return f"GET /{name} HTTP/1.1\r\nHost: {name}.test\r\nConnection: close\r\n\r\n".encode()


@dataclass(frozen=True)
class Sighting:
    """A complete request at the origin, and the number of the connection that it came on."""

    message: Message
    connection: int


@dataclass
class Outcome:
    """What became of a case."""

    seen: list[Sighting] = field(default_factory=list)
    begun: list[bytes] = field(default_factory=list)
    """The beginnings of requests that never became complete at the origin."""
    wrong: list[str] = field(default_factory=list)
    """What the origin has to say against the bytes that reached it."""
    answers: Answers = field(default_factory=Answers)
    end: str = "open"
    """How the client's connection was left: closed, reset, or open, though nothing came any more."""
    trouble: list[str] = field(default_factory=list)
    """What was wrong with the sound requests that followed."""


class Origin:
    """A backend by the letter. It answers each request with its number and target, or as the script does."""

    def __init__(self) -> None:
        self.port = 0
        self.script: Script | None = None
        self.connections: set[Backend] = set()
        self.opened = 0
        self.seen: list[Sighting] = []
        self.begun: list[bytes] = []
        self.wrong: list[str] = []

    def begin(self, script: Script | None = None) -> None:
        """Begin a new record, in which the script answers."""
        self.script = script
        self.seen, self.begun, self.wrong = [], [], []
        for connection in self.connections:
            connection.is_of_before = bool(connection.requests.rest)

    def all_begun(self) -> list[bytes]:
        """List what has come of requests that are not complete."""
        return self.begun + [it.requests.rest for it in self.connections if it.requests.rest and not it.is_of_before]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Origin]:
        """Listen on a free port."""
        server = await asyncio.get_running_loop().create_server(lambda: Backend(self), "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in tuple(self.connections):
                connection.transport.abort()
            await server.wait_closed()


class Backend(asyncio.Protocol):
    """One connection to the origin."""

    transport: asyncio.Transport

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        origin.opened += 1
        self.number = origin.opened
        self.requests = Requests()
        self.is_of_before = False
        self._continued: Message | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.origin.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.origin.connections.discard(self)
        if self.requests.rest and not self.is_of_before:
            self.origin.begun.append(self.requests.rest)

    def data_received(self, data: bytes) -> None:
        origin = self.origin
        for message in self.requests.feed(data):
            origin.seen.append(Sighting(message, self.number))
            if origin.script is not None and message.target == origin.script.target:
                origin.script.play(self)
            else:
                body = b"%d %b" % (len(origin.seen), message.target)
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                if message.method != b"HEAD":
                    self.transport.write(body)
        begun = self.requests.begun
        if self.requests.wrong:
            origin.wrong.append(self.requests.wrong)
            self.transport.abort()
        elif begun is not None and begun is not self._continued and begun.values(b"expect"):
            self._continued = begun
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class Script:
    """Answers requests for one target with these bytes, and ends as the case says. `played` once that is done."""

    def __init__(self, raw: Raw, ends: str, target: bytes = b"/case", pause_s: float = 0.002) -> None:
        self.target = target
        self.played = asyncio.Event()
        self._pieces = raw if isinstance(raw, tuple) else (raw,)
        self._ends = ends
        self._pause_s = pause_s
        self._tasks: set[asyncio.Task[None]] = set()

    def play(self, backend: Backend) -> None:
        """Send them."""
        task = asyncio.ensure_future(self._play(backend.transport))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, transport: asyncio.Transport) -> None:
        for number, piece in enumerate(self._pieces):
            if number:
                await asyncio.sleep(self._pause_s)  # so that they are read apart; together would be no fault
            transport.write(piece)
        if self._ends == "close":
            transport.close()
        elif self._ends == "reset":
            await asyncio.sleep(self._pause_s)  # or the reset would overtake the bytes
            reset = cast(socket.socket, transport.get_extra_info("socket"))
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        self.played.set()


class Client(asyncio.Protocol):
    """One client connection; all that comes is read at once."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.end = "open"
        self._news = asyncio.Event()

    @classmethod
    async def connect(cls, port: int) -> Client:
        """Open a connection."""
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        self._news.set()

    def eof_received(self) -> None:
        self.end = "closed"

    def connection_lost(self, exc: Exception | None) -> None:
        if self.end == "open":
            self.end = "closed" if exc is None else "reset"
        self._news.set()

    async def send(self, pieces: Iterable[bytes], pause_s: float = 0.002) -> None:
        """Send pieces, each in a write of its own."""
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause_s)  # so that they are read apart; together would be no fault
            self.transport.write(piece)

    async def until(self, is_enough: Callable[[], bool] = lambda: False, deadline_s: float = DEADLINE_S) -> None:
        """Read until that is enough, the other side closes, or nothing comes any more."""
        try:
            async with asyncio.timeout(deadline_s):
                while self.end == "open" and not is_enough():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass

    @property
    def data(self) -> bytes:
        """All that has come."""
        return b"".join(self.received)

    def read(self, answers: Answers) -> Answers:
        """Read all that has come as answers."""
        answers.feed(self.data)
        if self.end != "open":
            answers.close(is_clean=self.end == "closed")
        return answers

    def leave(self) -> None:
        """Cut the connection."""
        self.transport.abort()


@dataclass
class Lane:
    """A proxy's port, and the origin behind it. `settle_s`: how long the proxy needs to see what the origin did."""

    port: int
    origin: Origin
    settle_s: float = 0.0
    _other: Client | None = None

    async def request(self, case: Case, deadline_s: float = DEADLINE_S) -> Outcome:
        """Send a case's bytes, and the probe behind them; see what comes of it."""
        self.origin.begin()
        pieces = case.raw if isinstance(case.raw, tuple) else (case.raw,)
        if case.probe:
            pieces = (*pieces[:-1], pieces[-1] + PROBE)
        client = await Client.connect(self.port)
        try:
            await client.send(pieces)
            await client.until(deadline_s=deadline_s)
        finally:
            client.leave()
        outcome = Outcome(end=client.end)
        await self.ask(outcome, "fence")
        outcome.seen = [it for it in self.origin.seen if it.message.target != b"/fence"]
        outcome.begun, outcome.wrong = self.origin.all_begun(), self.origin.wrong
        methods = [it.message.method for it in outcome.seen]
        outcome.answers = client.read(Answers(lambda number: methods[number : number + 1] == [b"HEAD"]))
        return outcome

    async def answer(self, case: AnswerCase, deadline_s: float = DEADLINE_S) -> Outcome:
        """Ask, have the origin answer with a case's bytes, and ask again."""
        script = Script(case.raw, case.ends)
        self.origin.begin(script)
        is_head = case.asks.startswith(b"HEAD ")
        client = await Client.connect(self.port)
        try:
            await client.send([case.asks])
            await client.until(lambda: len(client.read(Answers(lambda _: is_head)).final) > 0, deadline_s)
            outcome = Outcome(end=client.end, answers=client.read(Answers(lambda _: is_head)))
            if script.target in {it.message.target for it in self.origin.seen}:
                async with asyncio.timeout(DEADLINE_S):
                    await script.played.wait()
            await self._settle()
            await self._ask_again(client, outcome)
        finally:
            client.leave()
        await self.ask(outcome, "fence")
        outcome.seen = [it for it in self.origin.seen if it.message.target != b"/fence"]
        outcome.begun, outcome.wrong = self.origin.all_begun(), self.origin.wrong
        return outcome

    async def _ask_again(self, client: Client, outcome: Outcome) -> None:
        """Send a second request on the client's connection, if that is still there; it must get its own answer."""
        final = outcome.answers.final
        has_ended = outcome.answers.wrong or outcome.answers.rest or not final or client.end != "open"
        if has_ended or b"close" in final[0].tokens(b"connection") or final[0].is_http10:
            await self.ask(outcome, "next")
            return
        before = len(client.data)
        await client.send([sound("next")])
        await client.until()
        self._check(client.data[before:], client.end, outcome, "next")

    async def ask(self, outcome: Outcome, name: str) -> None:
        """Send a sound request as another client; note in the outcome if it is not answered as it should be."""
        client = await Client.connect(self.port)
        try:
            await client.send([sound(name)])
            await client.until()
        finally:
            client.leave()
        self._check(client.data, client.end, outcome, name)

    async def fence(self) -> str:
        """Send a sound request as another client, on a connection kept for that; say what is wrong with its answer.

        By the time that it is answered, all that the proxy read before it has reached the origin.
        """
        other = self._other
        if other is None or other.end != "open":
            other = self._other = await Client.connect(self.port)
        other.received.clear()
        await other.send([b"GET /fence HTTP/1.1\r\nHost: fence.test\r\n\r\n"])
        await other.until(lambda: bool(other.read(Answers()).messages))
        at = next((at for at, it in enumerate(self.origin.seen, 1) if it.message.target == b"/fence"), 0)
        bodies = [answer.body for answer in other.read(Answers()).messages]
        return (
            ""
            if bodies == [b"%d /fence" % at]
            else f"/fence got {other.data!r:.200}, and the connection is {other.end}"
        )

    def leave(self) -> None:
        """Close the connection kept for fences."""
        if self._other is not None:
            self._other.leave()
            self._other = None

    def _check(self, data: bytes, end: str, outcome: Outcome, name: str) -> None:
        """Check the one answer to a sound request."""
        answers = Answers()
        answers.feed(data)
        answers.close()
        own = [at for at, it in enumerate(self.origin.seen, 1) if it.message.target == b"/" + name.encode()]
        bodies = [answer.body for answer in answers.messages]
        if (
            end != "closed"
            or answers.wrong
            or answers.rest
            or bodies != [b"%d /%b" % (at, name.encode()) for at in own]
        ):
            what = (
                answers.wrong or f"{[answer.start for answer in answers.messages]!r} {bodies!r} {answers.rest[:80]!r}"
            )
            outcome.trouble.append(f"/{name} got {what}, and the connection was {end}")

    async def _settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        if self.settle_s:
            await asyncio.sleep(self.settle_s)


async def run(
    lanes: Iterable[Lane], cases: Iterable[Case | AnswerCase], hasty: Container[str] = (), hasty_s: float = 0.5
) -> dict[str, Outcome]:
    """Run cases through lanes, each case through one of them; return the outcomes by the cases' names.

    `hasty`: the cases that are known to hang, perhaps; they are given `hasty_s`.
    """
    left = iter(cases)
    outcomes: dict[str, Outcome] = {}

    async def work(lane: Lane) -> None:
        for case in left:
            deadline_s = hasty_s if case.name in hasty else DEADLINE_S
            if isinstance(case, Case):
                outcomes[case.name] = await lane.request(case, deadline_s)
            else:
                outcomes[case.name] = await lane.answer(case, deadline_s)

    await asyncio.gather(*(work(lane) for lane in lanes))
    return outcomes

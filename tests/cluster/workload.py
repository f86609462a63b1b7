"""What the clients do: items and rotated GETs, at random, each answer recorded."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable

from tests.cluster.client import Answer, Client, NoAnswerError
from tests.cluster.history import History, Kind, Operation, Ping, Result

TIMEOUT_S = 12.0
"""How long a client waits. Longer than the cluster's own limits: it is to answer by itself."""
PING = b"GET /ping HTTP/1.1\r\nHost: cluster\r\n\r\n"
HOT_ITEMS = 20
"""Items that many clients use at once."""
SHARE_OF_HOT = 0.3
SHARE_OF_PINGS = 0.4
LEAVES_WITH = 0.01
"""How often a client opens a new connection without need."""
_MIX = {Kind.READ: 45.0, Kind.CREATE: 25.0, Kind.PUT: 15.0, Kind.DELETE: 15.0}

_PROBLEM = b"application/problem+json"


def request(kind: Kind, item: int, value: int = 0) -> bytes:
    """Make the request of an operation."""
    if kind is Kind.READ:
        return b"GET /items/%d HTTP/1.1\r\nHost: cluster\r\n\r\n" % item
    if kind is Kind.DELETE:
        return b"DELETE /items/%d HTTP/1.1\r\nHost: cluster\r\n\r\n" % item
    body = b'{"name":"%d","price":1}' % value
    start = b"POST /items/?item_id=%d" if kind is Kind.CREATE else b"PUT /items/%d"
    fields = b"Host: cluster\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return (start % item) + b" HTTP/1.1\r\n" + fields + body


def result_of(kind: Kind, answer: Answer) -> Result | None:
    """Read an answer; None if nothing explains it."""
    is_problem = answer.headers.get(b"content-type", b"").startswith(_PROBLEM)
    if is_problem:
        return {503: Result.NOT_SENT, 502: Result.UNKNOWN, 504: Result.UNKNOWN}.get(answer.status)
    if answer.status == 200:
        return Result.DONE
    if answer.status == 400 and kind is Kind.CREATE:
        return Result.EXISTS
    if answer.status == 404 and kind is not Kind.CREATE:
        return Result.MISSING
    return None


async def ping(client: Client, see: Callable[[Answer], None] = lambda _answer: None) -> Ping:
    """Ask one rotated GET, once more where RFC 9110 section 9.2.2 has a client do so. `see` gets the answer."""
    start = time.perf_counter()
    why, is_served, answer = "", False, None
    try:
        answer = await client.ask(PING, TIMEOUT_S)
    except NoAnswerError as error:
        why = str(error)
        if error.may_retry:
            try:
                answer = await client.ask(PING, TIMEOUT_S)
            except NoAnswerError as second:
                why = f"{why}; again: {second}"
    if answer is not None:
        see(answer)
        is_served = answer.status == 200
        if not is_served:
            why = f"{why} {answer.status}".strip()
    ticket, backend = (answer.ticket, answer.backend) if answer is not None else (None, None)
    return Ping(start, time.perf_counter(), not why, is_served, backend, ticket, why)


class Workload:
    """Clients that go on until they are told to stop."""

    def __init__(self, history: History, port: int, *, clients: int, items: int, rate: float, seed: int) -> None:
        self.history = history
        self.refusals: Counter[str] = Counter()
        """Answers of the distributer itself, by status and title."""
        self.goes_on = True
        self._items = items
        self._think_s = clients / rate
        self._values = itertools.count(1)
        self._clients = [Client(port) for _ in range(clients)]
        self._randoms = [random.Random(f"{seed}/{number}") for number in range(clients)]

    async def run(self) -> None:
        """Run all clients until `goes_on` is False."""
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._clients)):
                group.create_task(self._run(number))

    async def read_all(self) -> None:
        """Read each item once, through the cluster."""

        async def some(number: int) -> None:
            for item in range(number, self._items, len(self._clients)):
                await self._operate(number, Kind.READ, item)

        await asyncio.gather(*(some(number) for number in range(len(self._clients))))

    async def _run(self, number: int) -> None:
        rng = self._randoms[number]
        while self.goes_on:
            await asyncio.sleep(rng.expovariate(1 / self._think_s))
            if rng.random() < LEAVES_WITH:
                self._clients[number].leave()
            if rng.random() < SHARE_OF_PINGS:
                self.history.pings.append(await ping(self._clients[number], self._count))
            else:
                kind = rng.choices(list(_MIX), list(_MIX.values()))[0]
                is_hot = rng.random() < SHARE_OF_HOT
                item = rng.randrange(HOT_ITEMS if is_hot else self._items)
                result = await self._operate(number, kind, item)
                if result is Result.UNKNOWN and kind in (Kind.CREATE, Kind.DELETE):
                    # As people do who got no answer; and it is while an item is in doubt that something can go wrong.
                    await self._operate(number, rng.choice([Kind.CREATE, Kind.CREATE, kind]), item)
        self._clients[number].leave()

    async def _operate(self, number: int, kind: Kind, item: int) -> Result:
        client = self._clients[number]
        value = next(self._values) if kind in (Kind.CREATE, Kind.PUT) else None
        payload = request(kind, item, value or 0)
        for attempt in (1, 2):
            start = time.perf_counter()
            try:
                answer = await client.ask(payload, TIMEOUT_S)
            except NoAnswerError as error:
                end = time.perf_counter()
                self.history.operations.append(Operation(number, item, kind, value, start, end, Result.UNKNOWN))
                if attempt == 1 and error.may_retry and kind is Kind.READ:
                    continue
                return Result.UNKNOWN
            end = time.perf_counter()
            self._count(answer)
            result = result_of(kind, answer)
            if result is None:
                what = f"{kind.value} {item} at {start:.4f} s: {answer.status} {answer.body[:200]!r}"
                self.history.odd.append(what)
                result = Result.UNKNOWN
            elif result is Result.DONE and kind is Kind.READ:
                value = int(json.loads(answer.body)["name"])
            self.history.operations.append(
                Operation(
                    number,
                    item,
                    kind,
                    value,
                    start,
                    end,
                    result,
                    answer.backend,
                    answer.ticket,
                    is_remembered=answer.route == b"remembered",
                )
            )
            return result
        raise AssertionError("it was tried a third time")

    def _count(self, answer: Answer) -> None:
        if answer.status >= 500 and answer.headers.get(b"content-type", b"").startswith(_PROBLEM):
            problem = json.loads(answer.body)
            self.refusals[f"{answer.status} {problem['title']}"] += 1

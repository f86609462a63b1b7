"""Sound messages, spoilt at random, with fixed seeds: thousands of them.

Whatever comes, there are answers or an end, no 500, nothing malformed and nothing that was not sent goes on, and
nothing is left behind. A failure prints its seed: `FUZZ_SEED=… pytest tests/conformance/test_fuzz.py` runs from that
one on, and `FUZZ_CASES=…` runs more of them, or fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence

import httptools
import pytest

from tests.conformance.doors import lanes_of, run_apart
from tests.conformance.lane import Client, Lane, Outcome, Script
from tests.conformance.mutations import ANSWERS, REQUESTS, mutant, pieces
from tests.support.cluster import DOORS
from tests.support.second_opinion import answer_by_h11, requests_by_h11
from tests.support.strict import Answers, Requests
from tests.support.waiting import wait_until_async

SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ_CASES", "1500"))
LANES = 4
HANG_S = 5.0
EMPTY_LINES = re.compile(rb"(\A|\r\n\r\n)(?:\r\n)+(?=HTTP/)")
"""Empty lines before a status line: h11 takes none, and none harms."""
ASK = b"GET /case HTTP/1.1\r\nHost: case.test\r\n\r\n"
SHOWN = 20

Identity = tuple[bytes, bytes, tuple[bytes, ...], bytes]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """uvicorn has something to say of every bad request."""
    with caplog.at_level(logging.CRITICAL, "uvicorn.error"):
        yield


async def fuzz(door: str, one: Callable[[Lane, int], Awaitable[str]], count: int) -> list[str]:
    """Run a number of seeds over a door, and list what is wrong with any; then see that nothing is left behind."""
    wrong: list[str] = []
    async with lanes_of(door, LANES) as lanes:
        left_behind: list[tuple[int, int]] = []
        # The first part fills what is kept (pools, caches); behind it, nothing may grow.
        for start, end in ((0, count // 2), (count // 2, count)):
            seeds = iter(range(SEED + start, SEED + end))

            async def work(lane: Lane, seeds: Iterator[int] = seeds) -> None:
                for seed in seeds:
                    found = await one(lane, seed)
                    if found:
                        wrong.append(f"seed {seed}: {found}")

            await asyncio.gather(*(work(lane) for lane in lanes))
            await asyncio.gather(*(check_health(lane, wrong) for lane in lanes))
            left_behind.append((await descriptors(lanes), blocks()))
        (files_before, blocks_before), (files_after, blocks_after) = left_behind
        if files_after > files_before + 2:
            wrong.append(f"{files_before} open descriptors became {files_after}")
        if blocks_after > blocks_before + 4_000 + blocks_before // 50:
            wrong.append(f"{blocks_before} blocks of memory became {blocks_after}")
    return wrong


async def check_health(lane: Lane, wrong: list[str]) -> None:
    """See that a sound request is served."""
    lane.origin.begin()
    outcome = Outcome()
    await lane.ask(outcome, "health")
    wrong.extend(outcome.trouble)
    lane.leave()


async def descriptors(lanes: Sequence[Lane]) -> int:
    """Count open files without the connections that are kept for reuse, once those of clients have been closed."""

    def count() -> int:
        return len(os.listdir("/dev/fd")) - 2 * sum(len(lane.origin.connections) for lane in lanes)

    seen: list[int] = []

    async def is_steady() -> bool:
        seen.append(count())
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    await wait_until_async(is_steady, "the connections of clients are closed")
    return seen[-1]


def blocks() -> int:
    """Count the blocks of memory in use."""
    gc.collect()
    return sys.getallocatedblocks()


def readings(data: bytes) -> tuple[list[Identity], list[Identity]]:
    """Read a client's bytes by the letter, and as h11 does."""
    strict = Requests(skips_empty_lines=True)
    strict.feed(data)
    return (
        [_identity(it.method, it.target, it.values(b"host"), it.body) for it in strict.messages],
        [_identity(it.start[0], it.start[1], it.values(b"host"), it.body) for it in requests_by_h11(data).complete],
    )


def found_by_server(data: bytes) -> int:
    """Count the requests that the ASGI server in front finds: its parser takes more than the grammar does."""

    class Heads:
        count = 0

        def on_headers_complete(self) -> None:
            self.count += 1

    heads = Heads()
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(heads).feed_data(data)
    return heads.count


def _identity(method: bytes, target: bytes, hosts: tuple[bytes, ...], body: bytes) -> Identity:
    if b"://" in target or not hosts:
        target, hosts = b"", ()  # where a host is to be made up, or two may differ, tables say what is right
    return method, target, hosts, body


async def spoilt_request(lane: Lane, seed: int, *, is_express: bool) -> str:
    """Send a spoilt request. What reaches the origin must be what an independent reader finds in it, and no more."""
    rng = random.Random(seed)
    data = mutant(rng, REQUESTS)
    strict, by_h11 = readings(data)
    expected = max(len(strict), len(by_h11))
    lane.origin.begin()
    client = await Client.connect(lane.port)
    outcome = Outcome()

    heads = {number for number, it in enumerate([*by_h11, *strict[len(by_h11) :]]) if it[0] == b"HEAD"}

    def answers() -> Answers:
        return client.read(Answers(heads.__contains__))

    def has_answered() -> bool:
        return len(answers().final) >= expected

    try:
        await client.send(pieces(rng, data), pause_s=0)
        if expected:
            await client.until(has_answered, HANG_S if is_express else 0.1)
        is_hung = is_express and client.end == "open" and not has_answered()
        fence = await lane.fence()
        outcome.answers = answers()
    finally:
        client.leave()
    outcome.seen, outcome.wrong = lane.origin.seen, lane.origin.wrong
    if not is_express:
        expected = max(expected, found_by_server(data))
    found = fence or _what_is_wrong(outcome, strict, by_h11, expected, is_express=is_express)
    if is_hung:
        found = found or f"{expected} requests, {len(outcome.answers.final)} answers, and neither more nor an end"
    return f"{found}; sent {data!r}" if found else ""


def _what_is_wrong(
    outcome: Outcome, strict: list[Identity], by_h11: list[Identity], expected: int, *, is_express: bool
) -> str:
    final = outcome.answers.final
    seen = [it.message for it in outcome.seen if it.message.target != b"/fence"]
    if outcome.wrong:
        return outcome.wrong[0]
    if outcome.answers.wrong:
        return f"the client got {outcome.answers.wrong}"
    if any(answer.status == 500 for answer in final):
        return "a 500"
    if len(seen) > expected:
        return f"{len(seen)} requests reached the origin, of {expected}"
    if not is_express:
        return ""  # ASGI changes targets
    for number, message in enumerate(seen):
        own = _identity(message.method, message.target, message.values(b"host"), message.body)
        one_of = strict[number : number + 1] + by_h11[number : number + 1]
        if own not in one_of and (own[0], own[3]) not in [(it[0], it[3]) for it in one_of if not it[2]]:
            return f"the origin saw {own!r}, not one of {one_of!r}"
    for number, (answer, message) in enumerate(zip(final, seen, strict=False), 1):
        body = b"" if message.method == b"HEAD" else b"%d %b" % (number, message.target)
        if answer.status != 200 or answer.body != body:
            return f"answer {number} is {answer.start!r} {answer.body!r}, not {body!r}"
    return ""


async def spoilt_answer(lane: Lane, seed: int) -> str:
    """Answer with spoilt bytes. What a client gets as complete must be what an independent reader finds in them."""
    rng = random.Random(seed)
    data = mutant(rng, ANSWERS)
    lane.origin.begin(Script(pieces(rng, data), "close", pause_s=0))
    client = await Client.connect(lane.port)
    try:
        await client.send([ASK])
        await client.until(lambda: bool(client.read(Answers()).final))
        answers = client.read(Answers())
        fence = await lane.fence()
    finally:
        client.leave()
    found = fence or _what_is_wrong_with(answers, data, client.end)
    return f"{found}; the origin sent {data!r}" if found else ""


def _what_is_wrong_with(answers: Answers, data: bytes, end: str) -> str:
    final = answers.final
    if answers.wrong:
        return f"the client got {answers.wrong}"
    if len(final) > 1:
        return f"{len(final)} answers"
    if not final:
        return f"neither an answer nor an end: {answers.rest!r}" if end == "open" else ""
    if final[0].status == 502 and final[0].values(b"content-type") == (b"application/problem+json",):
        return ""
    by_h11 = answer_by_h11(EMPTY_LINES.sub(rb"\1", data))
    expected = [(*it.start, it.body) for it in by_h11.complete]
    if expected[-1:] != [(b"%d" % final[0].status, final[0].body)]:
        return f"delivered {final[0].start!r} {final[0].body!r}, not {expected!r} {by_h11.refused}"
    return ""


@pytest.mark.parametrize("door", DOORS)
def test_spoilt_requests(door: str) -> None:
    is_express = door == "express"

    async def one(lane: Lane, seed: int) -> str:
        return await spoilt_request(lane, seed, is_express=is_express)

    wrong = run_apart(fuzz(door, one, CASES if is_express else CASES // 2))
    assert not wrong, f"{len(wrong)} seeds:\n" + "\n".join(wrong[:SHOWN])


@pytest.mark.parametrize("door", DOORS)
def test_spoilt_answers(door: str) -> None:
    wrong = run_apart(fuzz(door, spoilt_answer, CASES if door == "express" else CASES // 2))
    assert not wrong, f"{len(wrong)} seeds:\n" + "\n".join(wrong[:SHOWN])

"""The small parts that keep clients within bounds: pace, admission, the line for a backend, a held answer, the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from distributer.clock import Clock
from distributer.errors import ClientError, RequestError, Unroutable, UpstreamError
from distributer.forwarding.admission import Admission
from distributer.forwarding.connection import UpstreamConnection
from distributer.forwarding.held import HeldAnswer
from distributer.forwarding.limits import ClientLimits, UpstreamLimits
from distributer.forwarding.metrics import BackendMetrics, Metrics
from distributer.forwarding.pace import MIN_BODY_BYTES, BodyPace
from distributer.forwarding.pool import BackendPool
from distributer.forwarding.refusals import LINES_PER_SPAN, SPAN_S, Refusals
from distributer.forwarding.tunnel import End
from distributer.log import Limiter
from distributer.model import Backend
from distributer.wire.fields import serialised
from distributer.wire.request import RequestHead, RequestSection
from distributer.wire.response import ResponseHead

# Pace.


class Body:
    body_bytes = 0


def test_a_body_that_brings_enough_in_each_span_is_not_too_slow_however_long_it_takes() -> None:
    body = Body()
    pace = BodyPace(body, 30.0, 0.0)
    for span in range(1, 20):
        body.body_bytes += MIN_BODY_BYTES
        assert not pace.is_too_slow(span * 30.0)


def test_a_body_that_brings_a_byte_less_is_too_slow_and_not_before_the_span_has_ended() -> None:
    body = Body()
    pace = BodyPace(body, 30.0, 0.0)
    body.body_bytes = MIN_BODY_BYTES
    assert not pace.is_too_slow(30.0)
    body.body_bytes += MIN_BODY_BYTES - 1
    assert not pace.is_too_slow(59.9)
    assert pace.is_too_slow(60.0)


def test_the_time_in_which_a_client_was_held_back_does_not_count() -> None:
    pace = BodyPace(Body(), 30.0, 0.0)
    pace.restart(29.0)
    assert not pace.is_too_slow(58.0)
    assert pace.is_too_slow(59.0)


# Admission.


def test_as_many_connections_as_may_be_are_let_in_and_one_more_when_one_has_left() -> None:
    metrics = Metrics()
    admission = Admission(ClientLimits(max_connections=2), metrics)
    assert [admission.admit(b"a"), admission.admit(b"a")] == [None, None]
    assert "2 client connections" in str(admission.admit(b"b"))
    admission.leave(b"a")
    assert admission.admit(b"b") is None
    assert (metrics.client_connections, metrics.connections_refused) == (2, 1)


def test_connections_of_one_address_are_bounded_apart_and_nothing_is_kept_of_those_that_left() -> None:
    metrics = Metrics()
    admission = Admission(ClientLimits(max_connections_per_address=1), metrics)
    assert admission.admit(b"a") is None
    assert "your address" in str(admission.admit(b"a"))
    assert admission.admit(b"b") is None
    admission.leave(b"a")
    assert admission.admit(b"a") is None
    admission.leave(b"a")
    admission.leave(b"b")
    assert admission._by_address == {}
    assert (metrics.client_connections, metrics.connections_refused) == (0, 1)


# The line for a backend. All connections are in use: none is made here.

BACKEND = Backend.from_url("http://127.0.0.1:8000")


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FullPool:
    """A pool that has as many connections as it may. It stands before one, for a compiled class has no subclasses."""

    def __init__(self, **limits: Any) -> None:
        self.time = Time()
        self.counters = BackendMetrics()
        self.pool = BackendPool(BACKEND, UpstreamLimits(**limits), Clock(self.time), self.counters)
        self.pool._all = {self.connection() for _ in range(self.limits.max_in_flight)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def connection(self) -> UpstreamConnection:
        return UpstreamConnection(self.pool)

    def pass_time(self, seconds: float) -> None:
        self.time.now += seconds
        self.clock.tick()
        self.check(self.clock.now)


class Asker:
    """A request in line, and what it got."""

    def __init__(self, pool: FullPool) -> None:
        self.got: list[UpstreamConnection | RequestError] = []
        self.waiter = pool.acquire(self.got.append)

    @property
    def is_refused(self) -> bool:
        return len(self.got) == 1 and isinstance(self.got[0], Unroutable)


def test_the_line_is_first_in_first_out() -> None:
    pool = FullPool(max_in_flight=1)
    askers = [Asker(pool) for _ in range(3)]
    for turn in range(3):
        pool.give_back(connection := pool.connection())
        assert [asker.got for asker in askers[: turn + 1]][-1] == [connection]
        assert [asker.got for asker in askers[turn + 1 :]] == [[]] * (2 - turn)
    assert pool.counters.waits == 3


def test_the_line_has_a_length_beyond_which_requests_are_refused_at_once() -> None:
    pool = FullPool(max_in_flight=1, max_waiting=2)
    first, second, third = Asker(pool), Asker(pool), Asker(pool)
    assert (first.got, second.got) == ([], [])
    assert third.is_refused
    assert third.waiter is None


def test_who_leaves_the_middle_of_the_line_makes_room() -> None:
    pool = FullPool(max_in_flight=1, max_waiting=2)
    first, second = Asker(pool), Asker(pool)
    assert second.waiter is not None
    second.waiter.cancel()
    third = Asker(pool)
    assert third.got == []
    pool.give_back(pool.connection())
    pool.give_back(pool.connection())
    assert (len(first.got), len(second.got), len(third.got)) == (1, 0, 1)


def test_no_line_at_all() -> None:
    assert Asker(FullPool(max_in_flight=1, max_waiting=0)).is_refused


def test_a_wait_is_short() -> None:
    pool = FullPool(max_in_flight=1, wait_timeout_s=2.0)
    first = Asker(pool)
    pool.pass_time(1.0)
    second = Asker(pool)
    pool.pass_time(0.9)
    assert first.got == []
    pool.pass_time(0.2)
    assert first.is_refused
    assert second.got == []
    pool.give_back(connection := pool.connection())
    assert second.got == [connection]


def test_a_connection_that_is_old_is_not_used_again() -> None:
    pool = FullPool(max_in_flight=1, lifetime_s=100.0, keep_alive_s=1e6)
    pool._all.clear()
    connection = pool.connection()
    assert pool.time.now + 80 <= connection.retires_at <= pool.time.now + 100, "spread, and not beyond"
    pool.give_back(connection)
    assert pool._idle == [connection]
    pool._idle.clear()
    pool.pass_time(connection.retires_at - pool.time.now)
    pool.give_back(connection)
    assert pool._idle == []


def test_connections_of_one_burst_do_not_grow_old_together() -> None:
    pool = FullPool(max_in_flight=50, lifetime_s=100.0)
    assert len({round(connection.retires_at, 3) for connection in pool._all}) > 25


# A held answer.


class Client:
    """A downstream that writes down what it gets."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def interim(self, head: ResponseHead) -> None:
        self.events.append(("interim", head))

    def start(self, head: ResponseHead) -> None:
        self.events.append(("start", head))

    def write(self, data: bytes) -> None:
        self.events.append(("write", data))

    def flush(self) -> None:
        self.events.append("flush")

    def withdraw(self) -> None:
        self.events.append("withdraw")

    def switch(self, head: ResponseHead) -> tuple[End, bytes]:
        raise AssertionError("a held answer never switches")

    def finish(self, trailers: bytes = b"") -> None:
        self.events.append("finish")

    def abort(self, error: RequestError) -> None:
        self.events.append(("abort", error))

    def pause_reading(self) -> None:
        self.events.append("pause")

    def resume_reading(self) -> None:
        self.events.append("resume")


HEAD = ResponseHead.of(200, b"OK", [])


def test_a_held_answer_is_replayed_as_it_came() -> None:
    client = Client()
    held = HeldAnswer(client, 100, lambda: None)
    held.start(HEAD)
    held.write(b"a")
    held.flush()
    assert client.events == []
    held.replay()
    assert client.events == [("start", HEAD), ("write", b"a"), "flush"]


def test_a_held_answer_keeps_how_it_ended() -> None:
    error = UpstreamError("cut", sent=True)
    for end, expected in (("finish", "finish"), ("abort", ("abort", error))):
        client = Client()
        held = HeldAnswer(client, 100, lambda: None)
        held.start(HEAD)
        held.finish() if end == "finish" else held.abort(error)
        held.replay()
        assert client.events == [("start", HEAD), expected]


def test_a_held_answer_is_bounded() -> None:
    paused: list[int] = []
    held = HeldAnswer(Client(), 10, lambda: paused.append(1))
    held.start(HEAD)
    held.write(b"x" * 10)
    assert paused == []
    held.write(b"x")
    assert paused == [1]


def test_a_held_answer_may_find_another_reader() -> None:
    first, second = Client(), Client()
    held = HeldAnswer(first, 10, lambda: None)
    held.start(HEAD)
    held.to = second
    held.replay()
    assert (first.events, len(second.events)) == ([], 2)


# The log.


def test_a_limiter_lets_the_first_lines_of_each_span_pass_and_tells_of_the_others_once() -> None:
    limiter = Limiter(2, 10.0)
    assert [limiter.passes(100.0) for _ in range(5)] == [True, True, False, False, False]
    assert limiter.missed(109.9) == 0
    assert not limiter.passes(109.9)
    assert limiter.missed(110.0) == 4
    assert limiter.missed(110.0) == 0
    assert [limiter.passes(110.0) for _ in range(3)] == [True, True, False]


def test_a_span_without_too_many_lines_is_not_told_of() -> None:
    limiter = Limiter(2, 10.0)
    assert limiter.passes(100.0)
    assert limiter.missed(120.0) == 0
    assert [limiter.passes(120.0) for _ in range(3)] == [True, True, False]


def test_a_refusal_says_why_who_and_what_and_a_flood_of_them_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    head = RequestHead(b"PUT", b"/a?b\x7f" + b"c" * 5000, RequestSection(serialised([(b"Host", b"t")])))
    error = ClientError("the body is larger than 5 bytes", 413, "Content too large")
    with caplog.at_level(logging.INFO):
        for _ in range(LINES_PER_SPAN + 7):
            refusals.note(error, b"10.0.0.7", head, 100.0)
        refusals.note(Unroutable("nobody is there"), b"10.0.0.7", None, 100.0)
        refusals.check(100.0 + SPAN_S)
    *lines, other, last = caplog.records
    assert len(lines) == LINES_PER_SPAN
    assert lines[0].getMessage() == "refused: the body is larger than 5 bytes"
    pairs = vars(lines[0])
    assert (pairs["status"], pairs["method"], pairs["client"]) == (413, "PUT", "10.0.0.7")
    assert pairs["target"].startswith("/a?b\x7fccc")
    assert len(pairs["target"]) < 300
    assert other.getMessage() == "failed: nobody is there", "a flood of one kind does not hide the others"
    assert last.getMessage() == "refused: 7 more in 10 s"


def test_connections_that_are_turned_away_are_one_line_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            refusals.turned_away(Unroutable("too many"), b"10.0.0.7", 100.0)
        refusals.check(100.0 + SPAN_S)
    assert [line.getMessage() for line in caplog.records] == ["turned away: too many", "turned away: 4 more in 10 s"]


def test_at_level_debug_nothing_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    with caplog.at_level(logging.DEBUG, "distributer.requests"):
        for _ in range(LINES_PER_SPAN + 7):
            refusals.note(ClientError("bad"), b"a", None, 100.0)
    assert len(caplog.records) == LINES_PER_SPAN + 7
    assert {record.levelname for record in caplog.records[LINES_PER_SPAN:]} == {"DEBUG"}

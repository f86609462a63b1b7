"""Failures that one replica has to tell: rows, ended by answers, and of which backends anybody knows a count."""

from __future__ import annotations

from distributer.forwarding.failures import Failures, Row


def test_failures_are_told_as_one_row() -> None:
    it, calls = Failures(), []
    it.on_news = lambda: calls.append(1)
    it.failed("a", "reset")
    it.failed("a", "it answered 502")
    it.failed("b", "refused", was_refused=True)
    assert len(calls) == 2, "once for each backend, until they are taken"
    assert it.take() == {"a": Row(2, why="it answered 502"), "b": Row(1, why="refused", was_refused=True)}
    assert it.take() == {}


def test_an_answer_ends_a_row_and_says_so() -> None:
    it = Failures()
    it.failed("a", "reset")
    it.failed("a", "reset")
    it.answered("a")
    assert it.suspects == set()
    it.failed("a", "it answered 504")
    assert it.take() == {"a": Row(1, is_anew=True, why="it answered 504")}


def test_suspects_are_those_that_failed_here_and_those_with_a_count_in_redis() -> None:
    it = Failures()
    it.failed("a", "reset")
    it.follow({"b"})
    assert it.suspects == {"a", "b"}
    it.take()
    it.follow({"b"})
    assert it.suspects == {"a", "b"}, "what Redis was asked may not have the report yet"
    it.follow({"b"})
    assert it.suspects == {"b"}
    it.answered("b")
    assert it.suspects == set()
    assert it.take() == {"b": Row(is_anew=True)}

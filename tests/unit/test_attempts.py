"""Attempts that failed, in the log: one line for each kind in a while, and a number."""

from __future__ import annotations

import logging

import pytest

from distributer.errors import ConnectFailed, UpstreamError
from distributer.forwarding.attempts import SPAN_S, FailedAttempts
from distributer.model import Backend

A, B = (Backend.from_url(f"http://127.0.0.1:{port}") for port in (8000, 8001))


def test_each_kind_of_failure_of_each_backend_is_a_line_and_the_others_are_a_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = FailedAttempts()
    with caplog.at_level(logging.INFO, "distributer.backends"):
        for _ in range(300):
            for backend in (A, B):
                failures.note(backend, ConnectFailed("it refused"), 100.0)
        failures.note(A, UpstreamError("it broke", sent=True), 100.0)
        failures.check(100.0 + SPAN_S / 2)
        assert [(it.getMessage(), vars(it)["backend"]) for it in caplog.records] == [
            ("Backend refused the connection: it refused", A.id),
            ("Backend refused the connection: it refused", B.id),
            ("Backend failed: it broke", A.id),
        ]
        caplog.clear()
        failures.check(100.0 + SPAN_S)
        failures.check(100.0 + SPAN_S)
        assert [(it.getMessage(), vars(it)["backend"]) for it in caplog.records] == [
            ("Backend refused the connection: 299 more in 10 s", A.id),
            ("Backend refused the connection: 299 more in 10 s", B.id),
        ]
        caplog.clear()
        failures.note(A, ConnectFailed("it refused"), 200.0)
    assert len(caplog.records) == 1

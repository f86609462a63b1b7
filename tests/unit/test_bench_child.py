"""bench.child: what a peer is not to inherit."""

from __future__ import annotations

import pytest

from bench.child import clean_environment, free_ports


@pytest.mark.parametrize("name", ["PYTHONOPTIMIZE", "DISTRIBUTER_REDIS", "UVICORN_WORKERS", "HTTP_PROXY", "all_proxy"])
def test_a_peer_inherits_nothing_that_the_command_does_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert name not in clean_environment()


@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "HOME"])
def test_a_peer_inherits_the_rest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "here")
    assert clean_environment()[name] == "here"


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(8))) == 8

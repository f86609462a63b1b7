"""How many client connections fit into the descriptors of a process."""

from __future__ import annotations

import logging
import resource

import pytest

from distributer.config import Settings
from distributer.errors import StartupError
from distributer.process.descriptors import OWN, fitted, raise_limit, require_descriptors


def settings(backends: int, in_flight: int, clients: int) -> Settings:
    urls = tuple(f"http://127.0.0.1:{8000 + number}" for number in range(backends))
    return Settings(backends=urls, backend_max_in_flight=in_flight, max_client_connections=clients)


@pytest.mark.parametrize(
    ("descriptors", "backends", "in_flight", "clients", "allowed"),
    [
        (1 << 20, 4, 512, 10_000, 10_000),
        (OWN + 2048 + 10_000, 4, 512, 10_000, 10_000),
        (OWN + 2048 + 9_999, 4, 512, 10_000, 9_999),
        (OWN + 100, 4, 512, 10_000, 50),  # backends get half at most
        (OWN + 100, 1, 10, 10_000, 90),
        (16, 1, 512, 10_000, 1),
    ],
)
def test_client_connections_are_lowered_to_what_fits_and_a_line_says_so(
    descriptors: int, backends: int, in_flight: int, clients: int, allowed: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        it = fitted(settings(backends, in_flight, clients), descriptors)
    assert it.max_client_connections == allowed
    assert bool(caplog.records) is (allowed < clients)


@pytest.mark.parametrize(
    ("backends", "in_flight", "clients", "needed"),
    [(4, 512, 10_000, OWN + 16), (1, 2, 10_000, OWN + 10), (4, 512, 1, OWN + 2)],
)
def test_with_room_for_next_to_no_clients_it_does_not_start(
    backends: int, in_flight: int, clients: int, needed: int
) -> None:
    it = settings(backends, in_flight, clients)
    require_descriptors(it, needed)
    assert fitted(it, needed).max_client_connections == min(8, clients)
    with pytest.raises(StartupError, match=f"at least {needed} are needed"):
        require_descriptors(it, needed - 1)


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert raise_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

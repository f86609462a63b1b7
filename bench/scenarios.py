"""What the load asks for: one row of SCENARIOS for each kind of request.

To add one, write a function that gives the n-th request, and a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distributer.load.requests import Requests, create, get, post, read

_HOST = "bench.test"

_ITEMS = 10_000
"""How many items the reads go round: far more than connections, so that one seldom meets its neighbour."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of request.

    `requests(first_item)` gives the requests of one run. Items are numbered from `first_item`, another one for each
    run, so that no run finds the items of another. The first `preparation` requests are sent, and answered, before the
    warm-up.
    """

    name: str
    about: str
    requests: Callable[[int], Requests]
    preparation: int = 0
    names_backend: bool = True
    """True if an answer says which backend it is from. A big body must not even be looked at by the client."""
    takes_tickets: bool = False
    """True if each request takes a ticket of the shared rotation, which the benchmark then checks."""


def _always(request: bytes) -> Callable[[int], Requests]:
    return lambda _first_item: lambda _n: request


def _creates(first_item: int) -> Requests:
    return lambda n: create(first_item + n, _HOST)


def _reads(first_item: int) -> Requests:
    reads = [read(first_item + n, _HOST) for n in range(_ITEMS)]
    return lambda n: create(first_item + n, _HOST) if n < _ITEMS else reads[n % _ITEMS]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "ping", "GET /ping, an answer of 13 bytes: the rotation", _always(get("/ping", _HOST)), takes_tickets=True
        ),
        Scenario("read", f"GET /items/N over {_ITEMS:,} bound items: the sticky map", _reads, preparation=_ITEMS),
        Scenario("create", "POST /items/?item_id=N, a new item each time: bindings made", _creates),
        Scenario(
            "post",
            "POST /events with a body of 1 KiB, an answer of 13 bytes: the rotation",
            _always(post("/events", _HOST, bytes(1 << 10))),
            takes_tickets=True,
        ),
        Scenario(
            "download-10k",
            "GET /bytes/10240: an answer of 10 KiB",
            _always(get("/bytes/10240", _HOST)),
            names_backend=False,
            takes_tickets=True,
        ),
        Scenario(
            "download-1m",
            "GET /bytes/1048576: an answer of 1 MiB",
            _always(get(f"/bytes/{1 << 20}", _HOST)),
            names_backend=False,
            takes_tickets=True,
        ),
        Scenario(
            "upload-1m",
            "POST /events with a body of 1 MiB, an answer of 13 bytes",
            _always(post("/events", _HOST, bytes(1 << 20))),
            takes_tickets=True,
        ),
    )
}

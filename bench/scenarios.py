"""What the load asks for: one row of SCENARIOS for each kind of request.

To add one, write a function that gives the n-th request, and a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Requests = Callable[[int], bytes]
"""Gives the n-th request of a run, counted from 0, ready to be written."""

# What a plain HTTP client sends: enough fields that parsing and forwarding them costs something, as in life.
_FIELDS = b"Host: bench.test\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"

_ITEMS = 1000
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


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), _FIELDS)


def post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        _FIELDS,
        len(body),
        body,
    )


def _always(request: bytes) -> Callable[[int], Requests]:
    return lambda _first_item: lambda _n: request


def _create(item: int) -> bytes:
    return post(f"/items/?item_id={item}", b'{"name":"bench","price":1.5}')


def _creates(first_item: int) -> Requests:
    return lambda n: _create(first_item + n)


def _reads(first_item: int) -> Requests:
    reads = [get(f"/items/{first_item + n}") for n in range(_ITEMS)]
    return lambda n: _create(first_item + n) if n < _ITEMS else reads[n % _ITEMS]


def _uploads(first_item: int) -> Requests:
    body = bytes(1 << 20)
    return lambda n: post(f"/items/?item_id={first_item + n}", body)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("ping", "GET /ping, an answer of 13 bytes: the rotation", _always(get("/ping")), takes_tickets=True),
        Scenario("read", f"GET /items/N over {_ITEMS:,} bound items: the sticky map", _reads, preparation=_ITEMS),
        Scenario("create", "POST /items/?item_id=N, a new item each time: bindings made", _creates),
        Scenario(
            "download-1m",
            "GET /bytes/1048576: an answer of 1 MiB",
            _always(get(f"/bytes/{1 << 20}")),
            names_backend=False,
        ),
        Scenario("upload-1m", "POST /items/?item_id=N with a body of 1 MiB", _uploads),
    )
}

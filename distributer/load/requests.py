"""The requests of a load, as bytes ready to be written."""

from __future__ import annotations

from collections.abc import Callable

Requests = Callable[[int], bytes]
"""Gives the n-th request of a run, counted from 0."""


def head(method: str, path: str, host: str, *fields: str) -> bytes:
    """Return a head: what a plain HTTP client sends, enough that parsing and forwarding it costs something."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "User-Agent: bench/1", "Accept: */*", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def get(path: str, host: str) -> bytes:
    return head("GET", path, host)


def post(path: str, host: str, body: bytes) -> bytes:
    return head("POST", path, host, "Content-Type: application/json", f"Content-Length: {len(body)}") + body


def create(item: int, host: str) -> bytes:
    """Create an item of the demo application."""
    return post(f"/items/?item_id={item}", host, b'{"name":"bench","price":1.5}')


def read(item: int, host: str) -> bytes:
    return get(f"/items/{item}", host)


def delete(item: int, host: str) -> bytes:
    return head("DELETE", f"/items/{item}", host)

"""redis-py clients and pools for the URLs that users give: `redis://`, `rediss://`, `unix://` and `redis+sentinel://`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from distributer.errors import StateError
from distributer.state.trouble import FAILURES, Trouble, trouble_of

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")
SENTINEL_TIMEOUT_S = 0.5
"""Sentinels are asked one after the other: one that is gone must not use up the time for the others."""

_IN_VAIN = {
    Trouble.DENIED: "refuses us: {}",
    Trouble.FORBIDDEN: "refuses us: {}",
    Trouble.FAULTY: "refuses us: {}",
    Trouble.GARBAGE: "answers, but is no Redis (or wants TLS, rediss://): {}",
    Trouble.ELSEWHERE: "is part of a Redis Cluster; name the node that has the keys, and give the prefix a hash tag, "
    "such as {{distributer}}: {}",
}


class RedisRefusedError(StateError):
    """Something is there, but not a Redis that lets us in: waiting for it would be in vain."""


def check_url(url: str) -> None:
    """Raise ValueError, saying what is wrong, if url cannot name a Redis."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"{redacted(url)!r} is no URL") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{redacted(url)!r} is none of {', '.join(s + '://' for s in SCHEMES)}")
    if parts.scheme == "redis+sentinel":
        _SentinelUrl.parse(url)
    elif parts.scheme == "unix":
        if not parts.path:
            raise ValueError("a unix:// URL needs a path")
    else:
        try:
            port = parts.port
        except ValueError:
            # Without its words: with a "/" in the password, what it takes for the port is a part of that.
            raise ValueError(f"{redacted(url)!r} has a bad port") from None
        if not parts.hostname or port == 0:
            raise ValueError(f"{redacted(url)!r} names no host, or port 0")
        database = parts.path.strip("/")
        if database and not database.isdigit():
            raise ValueError(f"{redacted(url)!r}: the database is a number")


def redacted(url: str) -> str:
    """Return the URL as it may be shown and logged: without its password."""
    url = re.sub(r"(?<=[?&]password=)[^&#]*", "***", url)
    head, separator, tail = url.rpartition("@")
    if not separator:
        return url
    scheme, slashes, credentials = head.partition("://")
    if not slashes:
        scheme, credentials = "", head
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{slashes}{user}{colon}{'***' if colon else ''}@{tail}"


def pool_of(url: str, timeout_s: float) -> redis.ConnectionPool:
    """Make a pool without retries of its own: `timeout_s` bounds each connect and each read. Nothing is sent yet."""
    options: dict[str, Any] = {
        # One incr() whose reply was lost is applied again by each retry: tickets must never be retried behind our back.
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": timeout_s,
        "socket_timeout": timeout_s,
        "health_check_interval": 0,
        "protocol": 2,
    }
    if urlsplit(url).scheme != "redis+sentinel":
        return redis.ConnectionPool.from_url(url, **options)
    parsed = _SentinelUrl.parse(url)
    sentinel_timeout_s = min(timeout_s, SENTINEL_TIMEOUT_S)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        parsed.addresses,
        sentinel_kwargs={
            "socket_connect_timeout": sentinel_timeout_s,
            "socket_timeout": sentinel_timeout_s,
            "protocol": 2,
        },
    )
    options |= {"username": parsed.username, "password": parsed.password, "db": parsed.database}
    pool: redis.ConnectionPool = sentinel.master_for(parsed.service, **options).connection_pool
    return pool


def client_of(url: str, timeout_s: float) -> redis.Redis:
    """Make a client for all that is not the hot path: heartbeats, status, the command line."""
    return redis.Redis(connection_pool=pool_of(url, timeout_s))


async def close(client: redis.Redis) -> None:
    """Close a client, and all of its connections."""
    await client.aclose()
    await disconnect(client.connection_pool)


async def disconnect(pool: redis.ConnectionPool) -> None:
    """Close a pool's connections, and those to the Sentinels by which it finds its master."""
    await pool.disconnect()
    sentinels: Sequence[redis.Redis] = getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())
    for sentinel in sentinels:
        await sentinel.aclose()
        await sentinel.connection_pool.disconnect()


async def ping(url: str, timeout_s: float, keys: Sequence[str] = ()) -> None:
    """Ask once whether Redis is there and lets us in, to `keys` as well. Raises RedisRefusedError or StateError."""
    client = client_of(url, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await client.ping()
            if keys:
                await client.exists(*keys)
    except FAILURES as error:
        trouble = trouble_of(error)
        if trouble.kind in _IN_VAIN:
            raise RedisRefusedError(_IN_VAIN[trouble.kind].format(trouble.detail)) from error
        raise trouble from error
    finally:
        await close(client)


@dataclass(frozen=True, slots=True)
class _SentinelUrl:
    """`redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/database]`."""

    addresses: list[tuple[str, int]]
    service: str
    database: int
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> _SentinelUrl:
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        service, _, database = parts.path.strip("/").partition("/")
        if not hosts or not service:
            raise ValueError("a redis+sentinel:// URL is redis+sentinel://host:port,host:port/service[/database]")
        addresses: list[tuple[str, int]] = []
        for host in hosts.split(","):
            name, _, port = host.partition(":")
            if not name or not (port or "26379").isdigit():
                raise ValueError(f"{redacted(url)!r} names what is no sentinel address; give host:port")
            addresses.append((name, int(port or 26379)))
        if database and not database.isdigit():
            raise ValueError(f"{redacted(url)!r}: the database is a number")
        return cls(addresses, service, int(database or 0), unquote(username) or None, unquote(password) or None)

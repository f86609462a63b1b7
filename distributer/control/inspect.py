"""What the command line shows: tables for people, JSON for machines. Reads Redis directly."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from rich.console import Console
from rich.table import Column, Table

from distributer.config import Settings
from distributer.control.registry import ClusterStatus, Registry
from distributer.control.replica import CONTROL_TIMEOUT_S
from distributer.errors import DistributerError, StateError
from distributer.log import printable
from distributer.routing.item import canonical_int
from distributer.state.keys import Keys
from distributer.state.redis_client import client_of, close, redacted
from distributer.state.trouble import explain

PIPE_WIDTH = 1000
"""Nothing is cut off or broken in a pipe or a file."""


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[redis.Redis]:
    """Connect to the cluster's Redis; a StateError within names it."""
    client = client_of(settings.redis, CONTROL_TIMEOUT_S)
    try:
        yield client
    except StateError as error:
        raise StateError(f"redis: {redacted(settings.redis)}: {error.detail or error}") from error
    finally:
        await close(client)


def print_json(value: Any) -> None:
    """Print what a machine reads."""
    print(json.dumps(value, indent=2))  # noqa: T201


def plain_console() -> Console:
    """Make a console for which what stands in Redis is text, whatever it looks like to rich."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)


async def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print the cluster."""
    async with connected(settings) as client:
        status = await Registry(client, Keys(settings.prefix)).status()
    if as_json:
        print_json(status.as_dict())
    else:
        _print_status(status, redacted(settings.redis))


def _print_status(status: ClusterStatus, where: str) -> None:
    console = plain_console()
    console.print(
        f"Redis {where}   tickets taken {status.tickets}   items {status.items}   claims in flight {status.claims}",
        soft_wrap=True,
    )
    replicas = Table("replica", "address", "pid", "version", "up", "requests", "in flight", "redis", "seen", box=None)
    for replica in status.replicas:
        snapshot, metrics = replica.snapshot, replica.snapshot.get("metrics", {})
        up_s = max(0.0, time.time() - float(snapshot.get("started_at", time.time())))
        replicas.add_row(
            printable(replica.id),
            printable(snapshot.get("address", "")),
            printable(snapshot.get("pid", "")),
            printable(snapshot.get("version", "")),
            f"{up_s:.0f} s",
            str(metrics.get("requests", 0)),
            str(metrics.get("in_flight", 0)),
            _redis(snapshot),
            f"{replica.age_s:.1f} s ago",
        )
    console.print()
    console.print(replicas if status.replicas else "no replica is alive")
    columns = ("items", "requests", "in flight", "failures", "state", "health", "for", "reason")
    backends = Table(Column("backend", overflow="fold"), *columns, box=None)
    for backend in status.backends:
        counts = (backend.items, backend.requests, backend.in_flight, backend.failures)
        state = backend.state if backend.joined else f"{backend.state}, not joined"
        since = "" if backend.health_age_s is None else _age(backend.health_age_s)
        health = (printable(state), backend.health.status.value, since, printable(backend.health.reason))
        backends.add_row(printable(backend.url), *[str(value) for value in counts], *health)
    for owner, items in sorted(status.unknown_owners.items()):
        backends.add_row(f"{printable(owner)} (no backend)", str(items), *[""] * (len(columns) - 1))
    console.print()
    if not status.backends:
        console.print("no backends are announced yet")
    if backends.row_count:
        console.print(backends)


def _age(seconds: float) -> str:
    """Say about how long that is."""
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _redis(snapshot: Mapping[str, Any]) -> str:
    """Say what a replica says of Redis: its mode, why, and how often that has changed since it came up."""
    mode, trouble, changes = (snapshot.get(f"redis_{name}", "") for name in ("mode", "trouble", "mode_changes"))
    why = f" ({trouble})" if trouble else ""
    # The first change was its coming up.
    swings = f", {changes - 1} changes" if isinstance(changes, int) and changes > 1 else ""
    return printable(f"{mode}{why}{swings}")


async def show_owner(settings: Settings, item: str, *, as_json: bool) -> bool:
    """Print the backend of one item. False if it is unbound."""
    key = canonical_int(item)
    if key is None:
        raise DistributerError(f"item: {item!r} is no item id; ids are whole numbers")
    async with connected(settings) as client:
        registry = Registry(client, Keys(settings.prefix))
        owner = await registry.owner(key)
        claimed = await registry.is_claimed(key)
    if as_json:
        print_json({"item": key, "backend": owner, "claimed": claimed})
    elif owner is None:
        print(f"{key} is bound to no backend")  # noqa: T201
    else:
        print(f"{key} {printable(owner)}{' (a create or delete is in flight)' if claimed else ''}")  # noqa: T201
    return owner is not None


async def show_bindings(settings: Settings, backend: str | None, limit: int, *, as_json: bool) -> None:
    """Print the bindings, page by page."""
    shown, more = 0, False
    rows: list[dict[str, str]] = []
    async with connected(settings) as client:
        registry = Registry(client, Keys(settings.prefix))
        async for page in registry.bindings():
            for item, owner in page:
                if backend is not None and owner not in (backend.rstrip("/"), f"http://{backend}"):
                    continue
                if limit and shown == limit:
                    more = True
                    break
                shown += 1
                if as_json:
                    rows.append({"item": item, "backend": owner})
                else:
                    print(f"{printable(item)} {printable(owner)}")  # noqa: T201
            if more:
                break
    if as_json:
        print_json({"bindings": rows, "more": more})
    elif more:
        Console(stderr=True).print(f"… and more; --limit 0 shows all, after the first {limit}")


async def pass_through(settings: Settings, command: Sequence[str]) -> bool:
    """Send one command to Redis and print the reply as redis-cli does. False if the reply is an error."""
    client = client_of(settings.redis, CONTROL_TIMEOUT_S)
    # The reply as it came, without redis-py's own shape for each command.
    client.response_callbacks.clear()
    try:
        reply = await client.execute_command(*command)  # type: ignore[no-untyped-call]
    except redis.ResponseError as error:
        print(f"(error) {error}")  # noqa: T201
        return False
    except (redis.RedisError, OSError) as error:
        raise StateError(f"redis: {redacted(settings.redis)}: {explain(error)}") from error
    finally:
        await close(client)
    for line in _lines(reply):
        print(line)  # noqa: T201
    return True


def _lines(reply: Any, indent: str = "") -> list[str]:
    if isinstance(reply, (list, tuple)):
        if not reply:
            return ["(empty array)"]
        lines: list[str] = []
        width = len(str(len(reply)))
        for number, part in enumerate(reply, 1):
            first, *rest = _lines(part, indent + " " * (width + 2))
            lines.append(f"{indent if number > 1 else ''}{number:>{width}}) {first}")
            lines.extend(rest)
        return lines
    if reply is None:
        return ["(nil)"]
    if isinstance(reply, int):
        return [f"(integer) {reply}"]
    text = reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)
    return [json.dumps(text, ensure_ascii=False)]


def show_settings(settings: Settings) -> None:
    """Print the settings as a settings file, secrets masked."""
    for name, value in settings.model_dump(mode="json").items():
        shown = redacted(value) if name == "redis" else value
        print(f"# {name} is not set" if shown is None else f"{name} = {json.dumps(shown)}")  # noqa: T201

"""What `distributer bench` does: one run against a cluster that is up, and what it prints."""

from __future__ import annotations

import asyncio
import gc
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from distributer.errors import ConfigError, StartupError
from distributer.load import requests
from distributer.load.client import Load, NamingConnection, Window, measure
from distributer.load.measurement import Measurement
from distributer.load.requests import Requests
from distributer.log import printable


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes."""

    host: str
    port: int
    path: str
    authority: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read a URL. Raises ConfigError."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"url: {url!r}: {error}") from error
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"url: {url!r} is not an http:// URL")
        if parts.username is not None or parts.password is not None:
            raise ConfigError("url: it may not hold a user name or a password")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not all("!" <= character <= "~" for character in parts.netloc + path):
            raise ConfigError(f"url: {url!r} holds characters that must be percent-encoded")
        return cls(parts.hostname, 80 if port is None else port, path, parts.netloc)


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as asked for on the command line."""

    target: Target
    scenario: str
    connections: int
    seconds: float
    requests: int
    """End after so many instead; 0: by the clock."""
    warmup_s: float
    first_item: int
    items: int
    """How many `read` goes round."""
    timeout_s: float
    """Silence that counts as an error."""

    def check(self) -> None:
        """Raise ConfigError, naming the option, if one makes no sense."""
        if self.scenario not in SCENARIOS:
            raise ConfigError(f"scenario: one of {', '.join(SCENARIOS)}, not {self.scenario!r}")
        for name, value, is_right, rule in (
            ("connections", self.connections, self.connections >= 1, "1 or more"),
            ("items", self.items, self.items >= 1, "1 or more"),
            ("requests", self.requests, self.requests >= 0, "0 or more"),
            ("seconds", self.seconds, 0 < self.seconds < math.inf, "more than 0"),
            ("warmup-s", self.warmup_s, 0 <= self.warmup_s < math.inf, "0 or more"),
            ("timeout-s", self.timeout_s, 0 < self.timeout_s < math.inf, "more than 0"),
        ):
            if not is_right:
                raise ConfigError(f"{name}: {rule}, not {value:g}")


class Scenario(NamedTuple):
    """Which requests are sent."""

    requests: Callable[[Run], Requests]
    makes_items: bool = False
    """Each request makes one."""
    reads_items: bool = False
    """Some are made before the warm-up."""


def _get(run: Run) -> Requests:
    request = requests.get(run.target.path, run.target.authority)
    return lambda _n: request


def _read(run: Run) -> Requests:
    host, first, count = run.target.authority, run.first_item, run.items
    reads = [requests.read(first + n, host) for n in range(count)]
    return lambda n: requests.create(first + n, host) if n < count else reads[n % count]


def _create(run: Run) -> Requests:
    host, first = run.target.authority, run.first_item
    return lambda n: requests.create(first + n, host)


SCENARIOS = {
    "get": Scenario(_get),
    "read": Scenario(_read, reads_items=True),
    "create": Scenario(_create, makes_items=True),
}


async def _measure(run: Run) -> Measurement:
    scenario = SCENARIOS[run.scenario]
    load = Load(
        scenario.requests(run),
        host=run.target.host,
        port=run.target.port,
        connections=run.connections,
        timeout_s=run.timeout_s,
        lane=NamingConnection,
    )
    # Nothing here makes reference cycles on the hot path, and a collection in the window would be a latency of ours.
    gc.disable()
    try:
        items = run.items if scenario.reads_items else 0
        measurement = await measure(load, Window(run.seconds, run.requests, run.warmup_s, preparation=items))
        await _delete_items(load, run, load.asked if scenario.makes_items else items)
    finally:
        load.close()
        gc.enable()
    return measurement


async def _delete_items(load: Load, run: Run, count: int) -> None:
    """Leave the cluster as it was. What fails here was counted before, or was never made."""
    begun = load.asked
    load.requests = lambda n: requests.delete(run.first_item + n - begun, run.target.authority)
    await load.ask_until(begun + count)


def bench(run: Run, *, as_json: bool) -> bool:
    """Measure and print. False if any request failed, or none was answered. Raises ConfigError and StartupError."""
    run.check()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measurement = runner.run(_measure(run))
    except OSError as error:
        where = f"{run.target.host}:{run.target.port}"
        raise StartupError(f"url: cannot connect to {where}: {error.strerror or error}") from error
    print(json.dumps(_as_dict(measurement), indent=2) if as_json else _as_text(run, measurement))  # noqa: T201
    return not measurement.errors and measurement.answers > 0


def _latencies_ns(measurement: Measurement) -> list[tuple[str, int | None]]:
    """Return what is told of the latencies, by name. Without an answer there are none: not even 0."""
    latencies = measurement.latencies
    if not len(latencies):
        return [("p50", None), ("p99", None), ("max", None)]
    return [("p50", latencies.percentile_ns(50)), ("p99", latencies.percentile_ns(99)), ("max", latencies.max_ns)]


def _as_dict(measurement: Measurement) -> dict[str, object]:
    return {
        "requests_per_s": round(measurement.requests_per_s, 1),
        **{f"{name}_ms": None if value_ns is None else value_ns / 1e6 for name, value_ns in _latencies_ns(measurement)},
        "answers": measurement.answers,
        "window_s": round(measurement.window_s, 3),
        "errors": measurement.errors,
        "backends": measurement.backends,
    }


def _as_text(run: Run, measurement: Measurement) -> str:
    where = run.target.path if run.scenario == "get" else "/items/"
    lines = [
        f"{run.scenario} http://{run.target.authority}{where}, {run.connections} connections, "
        f"{measurement.window_s:.1f} s after {run.warmup_s:g} s of warm-up",
        "",
        f"requests/s  {measurement.requests_per_s:,.0f}",
        *(
            f"{name}         {'-' if value_ns is None else f'{value_ns / 1e6:.3f} ms'}"
            for name, value_ns in _latencies_ns(measurement)
        ),
        f"answers     {measurement.answers:,}",
        f"errors      {', '.join(f'{count:,} {kind}' for kind, count in measurement.errors.items()) or 0}",
    ]
    if measurement.backends:
        lines += ["", "by backend, the warm-up's answers included:"]
        lines += [f"  {printable(name)}  {count:,}" for name, count in measurement.backends.items()]
    return "\n".join(lines)

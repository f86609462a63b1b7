"""The command line: arguments to settings to one call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from distributer import config, log
from distributer.control.replica import version
from distributer.errors import ConfigError, DistributerError
from distributer.model import AdminState

app = App(
    name="distributer",
    help="Stateless HTTP load distributers that share an exact rotation and a sticky item map in Redis.",
    version=version,
    result_action="return_value",
)
sticky = App(name="sticky", help="Look at the sticky map: which item lives on which backend.")
app.command(sticky)
backends = App(name="backends", help="Look at the backends of the cluster, and change them while all runs.")
app.command(backends)

_SETTINGS = Group("Settings", help="Each is also DISTRIBUTER_NAME in the environment, and a key of distributer.toml.")

Config = Annotated[
    Path | None, Parameter(help="Settings file; by default distributer.toml, if there is one.", group=_SETTINGS)
]
Redis = Annotated[
    str | None, Parameter(help="URL of Redis: redis://, rediss://, unix:// or redis+sentinel://.", group=_SETTINGS)
]
Prefix = Annotated[str | None, Parameter(help="Prefix of all Redis keys.", group=_SETTINGS)]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for machines.")]


@app.command
def serve(
    *,
    host: Annotated[str | None, Parameter(help="Address for clients (127.0.0.1).", group=_SETTINGS)] = None,
    port: Annotated[int | None, Parameter(help="Port for clients (8080).", group=_SETTINGS)] = None,
    replicas: Annotated[int | None, Parameter(help="Worker processes behind the port (1).", group=_SETTINGS)] = None,
    redis: Redis = None,
    backend: Annotated[
        list[str] | None,
        Parameter(help="Base URL of a backend; once for each, in order.", negative="", group=_SETTINGS),
    ] = None,
    admin_host: Annotated[str | None, Parameter(help="Address of the control plane.", group=_SETTINGS)] = None,
    admin_port: Annotated[
        int | None, Parameter(help="Port of the control plane; none if unset.", group=_SETTINGS)
    ] = None,
    prefix: Prefix = None,
    wait_redis_s: Annotated[
        float | None, Parameter(help="Longest wait for Redis, seconds (30).", group=_SETTINGS)
    ] = None,
    drain_timeout_s: Annotated[
        float | None, Parameter(help="Longest wait for requests in flight at the end, seconds (30).", group=_SETTINGS)
    ] = None,
    routing_headers: Annotated[
        bool | None, Parameter(help="Tell in X-Distributer-* headers how a request was routed.", group=_SETTINGS)
    ] = None,
    access_log: Annotated[bool | None, Parameter(help="Log each request.", group=_SETTINGS)] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning or error.", group=_SETTINGS)] = None,
    log_format: Annotated[str | None, Parameter(help="text or json.", group=_SETTINGS)] = None,
    config: Config = None,
) -> None:
    """Serve: N replicas behind one port, in front of the backends."""
    from distributer.process.serve import serve as run

    settings = _load(
        config,
        host=host,
        port=port,
        replicas=replicas,
        redis=redis,
        backends=tuple(backend) if backend else None,
        admin_host=admin_host,
        admin_port=admin_port,
        prefix=prefix,
        wait_redis_s=wait_redis_s,
        drain_timeout_s=drain_timeout_s,
        routing_headers=routing_headers,
        access_log=access_log,
        log_level=log_level,
        log_format=log_format,
    )
    log.configure(settings.log_level, settings.log_format)
    _run(run(settings, _say if settings.log_format == "text" else logging.getLogger("distributer").info))


@app.command
def up(
    *,
    host: Annotated[str, Parameter(help="Address of everything.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port of the distributer.")] = 8080,
    admin_port: Annotated[int, Parameter(help="Port of the control plane.")] = 8081,
    backend_port: Annotated[int, Parameter(help="Port of the first backend; the others follow.")] = 8000,
    replicas: Annotated[int, Parameter(help="Replicas of the distributer.")] = 2,
    redis: Redis = None,
    config: Config = None,
) -> None:
    """Show the demo: a Redis if none is named, four backends, two replicas on :8080. Ctrl-C ends it all."""
    from distributer.process.demo import Demo, DemoPorts

    ports = DemoPorts(host=host, port=port, admin_port=admin_port, backend_port=backend_port, replicas=replicas)
    demo = Demo(ports, lambda **flags: _load(config, **flags), redis, _show)
    log.configure()
    _run(demo.run())


@app.command
def status(*, redis: Redis = None, prefix: Prefix = None, config: Config = None, json: Json = False) -> None:
    """Show the cluster: replicas, backends, tickets taken, items per backend."""
    from distributer.control import inspect

    _run(inspect.show_status(_load(config, redis=redis, prefix=prefix), as_json=json))


@sticky.command(name="get")
def sticky_get(
    item: Annotated[str, Parameter(help="The item's id.")],
    /,
    *,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show the backend that holds an item. Exit status 3 if the item is bound to none."""
    from distributer.control import inspect

    found = _run(inspect.show_owner(_load(config, redis=redis, prefix=prefix), item, as_json=json))
    if not found:
        sys.exit(3)


@sticky.command(name="list")
def sticky_list(
    *,
    backend: Annotated[str | None, Parameter(help="Only items of this backend: its base URL or host:port.")] = None,
    limit: Annotated[int, Parameter(help="At most this many; 0 for all.")] = 1000,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List items and the backends that hold them."""
    from distributer.control import inspect

    if limit < 0:
        raise ConfigError(f"limit: a number of items, 0 or more, not {limit}")
    _run(inspect.show_bindings(_load(config, redis=redis, prefix=prefix), backend, limit, as_json=json))


@sticky.command(name="rebuild")
def sticky_rebuild(
    *,
    list_path: Annotated[
        str | None, Parameter(help="Path at which backends list their items, such as /items/.", group=_SETTINGS)
    ] = None,
    dry_run: Annotated[bool, Parameter(name="--dry-run", negative="", help="Bind nothing, only report.")] = False,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Bind the items that the backends list and that are bound nowhere. Exit status 1 if anything does not fit."""
    from distributer.control import operate

    settings = _load(config, redis=redis, prefix=prefix, list_path=list_path)
    if not _run(operate.rebuild(settings, is_dry_run=dry_run, as_json=json)):
        sys.exit(1)


BackendId = Annotated[str, Parameter(help="The backend: host:port, or its base URL.")]


@backends.command(name="list")
def backends_list(*, redis: Redis = None, prefix: Prefix = None, config: Config = None, json: Json = False) -> None:
    """List the backends: what is wanted of them, their health, how many items they have."""
    from distributer.control import operate

    _run(operate.show_backends(_load(config, redis=redis, prefix=prefix), as_json=json))


@backends.command(name="add")
def backends_add(
    url: Annotated[str, Parameter(help="Its base URL: http://host:port.")],
    /,
    *,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Add a backend. It joins the rotation when its first probes have passed."""
    from distributer.control import operate

    _run(operate.add_backend(_load(config, redis=redis, prefix=prefix), url, as_json=json))


@backends.command(name="ready")
def backends_ready(
    backend: BackendId, /, *, redis: Redis = None, prefix: Prefix = None, config: Config = None, json: Json = False
) -> None:
    """Let a backend take part."""
    _set_state(backend, AdminState.READY, config, redis, prefix, as_json=json)


@backends.command(name="drain")
def backends_drain(
    backend: BackendId, /, *, redis: Redis = None, prefix: Prefix = None, config: Config = None, json: Json = False
) -> None:
    """Give a backend no rotated requests and no new items. The items that it has keep working."""
    _set_state(backend, AdminState.DRAIN, config, redis, prefix, as_json=json)


@backends.command(name="maint")
def backends_maint(
    backend: BackendId, /, *, redis: Redis = None, prefix: Prefix = None, config: Config = None, json: Json = False
) -> None:
    """Send a backend nothing: requests for its items get 503."""
    _set_state(backend, AdminState.MAINT, config, redis, prefix, as_json=json)


@backends.command(name="rm")
def backends_rm(
    backend: BackendId,
    /,
    *,
    release: Annotated[
        bool, Parameter(negative="", help="Unbind the items that are bound to it; their copies go with it.")
    ] = False,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask.")] = False,
    redis: Redis = None,
    prefix: Prefix = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Remove a backend. Refused while items are bound to it, unless they are released."""
    from distributer.control import operate

    settings = _load(config, redis=redis, prefix=prefix)
    _run(operate.remove_backend(settings, backend, releases=release, is_sure=yes, as_json=json))


@app.command(name="redis-cli")
def redis_cli(
    *command: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="The command, such as HGETALL distributer:sticky.")
    ],
    redis: Redis = None,
    config: Config = None,
) -> None:
    """Send one command to Redis and print its answer: for where the real redis-cli is not installed."""
    from distributer.control import inspect

    if not command:
        raise ConfigError("redis-cli: give a command, such as HGETALL distributer:sticky")
    if not _run(inspect.pass_through(_load(config, redis=redis), command)):
        sys.exit(1)


@app.command
def bench(
    *,
    url: Annotated[str, Parameter(help="Where to ask: http://host:port/path.")],
    connections: Annotated[int, Parameter(help="How many ask at once, each anew when it has its answer.")] = 64,
    seconds: Annotated[float, Parameter(help="Length of the measurement.")] = 10.0,
    requests: Annotated[int, Parameter(help="End after so many requests instead; 0: by the clock.")] = 0,
    scenario: Annotated[
        str,
        Parameter(
            help="get: the URL's path. read: items of the demo application, made first. create: a new item with each "
            "request. Items are deleted afterwards."
        ),
    ] = "get",
    warmup_s: Annotated[float, Parameter(help="Load before the measurement, seconds.")] = 1.0,
    first_item: Annotated[int, Parameter(help="Number of the first item that is made; none may exist from it on.")] = (
        1_000_000_000
    ),
    items: Annotated[int, Parameter(help="How many items are made for read.")] = 1_000,
    timeout_s: Annotated[float, Parameter(help="Silence that counts as an error, seconds.")] = 15.0,
    json: Json = False,
) -> None:
    """Measure a cluster that is up: requests a second and latency in a closed loop. Exit status 1 if any fails."""
    from distributer.load import command

    run = command.Run(
        target=command.Target.parse(url),
        scenario=scenario,
        connections=connections,
        seconds=seconds,
        requests=requests,
        warmup_s=warmup_s,
        first_item=first_item,
        items=items,
        timeout_s=timeout_s,
    )
    if not command.bench(run, as_json=json):
        sys.exit(1)


@app.command(name="check-config")
def check_config(*, config: Config = None) -> None:
    """Read the settings as `serve` would, and print them, secrets masked."""
    from distributer.control import inspect

    settings = _load(config)
    inspect.show_settings(settings)


def _set_state(
    backend: str, state: AdminState, config: Path | None, redis: str | None, prefix: str | None, *, as_json: bool
) -> None:
    from distributer.control import operate

    _run(operate.set_state(_load(config, redis=redis, prefix=prefix), backend, state, as_json=as_json))


def _load(config_file: Path | None, **flags: object) -> config.Settings:
    return config.load(config_file, **flags)


def _say(line: str) -> None:
    # Whoever read stderr may have left: no reason for a supervisor to fail.
    with contextlib.suppress(BrokenPipeError):
        print(f"distributer: {line}", file=sys.stderr, flush=True)  # noqa: T201


def _show(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def main() -> None:
    """Run the command line. One line on stderr for a mistake: exit status 2; for surroundings that fail: 1."""
    try:
        try:
            app(print_error=False, exit_on_error=False)
        finally:
            print(end="", flush=True)  # noqa: T201 - what fails to leave now fails here, not when the interpreter ends
    except CycloptsError as error:
        _say(" ".join(str(error).split()))
        sys.exit(2)
    except ConfigError as error:
        _say(str(error))
        sys.exit(2)
    except DistributerError as error:
        _say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has left, as after `| head`: what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)

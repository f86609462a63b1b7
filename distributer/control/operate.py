"""What the command line changes: the backends of the cluster, and the sticky map from the backends' lists.

All of it goes to Redis directly, so it works on any machine that reaches that, whichever replicas are up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from distributer.config import Settings
from distributer.control.inspect import connected, plain_console, print_json
from distributer.control.membership import Membership
from distributer.control.rebuild import Findings, Rebuild
from distributer.control.registry import BackendStatus, Registry
from distributer.control.removal import Removal
from distributer.errors import ChangeRefusedError, ConfigError
from distributer.log import printable
from distributer.model import AdminState, Backend
from distributer.routing.item import DEMO_RULES
from distributer.routing.topology import FROM_ADMIN, Members, Topology, place_of, with_added, with_state
from distributer.state.keys import Keys
from distributer.state.redis_store import stored_ttl_ms

MAX_SHOWN = 100
"""The most conflicts that are printed for people."""


async def show_backends(settings: Settings, *, as_json: bool) -> None:
    """Print the backends: what they are, what is wanted of them, how they are."""
    async with connected(settings) as client:
        status = await Registry(client, Keys(settings.prefix)).status()
    if as_json:
        shown = ("id", "url", "state", "health", "joined", "source", "items")
        rows = [{name: asdict(backend)[name] for name in shown} for backend in status.backends]
        print_json({"topology": status.topology, "backends": [_with_names(row) for row in rows]})
        return
    table = Table("backend", "url", "state", "health", "joined", "source", "items", box=None)
    for backend in status.backends:
        table.add_row(*[printable(part) for part in _row(backend)])
    plain_console().print(table if status.backends else "there are no backends yet")


def _with_names(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "health": {**row["health"], "status": row["health"]["status"].value}}


def _row(backend: BackendStatus) -> Sequence[str]:
    health = backend.health
    why = f" ({health.reason})" if health.reason else ""
    joined = "yes" if backend.joined else "not yet"
    how = f"{health.status.value}{why}"
    return backend.id, backend.url, backend.state, how, joined, backend.source, str(backend.items)


async def add_backend(settings: Settings, url: str, *, as_json: bool) -> None:
    """Add a backend at the end. It joins the rotation when its first probes have passed."""
    try:
        backend = Backend.from_url(url)
    except ValueError as error:
        raise ConfigError(f"url: {error}") from error
    await _change(
        settings,
        lambda members: with_added(members, backend, FROM_ADMIN, joined=False),
        backend.url,
        as_json=as_json,
    )


async def set_state(settings: Settings, backend_id: str, state: AdminState, *, as_json: bool) -> None:
    """Say what is wanted of a backend. It counts from the next request on, on every replica."""
    await _change(settings, lambda members: with_state(members, backend_id, state), backend_id, as_json=as_json)


async def _change(settings: Settings, how: Callable[[Members], Members], backend_id: str, *, as_json: bool) -> None:
    async with connected(settings) as client:
        topology = await Membership(client, Keys(settings.prefix)).change(how)
    member = topology.member(backend_id)
    if as_json:
        print_json(
            {"backend": member.backend.id, "url": member.backend.url, "state": member.state.value}
            | {"joined": member.joined, "topology": topology.version}
        )
        return
    joins = "" if member.joined else "; it joins the rotation when its first probes have passed"
    print(f"{member.backend.id} is {member.state.value}{joins}")  # noqa: T201
    if not topology.in_rotation:
        print("no backend is in the rotation now", file=sys.stderr)  # noqa: T201


async def remove_backend(settings: Settings, backend_id: str, *, releases: bool, is_sure: bool, as_json: bool) -> None:
    """Remove a backend, when whoever asks for it has confirmed that."""
    async with connected(settings) as client:
        keys = Keys(settings.prefix)
        present = await Membership(client, keys).read() or Topology(())
        member = present.members[place_of(present.members, backend_id)]
        what = f"remove {member.backend.url}" + (", and release all items that are bound to it" if releases else "")
        if not is_sure:
            _confirm(what)
        removed = await Removal(client, keys).remove(backend_id, releases=releases)
    comes_back = removed.url in settings.backends
    if as_json:
        print_json({"url": removed.url, "released": removed.released, "topology": removed.topology.version})
        return
    released = f"; {removed.released:,} items released" if releases else ""
    print(f"{removed.url} is removed{released}")  # noqa: T201
    if comes_back:
        print("the settings still name it: the next start brings it back", file=sys.stderr)  # noqa: T201


def _confirm(what: str) -> None:
    """Ask on the terminal. Raises ConfigError where there is none, ChangeRefusedError for anything but yes."""
    if not sys.stdin.isatty():
        raise ConfigError(f"yes: there is no terminal to ask on; --yes, to {what}")
    print(f"{what}? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ChangeRefusedError("nothing was changed")


async def rebuild(settings: Settings, *, is_dry_run: bool, as_json: bool) -> bool:
    """Bind the items that the backends list. False if anything does not fit together."""
    if settings.list_path is None:
        raise ConfigError(
            "list_path: it is not set; backends must list their items for this, such as at --list-path /items/"
        )
    keys = Keys(settings.prefix)
    progress = _Progress()
    async with connected(settings) as client:
        topology = await Membership(client, keys).read() or Topology.of(settings.backend_list)
        backends = [member.backend for member in topology.members if member.state is not AdminState.MAINT]
        if not backends:
            raise ConfigError("backend: the cluster has none, and none is given")
        walk = Rebuild(
            client,
            keys,
            backends,
            settings.list_path,
            DEMO_RULES,
            stored_ttl_ms(settings.sticky_ttl_s),
            is_dry_run=is_dry_run,
            say=progress.say,
        )
        try:
            findings = await walk.run()
        finally:
            progress.end()
    if as_json:
        print_json({"dry_run": is_dry_run, **findings.as_dict()})
    else:
        _print_findings(findings, is_dry_run=is_dry_run)
    return findings.is_clean


class _Progress:
    """One line on a terminal that tells how far it is."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._has_begun = False

    def say(self, backend: Backend, findings: Findings) -> None:
        if self._is_shown:
            self._has_begun = True
            line = f"\r{backend.id}: {findings.listed:,} items listed, {findings.bound:,} bound\x1b[K"
            print(line, end="", file=sys.stderr, flush=True)  # noqa: T201

    def end(self) -> None:
        if self._has_begun:
            print(file=sys.stderr)  # noqa: T201


def _print_findings(findings: Findings, *, is_dry_run: bool) -> None:
    console = plain_console()
    bound = "would be bound" if is_dry_run else "bound anew"
    parts = [f"{findings.listed:,} items listed", f"{findings.bound:,} {bound}", f"{findings.kept:,} bound already"]
    if findings.claimed:
        parts.append(f"{findings.claimed:,} left to the creates and deletes on them")
    console.print(", ".join(parts), soft_wrap=True)
    for conflict in findings.conflicts[:MAX_SHOWN]:
        has = {True: "which has it too", False: "which has it not", None: "which does not say whether it has it"}
        line = f"conflict: item {conflict.item} is on {conflict.listed_by}, but bound to {conflict.bound_to}, "
        console.print(printable(line + has[conflict.owner_has_it]), soft_wrap=True)
    if len(findings.conflicts) > MAX_SHOWN:
        console.print(f"… and {len(findings.conflicts) - MAX_SHOWN:,} conflicts more; --json shows all")
    for url, reason in findings.failures.items():
        console.print(printable(f"failed: {url}: {reason}"), soft_wrap=True)

"""Redis as replicas see it: the commands that they send, the scripts on the transitions of `routing/`.

`tests/contract` holds the transitions and the Lua scripts together; so what holds on these holds on those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis

from distributer.model import Backend, Claim, Doubt, ItemId, Operation, Outcome, Places
from distributer.routing import claim as claims
from distributer.routing.claim import OPERATIONS, ItemState
from distributer.routing.topology import Members, Topology, decode, encode
from distributer.state import scripts
from distributer.state.keys import Keys
from tests.simulation.network import Wire
from tests.simulation.truth import Truth
from tests.simulation.world import EPOCH_S, Process, World

ADDRESS = ("redis", 6379)
LEAP = 1_048_576
"""As in `change.lua`."""
UNBOUND = ItemState()

_SCRIPTS = {
    scripts.BEGIN: "begin",
    scripts.SETTLE: "settle",
    scripts.DOUBTS: "doubts",
    scripts.RESOLVE: "resolve",
    scripts.BIND: "bind",
    scripts.CHANGE: "change",
    scripts.READ: "read",
    scripts.LEASE: "lease",
}
_OF_ITEMS = frozenset({"begin", "settle", "doubts", "resolve", "bind"})
"""Scripts whose last argument is how long bindings are kept: here, for ever."""
_BY_SHA = {script.sha1.encode(): name for script, name in _SCRIPTS.items()}
_BY_SOURCE = {script.source.encode(): (script.sha1.encode(), name) for script, name in _SCRIPTS.items()}


@dataclass
class Dataset:
    """All that a failover may take back."""

    rotation: int = 0
    items: dict[str, ItemState] = field(default_factory=dict)
    members: Members = ()
    version: int = 0
    epoch: tuple[int, int, int] | None = None
    """The counter, the place in the ring, and the server's identity, as an epoch notes them."""

    def copy(self) -> Dataset:
        """Copy it: all values in it are immutable."""
        return Dataset(self.rotation, dict(self.items), self.members, self.version, self.epoch)


class RedisServer:
    """One server. `data` is what it holds; leases and the scripts that it knows are not worth a failover's trouble."""

    def __init__(self, world: World, truth: Truth, keys: Keys) -> None:
        self.world = world
        self.truth = truth
        self.keys = keys
        self.data = Dataset()
        self.is_up = True
        self.splits = 0.02
        """The share of pipelines that arrive in two parts, between which others' commands may run."""
        self._stopped_until = 0.0
        self._backlog: list[tuple[Wire, Sequence[Any]]] = []
        self._readers: dict[Wire, Any] = {}
        self._known: set[bytes] = set()
        self._identity = 0
        self._lease: tuple[str, float] = ("", 0.0)
        self._last_us = 0
        self.on_begun: Callable[[Process], None] | None = None
        """Called with a process of which a claim has just bound an item, before it hears of that."""
        self._asking: Process | None = None
        self._is_late = False
        """Whether the replica has given up the connection on which the present commands have come."""

    # What the network calls.

    def accept(self, wire: Wire) -> bool:
        if self.is_up:
            self._readers[wire] = hiredis.Reader()
        return self.is_up

    def received(self, wire: Wire, data: bytes) -> None:
        reader = self._readers.get(wire)
        if reader is None:
            return
        reader.feed(data)
        commands = []
        while (command := reader.gets()) is not False:
            commands.append(command)
        if not commands:
            return
        if self._stopped_until > self.world.now:
            self._backlog.append((wire, commands))
        elif len(commands) > 1 and self.world.chance() < self.splits:
            place = self.world.random.randrange(1, len(commands))
            self._answer(wire, commands[:place])
            self.world.after(self.world.network.latency(), self._late, wire, commands[place:])
        else:
            self._answer(wire, commands)

    def lost(self, wire: Wire) -> None:
        # What it had sent before is in the backlog, and is still executed.
        self._readers.pop(wire, None)

    def _late(self, wire: Wire, commands: Sequence[Any]) -> None:
        if wire in self._readers:
            self._answer(wire, commands)

    def _answer(self, wire: Wire, commands: Sequence[Any]) -> None:
        self._is_late = wire.is_closing()
        self._asking = wire.process
        replies = [self._run(command) for command in commands]
        if self.world.is_traced:
            for command, reply in zip(commands, replies, strict=True):
                self.world.tell("redis", f"{wire.process.name}: {_shown(command)} → {reply!r:.120}")
        wire.send(b"".join(map(_encoded, replies)))

    # Fates.

    def stop(self, for_s: float) -> None:
        """Do nothing for so long, as by SIGSTOP; commands that come meanwhile are executed afterwards."""
        self._stopped_until = self.world.now + for_s
        self.world.at(self._stopped_until, self._go_on)

    def _go_on(self) -> None:
        if self._stopped_until > self.world.now or not self.is_up:
            return
        backlog, self._backlog = self._backlog, []
        for wire, commands in backlog:
            self._answer(wire, commands)

    def cut(self) -> None:
        """Kill all connections."""
        readers, self._readers = self._readers, {}
        for wire in readers:
            wire.shut(ConnectionResetError(104, "Connection reset by peer"))

    def crash(self, for_s: float) -> None:
        """Die, and come back after so long with all data (AOF always) and no scripts."""
        self.is_up = False
        self._backlog = []
        self._stopped_until = 0.0
        self._known.clear()
        self.cut()
        self.world.after(for_s, self._come_back)

    def _come_back(self) -> None:
        self.is_up = True

    def flush_scripts(self) -> None:
        """Forget all scripts."""
        self._known.clear()

    def lose_writes(self, data: Dataset) -> None:
        """Have a replica that did not get the last writes take over."""
        self.data = data
        self._identity += 1
        self.cut()
        self.truth.writes_were_lost()

    # Commands.

    def _run(self, command: Sequence[bytes]) -> Any:
        name = command[0].upper()
        if name == b"EVALSHA":
            if command[1] not in self._known:
                return hiredis.ReplyError("NOSCRIPT No matching script. Please use EVAL.")
            return self._script(_BY_SHA[command[1]], command)
        if name == b"EVAL":
            sha, script = _BY_SOURCE[command[1]]
            self._known.add(sha)
            return self._script(script, command)
        return _COMMANDS[name](self, [part.decode() for part in command[1:]])

    def _script(self, name: str, command: Sequence[bytes]) -> Any:
        arguments = [part.decode() for part in command[3 + int(command[2]) :]]
        if name in _OF_ITEMS:
            arguments.pop()
        return _SCRIPT_METHODS[name](self, arguments)

    def _ping(self, _: Sequence[str]) -> Any:
        return b"PONG"

    def _incrby(self, arguments: Sequence[str]) -> int:
        assert arguments[0] == self.keys.rotation
        self.data.rotation += int(arguments[1])
        return self.data.rotation

    def _hmget(self, arguments: Sequence[str]) -> list[bytes | None]:
        assert arguments[0] == self.keys.sticky
        bindings = [self.data.items.get(item, UNBOUND).binding for item in arguments[1:]]
        return [None if binding is None else binding.encode() for binding in bindings]

    def _get(self, arguments: Sequence[str]) -> bytes | None:
        assert arguments[0] == self.keys.topology
        return b"%d" % self.data.version if self.data.version else None

    def _hlen(self, _: Sequence[str]) -> int:
        return len(self.data.items)

    # Scripts: each is its Lua, on the reference.

    def _begin(self, arguments: Sequence[str]) -> Any:
        item, claim_id, kind, ttl_ms, version, highest, hint, gone, usable, shift, *urls = arguments
        data, state = self.data, self.data.items.get(item, UNBOUND)
        if self._is_late:
            self.truth.late_claims.add(claim_id)
        claim = Claim(claim_id, ItemId(item), OPERATIONS[kind])
        places = Places(tuple(urls), usable, int(shift), int(version))
        now_us = self.now_us()
        after, rotation, begun = claims.begin(
            state, claim, places, data.rotation, now_us, int(ttl_ms), hint=hint, gone=gone
        )
        is_bound_anew = after is not state and after.binding != (state.binding if state.binding != gone else None)
        has_no_place = begun.owner is None and not begun.is_full and claim.operation is Operation.CREATE
        is_stale = int(version) != data.version or data.rotation < int(highest)
        if (is_bound_anew or has_no_place) and is_stale:
            return [b"", 0, 2]
        data.rotation = rotation
        self._write(item, after)
        if begun.owner is None and claim.operation is Operation.DELETE:
            self.truth.unclaimed(claim_id)
        if is_bound_anew and begun.ticket is None:
            self.truth.hinted(item)
        if begun.ticket is not None and self.on_begun is not None and self._asking is not None:
            self.on_begun(self._asking)
        return [(begun.owner or "").encode(), begun.ticket or 0, int(begun.is_full)]

    def _settle(self, arguments: Sequence[str]) -> Any:
        item, claim_id, kind, owner, outcome = arguments
        claim = Claim(claim_id, ItemId(item), OPERATIONS[kind])
        state = self.data.items.get(item, UNBOUND)
        self._write(item, claims.settle(state, claim, owner, Outcome(outcome), self.now_us()))
        self.truth.settled(claim, owner, Outcome(outcome))
        return 1

    def _doubts(self, _: Sequence[str]) -> Any:
        now_us = self.now_us()
        rows: list[Any] = []
        for item, state in self.data.items.items():
            doubt = claims.doubt(ItemId(item), state, now_us)
            if doubt is not None:
                rows += [item.encode(), (doubt.owner or "").encode(), doubt.version]
        return [b"0", rows]

    def _resolve(self, arguments: Sequence[str]) -> int:
        item, owner, version, exists = arguments
        doubt = Doubt(ItemId(item), owner or None, int(version))
        state = self.data.items.get(item, UNBOUND)
        state, is_resolved = claims.resolve(state, doubt, exists=exists == "1", now_us=self.now_us())
        if is_resolved:
            self._write(item, state)
        return int(is_resolved)

    def _bind(self, arguments: Sequence[str]) -> bytes:
        item, instead_of, owner = arguments
        state, standing = claims.bind(self.data.items.get(item, UNBOUND), instead_of, owner)
        self._write(item, state)
        return standing.encode()

    def _read(self, _arguments: Sequence[str]) -> Any:
        data = self.data
        epoch = b""
        if data.epoch is not None:
            after, first, _ = data.epoch
            epoch = json.dumps({"after": after, "first": first}).encode()
        fields = [part.encode() for pair in encode(data.members).items() for part in pair]
        return [b"%d" % data.version, epoch, b"%d" % data.rotation, fields, int(self._has_lost_writes)]

    @property
    def _has_lost_writes(self) -> bool:
        return self.data.epoch is not None and self.data.epoch[2] != self._identity

    def _change(self, arguments: Sequence[str]) -> Any:
        version, highest, offset, _, newest, number, *rest = arguments
        if int(version) != self.data.version:
            return []
        starts, fields = [int(start) for start in rest[: int(number)]], rest[int(number) :]
        counter = self.data.rotation
        if counter < int(highest) or self._has_lost_writes:
            counter, first = max(counter, int(highest)) + LEAP, 0
        else:
            first = starts[(counter + int(offset)) % len(starts)]
        self._set_topology(decode(dict(zip(fields[0::2], fields[1::2], strict=True))), counter, first, int(newest))
        return [b"%d" % self.data.version, b"%d" % counter, first]

    def _run_lease(self, arguments: Sequence[str]) -> Any:
        replica_id, ttl_ms = arguments
        holder, until = self._lease
        is_mine = until <= self.world.now or holder == replica_id
        if is_mine:
            self._lease = (replica_id, self.world.now + int(ttl_ms) / 1000)
        seconds, micros = divmod(self.now_us(), 1_000_000)
        return [int(is_mine and int(ttl_ms) > 0), b"%d" % seconds, b"%d" % micros]

    # What the simulation itself does, at one moment.

    def run(self, command: Sequence[Any]) -> Any:
        """Run a command that comes on another connection than those of the hot links."""
        return self._run([part if isinstance(part, bytes) else str(part).encode() for part in command])

    def change(self, how: Callable[[Members], Members]) -> None:
        """Change the members, as an operator does."""
        data = self.data
        after, first, _ = data.epoch or (0, 0, 0)
        present = Topology(data.members, data.version, after, first)
        members = how(data.members)
        if members != data.members:
            changed = present.changed(members, data.rotation, 0)
            self._set_topology(members, data.rotation, changed.first)

    def found(self, backends: Sequence[Backend]) -> None:
        """Write the first ring."""
        self._set_topology(Topology.of(backends).members, 0, 0)

    @property
    def answers(self) -> bool:
        """Whether it answers now."""
        return self.is_up and self._stopped_until <= self.world.now

    def now_us(self) -> int:
        """Redis TIME: no two transitions happen at the same time."""
        self._last_us = max(self._last_us + 1, int((EPOCH_S + self.world.now) * 1e6))
        return self._last_us

    def _set_topology(self, members: Members, counter: int, first: int, newest: int = 0) -> None:
        data = self.data
        data.members, data.rotation = members, counter
        data.version = max(data.version + 1, newest + 1, self.now_us())
        data.epoch = (counter, first, self._identity)
        self.truth.epoch_began(Topology(members, data.version, counter, first))
        if self.world.is_traced:
            ring = " ".join(backend.host for backend in Topology(members).in_rotation)
            self.world.tell("redis", f"ring is {ring}, after ticket {counter} from place {first}")

    def _write(self, item: str, state: ItemState) -> None:
        if state.binding is None and state.entry is None:
            self.data.items.pop(item, None)
        else:
            self.data.items[item] = state
        self.truth.bound(item, state)


_COMMANDS: Mapping[bytes, Callable[[RedisServer, Sequence[str]], Any]] = {
    b"PING": RedisServer._ping,
    b"INCRBY": RedisServer._incrby,
    b"HMGET": RedisServer._hmget,
    b"GET": RedisServer._get,
    b"HLEN": RedisServer._hlen,
}
_SCRIPT_METHODS: Mapping[str, Callable[[RedisServer, Sequence[str]], Any]] = {
    "begin": RedisServer._begin,
    "settle": RedisServer._settle,
    "doubts": RedisServer._doubts,
    "resolve": RedisServer._resolve,
    "bind": RedisServer._bind,
    "change": RedisServer._change,
    "read": RedisServer._read,
    "lease": RedisServer._run_lease,
}


def _encoded(reply: Any) -> bytes:
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, list):
        return b"*%d\r\n%b" % (len(reply), b"".join(map(_encoded, reply)))
    return b"-%b\r\n" % str(reply).encode()


def _shown(command: Sequence[bytes]) -> str:
    name = command[0].decode()
    if name in ("EVALSHA", "EVAL"):
        script = _BY_SHA[command[1]] if name == "EVALSHA" else _BY_SOURCE[command[1]][1]
        words = [part.decode() for part in command[3 + int(command[2]) :]]
        return f"{name.lower()} {script} {' '.join(word or '-' for word in words)}"[:150]
    return " ".join(part.decode() for part in command).replace("distributer:", "")[:150]

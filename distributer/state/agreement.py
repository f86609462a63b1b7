"""The topology and the backends' health in Redis: commands, and what the replies mean. No I/O here.

A change is made by compare-and-set on the version (`change.lua`): whoever loses reads again, and applies what was
wanted to what is there now.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from distributer.model import Health, HealthStatus
from distributer.routing.claim import MAX_INTEGER
from distributer.routing.topology import Members, Topology, decode, encode
from distributer.state.commit import Command, Reply
from distributer.state.keys import Keys
from distributer.state.scripts import CHANGE, READ

MAX_TIMES = 1_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The topology as Redis has it, None if it has none, its version, and the counter of the rotation.

    `has_lost_writes`: Redis may have, by its own word, since the epoch began.
    """

    topology: Topology | None
    version: int
    counter: int
    has_lost_writes: bool = False


def read_command(keys: Keys) -> Command:
    """Read all of it at one moment."""
    return ("EVAL", READ.source, 4, *_keys(keys))


def reading_of(reply: Reply) -> Reading:
    """Read the reply. Raises ValueError, saying what is wrong, if the keys hold what this schema does not."""
    if isinstance(reply, Exception) or not isinstance(reply, list) or len(reply) != 5:
        raise ValueError(f"Redis answered {reply!s:.200}")
    version, epoch, counter, fields = int(reply[0]), _text(reply[1]), int(reply[2]), reply[3]
    if not 0 <= version < MAX_INTEGER or not counter < MAX_INTEGER:
        raise ValueError(f"the version is {version}, the rotation {counter}")
    has_lost_writes = bool(reply[4])
    try:
        members = decode(dict(zip(map(_text, fields[0::2]), map(_text, fields[1::2]), strict=True)))
        began = json.loads(epoch or "{}") if version and members else None
    except RecursionError as error:
        raise ValueError("a text is nested too deeply") from error
    if not version or not members:
        return Reading(None, version, counter, has_lost_writes)
    match began:
        case {"after": int(after), "first": int(first)} if 0 <= first < MAX_INTEGER and 0 <= after < MAX_INTEGER:
            return Reading(Topology(members, version, after, first), version, counter, has_lost_writes)
    raise ValueError(f"the epoch is {epoch!r:.200}")


def change_command(keys: Keys, present: Topology, version: int, members: Members, highest: int = 0) -> Command:
    """Change what is there in that version to those members.

    `present` is what tickets have fallen by so far. `highest` is the highest ticket that was seen: a counter that has
    fallen back behind it, or may have, leaps ahead, and the ring starts anew.
    """
    starts = present.starts(members)
    offset = present.first - present.after
    backends = [part for pair in encode(members).items() for part in pair]
    head = ("EVAL", CHANGE.source, 4, *_keys(keys), version, highest, offset, keys.events)
    return (*head, present.version, len(starts), *starts, *backends)


def changed_of(reply: Reply, members: Members) -> Topology | None:
    """Read the reply: the new topology, None if the version was another. Raises ValueError for an error reply."""
    if not isinstance(reply, list) or len(reply) not in (0, 3):
        raise ValueError(f"Redis answered {reply!s:.200}")
    return Topology(members, *map(int, reply)) if reply else None


def health_of(text: bytes | str) -> Health | None:
    """Read one field of the health hash."""
    try:
        match json.loads(text):
            case {"status": str(status), "since": int() | float() as since, "reason": str(reason), **more}:
                until, times = more.get("until"), more.get("times")
                return Health(
                    HealthStatus(status),
                    _time(since),
                    reason,
                    _time(until) if isinstance(until, int | float) else None,
                    times if isinstance(times, int) and 0 <= times < MAX_TIMES else 0,
                )
    except (ValueError, OverflowError, RecursionError):
        pass
    return None


def _time(value: float) -> float:
    if not 0 <= value < MAX_INTEGER:
        raise ValueError("not a time")
    return float(value)


def health_text(health: Health) -> str:
    """Write one field of the health hash."""
    value: dict[str, str | float] = {"status": health.status.value, "since": health.since, "reason": health.reason}
    if health.until is not None:
        value["until"] = health.until
    if health.times:
        value["times"] = health.times
    return json.dumps(value, separators=(",", ":"))


def _keys(keys: Keys) -> tuple[str, str, str, str]:
    return keys.topology, keys.epoch, keys.backends, keys.rotation


def _text(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply

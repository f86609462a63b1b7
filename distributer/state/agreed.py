"""The topology on which the replicas agree, as one of them follows it: with each round trip, and after each return.

Each reply of a batch comes with the version of the topology. What is *news*: another version, or tickets that have been
dealt before. Then all of it is read, before the batch is dealt, and one of these follows:

    Redis has                                     the replica
    --------------------------------------------  ----------------------------------------------------------------
    a topology, and a counter not behind ours     follows it
    none, and nobody here knows of one            goes on with its settings; whoever starts the cluster writes one
    none; an older one; a counter that has        writes the newest that it knows, by compare-and-set: a new epoch,
    fallen back; or lost writes, by its own word  behind every ticket that may have been used
    what cannot be read                           goes on with what it knows, and takes the tickets as they come
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum

from distributer.errors import StateError
from distributer.routing.topology import Topology
from distributer.state.agreement import Reading, change_command, changed_of, read_command, reading_of
from distributer.state.commit import Batch, Reply
from distributer.state.keys import Keys
from distributer.state.redis_link import Link
from distributer.state.store import Watcher

log = logging.getLogger("distributer.state")

NONE_SEEN = -(1 << 63)
LEAP = 1 << 20
"""`change.lua` has the same number."""
ATTEMPTS = 4
"""How often it is read anew when others change it at the same time."""


class Learned(Enum):
    """What came of it."""

    YES = "yes"
    UNREADABLE = "unreadable"
    CUT_OFF = "cut off"
    """The link was lost: nothing is known."""


Then = Callable[[Learned], None]


def _summary(topology: Topology) -> str:
    others = [f"{it.backend.id} ({it.state.value})" for it in topology.members if not it.is_in_rotation]
    return " ".join([*(backend.id for backend in topology.in_rotation), *others])


class AgreedTopology:
    """The topology, and the highest ticket seen: a lower one has been dealt before, and Redis has lost writes."""

    def __init__(self, link: Link, keys: Keys, topology: Topology) -> None:
        """`topology`: that of the settings, until Redis has another."""
        self._link = link
        self._keys = keys
        self._topology = topology
        self._watcher: Watcher | None = None
        self._version: Reply = None
        """The version of the topology as the reply has it; None: Redis had none yet."""
        self._unreadable: Reply = b""
        """A version whose topology could not be read: not to be tried again with each round trip."""
        self._seen: Reply = None
        self._complaint = ""
        self.highest = 0
        """The highest ticket seen, or thrown away by a change. NONE_SEEN: they are taken as they come."""

    def watch(self, watcher: Watcher) -> None:
        """Tell watcher of the topology, now and whenever there is another."""
        self._watcher = watcher
        watcher.follow(self._topology)

    def doubt_memory(self) -> None:
        """Pass on that Redis may have lost its last writes."""
        if self._watcher is not None:
            self._watcher.doubt_memory()

    def is_news(self, batch: Batch, replies: Sequence[Reply]) -> bool:
        """Whether the topology must be read before these are dealt."""
        if not batch.has_version:
            return False
        version = self._seen = batch.version(replies)
        if isinstance(version, Exception):
            return False
        is_other = version not in (self._version, self._unreadable)
        return is_other or batch.is_refresh or self.has_been_dealt(batch, replies)

    def has_been_dealt(self, batch: Batch, replies: Sequence[Reply]) -> bool:
        """Whether tickets of these replies may have been used before."""
        first = batch.first_ticket(replies)
        return first != 0 and first <= self.highest

    def learn(self, then: Then) -> None:
        """Read the topology, and write it if that is needed; then go on. The link is free, and nobody else uses it."""
        self._learn(then, ATTEMPTS)

    def _learn(self, then: Then, attempts: int) -> None:
        def read(replies: Sequence[Reply] | StateError) -> None:
            if isinstance(replies, StateError):
                then(Learned.CUT_OFF)
                return
            try:
                reading = reading_of(replies[0])
            except ValueError as error:
                self._give_up(str(error), then)
                return
            present = reading.topology
            is_behind = reading.counter < self.highest or reading.version < self._topology.version
            if present is not None and not is_behind and not reading.has_lost_writes:
                if present.after - self.highest >= LEAP // 2:
                    # Another replica has found that writes were lost, and has let the counter leap.
                    self.doubt_memory()
                self._adopt(present)
                then(Learned.YES)
            elif present is None and self._topology.version == 0:
                self._version, self.highest = self._seen, NONE_SEEN
                then(Learned.YES)
            else:
                self._write(reading, then, attempts)

        self._link.send([read_command(self._keys)], read)

    def _write(self, reading: Reading, then: Then, attempts: int) -> None:
        log.warning(
            "Redis may have lost writes; a new epoch of the rotation begins", extra={"counter": reading.counter}
        )
        self.doubt_memory()
        present = self._topology
        if reading.topology is not None and reading.version >= present.version:
            present = reading.topology
        command = change_command(self._keys, present, reading.version, present.members, self.highest)

        def written(replies: Sequence[Reply] | StateError) -> None:
            if isinstance(replies, StateError):
                then(Learned.CUT_OFF)
                return
            try:
                changed = changed_of(replies[0], present.members)
            except ValueError as error:
                self._give_up(str(error), then)
                return
            if changed is not None:
                self._adopt(changed)
                then(Learned.YES)
            elif attempts > 1:
                self._learn(then, attempts - 1)  # another replica was faster
            else:
                self._give_up("it changes all the time", then)

        self._link.send([command], written)

    def _give_up(self, why: str, then: Then) -> None:
        self._unreadable = self._seen
        if self._complaint != why:
            self._complaint = why
            log.warning("the topology in Redis is of no use; going on with the one before", extra={"redis_said": why})
        then(Learned.UNREADABLE)

    def _adopt(self, topology: Topology) -> None:
        self._version = b"%d" % topology.version
        self._complaint = ""
        self.highest = max(self.highest, topology.after)
        if topology != self._topology:
            if self._topology.version and topology.members != self._topology.members:
                log.info("the backends have changed", extra={"ring": _summary(topology), "version": topology.version})
            self._topology = topology
            if self._watcher is not None:
                self._watcher.follow(topology)

"""Clients: each asks one thing after the other, through one replica or another, and remembers what it was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.simulation.network import Wire
from tests.simulation.replica import Replica
from tests.simulation.truth import Op, Truth
from tests.simulation.world import World


class Wish(NamedTuple):
    """A request to be made, so long after the answer to the one before."""

    after_s: float
    method: str
    item: str | None
    leaves_after_s: float | None = None
    """The client does not wait for longer."""
    body_takes_s: float = 0.0
    """The last part of the body comes so much later than the first."""


PARTS = 4
"""Of a body that takes its time."""


class Client:
    """One client, with one connection at a time."""

    def __init__(self, world: World, truth: Truth, name: str, replicas: Sequence[Replica], wishes: list[Wish]) -> None:
        self.world = world
        self.truth = truth
        self.name = name
        self.replicas = replicas
        self._wishes = wishes[::-1]
        self._wire: Wire | None = None
        self._op: Op | None = None
        self._buffer = b""
        self._wants = True
        self._next()

    @property
    def is_done(self) -> bool:
        """Whether it wants nothing any more."""
        return not self._wants and (self._op is None or self._op.is_over)

    def _next(self) -> None:
        self._wants = bool(self._wishes)
        if self._wishes:
            wish = self._wishes.pop()
            self.world.after(wish.after_s, self._ask, wish)

    def _ask(self, wish: Wish) -> None:
        wire = self._wire
        if wire is None or wire.is_lost or not wire.process.is_alive or self.world.chance() < 0.3:
            if wire is not None:
                wire.shut()
            living = [replica for replica in self.replicas if replica.process.is_alive]
            if not living:
                self.world.after(0.05, self._ask, wish)
                return
            replica = living[self.world.random.randrange(len(living))]
            wire = self._wire = self.world.network.open(replica.process, self, replica.door)
            self._buffer = b""
        self._wants = bool(self._wishes)
        op = self._op = self.truth.asked(self.name, wire.process, wish.method, wish.item)
        body = b"v%d-%b" % (op.number, b"." * PARTS) if wish.method in ("POST", "PUT") else b""
        target = "/ping" if wish.item is None else f"/items/{wish.item}"
        if wish.method == "POST":
            target = f"/items/?item_id={wish.item}"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{wish.method} {target} HTTP/1.1\r\nHost: sim\r\n{length}X-Request-ID: op-{op.number}\r\n\r\n".encode()
        if self.world.is_traced:
            self.world.tell(self.name, f"asks {wire.process.name} for {op}")
        if wish.body_takes_s and body:
            wire.send(head)
            for part in range(PARTS):
                last = len(body) if part == PARTS - 1 else part + 1
                when_s = wish.body_takes_s * part / (PARTS - 1)
                self.world.after(when_s, self._go_on, wire, op, body[part:last])
        else:
            wire.send(head + body)
        if wish.leaves_after_s is not None:
            self.world.after(wish.leaves_after_s, self._leave, wire, op)

    def _go_on(self, wire: Wire, op: Op, part: bytes) -> None:
        if op is self._op and not op.is_over and wire is self._wire:
            wire.send(part)

    def _leave(self, wire: Wire, op: Op) -> None:
        if op is self._op and not op.is_over and wire is self._wire:
            wire.shut()
            self._wire = None
            self._is_cut(op, "left")

    def _is_cut(self, op: Op, why: str) -> None:
        if self.world.is_traced:
            self.world.tell(self.name, f"{op}: {why}")
        self.truth.over(op)
        self._next()

    # What the network calls.

    def lost(self, wire: Wire) -> None:
        if wire is self._wire:
            self._wire = None
            if self._op is not None and not self._op.is_over:
                self._is_cut(self._op, "was cut")

    def received(self, wire: Wire, data: bytes) -> None:
        if wire is not self._wire:
            return
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines[1:])}
        length = int(fields[b"content-length"])
        if len(body) < length:
            return
        self._buffer = body[length:]
        op, status = self._op, int(lines[0][9:12])
        is_backends = fields.get(b"content-type") != b"application/problem+json"
        number = int(body.split(b" ")[0]) if is_backends else int(fields[b"x-request-id"][3:])
        if op is None:
            self.world.fail(f"T7: {self.name} got an answer before it asked anything")
            return
        if self.world.is_traced:
            said = "" if is_backends else f" {body.decode().strip()}"
            self.world.tell(self.name, f"{op} → {status}{said}")
        if self._buffer:
            self.world.fail(f"T7: {op} got more than its answer: {self._buffer!r}")
        self.truth.answered(op, status, number, is_backends=is_backends)
        if fields.get(b"connection") == b"close":
            wire.shut()
            self._wire = None
        self._next()

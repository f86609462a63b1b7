"""A backend: items in memory, HTTP/1.1 with keep-alive, and all ways in which an answer can fail to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from distributer.model import Backend
from tests.simulation.network import Wire
from tests.simulation.truth import Op, Truth
from tests.simulation.world import World

LONGEST_S = 0.2
"""The longest that a request is at work. What a replica has given up must be over before its claim's deadline."""


class Fates(NamedTuple):
    """How large a share of the requests meets which fate. The rest is answered as it should be."""

    refused: float = 0.0
    """503 or 429, and no effect."""
    failed: float = 0.0
    """500, with effect or without."""
    silent: float = 0.0
    """No answer ever, with effect or without."""
    reset: float = 0.0
    """A reset instead of the answer, with effect or without."""
    truncated: float = 0.0
    """Half an answer, then the end of the connection."""
    closed: float = 0.0
    """The answer, and then the end of the connection: sometimes announced, sometimes not."""
    slow: float = 0.02
    """It takes its time."""


class Request(NamedTuple):
    """A request as the backend reads it."""

    method: bytes
    target: bytes
    op: Op | None
    body: bytes


@dataclass(eq=False, slots=True)
class Session:
    """One connection."""

    buffer: bytes = b""
    is_busy: bool = False
    has_served: bool = False
    closes: bool = False


class SimBackend:
    """One server. `life` counts its lives: what was at work in an earlier one is never finished."""

    def __init__(self, world: World, truth: Truth, url: str, fates: Fates) -> None:
        self.world = world
        self.truth = truth
        self.backend = Backend.from_url(url)
        self.fates = fates
        self.items: dict[str, str] = {}
        self.is_up = True
        self.is_listening = True
        self.life = 0
        self._sessions: dict[Wire, Session] = {}
        self._pauses_until = 0.0

    # What the network calls.

    def accept(self, wire: Wire) -> bool:
        if self.is_up and self.is_listening:
            self._sessions[wire] = Session()
            return True
        return False

    def received(self, wire: Wire, data: bytes) -> None:
        session = self._sessions.get(wire)
        if session is not None:
            session.buffer += data
            if not session.is_busy:
                self._read(wire, session)

    def lost(self, wire: Wire) -> None:
        # What is at work goes on: a server learns of this when it answers.
        self._sessions.pop(wire, None)

    # Fates.

    def crash(self, for_s: float, *, forgets: bool) -> None:
        """Die, as by SIGKILL, and come back after so long: with the items, or without."""
        if not self.is_up:
            return
        self.is_up = False
        self.life += 1
        sessions, self._sessions = self._sessions, {}
        for wire in sessions:
            wire.shut(ConnectionResetError(104, "Connection reset by peer"))
        if forgets:
            for item in tuple(self.items):
                del self.items[item]
                self.truth.changed(None, item, self.backend.url, None)
        self.world.after(for_s, self._come_back)

    def _come_back(self) -> None:
        self.is_up = True

    def refuse(self, for_s: float) -> None:
        """Take no new connections for so long, and close the present ones in order."""
        self.is_listening = False
        for session in self._sessions.values():
            session.closes = True
        self.close_idle()
        self.world.after(for_s, self._listen)

    def _listen(self) -> None:
        self.is_listening = True

    def pause(self, for_s: float) -> None:
        """Work on nothing for so long, as by SIGSTOP."""
        self._pauses_until = self.world.now + for_s

    def close_idle(self) -> None:
        """Close all connections that are idle, as after the keep-alive timeout."""
        for wire, session in tuple(self._sessions.items()):
            if session.has_served and not session.is_busy and not session.buffer:
                self._close(wire)

    def _close(self, wire: Wire) -> None:
        self._sessions.pop(wire, None)
        wire.shut()

    # Requests.

    def _read(self, wire: Wire, session: Session) -> None:
        head, found, rest = session.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].split(b" ")
        fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines[1:])}
        length = int(fields.get(b"content-length", 0))
        if len(rest) < length:
            return
        session.buffer = rest[length:]
        session.is_busy = True
        request_id = fields.get(b"x-request-id", b"")
        op = self.truth.ops[int(request_id[3:])] if request_id.startswith(b"op-") else None
        if op is not None:
            self.truth.received(op, self.backend)
        least, most = (0.01, LONGEST_S / 2) if self.world.chance() < self.fates.slow else (0.0002, 0.004)
        when = max(self.world.now + self.world.between(least, most), self._pauses_until)
        self.world.at(when, self._work, wire, session, Request(method, target, op, rest[:length]), self.life)

    def _work(self, wire: Wire, session: Session, request: Request, life: int) -> None:
        if life != self.life:
            return
        if self._pauses_until > self.world.now:
            self.world.at(self._pauses_until, self._work, wire, session, request, life)
            return
        fates, chance = self.fates, self.world.chance
        draw = chance()
        fate = "answer"
        for name, share in _SHARES[fates]:
            if draw < share:
                fate = name
                break
            draw -= share
        is_done = fate in ("answer", "truncated", "closed") or (fate != "refused" and chance() < 0.5)
        if is_done:
            status, value = self._apply(request)
        if fate == "refused":
            status, value = (503 if chance() < 0.5 else 429), ""
        elif fate == "failed":
            status, value = 500, ""
        if request.op is not None and (fate == "refused" or fate == "failed"):
            self.truth.decided(request.op, self.backend, status)
        if self.world.is_traced:
            what = "" if fate == "answer" else f" ({fate}{'' if is_done else ', no effect'})"
            of = request.op if request.op is not None else f"{request.method.decode()} {request.target.decode()}"
            said = f" → {status}" if fate in ("answer", "refused", "failed", "closed") else ""
            self.world.tell(self.backend.host, f"{of}{said}{what}")
        if fate == "silent":
            return
        if fate == "reset":
            self._sessions.pop(wire, None)
            wire.shut(ConnectionResetError(104, "Connection reset by peer"))
            return
        number = -1 if request.op is None else request.op.number
        body = b"%d %b" % (number, value.encode())
        closes = fate == "closed" and chance() < 0.5
        answer = b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n%b\r\n%b" % (
            status, len(body), b"Connection: close\r\n" if closes else b"", body,
        )  # fmt: skip
        if fate == "truncated":
            answer = answer[: self.world.random.randrange(len(answer))]
        session.closes |= fate in ("truncated", "closed")
        self.world.after(self.world.between(0.0, 0.001), self._answer, wire, session, answer, life)

    def _answer(self, wire: Wire, session: Session, answer: bytes, life: int) -> None:
        if wire not in self._sessions or life != self.life:
            return
        if answer:
            wire.send(answer)
        if session.closes:
            self._close(wire)
            return
        session.is_busy = False
        session.has_served = True
        if session.buffer:
            self._read(wire, session)

    def _apply(self, request: Request) -> tuple[int, str]:
        """Do what is asked, at this moment. Returns the status, and the value."""
        method, op = request.method, request.op
        if request.target == b"/ping":
            status, value = 200, self.backend.host
        else:
            path, _, query = request.target.decode().partition("?")
            item = query.partition("=")[2] or path.rpartition("/")[2]
            status, value = self._apply_to(item, method, op, request.body)
        if op is not None:
            self.truth.decided(op, self.backend, status)
        return status, value

    def _apply_to(self, item: str, method: bytes, op: Op | None, body: bytes) -> tuple[int, str]:
        has_it = item in self.items
        if method == b"POST" and has_it:
            return 400, "it exists already"
        if method != b"POST" and not has_it:
            return 404, "no such item"
        if method == b"GET":
            return 200, self.items[item]
        if method == b"DELETE":
            del self.items[item]
            self.truth.changed(op, item, self.backend.url, None)
            return 200, "deleted"
        self.items[item] = body.decode()
        self.truth.changed(op, item, self.backend.url, body.decode())
        return 200, body.decode()


class _Shares(dict[Fates, tuple[tuple[str, float], ...]]):
    def __missing__(self, fates: Fates) -> tuple[tuple[str, float], ...]:
        names = ("refused", "failed", "silent", "reset", "truncated", "closed")
        shares = tuple((name, getattr(fates, name)) for name in names if getattr(fates, name))
        self[fates] = shares
        return shares


_SHARES: Mapping[Fates, tuple[tuple[str, float], ...]] = _Shares()

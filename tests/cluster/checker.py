"""Decides over a history whether the promises were kept. Pure: a history in, violations out.

- *register*: each item behaves as one register, on one backend (`register.py`);
- *copies*: at rest, no item is on two backends;
- *map*: at rest, no claim is left, and each item that exists is bound to the backend that holds it;
- *tickets*: each ticket of the shared rotation is used once, and was taken from the counter;
- *level*: while nothing changes, backends get their share of the rotation;
- *odd*: answers that nothing explains.

What is legal, and why
----------------------
A stale binding is harmless, so one without an item is no violation. A 503 says that nothing was sent, so it changes
nothing. A replica that is without Redis sends a request for a bound item to where it last saw it bound; the item may
have been deleted and created elsewhere since. So a *404 to a read or a put that went by memory*, as its answer tells,
says nothing, and is left out; an answer that speaks of the item counts. Creates and deletes are refused then: theirs
count.

Puts and deletes are sent once more by the distributer when a kept-alive connection breaks under them, so they may take
effect twice (RFC 9110 section 9.2.2 allows that). Histories that are explained only by that are counted as `repeats`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.cluster.history import History, Kind, Operation, Ping, Rest, Result, Span, Wipe
from tests.cluster.register import UndecidedError, Unexplained, explain, steps_of

CONTEXT = 12
"""How many operations before the violation are shown with it."""


class Violation(NamedTuple):
    """A promise that was not kept."""

    promise: str
    text: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.text}"


@dataclass
class Verdict:
    """What the checker found."""

    violations: list[Violation] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    """Items whose history is explained only by a put or delete that took effect twice."""
    undecided: list[int] = field(default_factory=list)
    """Items whose history has too many orders."""
    excused: int = 0
    """404s left out since a replica went by what it remembered."""
    items: int = 0
    tickets: int = 0
    unevenness: int = 0
    """The largest difference between two backends' counts in any span in which nothing changed."""

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept, and everything was decided."""
        return not self.violations and not self.undecided


def check(
    history: History,
    *,
    horizon_s: float = math.inf,
    are_local_tickets_marked: bool = False,
    quiet: Sequence[Span] = (),
    clients: int = 64,
) -> Verdict:
    """Check all promises.

    `horizon_s`: how long after its start a write without an answer may still take effect. `quiet`: spans in which
    nothing was done to the cluster, and everything had been noticed. `are_local_tickets_marked`: tickets that a replica
    deals itself while degraded are not told, so every ticket that is told is a shared one.
    """
    verdict = Verdict()
    verdict.violations += [Violation("odd", text) for text in history.odd]
    check_registers(history, verdict, horizon_s)
    if history.rest is not None:
        verdict.violations += copies(history.rest)
        verdict.violations += disagreements(history.rest)
    check_tickets(history, verdict, [] if are_local_tickets_marked else history.degraded)
    check_level(history, verdict, quiet, clients)
    return verdict


# Registers.


def check_registers(history: History, verdict: Verdict, horizon_s: float) -> None:
    """Check each item's operations against a register."""
    by_item: dict[int, list[Operation]] = defaultdict(list)
    for operation in history.operations:
        if _says_nothing(operation):
            verdict.excused += 1
        else:
            by_item[operation.item].append(operation)
    for operation in _at_rest(history.rest, by_item):
        by_item[operation.item].append(operation)
    verdict.items = len(by_item)
    for item, operations in sorted(by_item.items()):
        check_register(item, operations, history.wipes, verdict, horizon_s)


def check_register(
    item: int, operations: Sequence[Operation], wipes: Sequence[Wipe], verdict: Verdict, horizon_s: float = math.inf
) -> None:
    """Check one item's operations against a register."""
    try:
        fault = explain(steps_of(operations, wipes, horizon_s=horizon_s))
        if fault is None:
            return
        fault = explain(steps_of(operations, wipes, horizon_s=horizon_s, with_repeats=True))
    except UndecidedError:
        verdict.undecided.append(item)
        return
    if fault is None:
        verdict.repeats.append(item)
    else:
        verdict.violations.append(Violation("register", _told(item, fault, operations, wipes)))


def _says_nothing(operation: Operation) -> bool:
    is_asked = operation.kind in (Kind.READ, Kind.PUT)
    return operation.is_remembered and is_asked and operation.result is Result.MISSING


def _at_rest(rest: Rest | None, items: Iterable[int]) -> list[Operation]:
    """What the backends hold at the end, as reads."""
    if rest is None:
        return []
    found: list[Operation] = []
    for item in sorted({*items, *(item for held in rest.items.values() for item in held)}):
        owners = [(backend, held[item]) for backend, held in sorted(rest.items.items()) if item in held]
        for backend, value in owners:
            found.append(Operation(-1, item, Kind.READ, value, rest.at, rest.at, Result.DONE, backend))
        if not owners:
            found.append(Operation(-1, item, Kind.READ, None, rest.at, rest.at, Result.MISSING))
    return found


def _told(item: int, fault: Unexplained, operations: Sequence[Operation], wipes: Sequence[Wipe]) -> str:
    until = fault.step.end
    before: list[Operation | Wipe] = [it for it in operations if it.start <= until]
    before += [it for it in wipes if it.start <= until]
    before.sort(key=lambda it: it.end)
    lines = "".join(f"\n    {it}" for it in before[-CONTEXT:])
    return f"item {item}: {fault}{lines}"


# At rest.


def copies(rest: Rest) -> list[Violation]:
    """Items on more than one backend."""
    owners: dict[int, list[str]] = defaultdict(list)
    for backend, held in sorted(rest.items.items()):
        for item in held:
            owners[item].append(backend)
    return [
        Violation("copies", f"item {item} is on {' and '.join(on)}")
        for item, on in sorted(owners.items())
        if len(on) > 1
    ]


def disagreements(rest: Rest) -> list[Violation]:
    """Claims that are left, and items that are not bound to where they are."""
    found = [Violation("map", f"{rest.claims} items have claims left")] if rest.claims else []
    for backend, held in sorted(rest.items.items()):
        for item in sorted(held):
            bound = rest.sticky.get(item)
            if bound != backend:
                found.append(Violation("map", f"item {item} is on {backend}, and bound to {bound or 'nothing'}"))
    return found


# Rotation.


class _Dealt(NamedTuple):
    ticket: int
    backend: str | None
    start: float
    end: float
    text: str


def _dealt(operations: Iterable[Operation], pings: Iterable[Ping]) -> list[_Dealt]:
    found = [_Dealt(it.ticket, it.backend, it.start, it.end, str(it)) for it in operations if it.ticket is not None]
    found += [
        _Dealt(it.ticket, it.backend, it.start, it.end, f"[{it.start:.4f}–{it.end:.4f}] ping by {it.backend}")
        for it in pings
        if it.ticket is not None
    ]
    return found


def check_tickets(history: History, verdict: Verdict, degraded: Sequence[Span]) -> None:
    """Check that no ticket of the shared rotation was used twice, or came from elsewhere."""
    spans = _merged(degraded)
    used: dict[int, _Dealt] = {}
    for it in _dealt(history.operations, history.pings):
        if any(span.overlaps(it.start, it.end) for span in spans):
            continue
        verdict.tickets += 1
        other = used.setdefault(it.ticket, it)
        if other is not it:
            text = f"{it.ticket} was used twice:\n    {other.text}\n    {it.text}"
            verdict.violations.append(Violation("tickets", text))
        if history.rest is not None and it.ticket > history.rest.rotation:
            text = f"{it.ticket} is beyond the counter, {history.rest.rotation}: {it.text}"
            verdict.violations.append(Violation("tickets", text))


def check_level(history: History, verdict: Verdict, quiet: Sequence[Span], clients: int) -> None:
    """Check that within each quiet span the backends' counts differ by no more than what its edges cut off.

    What is in flight at either edge, one request for each client, is not counted, wherever it went.
    """
    dealt = _dealt(history.operations, history.pings) if quiet else []
    for span in quiet:
        counts = Counter(it.backend for it in dealt if span.start <= it.start and it.end <= span.end)
        if not counts:
            continue
        difference = max(counts.values()) - min(counts.values())
        verdict.unevenness = max(verdict.unevenness, difference)
        if difference > 1 + 2 * clients:
            text = f"from {span.start:.1f} to {span.end:.1f} s the backends got {_listed(counts)}"
            verdict.violations.append(Violation("level", text))


def _listed(counts: Mapping[str | None, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=lambda pair: str(pair[0])))


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap: few are asked then, however many replicas said the same."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged

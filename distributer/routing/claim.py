"""The claims: which backend holds an item, while creates and deletes of it are in flight. Values in, values out.

This is the reference; `state/scripts/*.lua` are the same transitions inside Redis, and tests hold the two together.

The theory
----------
An item has a *binding* (its owner's base URL, or none) and an *entry* (the claims on it, or none). A replica *begins* a
claim before it sends a create or a delete, sends the request to the owner that it was given, and *settles* the claim
by the answer. It may die in between, and its commands may be lost or come late. Four things are relied upon:

A1. Claim ids are unique.
A2. A claim is at its backend only between its begin and its deadline: a replica gives a request up before then. It
    counts from before it sent the begin, so its own deadline is the earlier one.
A3. An answer says what happened: DONE and FAILED are certain, all else is UNKNOWN.
A4. Redis TIME moves on, by a microsecond at least, from one transition to the next.

Then these hold after every transition, and the tests check each one:

I1. A create in the entry goes to the present binding. So all creates that may reach a backend go to the same one.
I2. While a create is in the entry, every delete in it is marked *overlapped*. The mark stays.
I3. `pending` (the binding was made by a create in flight, and no create has succeeded since) implies a binding, and a
    create in the entry.
I4. **An item that exists on a backend is bound to that backend.** So it exists on one at most.
I5. Once every claim is settled or swept, the bindings are exactly the items that exist, and there is no entry.

Only three transitions unbind, and none of them can break I4:
- a create FAILED, the binding was pending and no other create is in the entry: nobody created it, nobody still may;
- a delete DONE that no create overlapped: it is gone, and nobody has been able to create it since;
- the sweeper asked the owner after every deadline, and nothing has begun or settled since it listed the doubt.
In every other case the binding is kept. A stale one is harmless: the owner says 404, or takes the next create.

Two things from outside take bindings away: `sticky_ttl_s` and the release of a removed backend's items. Neither does
while there is an entry: a binding has an end only from when its last claim has gone, and a new claim takes that away
again, in the same transition. So I1 to I3 stand, and a create never loses its binding on the way. Of I4 remains: *an
item that exists is bound as long as it is used within the time, and its backend is of the cluster*. Whoever sets one or
does the other accepts that the rest is forgotten.

What an edit with redis-cli, a Redis that lost its last writes, or a leap of its clock can do lies outside A1 to A4.
They are met halfway: an edited binding is left as edited, and a create that succeeded writes back one that is missing.

The bound
---------
An item has MAX_CLAIMS claims at most. A begin beyond that is refused: it changes nothing, so it breaks nothing, and the
request is not sent. Without the bound a client that cuts off one create after the other leaves a claim each, for as
long as a claim lives, and every transition of the item reads and writes them all. (A create that is written back,
below, is let in beyond the bound: it has succeeded, which few can.)

Settling
--------
The outcome comes to a claim that is *held* in the entry, held but *overlapped*, or *gone*: it was swept meanwhile, or
this is a settle repeated since its reply was lost.

    claim           held       overlapped   gone
    --------------  ---------  -----------  ----------
    create done     confirm    -            write back
    create failed   withdraw   -            -
    delete done     release    ask          -
    delete failed   drop       drop         -
    any unknown     -          -            -

    confirm      remove the claim; not pending any more; bind if unbound
    withdraw     remove the claim; unbind if it was pending and no create is left
    release      remove the claim; unbind
    drop         remove the claim
    ask          the request is over, but only the owner knows what is left: have the sweeper ask at once
    write back   if unbound, or bound there but pending: bind, and have the sweeper ask. Something was lost, or this is
                 a late repetition
    -            nothing: the claim, if there is one, stays until the sweeper has asked

Only a create that was written back is overlapped itself: nobody knows what passed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from distributer.model import Begun, Claim, Doubt, ItemId, Operation, Outcome, Places, Ticket

KINDS = {Operation.CREATE: "c", Operation.DELETE: "d"}
OPERATIONS = {kind: operation for operation, kind in KINDS.items()}

MAX_CLAIMS = 256
"""The most claims on one item. `scripts/claims.lua` has the same number."""

IS_OVER = 0
"""The deadline of a claim whose request is over, but about which the sweeper must ask."""

MAX_INTEGER = 2**53
"""Lua's numbers are exact below this. Microseconds since 1970 reach it in the year 2255."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim as the entry holds it. Its deadline is by Redis TIME."""

    operation: Operation
    deadline_ms: int
    overlapped: bool
    owner: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The claims on one item: at least one.

    The version rises with every begin and settle, and starts from the time, in microseconds; by A4 it never gets
    ahead of it. So a version never comes again after its entry was dropped, and a sweeper that was held up cannot
    take a later entry for the one that it asked about.
    """

    version: int
    pending: bool
    claims: Mapping[str, Held]

    @property
    def has_create(self) -> bool:
        """Whether a create may still be on its way."""
        return any(held.operation is Operation.CREATE for held in self.claims.values())

    def is_over(self, now_us: int) -> bool:
        """Whether every claim has passed its deadline."""
        return all(held.deadline_ms <= now_us // 1000 for held in self.claims.values())

    def encode(self) -> str:
        """Write the text that the claims hash holds."""
        claims = {
            claim_id: [KINDS[held.operation], held.deadline_ms, int(held.overlapped), held.owner]
            for claim_id, held in self.claims.items()
        }
        return json.dumps({"v": self.version, "p": int(self.pending), "c": claims}, separators=(",", ":"))


def decode(text: str | None) -> Entry | None:
    """Read a text of the claims hash. What nobody here can have written, an edit, is no entry."""
    if text is None:
        return None
    try:
        match json.loads(text):
            case {"v": version, "p": 0 | 1 as pending, "c": dict(claims)} if claims and _is_integer(version, pending):
                return Entry(version, pending == 1, {claim_id: _held(value) for claim_id, value in claims.items()})
    except (ValueError, RecursionError):
        pass
    return None


def _held(value: object) -> Held:
    match value:
        case ["c" | "d" as kind, int(deadline_ms), 0 | 1 as flag, str(owner)] if _is_integer(deadline_ms, flag):
            return Held(OPERATIONS[kind], deadline_ms, flag == 1, owner)
    raise ValueError("not a claim")


def _is_integer(*values: object) -> bool:
    return all(type(value) is int and 0 <= value < MAX_INTEGER for value in values)


@dataclass(frozen=True, slots=True)
class ItemState:
    """All that is shared about one item."""

    binding: str | None = None
    entry: Entry | None = None


# Begin.


def begin(
    state: ItemState,
    claim: Claim,
    places: Places,
    rotation: int,
    now_us: int,
    ttl_ms: int,
    *,
    hint: str = "",
    gone: str = "",
) -> tuple[ItemState, int, Begun]:
    """Claim an item. Returns the new state, the new rotation, and the reply.

    A create of an unbound item binds it by a ticket, and takes none when no backend is usable; or to `hint`, where the
    item is known to be. A delete of an unbound item claims nothing. A claim that is held already gets the same owner,
    and nothing changes; one too many is refused. A binding to `gone` counts as none, unless there are claims on it.
    """
    entry = state.entry
    if entry is not None and claim.id in entry.claims:
        return state, rotation, Begun(entry.claims[claim.id].owner)
    owner, ticket = state.binding, None
    if owner == gone and entry is None:
        owner = None
    if owner is None and claim.operation is Operation.DELETE:
        return state, rotation, Begun(None)
    if entry is not None and len(entry.claims) >= MAX_CLAIMS:
        return state, rotation, Begun(None, is_full=True)
    if owner is None and hint:
        owner = hint
    if owner is None:
        if "1" not in places.usable:
            return state, rotation, Begun(None)
        ticket = next_usable(rotation, places)
        owner, rotation = places.urls[(ticket + places.shift) % len(places.urls)], ticket
    overlapped = claim.operation is Operation.DELETE and entry is not None and entry.has_create
    held = Held(claim.operation, now_us // 1000 + ttl_ms, overlapped, owner)
    entry = _with_claim(entry, claim.id, held, now_us)
    if ticket is not None:
        # Not with a hint: a create that its backend refuses, for it has the item, must not unbind that.
        entry = replace(entry, pending=True)
    return ItemState(owner, entry), rotation, Begun(owner, ticket)


def bind(state: ItemState, instead_of: str, owner: str) -> tuple[ItemState, str]:
    """Bind an item without a create, if `instead_of` ("": nothing) is its binding and no claim is on it.

    Returns the new state, and the binding that stands. Keeps I4 only where the caller knows that the owner has the
    item, and the one before has not, or has been given up.
    """
    if (state.binding or "") != instead_of or state.entry is not None:
        return state, state.binding or ""
    return ItemState(owner), owner


def next_usable(rotation: int, places: Places) -> Ticket:
    """Take tickets until one falls on a usable backend. Those that do not are spent: exchanged, not shifted."""
    ticket, usable = rotation + 1, places.usable
    while usable[(ticket + places.shift) % len(usable)] != "1":
        ticket += 1
    return Ticket(ticket)


# Settle.


class Standing(Enum):
    """How a claim stands in the entry when its outcome comes."""

    HELD = "held"
    OVERLAPPED = "overlapped"
    GONE = "gone"


def settle(state: ItemState, claim: Claim, owner: str, outcome: Outcome, now_us: int) -> ItemState:
    """Give the outcome of a claim that went to owner ("" if that is not known). Idempotent, and never too late."""
    held = None if state.entry is None else state.entry.claims.get(claim.id)
    rule = SETTLING.get((claim.operation, outcome, _standing(held)))
    return state if rule is None else rule(state, claim.id, owner, now_us)


def _standing(held: Held | None) -> Standing:
    if held is None:
        return Standing.GONE
    return Standing.OVERLAPPED if held.overlapped else Standing.HELD


def _confirm(state: ItemState, claim_id: str, owner: str, now_us: int) -> ItemState:
    entry, held = _take(state, claim_id)
    # Bound elsewhere by an edit: the edit stands.
    return ItemState(state.binding or held.owner, _or_none(replace(entry, pending=False)))


def _withdraw(state: ItemState, claim_id: str, owner: str, now_us: int) -> ItemState:
    entry, held = _take(state, claim_id)
    if not entry.pending or entry.has_create:
        return ItemState(state.binding, _or_none(entry))
    return ItemState(_unbound_from(held.owner, state.binding), _or_none(replace(entry, pending=False)))


def _release(state: ItemState, claim_id: str, owner: str, now_us: int) -> ItemState:
    entry, held = _take(state, claim_id)
    return ItemState(_unbound_from(held.owner, state.binding), _or_none(entry))


def _drop(state: ItemState, claim_id: str, owner: str, now_us: int) -> ItemState:
    entry, _ = _take(state, claim_id)
    return ItemState(state.binding, _or_none(entry))


def _ask(state: ItemState, claim_id: str, owner: str, now_us: int) -> ItemState:
    entry, held = _take(state, claim_id)
    over = replace(held, deadline_ms=IS_OVER)
    # One such delete has the sweeper ask as well as many, and an item that is fought over must not collect them.
    if any(
        (other.operation, other.deadline_ms, other.overlapped) == (_D, IS_OVER, True) for other in entry.claims.values()
    ):
        return ItemState(state.binding, entry)
    return ItemState(state.binding, replace(entry, claims={**entry.claims, claim_id: over}))


def _write_back(state: ItemState, claim_id: str, owner: str, now_us: int) -> ItemState:
    entry = state.entry
    # Bound by another create that is in flight: should that fail, it must not unbind what this one has made.
    is_at_risk = entry is not None and entry.pending and state.binding == owner
    if not owner or (state.binding is not None and not is_at_risk):
        return state
    written_back = Held(Operation.CREATE, IS_OVER, overlapped=True, owner=owner)
    return ItemState(owner, _with_claim(state.entry, claim_id, written_back, now_us))


_C, _D = Operation.CREATE, Operation.DELETE

SETTLING: Mapping[tuple[Operation, Outcome, Standing], Callable[[ItemState, str, str, int], ItemState]] = {
    (_C, Outcome.DONE, Standing.HELD): _confirm,
    (_C, Outcome.DONE, Standing.GONE): _write_back,
    (_C, Outcome.FAILED, Standing.HELD): _withdraw,
    (_D, Outcome.DONE, Standing.HELD): _release,
    (_D, Outcome.DONE, Standing.OVERLAPPED): _ask,
    (_D, Outcome.FAILED, Standing.HELD): _drop,
    (_D, Outcome.FAILED, Standing.OVERLAPPED): _drop,
}
"""The table above. What is not in it changes nothing."""


# Doubts.


def doubt(item: ItemId, state: ItemState, now_us: int) -> Doubt | None:
    """Say whether the item is in doubt: claims are left on it, and none can reach a backend any more."""
    if state.entry is None or not state.entry.is_over(now_us):
        return None
    return Doubt(item, state.binding, state.entry.version)


def resolve(state: ItemState, doubt: Doubt, *, exists: bool, now_us: int) -> tuple[ItemState, bool]:
    """Confirm or release a binding by what the owner said. False, and no effect, if anything happened since."""
    entry = state.entry
    if entry is None or not entry.is_over(now_us) or (entry.version, state.binding) != (doubt.version, doubt.owner):
        return state, False
    return ItemState(state.binding if exists else None), True


# What the transitions share.


def _with_claim(entry: Entry | None, claim_id: str, held: Held, now_us: int) -> Entry:
    """Add a claim to an entry, or to a new one; a create overlaps every delete that is there."""
    if entry is None:
        entry = Entry(now_us, pending=False, claims={})
    claims = dict(entry.claims)
    if held.operation is Operation.CREATE:
        claims = {
            other_id: replace(other, overlapped=True) if other.operation is Operation.DELETE else other
            for other_id, other in claims.items()
        }
    return replace(entry, version=entry.version + 1, claims={**claims, claim_id: held})


def _take(state: ItemState, claim_id: str) -> tuple[Entry, Held]:
    """Take a claim out of the entry that holds it; the entry may be left without any."""
    assert state.entry is not None
    claims = dict(state.entry.claims)
    held = claims.pop(claim_id)
    return replace(state.entry, version=state.entry.version + 1, claims=claims), held


def _or_none(entry: Entry) -> Entry | None:
    return entry if entry.claims else None


def _unbound_from(owner: str, binding: str | None) -> str | None:
    # Bound elsewhere by an edit: the edit stands.
    return None if binding == owner else binding


def outcome_of(operation: Operation, status: int) -> Outcome:
    """Read a backend's answer to a create or delete: 2xx did it, 4xx did not, anything else leaves it open.

    A delete's 404 or 410 says that the item is gone, which is what was asked for.
    """
    if 200 <= status < 300 or (operation is Operation.DELETE and status in (404, 410)):
        return Outcome.DONE
    return Outcome.FAILED if 400 <= status < 500 else Outcome.UNKNOWN

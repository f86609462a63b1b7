"""The claims' state machine, transition by transition."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.model import Begun, Claim, Doubt, ItemId, Operation, Outcome, Places, Ticket
from distributer.routing.claim import (
    IS_OVER,
    MAX_CLAIMS,
    MAX_INTEGER,
    OPERATIONS,
    Entry,
    Held,
    ItemState,
    begin,
    decode,
    doubt,
    next_usable,
    resolve,
    settle,
)

ITEM = ItemId("7")
RING = ("A", "B", "C")
TTL_MS = 1_000
START_US = 1_000_000
DEADLINE_MS = START_US // 1000 + TTL_MS
DONE, FAILED, UNKNOWN = Outcome.DONE, Outcome.FAILED, Outcome.UNKNOWN


def claim(claim_id: str) -> Claim:
    """Make a claim of an id such as "c1" or "d2"."""
    return Claim(claim_id, ITEM, OPERATIONS[claim_id[0]])


def state(binding: str | None, *claims: str, pending: bool = False, version: int = 1) -> ItemState:
    """Write a state down: each claim is "id owner", and "overlapped", "over" if it is."""
    held = {}
    for text in claims:
        claim_id, owner, *flags = text.split()
        deadline_ms = IS_OVER if "over" in flags else DEADLINE_MS
        held[claim_id] = Held(OPERATIONS[claim_id[0]], deadline_ms, "overlapped" in flags, owner)
    return ItemState(binding, Entry(version, pending, held) if held else None)


def same(state: ItemState) -> ItemState:
    """Leave the version out of account."""
    return state if state.entry is None else replace(state, entry=replace(state.entry, version=0))


MANY = tuple(f"c{number} B" for number in range(MAX_CLAIMS))
FULL = state("B", *MANY)

BEGINS = [
    # before, claim, usable -> after, reply; the rotation stands at 0
    (state(None), "c1", "111", state("A", "c1 A", pending=True), Begun("A", Ticket(1))),
    (state(None), "c1", "010", state("B", "c1 B", pending=True), Begun("B", Ticket(2))),
    (state(None), "c1", "000", state(None), Begun(None)),
    (state(None), "d1", "111", state(None), Begun(None)),
    (state("B"), "c1", "111", state("B", "c1 B"), Begun("B")),
    (state("B"), "c1", "000", state("B", "c1 B"), Begun("B")),
    (state("B"), "d1", "000", state("B", "d1 B"), Begun("B")),
    # A second create shares the pending binding.
    (state("B", "c1 B", pending=True), "c2", "111", state("B", "c1 B", "c2 B", pending=True), Begun("B")),
    # A delete is overlapped by a create that was there, and by one that comes.
    (state("B", "c1 B"), "d1", "111", state("B", "c1 B", "d1 B overlapped"), Begun("B")),
    (state("B", "d1 B", "d2 B"), "c1", "111", state("B", "d1 B overlapped", "d2 B overlapped", "c1 B"), Begun("B")),
    (state("B", "d1 B"), "d2", "111", state("B", "d1 B", "d2 B"), Begun("B")),
    # Unbound by one delete while another is on its way: the next create takes a ticket.
    (state(None, "d2 B"), "c1", "111", state("A", "d2 B overlapped", "c1 A", pending=True), Begun("A", Ticket(1))),
    (state(None, "d2 B"), "d3", "111", state(None, "d2 B"), Begun(None)),
    # Held already: the same owner, whatever an edit has made of the binding.
    (state("B", "c1 B", pending=True), "c1", "111", state("B", "c1 B", pending=True), Begun("B")),
    (state("C", "d1 B"), "d1", "111", state("C", "d1 B"), Begun("B")),
    (state(None, "c1 B"), "c1", "111", state(None, "c1 B"), Begun("B")),
    # As many claims as there may be: one that is held already gets its owner, all others are refused.
    (FULL, "c0", "111", FULL, Begun("B")),
    (FULL, "c999", "111", FULL, Begun(None, is_full=True)),
    (FULL, "d999", "111", FULL, Begun(None, is_full=True)),
    (state("B", *MANY[1:]), "c999", "111", state("B", *MANY[1:], "c999 B"), Begun("B")),
    # An edit has unbound it: no ticket is taken for a claim that is refused, and a delete claims nothing anyway.
    (replace(FULL, binding=None), "c999", "111", replace(FULL, binding=None), Begun(None, is_full=True)),
    (replace(FULL, binding=None), "c999", "000", replace(FULL, binding=None), Begun(None, is_full=True)),
    (replace(FULL, binding=None), "d999", "111", replace(FULL, binding=None), Begun(None)),
]


@pytest.mark.parametrize(("before", "claim_id", "usable", "after", "reply"), BEGINS)
def test_begin(before: ItemState, claim_id: str, usable: str, after: ItemState, reply: Begun) -> None:
    got, rotation, begun = begin(before, claim(claim_id), Places(RING, usable), 0, START_US, TTL_MS)
    assert same(got) == same(after)
    assert begun == reply
    assert rotation == (reply.ticket or 0)


SETTLES = [
    # before, claim, outcome -> after; the claim went to A
    # create done: confirm
    (state("A", "c1 A", pending=True), "c1", DONE, state("A")),
    (state("A", "c1 A", "c2 A", pending=True), "c1", DONE, state("A", "c2 A")),
    (state("A", "c1 A"), "c1", DONE, state("A")),
    (state(None, "c1 A", pending=True), "c1", DONE, state("A")),
    (state("B", "c1 A", pending=True), "c1", DONE, state("B")),
    # create failed: withdraw
    (state("A", "c1 A", pending=True), "c1", FAILED, state(None)),
    (state("A", "c1 A", "c2 A", pending=True), "c1", FAILED, state("A", "c2 A", pending=True)),
    (state("A", "c1 A", "d1 A overlapped", pending=True), "c1", FAILED, state(None, "d1 A overlapped")),
    (state("A", "c1 A"), "c1", FAILED, state("A")),
    (state("B", "c1 A", pending=True), "c1", FAILED, state("B")),
    (state("B", "c1 A", "d1 B overlapped", pending=True), "c1", FAILED, state("B", "d1 B overlapped")),
    (state(None, "c1 A", pending=True), "c1", FAILED, state(None)),
    # delete done: release
    (state("A", "d1 A"), "d1", DONE, state(None)),
    (state("A", "d1 A", "d2 A"), "d1", DONE, state(None, "d2 A")),
    (state(None, "d1 A"), "d1", DONE, state(None)),
    (state("B", "d1 A"), "d1", DONE, state("B")),
    # delete done, overlapped: ask
    (state("A", "d1 A overlapped"), "d1", DONE, state("A", "d1 A overlapped over")),
    (state("A", "d1 A overlapped", "c1 A"), "d1", DONE, state("A", "d1 A overlapped over", "c1 A")),
    # delete failed: drop
    (state("A", "d1 A"), "d1", FAILED, state("A")),
    (state("A", "d1 A overlapped", "c1 A", pending=True), "d1", FAILED, state("A", "c1 A", pending=True)),
    # gone: a create that succeeded writes back, nothing else does anything
    (state(None), "c1", DONE, state("A", "c1 A overlapped over")),
    (state(None, "d1 B"), "c1", DONE, state("A", "d1 B overlapped", "c1 A overlapped over")),
    (state("A"), "c1", DONE, state("A")),
    (state("B", "c2 B", pending=True), "c1", DONE, state("B", "c2 B", pending=True)),
    (state("A", "c2 A", pending=True), "c1", FAILED, state("A", "c2 A", pending=True)),
    (state("A"), "c1", FAILED, state("A")),
    (state(None), "c1", FAILED, state(None)),
    (state("A"), "d1", DONE, state("A")),
    (state("A", "d2 A"), "d1", DONE, state("A", "d2 A")),
    (state("A"), "d1", FAILED, state("A")),
    # ... also where another create has bound it and is in flight, which may fail
    (state("A", "c2 A", pending=True), "c1", DONE, state("A", "c2 A", "c1 A overlapped over", pending=True)),
    (state("A", "c2 A"), "c1", DONE, state("A", "c2 A")),
    # written back, and settled once more: the sweeper is still to ask
    (state("A", "c1 A overlapped over"), "c1", DONE, state("A", "c1 A overlapped over")),
    (state("A", "c1 A overlapped over"), "c1", FAILED, state("A", "c1 A overlapped over")),
    # unknown: nothing
    (state("A", "c1 A", pending=True), "c1", UNKNOWN, state("A", "c1 A", pending=True)),
    (state("A", "d1 A"), "d1", UNKNOWN, state("A", "d1 A")),
    (state("A", "d1 A overlapped"), "d1", UNKNOWN, state("A", "d1 A overlapped")),
    (state(None), "c1", UNKNOWN, state(None)),
    (state(None), "d1", UNKNOWN, state(None)),
]


@pytest.mark.parametrize(("before", "claim_id", "outcome", "after"), SETTLES)
def test_settle(before: ItemState, claim_id: str, outcome: Outcome, after: ItemState) -> None:
    assert same(settle(before, claim(claim_id), "A", outcome, START_US)) == same(after)


def test_settle_of_a_begin_whose_reply_was_lost_needs_no_owner() -> None:
    begun = state("B", "c1 B", pending=True)
    assert settle(begun, claim("c1"), "", FAILED, START_US) == ItemState()
    assert settle(ItemState(), claim("c1"), "", DONE, START_US) == ItemState()


def test_a_failed_create_after_a_successful_one_keeps_the_binding() -> None:
    both = state("A", "c1 A", "c2 A", pending=True)
    first = settle(both, claim("c1"), "A", DONE, START_US)
    assert settle(first, claim("c2"), "A", FAILED, START_US) == state("A")


def test_a_create_whose_claim_was_lost_is_not_unbound_by_another_that_fails() -> None:
    """A failover took back the begin of c1, and kept that of c2."""
    written_back = settle(state("A", "c2 A", pending=True), claim("c1"), "A", DONE, START_US)
    left = settle(written_back, claim("c2"), "A", FAILED, START_US)
    assert left.binding == "A"
    assert doubt(ITEM, left, START_US) is not None, "the sweeper is to ask"


# Doubts.


def test_an_item_is_in_doubt_from_the_moment_that_the_last_deadline_is_reached() -> None:
    later = Held(Operation.DELETE, DEADLINE_MS + 5, False, "A")
    two = ItemState("A", Entry(9, False, {"c1": Held(Operation.CREATE, DEADLINE_MS, False, "A"), "d1": later}))
    assert doubt(ITEM, two, (DEADLINE_MS + 5) * 1000 - 1) is None
    assert doubt(ITEM, two, (DEADLINE_MS + 5) * 1000) == Doubt(ITEM, "A", 9)
    assert doubt(ITEM, state("A"), 10**12) is None


def test_a_delete_that_was_overlapped_is_asked_about_at_once() -> None:
    before = state("A", "d1 A overlapped")
    assert doubt(ITEM, before, START_US) is None
    assert doubt(ITEM, settle(before, claim("d1"), "A", DONE, START_US), START_US) == Doubt(ITEM, "A", 2)


LATE_US = DEADLINE_MS * 1000
IN_DOUBT = state("A", "c1 A", "d1 A overlapped", pending=True, version=5)


def test_what_exists_stays_bound_and_what_does_not_is_released() -> None:
    asked = Doubt(ITEM, "A", 5)
    assert resolve(IN_DOUBT, asked, exists=True, now_us=LATE_US) == (state("A"), True)
    assert resolve(IN_DOUBT, asked, exists=False, now_us=LATE_US) == (state(None), True)


def test_claims_on_an_unbound_item_are_dropped() -> None:
    unbound = state(None, "d1 A", version=5)
    assert resolve(unbound, Doubt(ITEM, None, 5), exists=False, now_us=LATE_US) == (state(None), True)


@pytest.mark.parametrize(
    ("now", "asked", "now_us"),
    [
        (state("A"), Doubt(ITEM, "A", 5), LATE_US),
        (replace(IN_DOUBT, binding="B"), Doubt(ITEM, "A", 5), LATE_US),
        (replace(IN_DOUBT, binding=None), Doubt(ITEM, "A", 5), LATE_US),
        (IN_DOUBT, Doubt(ITEM, None, 5), LATE_US),
        (IN_DOUBT, Doubt(ITEM, "A", 4), LATE_US),
        (IN_DOUBT, Doubt(ITEM, "A", 6), LATE_US),
        (IN_DOUBT, Doubt(ITEM, "A", 5), LATE_US - 1),
    ],
    ids=["dropped", "edited", "unbound", "bound", "older", "newer", "too early"],
)
@pytest.mark.parametrize("exists", [True, False])
def test_an_answer_does_not_count_if_anything_has_happened_since(
    now: ItemState, asked: Doubt, now_us: int, exists: bool
) -> None:
    assert resolve(now, asked, exists=exists, now_us=now_us) == (now, False)


def test_a_sweeper_that_was_held_up_cannot_release_a_later_binding() -> None:
    """The entry that it listed is dropped, and a later one has gone through just as many transitions."""
    first, _, _ = begin(ItemState(), claim("c1"), Places(RING, "100"), 0, START_US, TTL_MS)
    listed = doubt(ITEM, first, LATE_US)
    assert listed is not None
    swept, _ = resolve(first, listed, exists=False, now_us=LATE_US + 1)
    second, _, _ = begin(swept, claim("c2"), Places(RING, "100"), 0, LATE_US + 2, TTL_MS)
    late_us = LATE_US + TTL_MS * 1000 + 1000
    assert doubt(ITEM, second, late_us) is not None
    assert resolve(second, listed, exists=False, now_us=late_us) == (second, False)


# Tickets.


@given(
    rotation=st.integers(-5, 50),
    usable=st.text("01", min_size=1, max_size=8).filter(lambda text: "1" in text),
    shift=st.integers(-60, 8),
)
def test_tickets_that_fall_on_a_dead_backend_are_spent(rotation: int, usable: str, shift: int) -> None:
    ticket = next_usable(rotation, Places(("",) * len(usable), usable, shift))
    spent = [usable[(t + shift) % len(usable)] for t in range(rotation + 1, ticket)]
    assert usable[(ticket + shift) % len(usable)] == "1"
    assert set(spent) <= {"0"}


# The text in the claims hash.

INTEGERS = st.integers(0, MAX_INTEGER - 1)
ENTRIES = st.builds(
    Entry,
    INTEGERS,
    st.booleans(),
    st.dictionaries(
        st.text(), st.builds(Held, st.sampled_from(Operation), INTEGERS, st.booleans(), st.text()), min_size=1
    ),
)


@given(ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert decode(entry.encode()) == entry


def test_the_text_is_plain_json() -> None:
    entry = state("A", "c1 http://127.0.0.1:8000", pending=True, version=3).entry
    assert entry is not None
    assert entry.encode() == '{"v":3,"p":1,"c":{"c1":["c",2000,0,"http://127.0.0.1:8000"]}}'


NOT_ENTRIES = [
    "",
    "nonsense",
    "{",
    "null",
    "7",
    '"text"',
    "[]",
    "{}",
    "[" * 5_000,
    '{"v":1,"p":0}',
    '{"v":1,"p":0,"c":{}}',
    '{"v":1,"p":0,"c":[]}',
    '{"v":1,"p":0,"c":null}',
    '{"v":1,"p":0,"c":[["c",1,0,"A"]]}',
    '{"v":"1","p":0,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":-1,"p":0,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":1.5,"p":0,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":1e400,"p":0,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":9007199254740992,"p":0,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":1,"p":2,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":1,"p":true,"c":{"c1":["c",1,0,"A"]}}',
    '{"v":1,"p":0,"c":{"c1":["e",1,0,"A"]}}',
    '{"v":1,"p":0,"c":{"c1":["c",-1,0,"A"]}}',
    '{"v":1,"p":0,"c":{"c1":["c",null,0,"A"]}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,2,"A"]}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,false,"A"]}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,0,7]}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,0,null]}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,0]}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,0,"A",1]}}',
    '{"v":1,"p":0,"c":{"c1":{"1":"c","2":1,"3":0,"4":"A"}}}',
    '{"v":1,"p":0,"c":{"c1":["c",1,0,"A"],"c2":"A"}}',
]


@pytest.mark.parametrize("text", NOT_ENTRIES, ids=lambda text: text[:60])
def test_what_only_an_edit_can_have_left_is_no_entry(text: str) -> None:
    assert decode(text) is None


def test_an_edited_entry_may_have_more_members() -> None:
    text = json.dumps({"v": 1, "p": 0, "c": {"c1": ["c", 1, 0, "A"]}, "note": "by hand"})
    assert decode(text) == Entry(1, False, {"c1": Held(Operation.CREATE, 1, False, "A")})


# Whatever happens, edits included.

CLAIM_IDS = st.sampled_from(["c1", "c2", "c3", "d1", "d2", "d3"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), CLAIM_IDS, st.sampled_from(["111", "010", "000"])),
        st.tuples(st.just("settle"), CLAIM_IDS, st.sampled_from(Outcome)),
        st.tuples(st.just("sweep"), st.booleans()),
        st.tuples(st.just("edit"), st.sampled_from([None, *RING])),
    ),
    max_size=30,
)


@given(STEPS)
def test_what_holds_even_when_bindings_are_edited(steps: list[tuple[Any, ...]]) -> None:
    now_us, rotation, last_version = START_US, 0, 0
    now = ItemState()
    for name, *arguments in steps:
        now_us += 300_000
        before = now
        match name, arguments:
            case "begin", [claim_id, usable]:
                now, rotation, _ = begin(before, claim(claim_id), Places(RING, usable), rotation, now_us, TTL_MS)
                again, *rest = begin(now, claim(claim_id), Places(RING, usable), rotation, now_us + 1, TTL_MS)
                if now != before:
                    assert (again, rest[0]) == (now, rotation), "begin is idempotent"
            case "settle", [claim_id, Outcome() as outcome]:
                now = settle(before, claim(claim_id), "A", outcome, now_us)
                again = settle(now, claim(claim_id), "A", outcome, now_us + 1)
                assert same(again) == same(now), "settle is idempotent"
            case "sweep", [bool(exists)]:
                if listed := doubt(ITEM, now, now_us):
                    now, _ = resolve(now, listed, exists=exists, now_us=now_us + 1)
            case "edit", [binding]:
                now = replace(now, binding=binding)
        if (entry := now.entry) is not None:
            assert entry.claims
            if entry != before.entry:
                assert last_version < entry.version <= now_us + 1, "versions rise, but not ahead of time"
                last_version = entry.version
            if entry.has_create:
                deletes = [held for held in entry.claims.values() if held.operation is Operation.DELETE]
                assert all(held.overlapped for held in deletes), "I2"
            assert entry.has_create or not entry.pending, "I3"

"""The Lua scripts do what `routing/claim.py` says: both run the same operations, edits included, and are compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from distributer.model import Begun, Claim, Doubt, ItemId, Operation, Outcome, Ticket
from distributer.routing.claim import IS_OVER, MAX_INTEGER, OPERATIONS, Entry, Held, ItemState, decode
from distributer.state.scripts import BEGIN, DOUBTS, RESOLVE, SETTLE
from tests.support.claim_stores import TTL_MS, ClaimStore, ReferenceStore, ScriptStore, View
from tests.support.redis_server import RedisServer
from tests.unit.test_claim import BEGINS, NOT_ENTRIES, SETTLES

RING = ("http://127.0.0.1:8000", "http://127.0.0.1:8001", "http://127.0.0.1:8002")
ITEM, OTHER = ItemId("7"), ItemId("8")


@pytest.fixture(params=["fakeredis", *(pytest.param(name, marks=pytest.mark.redis) for name in ("valkey", "redis"))])
def client(request: pytest.FixtureRequest, redis_servers: Callable[[str], RedisServer]) -> Iterator[redis.Redis]:
    if request.param == "fakeredis":
        with fakeredis.FakeRedis() as fake:
            yield fake
    else:
        with redis.Redis.from_url(redis_servers(request.param).unix_url) as real:
            yield real


@pytest.fixture
def scripts(client: redis.Redis) -> ScriptStore:
    return ScriptStore(client)


def claim(claim_id: str, item: ItemId = ITEM) -> Claim:
    """Make a claim of an id such as "c1" or "d2"."""
    return Claim(claim_id, item, OPERATIONS[claim_id[0]])


# The scripts against the table of transitions.


@pytest.mark.parametrize(("before", "claim_id", "usable", "after", "reply"), BEGINS)
def test_begin(
    scripts: ScriptStore, before: ItemState, claim_id: str, usable: str, after: ItemState, reply: Begun
) -> None:
    scripts.edit_sticky(ITEM, before.binding)
    scripts.edit_claims(ITEM, None if before.entry is None else before.entry.encode())
    assert scripts.begin(claim(claim_id), ["A", "B", "C"], usable) == reply
    assert _state_of(scripts.view()) == _timeless(after)
    assert scripts.view().rotation == (reply.ticket or 0)


@pytest.mark.parametrize(("before", "claim_id", "outcome", "after"), SETTLES)
def test_settle(scripts: ScriptStore, before: ItemState, claim_id: str, outcome: Outcome, after: ItemState) -> None:
    scripts.edit_sticky(ITEM, before.binding)
    scripts.edit_claims(ITEM, None if before.entry is None else before.entry.encode())
    scripts.settle(claim(claim_id), "A", outcome)
    assert _state_of(scripts.view()) == _timeless(after)


@pytest.mark.parametrize(
    ("binding", "deadline_ms", "asked"),
    [
        ("B", 1, Doubt(ITEM, "A", 5)),
        (None, 1, Doubt(ITEM, "A", 5)),
        ("A", 1, Doubt(ITEM, None, 5)),
        ("A", 1, Doubt(ITEM, "A", 4)),
        ("A", 1, Doubt(ITEM, "A", 6)),
        ("A", MAX_INTEGER - 1, Doubt(ITEM, "A", 5)),
        ("A", None, Doubt(ITEM, "A", 5)),
    ],
    ids=["edited", "unbound", "bound", "older", "newer", "too early", "dropped"],
)
@pytest.mark.parametrize("exists", [True, False])
def test_an_answer_does_not_count_if_anything_has_happened_since(
    scripts: ScriptStore, binding: str | None, deadline_ms: int | None, asked: Doubt, exists: bool
) -> None:
    scripts.edit_sticky(ITEM, binding)
    if deadline_ms is not None:
        held = Held(Operation.CREATE, deadline_ms, False, "A")
        scripts.edit_claims(ITEM, Entry(5, False, {"c1": held}).encode())
    before = scripts.view()
    assert not scripts.resolve(asked, exists=exists)
    after = scripts.view()
    assert after == replace(before, now_ms=after.now_ms)


def _state_of(view: View) -> ItemState:
    return _timeless(ItemState(view.sticky.get(ITEM), view.entries.get(ITEM)))


def _timeless(state: ItemState) -> ItemState:
    """See of each deadline only whether there is one, and leave the version out of account."""
    if state.entry is None:
        return state
    claims = {
        claim_id: replace(held, deadline_ms=min(held.deadline_ms, IS_OVER + 1))
        for claim_id, held in state.entry.claims.items()
    }
    return replace(state, entry=replace(state.entry, version=0, claims=claims))


# The scripts against the reference.

ITEMS = st.sampled_from([ITEM] * 5 + [OTHER])
CLAIM_IDS = st.sampled_from(["c1", "c2", "d1", "d2"])
WELL_FORMED = [
    '{"v":7,"p":1,"c":{"c1":["c",1,0,"http://127.0.0.1:8001"]}}',
    '{"v":9007199254740000, "p":0, "c":{"d1":["d",1,1,"\\u00e9\\/\\"\\\\"], "1":["c",0,1,""]}, "x":[]}',
]
OWNERS = st.sampled_from([RING[0], *RING, ""])
OPERATION_OF = {
    "begin": st.tuples(ITEMS, CLAIM_IDS, st.sampled_from(["111", "111", "011", "100", "000"])),
    "settle": st.tuples(ITEMS, CLAIM_IDS, OWNERS, st.sampled_from([Outcome.DONE, Outcome.FAILED, *Outcome])),
    "advance": st.tuples(st.sampled_from([TTL_MS * 4 // 10, TTL_MS * 2])),
    "list": st.tuples(),
    "resolve": st.tuples(st.integers(0, 3), st.booleans()),
    "edit sticky": st.tuples(ITEMS, st.sampled_from([None, "", "not a URL \u00e9", RING[1]])),
    "edit claims": st.tuples(ITEMS, st.sampled_from([None, *WELL_FORMED, *NOT_ENTRIES])),
    "edit rotation": st.tuples(st.integers(-4, 10**15)),
}
WEIGHTS = {"begin": 12, "settle": 12, "advance": 2, "list": 3, "resolve": 3}
NAMES = [name for name in OPERATION_OF for _ in range(WEIGHTS.get(name, 1))]


@st.composite
def operation(draw: st.DrawFn) -> tuple[Any, ...]:
    name = draw(st.sampled_from(NAMES))
    return (name, *draw(OPERATION_OF[name]))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(operation(), min_size=10, max_size=40))
@example(operations=[("edit sticky", ITEM, ""), ("begin", ITEM, "d1", "111"), ("begin", ITEM, "c1", "111")])
def test_the_scripts_are_the_reference(client: redis.Redis, operations: Sequence[tuple[Any, ...]]) -> None:
    reference, scripts = ReferenceStore(), ScriptStore(client)
    both: tuple[ClaimStore, ...] = (reference, scripts)
    listed: list[tuple[Doubt, Doubt]] = []
    views = (reference.view(), scripts.view())
    for operation in operations:
        match operation:
            case "begin", item, claim_id, usable:
                replies = [store.begin(claim(claim_id, item), RING, usable) for store in both]
                assert replies[0] == replies[1]
            case "settle", item, claim_id, owner, outcome:
                for store in both:
                    store.settle(claim(claim_id, item), owner, outcome)
            case "advance", ms:
                for store in both:
                    store.advance(ms)
            case ["list"]:
                pair = [sorted(store.doubts(), key=lambda doubt: doubt.item) for store in both]
                assert _anonymous(pair[0]) == _anonymous(pair[1])
                listed = [*zip(*pair, strict=True), *listed]
            case "resolve", index, exists if index < len(listed):
                answers = [store.resolve(listed[index][i], exists=exists) for i, store in enumerate(both)]
                assert answers[0] == answers[1]
            case "edit sticky", item, text:
                for store in both:
                    store.edit_sticky(item, text)
            case "edit claims", item, text:
                for store in both:
                    store.edit_claims(item, text)
            case "edit rotation", value:
                for store in both:
                    store.edit_rotation(value)
        before, views = views, (reference.view(), scripts.view())
        assert views[0].rotation == views[1].rotation
        assert views[0].sticky == views[1].sticky
        assert _comparable(views[0]) == _comparable(views[1])
        if operation[0] != "edit claims":
            assert _raised(before[0], views[0]) == _raised(before[1], views[1])


def _anonymous(doubts: Sequence[Doubt]) -> Sequence[Doubt]:
    return [replace(doubt, version=0) for doubt in doubts]


def _comparable(view: View) -> dict[str, Entry]:
    """Leave out the versions, which start from the time, and see of each deadline only how near it is."""
    entries = {}
    for item, entry in view.entries.items():
        claims = {
            claim_id: replace(held, deadline_ms=_nearness(held.deadline_ms, view.now_ms))
            for claim_id, held in entry.claims.items()
        }
        entries[item] = replace(entry, version=0, claims=claims)
    return entries


def _nearness(deadline_ms: int, now_ms: int) -> int:
    if deadline_ms == IS_OVER:
        return -1
    return max(0, round((deadline_ms - now_ms) / (TTL_MS / 10)))


def _raised(before: View, after: View) -> dict[str, int]:
    """Tell by how much the versions rose of the entries that were there before."""
    return {
        item: entry.version - before.entries[item].version
        for item, entry in after.entries.items()
        if item in before.entries
    }


@pytest.mark.parametrize("text", NOT_ENTRIES, ids=lambda text: text[:60])
def test_what_only_an_edit_can_have_left_is_no_entry(scripts: ScriptStore, text: str) -> None:
    scripts.edit_sticky(ITEM, RING[0])
    scripts.edit_claims(ITEM, text)
    assert scripts.doubts() == []
    assert scripts.begin(claim("d1"), RING, "111") == Begun(RING[0])
    assert scripts.view().entries[ITEM].claims.keys() == {"d1"}


# What the reference cannot say: real time, real texts, real errors.


def test_deadlines_and_versions_are_by_the_time_of_the_server(client: redis.Redis, scripts: ScriptStore) -> None:
    seconds, microseconds = client.time()
    before_us = seconds * 1_000_000 + microseconds
    scripts.begin(claim("c1"), RING, "111", ttl_ms=60_000)
    after_us = time.time_ns() // 1000 + 1000
    entry = scripts.view().entries[ITEM]
    assert before_us // 1000 + 60_000 <= entry.claims["c1"].deadline_ms <= after_us // 1000 + 60_000
    assert before_us < entry.version <= after_us


def test_a_claim_is_in_doubt_from_its_deadline_on(scripts: ScriptStore) -> None:
    scripts.begin(claim("c1"), RING, "111", ttl_ms=0)
    [doubt] = scripts.doubts()
    assert doubt == Doubt(ITEM, RING[0], scripts.view().entries[ITEM].version)
    scripts.begin(claim("c1", OTHER), RING, "111", ttl_ms=60_000)
    assert scripts.doubts() == [doubt]
    assert scripts.resolve(doubt, exists=False)
    assert scripts.view().sticky == {OTHER: RING[1]}


def test_a_version_never_comes_again(scripts: ScriptStore) -> None:
    seen: set[int] = set()
    for _ in range(50):
        scripts.begin(claim("c1"), RING, "111", ttl_ms=0)
        [doubt] = scripts.doubts()
        assert doubt.version not in seen
        seen.add(doubt.version)
        scripts.settle(claim("c1"), RING[0], Outcome.FAILED)
        scripts.settle(claim("c1"), RING[0], Outcome.DONE)
        [doubt] = scripts.doubts()
        assert doubt.version not in seen
        seen.add(doubt.version)
        assert scripts.resolve(doubt, exists=False)


def test_doubts_come_in_pages(scripts: ScriptStore) -> None:
    items = [ItemId(str(number)) for number in range(500)]
    for item in items:
        scripts.begin(claim("c1", item), RING, "111", ttl_ms=0)
    pages = scripts.pages(50)
    assert {doubt.item for page in pages for doubt in page} == set(items)
    assert max(map(len, pages)) < 200


def test_the_texts_are_made_to_be_read(scripts: ScriptStore) -> None:
    scripts.begin(claim("c1"), RING, "111")
    text = scripts.texts()[ITEM]
    entry = decode(text)
    assert entry is not None
    assert entry.encode() == text
    assert '"http://127.0.0.1:8000"' in text


def test_unusual_texts_come_back_as_they_went_in(scripts: ScriptStore) -> None:
    owner = 'http://h\u00e9/\\/"\\\t\u2028'
    unusual = Claim('"c\\/1', ITEM, Operation.CREATE)
    assert scripts.begin(unusual, [owner], "1") == Begun(owner, Ticket(1))
    assert scripts.begin(unusual, [owner], "1") == Begun(owner)
    [held] = scripts.view().entries[ITEM].claims.values()
    assert held == Held(Operation.CREATE, held.deadline_ms, False, owner)
    scripts.settle(unusual, owner, Outcome.FAILED)
    assert scripts.view().sticky == {}
    assert scripts.texts() == {}


def test_nothing_is_left_of_claims_that_are_settled(client: redis.Redis, scripts: ScriptStore) -> None:
    scripts.begin(claim("c1"), RING, "111")
    scripts.settle(claim("c1"), RING[0], Outcome.DONE)
    assert client.hgetall("test:sticky") == {b"7": RING[0].encode()}
    scripts.begin(claim("d1"), RING, "111")
    scripts.settle(claim("d1"), RING[0], Outcome.DONE)
    assert client.keys() == [b"test:rotation"]


@pytest.mark.parametrize("wrong", ["rotation", "sticky", "claims"])
def test_a_key_of_the_wrong_type_is_an_error_and_changes_nothing(
    client: redis.Redis, scripts: ScriptStore, wrong: str
) -> None:
    client.rpush(f"test:{wrong}", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        scripts.begin(claim("c1"), RING, "111")
    if wrong != "rotation":
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            scripts.settle(claim("c1"), RING[0], Outcome.DONE)
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            scripts.resolve(Doubt(ITEM, None, 1), exists=False)
    if wrong == "claims":
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            scripts.doubts()
    assert client.keys() == [f"test:{wrong}".encode()]


def test_a_rotation_that_is_no_number_is_an_error_and_changes_nothing(
    client: redis.Redis, scripts: ScriptStore
) -> None:
    client.set("test:rotation", "x")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        scripts.begin(claim("c1"), RING, "111")
    assert client.keys() == [b"test:rotation"]


@pytest.mark.parametrize("usable", ["100", "010", "001"])
def test_a_rotation_beyond_what_lua_can_count_ends_no_script_in_a_loop(
    client: redis.Redis, scripts: ScriptStore, usable: str
) -> None:
    client.set("test:rotation", 10**18)
    begun = scripts.begin(claim("c1"), RING, usable)
    assert begun.owner in (None, RING[usable.index("1")])


@pytest.mark.parametrize("script", [BEGIN, SETTLE, DOUBTS, RESOLVE], ids=["begin", "settle", "doubts", "resolve"])
def test_a_script_says_what_it_takes_and_replies(script: Any) -> None:
    own = script.source.partition("-- KEYS")[2]
    assert "-- ARGV" in own
    assert "-- Reply" in own


def test_json_in_the_reference_and_in_lua_agree_on_the_same_entry(scripts: ScriptStore) -> None:
    text = json.dumps({"c": {"d1": ["d", 5, 1, RING[2]]}, "p": 0, "v": 1_760_000_000_000_123})
    scripts.edit_sticky(ITEM, RING[2])
    scripts.edit_claims(ITEM, text)
    assert scripts.doubts() == [Doubt(ITEM, RING[2], 1_760_000_000_000_123)]
    assert not scripts.resolve(Doubt(ITEM, RING[2], 1_760_000_000_000_122), exists=False)
    assert scripts.resolve(Doubt(ITEM, RING[2], 1_760_000_000_000_123), exists=False)

"""The topology: epochs of the rotation, and changes of the members. Values in, values out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.errors import ChangeRefusedError
from distributer.model import AdminState, Backend, Ticket
from distributer.routing.topology import (
    FROM_ADMIN,
    FROM_SETTINGS,
    NO_LONGER_NAMED,
    Member,
    Members,
    Topology,
    decode,
    encode,
    reconciled,
    with_added,
    with_joined,
    with_state,
    without,
)

BACKENDS = [Backend.from_url(f"http://b:{port}") for port in range(1, 8)]
A, B, C, D, E, *_ = BACKENDS

members_of = st.lists(st.sampled_from(BACKENDS), unique=True, max_size=6).flatmap(
    lambda backends: st.tuples(
        *(
            st.builds(
                Member,
                st.just(backend),
                st.sampled_from(AdminState),
                st.booleans(),
                st.sampled_from([FROM_SETTINGS, FROM_ADMIN, NO_LONGER_NAMED]),
            )
            for backend in backends
        )
    )
)


def members(*backends: Backend) -> Members:
    return tuple(Member(backend) for backend in backends)


def at(topology: Topology, ticket: int) -> Backend:
    return topology.ring().at(Ticket(ticket))


# Epochs.


@given(members_of, members_of, st.integers(0, 1000), st.integers(0, 100))
def test_within_an_epoch_the_rotation_is_exact(old: Members, new: Members, before: int, length: int) -> None:
    start = Topology(old).changed(old, 0, 1)
    topology = start.changed(new, before, 2)
    ring = topology.in_rotation
    if not ring:
        return
    used = [at(topology, topology.after + 1 + number) for number in range(length)]
    first = ring.index(used[0]) if used else 0
    assert used == [ring[(first + number) % len(ring)] for number in range(length)]
    counts = Counter(dict.fromkeys(ring, 0)) + Counter(used)
    assert not used or max(counts.values()) - min(counts[backend] for backend in ring) <= 1


@given(members_of, members_of, st.integers(1, 1000))
def test_after_a_change_the_rotation_goes_on_where_it_stood(old: Members, new: Members, counter: int) -> None:
    before = Topology(old).changed(old, 0, 1)
    after = before.changed(new, counter, 2)
    ring, next_ring = before.in_rotation, after.in_rotation
    if not ring or not next_ring:
        return
    # Where the next ticket would have fallen, or on the next of the old ring that is left.
    place = ring.index(at(before, counter + 1))
    left = [backend for backend in (*ring[place:], *ring[:place]) if backend in next_ring]
    assert at(after, counter + 1) == (left[0] if left else next_ring[0])


@given(st.lists(st.tuples(members_of, st.integers(0, 20)), min_size=1, max_size=10))
def test_over_many_changes_every_epoch_is_level(changes: list[tuple[Members, int]]) -> None:
    topology, counter = Topology(members(A, B, C), 1), 0
    for version, (new, taken) in enumerate(changes, 2):
        topology = topology.changed(new, counter, version)
        assert (topology.after, topology.version) == (counter, version)
        if ring := topology.in_rotation:
            counts = Counter(at(topology, counter + 1 + number) for number in range(taken))
            assert max(counts.values(), default=0) - min(counts[backend] for backend in ring) <= 1
        counter += taken


def test_a_backend_that_leaves_takes_nobodys_turn_along() -> None:
    topology = Topology(members(A, B, C, D), 1)
    assert [at(topology, ticket) for ticket in (1, 2)] == [A, B]
    changed = topology.changed(without(topology.members, C.url), 2, 2)
    assert [at(changed, ticket) for ticket in (3, 4, 5, 6)] == [D, A, B, D]


def test_a_backend_that_comes_has_its_turn_behind_the_others() -> None:
    topology = Topology(members(A, B), 1)
    changed = topology.changed((*topology.members, Member(C)), 1, 2)
    assert [at(changed, ticket) for ticket in (2, 3, 4, 5)] == [B, C, A, B]


def test_a_ring_that_was_empty_starts_with_its_first_backend() -> None:
    empty = Topology((Member(A, AdminState.DRAIN),), 1)
    assert empty.in_rotation == ()
    assert at(empty.changed(members(A, B), 7, 2), 8) == A


@given(members_of, members_of, st.integers(0, 100))
def test_starts_say_where_each_place_goes_on(old: Members, new: Members, counter: int) -> None:
    topology = Topology(old, 1, after=0, first=0)
    starts = topology.starts(new)
    assert len(starts) == max(1, len(topology.in_rotation))
    assert topology.changed(new, counter, 2).first == starts[counter % len(starts)]


# The ring.


def test_members_that_are_drained_or_have_not_joined_are_reached_and_not_rotated_to() -> None:
    drained, new, parked = Member(B, AdminState.DRAIN), Member(C, joined=False), Member(D, AdminState.MAINT)
    ring = Topology((Member(A), drained, new, parked), 3, after=4, first=0).ring()
    assert (ring.backends, ring.others, ring.parked) == ((A,), (B, C, D), frozenset({D}))
    assert [ring.by_url(backend.url) for backend in (A, B, C, D, E)] == [A, B, C, D, None]
    assert (ring.version, ring.after, ring.first) == (3, 4, 0)


# Changes of the members.


def test_states_are_set_by_id_or_url() -> None:
    for name in (B.id, B.url):
        changed = with_state(members(A, B), name, AdminState.DRAIN)
        assert [member.state for member in changed] == [AdminState.READY, AdminState.DRAIN]
    assert not with_added(members(A), B, FROM_ADMIN, joined=False)[1].joined
    assert with_joined(with_added(members(A), B, FROM_ADMIN, joined=False), B.id)[1].joined


def test_what_cannot_be_is_refused() -> None:
    refusals: list[Callable[[], Members]] = [
        lambda: with_state(members(A), B.id, AdminState.DRAIN),
        lambda: with_joined(members(A), B.id),
        lambda: with_added(members(A), A, FROM_ADMIN, joined=True),
        lambda: without(members(A), A.id),
        lambda: without(members(A, C), B.id),
    ]
    for refused in refusals:
        with pytest.raises(ChangeRefusedError):
            refused()


# The settings.


@given(members_of, st.lists(st.sampled_from(BACKENDS), unique=True, min_size=1), st.sets(st.sampled_from(BACKENDS)))
def test_reconciling_keeps_what_it_must(present: Members, wanted: list[Backend], bound: set[Backend]) -> None:
    urls = {backend.url for backend in bound}
    new = reconciled(present, wanted, urls)
    backends = [member.backend for member in new]
    assert backends[: len(wanted)] == wanted, "the settings' order"
    assert len(set(backends)) == len(backends)
    before = {member.backend: member for member in present}
    for member in new:
        was = before.get(member.backend)
        if member.backend in wanted:
            assert member.source == FROM_SETTINGS
            assert member.state is (AdminState.READY if was is None or was.source == NO_LONGER_NAMED else was.state)
        else:
            assert was is not None, "nothing comes from nowhere"
            assert member == was or (member.source, member.state) == (NO_LONGER_NAMED, AdminState.DRAIN)
    for member in present:
        if member.source == FROM_ADMIN or member.backend in bound:
            assert member.backend in backends, "what others brought, or items are bound to, stays"
        elif member.backend not in wanted:
            assert member.backend not in backends
    assert reconciled(new, wanted, urls) == new, "a second time changes nothing"


def test_the_first_settings_join_at_once_and_later_ones_by_their_probes() -> None:
    founded = reconciled((), [A, B], ())
    assert [member.joined for member in founded] == [True, True]
    grown = reconciled(founded, [A, B, C], ())
    assert [member.joined for member in grown] == [True, True, False]


# What is stored.


@given(members_of)
def test_what_is_written_is_read_again(written: Members) -> None:
    assert decode(encode(written)) == written


@pytest.mark.parametrize(
    "change",
    [
        {"url": "https://b:1"},
        {"url": "http://b:2"},
        {"url": 1},
        {"position": "0"},
        {"state": "gone"},
        {"joined": 1},
        {"source": None},
    ],
)
def test_what_is_not_ours_is_no_topology(change: dict[str, object]) -> None:
    [(backend_id, text)] = encode(members(A)).items()
    with pytest.raises(ValueError):
        decode({backend_id: json.dumps(json.loads(text) | change)})
    with pytest.raises(ValueError):
        decode({backend_id: "{"})


def test_the_order_is_that_of_the_positions() -> None:
    fields = encode((Member(A), replace(Member(B), joined=False), Member(C)))
    assert decode(dict(reversed(fields.items()))) == decode(fields)

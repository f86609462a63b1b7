"""What is answered while Redis is away."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.model import ItemId
from distributer.state.fallback import Fallback

ITEM = ItemId("7")


def test_the_local_rotation_takes_each_ticket_once_in_order() -> None:
    fallback = Fallback(start=41)
    assert [fallback.ticket() for _ in range(3)] == [42, 43, 44]
    assert fallback.tickets_served == 3


@given(st.integers(0, 1 << 20), st.integers(1, 8), st.integers(0, 50))
def test_the_local_rotation_is_level_wherever_it_starts(start: int, backends: int, requests: int) -> None:
    fallback = Fallback(start=start)
    counts = Counter((fallback.ticket() - 1) % backends for _ in range(requests))
    shares = [counts[place] for place in range(backends)]
    assert max(shares) - min(shares) <= 1


def test_replicas_do_not_march_in_step() -> None:
    # One in 2^180 or so that ten of them start alike.
    assert len({Fallback().ticket() for _ in range(10)}) > 1


def test_what_was_never_seen_is_not_known() -> None:
    fallback = Fallback()
    assert fallback.owner(ITEM) is None
    assert fallback.owners_served == 0


def test_a_binding_is_known_as_it_was_last_seen() -> None:
    fallback = Fallback()
    fallback.remember(ITEM, "http://a:80")
    fallback.remember(ITEM, "http://b:80")
    assert fallback.owner(ITEM) == "http://b:80"
    assert fallback.owners_served == 1


def test_an_item_that_was_seen_unbound_is_forgotten() -> None:
    fallback = Fallback(capacity=4)
    fallback.remember(ITEM, "http://a:80")
    fallback.forget(ITEM)
    fallback.forget(ItemId("8"))
    assert fallback.owner(ITEM) is None


def test_forgetting_reaches_bindings_of_long_ago() -> None:
    fallback = Fallback(capacity=4)
    fallback.remember(ITEM, "http://a:80")
    for other in range(100, 102):  # enough to make it one of the older half
        fallback.remember(ItemId(str(other)), "http://b:80")
    assert fallback.owner(ITEM) == "http://a:80"
    fallback.forget(ITEM)
    assert fallback.owner(ITEM) is None


SEEN = st.lists(st.tuples(st.integers(0, 12).map(str), st.sampled_from(["a", "b", None])), max_size=80)


@given(SEEN, st.sampled_from([2, 4, 6, 8, 20]))
def test_the_bindings_seen_last_are_known_and_none_is_wrong(seen: list[tuple[str, str | None]], capacity: int) -> None:
    fallback = Fallback(capacity=capacity)
    truth: dict[str, str] = {}  # in the order in which they were last seen
    for item, owner in seen:
        truth.pop(item, None)
        if owner is None:
            fallback.forget(ItemId(item))
        else:
            truth[item] = owner
            fallback.remember(ItemId(item), owner)
    known = {str(item): fallback.owner(ItemId(str(item))) for item in range(13)}
    assert all(owner in (None, truth.get(item)) for item, owner in known.items())
    assert all(known[item] == truth[item] for item in list(truth)[-capacity // 2 :])


@pytest.mark.parametrize("capacity", [2, 10, 100])
def test_the_memory_is_bounded(capacity: int) -> None:
    fallback = Fallback(capacity=capacity)
    items = [ItemId(str(number)) for number in range(3 * capacity)]
    for count, item in enumerate(items, 1):
        fallback.remember(item, "http://a:80")
        known = sum(fallback.owner(item) is not None for item in items)
        # The older half may hold one more, the binding with which the halves change places.
        assert min(count, capacity // 2) <= known <= capacity + 1

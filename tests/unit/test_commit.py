"""Group commit: one round trip for all that waited, dealt in arrival order, and never sent twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributer.errors import StateError
from distributer.model import ItemId, Ticket
from distributer.state.commit import Batch, Command, GroupCommit

AWAY = StateError("Redis does not answer")
VERSION = b"3"
MISUSED = "Redis holds something else under a key of ours"


class Waiters:
    """Joins a commit under names, and notes what each is dealt, in the order in which it is dealt."""

    def __init__(self, commit: GroupCommit) -> None:
        self.commit = commit
        self.dealt: list[tuple[str, Any]] = []

    def __call__(self, name: str) -> Callable[[Any], None]:
        return lambda answer: self.dealt.append((name, answer))

    def ticket(self, name: str) -> None:
        self.commit.join_ticket(self(name))

    def lookup(self, name: str, item: str) -> None:
        self.commit.join_lookup(ItemId(item), self(name))

    def script(self, name: str, *command: str | bytes | int) -> None:
        self.commit.join_script(command, self(name))

    def batch(self) -> Batch:
        batch = self.commit.next_batch()
        assert batch is not None
        return batch


@pytest.fixture
def waiters() -> Waiters:
    return Waiters(GroupCommit("rotation", "sticky", "topology"))


def test_one_batch_carries_all_that_waits(waiters: Waiters) -> None:
    waiters.script("s1", "EVALSHA", "abc", 2)
    waiters.lookup("l1", "7")
    waiters.ticket("t1")
    waiters.lookup("l2", "8")
    waiters.ticket("t2")
    waiters.script("s2", "EVALSHA", "def", 2)
    assert waiters.batch().commands == [
        ("INCRBY", "rotation", 2),
        ("HMGET", "sticky", "7", "8"),
        ("GET", "topology"),
        ("EVALSHA", "abc", 2),
        ("EVALSHA", "def", 2),
    ]
    assert waiters.dealt == []


@pytest.mark.parametrize(
    ("kind", "commands"),
    [
        ("ticket", [("INCRBY", "rotation", 1), ("GET", "topology")]),
        ("lookup", [("HMGET", "sticky", "7"), ("GET", "topology")]),
        ("script", [("EVALSHA", "abc")]),
    ],
)
def test_no_command_is_sent_for_which_nobody_waits(waiters: Waiters, kind: str, commands: list[Command]) -> None:
    arguments = {"ticket": (), "lookup": ("7",), "script": ("EVALSHA", "abc")}
    getattr(waiters, kind)("one", *arguments[kind])
    assert waiters.batch().commands == commands


def test_there_is_no_batch_when_nobody_waits(waiters: Waiters) -> None:
    assert waiters.commit.next_batch() is None


def test_at_most_one_batch_is_in_flight(waiters: Waiters) -> None:
    waiters.ticket("t1")
    first = waiters.batch()
    waiters.ticket("t2")
    assert waiters.commit.next_batch() is None
    waiters.commit.settle(first, [1, VERSION])
    assert waiters.batch().commands == [("INCRBY", "rotation", 1), ("GET", "topology")]


def test_only_the_batch_in_flight_can_be_settled(waiters: Waiters) -> None:
    waiters.ticket("t1")
    first = waiters.batch()
    waiters.commit.settle(first, [1, VERSION])
    with pytest.raises(AssertionError, match="in flight"):
        waiters.commit.settle(first, [1, VERSION])
    assert waiters.dealt == [("t1", 1)]


def test_tickets_are_dealt_in_arrival_order_and_are_the_last_ones_taken(waiters: Waiters) -> None:
    for name in ("t1", "t2", "t3"):
        waiters.ticket(name)
    # Others took 39 in the meantime: these three got 40, 41 and 42.
    assert waiters.commit.settle(waiters.batch(), [42, VERSION]) is None
    assert waiters.dealt == [("t1", Ticket(40)), ("t2", Ticket(41)), ("t3", Ticket(42))]


def test_each_lookup_gets_its_owner_or_none(waiters: Waiters) -> None:
    for name, item in [("l1", "7"), ("l2", "8"), ("l3", "7")]:
        waiters.lookup(name, item)
    assert waiters.commit.settle(waiters.batch(), [[b"http://a:80", None, b"http://a:80"], VERSION]) is None
    assert waiters.dealt == [("l1", "http://a:80"), ("l2", None), ("l3", "http://a:80")]


def test_an_owner_that_an_edit_has_spoilt_is_still_a_text(waiters: Waiters) -> None:
    waiters.lookup("l1", "7")
    assert waiters.commit.settle(waiters.batch(), [[b"\xff"], VERSION]) is None
    assert waiters.dealt == [("l1", "\ufffd")]


def test_each_script_gets_its_own_reply_as_it_came(waiters: Waiters) -> None:
    refusal = ValueError("NOSCRIPT No matching script")
    waiters.script("s1", "EVALSHA", "abc")
    waiters.script("s2", "EVALSHA", "def")
    waiters.ticket("t1")
    # An error reply to a script is its caller's affair: Redis itself answers.
    assert waiters.commit.settle(waiters.batch(), [1, VERSION, refusal, [b"owner", 5]]) is None
    assert waiters.dealt == [("t1", 1), ("s1", refusal), ("s2", [b"owner", 5])]


def test_a_failure_is_dealt_to_all_and_nothing_is_sent_again(waiters: Waiters) -> None:
    waiters.ticket("t1")
    waiters.lookup("l1", "7")
    waiters.script("s1", "EVALSHA", "abc")
    batch = waiters.batch()
    waiters.ticket("late")
    assert waiters.commit.settle(batch, AWAY) is AWAY
    assert waiters.dealt == [("t1", AWAY), ("l1", AWAY), ("s1", AWAY)]
    assert waiters.batch().commands == [("INCRBY", "rotation", 1), ("GET", "topology")], "the later one alone"


def test_a_refused_ticket_is_an_error_for_those_who_wanted_one_only(waiters: Waiters) -> None:
    waiters.ticket("t1")
    waiters.ticket("t2")
    waiters.lookup("l1", "7")
    waiters.script("s1", "EVALSHA", "abc")
    error = waiters.commit.settle(waiters.batch(), [ValueError("WRONGTYPE of value"), [b"http://a:80"], VERSION, 1])
    assert isinstance(error, StateError)
    assert (str(error), error.detail) == (MISUSED, "INCRBY rotation: WRONGTYPE of value")
    assert waiters.dealt == [("t1", error), ("t2", error), ("l1", "http://a:80"), ("s1", 1)]


def test_a_refused_lookup_is_an_error_for_those_who_wanted_one_only(waiters: Waiters) -> None:
    waiters.ticket("t1")
    waiters.lookup("l1", "7")
    waiters.lookup("l2", "8")
    waiters.script("s1", "EVALSHA", "abc")
    error = waiters.commit.settle(waiters.batch(), [5, ValueError("WRONGTYPE of value"), VERSION, 1])
    assert isinstance(error, StateError)
    assert (str(error), error.detail) == (MISUSED, "HMGET sticky: WRONGTYPE of value")
    assert waiters.dealt == [("t1", 5), ("l1", error), ("l2", error), ("s1", 1)]


def test_what_redis_said_is_shortened(waiters: Waiters) -> None:
    waiters.ticket("t1")
    error = waiters.commit.settle(waiters.batch(), [ValueError("x" * 100_000), VERSION])
    assert len(str(error)) < 300


@pytest.mark.parametrize("replies", [[1, b"3"], AWAY], ids=["settled", "failed"])
def test_whoever_asks_again_while_it_is_dealt_to_is_in_the_next_batch(
    waiters: Waiters, replies: Sequence[Any] | StateError
) -> None:
    def ask_again(answer: Ticket | StateError) -> None:
        waiters.dealt.append(("t1", answer))
        waiters.ticket("again")

    waiters.commit.join_ticket(ask_again)
    waiters.commit.settle(waiters.batch(), replies)
    assert [name for name, _ in waiters.dealt] == ["t1"]
    assert waiters.batch().commands == [("INCRBY", "rotation", 1), ("GET", "topology")]


def test_the_next_batch_may_leave_before_the_last_is_dealt_out(waiters: Waiters) -> None:
    batches: list[Batch | None] = []

    def send_next(answer: Ticket | StateError) -> None:
        waiters.dealt.append(("t1", answer))
        waiters.ticket("again")
        batches.append(waiters.commit.next_batch())

    waiters.commit.join_ticket(send_next)
    waiters.ticket("t2")
    waiters.commit.settle(waiters.batch(), [2, VERSION])
    assert waiters.dealt == [("t1", 1), ("t2", 2)]
    (second,) = batches
    assert second is not None
    waiters.commit.settle(second, [3, VERSION])
    assert waiters.dealt[-1] == ("again", 3)


def test_the_version_is_asked_for_behind_tickets_and_lookups_and_found_in_the_replies(waiters: Waiters) -> None:
    waiters.ticket("t1")
    waiters.lookup("l1", "7")
    waiters.script("s1", "EVALSHA", "abc")
    batch = waiters.batch()
    assert batch.version([1, [None], VERSION, 0]) == VERSION
    assert batch.has_version
    waiters.commit.settle(batch, [1, [None], VERSION, 0])
    waiters.script("s2", "EVALSHA", "abc")
    assert not waiters.batch().has_version


def test_whoever_wants_the_topology_read_anew_hears_of_it_once_whatever_happens(waiters: Waiters) -> None:
    for replies in ([VERSION], AWAY):
        heard: list[bool] = []
        waiters.commit.join_refresh(lambda heard=heard: heard.append(True))  # type: ignore[misc]
        batch = waiters.batch()
        assert (batch.commands, batch.is_refresh) == ([("GET", "topology")], True)
        waiters.commit.settle(batch, replies)
        assert heard == [True]


def test_tickets_that_were_used_before_are_taken_anew_first_of_all(waiters: Waiters) -> None:
    waiters.ticket("t1")
    waiters.ticket("t2")
    waiters.script("s1", "EVALSHA", "abc")
    batch = waiters.batch()
    waiters.ticket("t3")
    assert batch.first_ticket([9, VERSION, 1]) == 8
    assert waiters.commit.settle_without_tickets(batch, [9, VERSION, 1]) is None
    assert waiters.dealt == [("s1", 1)]
    waiters.commit.settle(waiters.batch(), [20, VERSION])
    assert waiters.dealt[1:] == [("t1", 18), ("t2", 19), ("t3", 20)]


# Against a reference: a Redis in five lines, and each request's answer as if it had been alone.

OWNERS = {"7": "http://a:80", "8": "http://b:80"}


class Redis:
    """Answers batches; other replicas take tickets as well."""

    def __init__(self) -> None:
        self.rotation = 0

    def reply(self, command: Command) -> Any:
        match command:
            case ("INCRBY", "rotation", int(count)):
                self.rotation += count
                return self.rotation
            case ("HMGET", "sticky", *items):
                return [OWNERS[str(item)].encode() if item in OWNERS else None for item in items]
            case ("GET", "topology"):
                return VERSION
            case ("ECHO", text):
                return text
        raise AssertionError(command)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ticket"), st.integers(0, 2)),  # 2: it asks twice more when it is dealt to
        st.tuples(st.just("lookup"), st.sampled_from(["7", "8", "9"])),
        st.tuples(st.just("script"), st.text(max_size=3)),
        st.tuples(st.just("send"), st.just(0)),
        st.tuples(st.just("settle"), st.just(0)),
        st.tuples(st.just("fail"), st.just(0)),
        st.tuples(st.just("others"), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_everybody_is_dealt_to_once_as_if_alone(steps: list[tuple[str, Any]]) -> None:
    waiters, server = Waiters(GroupCommit("rotation", "sticky", "topology")), Redis()
    commit, in_flight, serial = waiters.commit, None, 0
    wanted: dict[str, Any] = {}
    failed: list[Batch] = []

    def join_ticket(more: int) -> None:
        nonlocal serial
        serial += 1
        name = f"t{serial}"
        wanted[name] = Ticket

        def deliver(answer: Ticket | StateError) -> None:
            waiters.dealt.append((name, answer))
            for _ in range(more):
                join_ticket(0)

        commit.join_ticket(deliver)

    def settle(batch: Batch) -> None:
        assert commit.settle(batch, [server.reply(command) for command in batch.commands]) is None

    for step, argument in steps:
        serial += 1
        match step:
            case "ticket":
                join_ticket(argument)
            case "lookup":
                wanted[f"l{serial}"] = OWNERS.get(argument)
                waiters.lookup(f"l{serial}", argument)
            case "script":
                wanted[f"s{serial}"] = argument
                waiters.script(f"s{serial}", "ECHO", argument)
            case "send":
                batch = commit.next_batch()
                assert batch is None or in_flight is None, "at most one is in flight"
                in_flight = batch or in_flight
            case "settle" if in_flight is not None:
                batch, in_flight = in_flight, None
                settle(batch)
            case "fail" if in_flight is not None:
                batch, in_flight = in_flight, None
                failed.append(batch)
                assert commit.settle(batch, AWAY) is AWAY
            case "others":
                server.rotation += argument

    if in_flight is not None:
        settle(in_flight)
    while batch := commit.next_batch():
        settle(batch)

    assert sorted(name for name, _ in waiters.dealt) == sorted(wanted), "each of them, and once"
    answers = {name: answer for name, answer in waiters.dealt if answer is not AWAY}
    assert failed or len(answers) == len(wanted)
    tickets = [answer for name, answer in waiters.dealt if name[0] == "t" and answer is not AWAY]
    assert tickets == sorted(set(tickets)), "each once, in order"
    in_order = [int(name[1:]) for name, _ in waiters.dealt if name[0] == "t"]
    assert in_order == sorted(in_order), "in the order of arrival"
    assert {name: answer for name, answer in answers.items() if name[0] != "t"} == {
        name: want for name, want in wanted.items() if name in answers and name[0] != "t"
    }


def test_tickets_that_were_used_before_are_exchanged_and_the_rest_is_dealt(waiters: Waiters) -> None:
    waiters.ticket("t1")
    waiters.ticket("t2")
    waiters.script("s1", "EVALSHA", "abc")
    batch = waiters.batch()
    waiters.ticket("t3")
    assert waiters.commit.settle_without_tickets(batch, [2, VERSION, b"owner"]) is None
    assert waiters.dealt == [("s1", b"owner")]
    assert waiters.commit.settle(waiters.batch(), [12, VERSION]) is None
    assert waiters.dealt[1:] == [("t1", 10), ("t2", 11), ("t3", 12)], "in the order of arrival"

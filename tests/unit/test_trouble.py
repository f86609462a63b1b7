"""What is wrong with Redis, by what it says."""

from __future__ import annotations

import pytest
from redis import exceptions

from distributer.state.trouble import Trouble, trouble_of

REPLIES = [
    ("READONLY You can't write against a read only replica.", Trouble.READ_ONLY),
    ("OOM command not allowed when used memory > 'maxmemory'.", Trouble.FULL),
    ("OOM command not allowed when used memory > 'maxmemory'. script: 0b, on @user_script:1.", Trouble.FULL),
    ("NOREPLICAS Not enough good replicas to write.", Trouble.FEW_REPLICAS),
    ("MISCONF Redis is configured to save RDB snapshots, but is unable to", Trouble.UNSAVED),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", Trouble.MISUSED),
    ("ERR Error running script (call to f_0b): @user_script:9: WRONGTYPE Operation against a", Trouble.MISUSED),
    ("ERR value is not an integer or out of range", Trouble.MISUSED),
    ("ERR increment or decrement would overflow", Trouble.MISUSED),
    ("NOPERM this user has no permissions to run the 'incrby' command", Trouble.FORBIDDEN),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", Trouble.BUSY),
    ("LOADING Redis is loading the dataset in memory", Trouble.NOT_READY),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Trouble.NOT_READY),
    ("NOAUTH Authentication required.", Trouble.DENIED),
    ("WRONGPASS invalid username-password pair or user is disabled.", Trouble.DENIED),
    ("DENIED Redis is running in protected mode", Trouble.DENIED),
    ("ERR AUTH <password> called without any password configured", Trouble.DENIED),
    ("ERR DB index is out of range", Trouble.DENIED),
    ("MOVED 3999 127.0.0.1:6381", Trouble.ELSEWHERE),
    ("CLUSTERDOWN Hash slot not served", Trouble.NOT_READY),
    ("CROSSSLOT Keys in request don't hash to the same slot", Trouble.ELSEWHERE),
    ("ERR unknown command 'INCRBY'", Trouble.FAULTY),
]


@pytest.mark.parametrize(("text", "kind"), REPLIES)
def test_an_error_reply_has_a_category_and_its_text_is_kept_apart(text: str, kind: Trouble) -> None:
    trouble = trouble_of(exceptions.ResponseError(text), "INCRBY distributer:rotation")
    assert trouble.kind is kind
    assert str(trouble) == f"Redis {kind.value}", "nothing of what Redis said"
    assert trouble.detail == f"INCRBY distributer:rotation: {text}"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        # redis-py takes the code off the text.
        (exceptions.ReadOnlyError("You can't write against a read only replica."), Trouble.READ_ONLY),
        (exceptions.OutOfMemoryError("command not allowed"), Trouble.FULL),
        (exceptions.NoPermissionError("this user has no permissions"), Trouble.FORBIDDEN),
        (exceptions.AuthenticationError("invalid username-password pair"), Trouble.DENIED),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), Trouble.NOT_READY),
        (exceptions.MovedError("3999 127.0.0.1:6381"), Trouble.ELSEWHERE),
        (exceptions.InvalidResponse("Protocol Error: b'HTTP/1.1 400'"), Trouble.GARBAGE),
        (exceptions.TimeoutError("Timeout connecting to server"), Trouble.LATE),
        (TimeoutError(), Trouble.LATE),
        (exceptions.ConnectionError("Error 111 connecting"), Trouble.UNREACHABLE),
        (OSError(113, "No route to host"), Trouble.UNREACHABLE),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else value.name,
)
def test_an_error_of_the_client_or_the_system_has_a_category(error: Exception, kind: Trouble) -> None:
    assert trouble_of(error).kind is kind


def test_a_refusal_keeps_the_link_but_that_of_a_server_that_was_demoted() -> None:
    kept = {trouble for trouble in Trouble if not trouble.ends_link}
    assert kept == {trouble for trouble in Trouble if trouble.is_refusal} - {Trouble.READ_ONLY}


def test_a_trouble_stays_what_it_is() -> None:
    trouble = trouble_of(TimeoutError())
    assert trouble_of(trouble, "whatever") is trouble


def test_where_the_keys_are_is_said_plainly() -> None:
    assert trouble_of(exceptions.MovedError("3999 10.0.0.7:6381")).detail == "10.0.0.7:6381 has them"

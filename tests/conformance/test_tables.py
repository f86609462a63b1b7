"""The tables are sound: names are unique, what names a case names one that there is, and the second opinion has one."""

from __future__ import annotations

from collections import Counter

from tests.conformance.cases import CASES, REQUESTS, RULES
from tests.conformance.cases.case import Case, Forwarded, Refused
from tests.conformance.cases.server_decides import SERVER_DECIDES
from tests.support.strict import Requests

NAMES = {case.name for case in CASES}
RULE_NAMES = {rule.name for rule in RULES}

NOT_BY_GRAMMAR = {
    *("target-form", "target-fragment", "target-absolute", "target-connect", "transfer-coding-before-chunked"),
    *("target-absolute-malformed", "target-absolute-other-scheme", "max-forwards", "too-many-fields"),
}
"""Rules that the second opinion does not know: it judges what a message is, not whether it is to be served."""


def second_opinion(case: Case) -> Requests:
    reader = Requests()
    reader.feed(b"".join(case.raw) if isinstance(case.raw, tuple) else case.raw)
    return reader


def test_each_case_has_a_name_of_its_own() -> None:
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []
    assert len(RULE_NAMES) == len(RULES)


def test_what_is_decided_by_the_server_exists() -> None:
    assert SERVER_DECIDES.keys() <= NAMES | RULE_NAMES


def test_each_rule_says_what_must_hold() -> None:
    assert [rule.name for rule in RULES if not (rule.must and rule.source and rule.cases)] == []


def test_the_second_opinion_refuses_what_is_refused() -> None:
    taken = []
    for case in REQUESTS:
        if isinstance(case.expect, Refused) and len(case.raw) < 100_000:
            reader = second_opinion(case)
            if not reader.wrong and not reader.rest:
                taken.append(case.name)
    assert {name.partition("/")[0] for name in taken} <= NOT_BY_GRAMMAR, taken


def test_the_second_opinion_takes_what_is_forwarded() -> None:
    for case in REQUESTS:
        if isinstance(case.expect, Forwarded) and not case.expect.closes and not case.also:
            reader = second_opinion(case)
            if not case.name.startswith(("empty-lines-before/", "nothing/")):
                assert not reader.wrong, case.name
                assert len(reader.messages) == len(case.expect.requests), case.name

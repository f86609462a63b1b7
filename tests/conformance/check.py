"""One rule over one door: all of its cases, and those that the server in front decides."""

from __future__ import annotations

from tests.conformance.cases.case import AnswerCase, Case, Rule
from tests.conformance.cases.server_decides import server_decides
from tests.conformance.doors import outcomes_of
from tests.conformance.judge import complaint, danger


def check(rule: Rule[Case] | Rule[AnswerCase], door: str) -> None:
    """Fail with the names of all cases of the rule that are not as they should be over that door."""
    found: list[str] = []
    for case in rule.cases:
        outcome = outcomes_of(door)[case.name]
        is_decided = door == "asgi" and bool(server_decides(case.name))
        problem = danger(outcome) if is_decided else complaint(case, outcome)
        if problem:
            sent, answers = repr(case.raw)[:400], repr(outcome.answers.messages)[:400]
            found.append(f"{case.name}: {problem}\n    sent: {sent}\n    answers: {answers}")
    assert not found, f"{rule.source}: {rule.must}\n" + "\n".join(found)

"""Outcomes held against what a case expects. Pure."""

from __future__ import annotations

from enum import Enum

from tests.conformance.cases.case import (
    AnswerCase,
    Answered,
    AnswerExpect,
    BadGateway,
    Broken,
    Case,
    Delivered,
    Expect,
    Forwarded,
    Refused,
    Seen,
)
from tests.conformance.lane import Outcome, Sighting
from tests.support.strict import Message


class Verdict(Enum):
    """How an outcome stands to what is promised. LAXER: what is to be refused goes through, or worse."""

    AS_PROMISED = "as promised"
    ALLOWED = "allowed"
    STRICTER = "stricter"
    DIFFERENT = "different"
    LAXER = "laxer"


def verdict(case: Case | AnswerCase, outcome: Outcome) -> Verdict:
    """Hold an outcome against a case."""
    if not complaint(case, outcome):
        return Verdict.AS_PROMISED
    if danger(outcome):
        return Verdict.LAXER
    if any(not _against(expect, outcome) for expect in case.also):
        return Verdict.ALLOWED
    if is_refusal(case, outcome):
        return Verdict.ALLOWED if _is_strict(case.expect) else Verdict.STRICTER
    return Verdict.LAXER if _is_strict(case.expect) else Verdict.DIFFERENT


def complaint(case: Case | AnswerCase, outcome: Outcome) -> str:
    """Say how the outcome breaks what distributer promises; empty if it does not.

    Where a case expects a refusal, what else is allowed is so only for others.
    """
    found = _against(case.expect, outcome)
    if found:
        for expect in case.also:
            if (_is_strict(expect) or not _is_strict(case.expect)) and not _against(expect, outcome):
                return ""
    return found


def danger(outcome: Outcome) -> str:
    """Say what no proxy may ever do, whatever the case: pass on what is malformed or smuggled, or mix answers up."""
    if outcome.wrong:
        return f"the origin got {outcome.wrong[0]}"
    if outcome.trouble:
        return outcome.trouble[0]
    if outcome.answers.wrong:
        return f"the client got {outcome.answers.wrong}"
    smuggled = [it for it in outcome.seen if b"smuggled" in it.message.target]
    if smuggled:
        return f"the origin saw {smuggled[0].message.start!r}"
    return ""


def is_refusal(case: Case | AnswerCase, outcome: Outcome) -> bool:
    """Whether the client was refused, with whatever status, or its answer broken off."""
    final = outcome.answers.final
    before = len(case.expect.before) if isinstance(case.expect, Refused) else 0
    if isinstance(case, Case) and len(outcome.seen) > before:
        return False
    return outcome.end != "open" and (not final or final[-1].status >= 400)


def describe(outcome: Outcome) -> str:
    """Say in a few words what became of a case's request."""
    final = [answer.status for answer in outcome.answers.final]
    seen = [it.message for it in outcome.seen if it.message.target != b"/probe"]
    if outcome.wrong:
        return "forwards what is malformed"
    if any(b"smuggled" in message.target for message in seen):
        return "forwards what is smuggled"
    if outcome.answers.wrong:
        return "answers malformed"
    refusals = [str(status) for status in final if status >= 400]
    if outcome.end == "open":
        return "waits"
    if refusals:
        return refusals[-1]
    if not final:
        return "speaks something else" if outcome.answers.rest else "closes"
    return "forwards"


def describe_answer(outcome: Outcome) -> str:
    """Say in a few words what became of a case's answer."""
    final = outcome.answers.final
    if outcome.answers.wrong:
        return "delivers what is malformed"
    if outcome.trouble:
        return "mixes answers up"
    if not final:
        return "waits" if outcome.end == "open" else "breaks off"
    return str(final[0].status) if final[0].status >= 500 else "delivers"


def _is_strict(expect: Expect | AnswerExpect) -> bool:
    return isinstance(expect, Refused | Answered | BadGateway | Broken)


def _against(expect: Expect | AnswerExpect, outcome: Outcome) -> str:
    found = danger(outcome)
    if found:
        return found
    if isinstance(expect, Refused):
        return _against_refused(expect, outcome)
    if isinstance(expect, Forwarded):
        return _against_forwarded(expect, outcome)
    if isinstance(expect, Answered):
        return _against_answered(expect, outcome)
    return _against_answer(expect, outcome)


def _against_refused(expect: Refused, outcome: Outcome) -> str:
    final = [answer.status for answer in outcome.answers.final]
    if outcome.end == "open":
        return f"not closed; answers {final}"
    if outcome.answers.rest:
        return f"an answer is cut short: {outcome.answers.rest[:80]!r}"
    if len(outcome.seen) != len(expect.before):
        return f"the origin saw {[it.message.start for it in outcome.seen]}; answers {final}"
    if outcome.begun and not expect.begun:
        return f"the origin saw a beginning: {outcome.begun[0][:120]!r}"
    problem = _against_seen(expect.before, outcome.seen) or _against_own_answers(outcome, len(expect.before))
    if problem:
        return problem
    refusals = final[len(expect.before) :]
    if not refusals and (expect.silently or (final and b"close" in outcome.answers.final[-1].tokens(b"connection"))):
        return ""  # to close behind an answer that says so is to refuse what follows
    if len(refusals) != 1 or refusals[0] not in expect.statuses:
        return f"answers {final}, not {'/'.join(map(str, expect.statuses))}, end: {outcome.end}"
    return ""


def _against_forwarded(expect: Forwarded, outcome: Outcome) -> str:
    final = [answer.status for answer in outcome.answers.final]
    requests = [it for it in outcome.seen if it.message.target != b"/probe"]
    probes = len(outcome.seen) - len(requests)
    if outcome.end == "open":
        return f"not closed; answers {final}"
    if outcome.answers.rest or outcome.begun:
        return f"cut short: {(outcome.answers.rest or outcome.begun[0])[:80]!r}"
    if len(requests) != len(expect.requests):
        return f"the origin saw {[it.message.start for it in requests]}; answers {final}"
    if expect.closes and probes:
        return "the connection goes on"
    problem = _against_seen(expect.requests, requests)
    if problem:
        return problem
    if not expect.closes and not probes:
        return f"the probe was not answered; answers {final}"
    return _against_own_answers(outcome, len(outcome.seen), is_all=True)


def _against_answered(expect: Answered, outcome: Outcome) -> str:
    final = [answer.status for answer in outcome.answers.final]
    if outcome.begun or any(it.message.target != b"/probe" for it in outcome.seen):
        return f"the origin saw {[it.message.start for it in outcome.seen]}"
    if outcome.end == "open" or outcome.answers.rest or not final or final[0] not in expect.statuses:
        return f"answers {final}, not {'/'.join(map(str, expect.statuses))}"
    return ""


def _against_seen(expected: tuple[Seen, ...], sightings: list[Sighting]) -> str:
    for seen, sighting in zip(expected, sightings, strict=True):
        message = sighting.message
        if seen.target is not None and message.target != seen.target:
            return f"the origin saw the target {message.target[:80]!r}"
        if seen.method is not None and message.method != seen.method:
            return f"the origin saw the method {message.method!r}"
        if seen.body is not None and message.body != seen.body:
            return f"the origin saw the body {message.body[:80]!r}"
        problem = _against_fields(seen.fields, message, "the origin saw")
        if problem:
            return problem
    return ""


def _against_fields(expected: object, message: Message, who: str) -> str:
    assert hasattr(expected, "items")
    for name, values in expected.items():
        if message.values(name) != values:
            return f"{who} {name.decode('latin-1')}: {message.values(name)!r}"
    return ""


def _against_own_answers(outcome: Outcome, count: int, *, is_all: bool = False) -> str:
    """Check that the first answers are those that the origin gave to the requests it saw, in order."""
    final = outcome.answers.final
    if len(final) < count or (is_all and len(final) != count):
        return f"{len(final)} answers to {count} requests: {[answer.status for answer in final]}"
    for number, (answer, sighting) in enumerate(zip(final, outcome.seen, strict=False), 1):
        if number > count:
            break
        body = b"" if sighting.message.method == b"HEAD" else b"%d %b" % (number, sighting.message.target)
        if answer.status != 200 or answer.body != body:
            return f"answer {number} is {answer.status} {answer.body[:80]!r}, not {body!r}"
    return ""


def _against_answer(expect: AnswerExpect, outcome: Outcome) -> str:
    final = outcome.answers.final
    if not final and outcome.end == "open":
        return f"no answer: {outcome.answers.rest[:80]!r}"
    if isinstance(expect, Delivered):
        return _against_delivered(expect, outcome)
    if not final:
        if isinstance(expect, Broken) and outcome.answers.begun is not None:
            return "" if not _is_reused(outcome) else "the connection to the origin was used again"
        return f"broken off: {outcome.answers.rest[:80]!r}"
    if final[0].status != 502:
        return f"delivered: {final[0].status} {final[0].body[:80]!r}"
    return "the connection to the origin was used again" if _is_reused(outcome) else ""


def _against_delivered(expect: Delivered, outcome: Outcome) -> str:
    final = outcome.answers.final
    if not final:
        return f"broken off: {outcome.answers.rest[:80]!r}"
    answer = final[0]
    if answer.status != expect.status:
        return f"the status is {answer.status}"
    if expect.body is not None and answer.body != expect.body:
        return f"the body is {answer.body[:80]!r}"
    interim = tuple(message.status for message in outcome.answers.messages if message.status < 200)
    if expect.interim is not None and interim != expect.interim:
        return f"before it came {interim}"
    if not expect.reuse and _is_reused(outcome):
        return "the connection to the origin was used again"
    return _against_fields(expect.fields, answer, "the client got")


def _is_reused(outcome: Outcome) -> bool:
    cases = {it.connection for it in outcome.seen if it.message.target == b"/case"}
    return any(it.connection in cases for it in outcome.seen if it.message.target == b"/next")

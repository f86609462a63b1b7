"""What must hold of HTTP/1.1, written down as data: no I/O, and nothing that knows how distributer does it.

`REQUESTS`: bytes from a client, and what becomes of them. `RESPONSES`: bytes from a backend, and what the client sees.
"""

from __future__ import annotations

from tests.conformance.cases import (
    answer_bodies,
    answer_heads,
    answer_lines,
    chunks,
    connections,
    fields,
    hosts,
    lengths,
    request_lines,
    strangers,
    targets,
)
from tests.conformance.cases.case import AnswerCase, Case, Rule

REQUEST_GROUPS: dict[str, tuple[Rule[Case], ...]] = {
    "How long a request's body is": lengths.RULES,
    "Chunks of a request": chunks.RULES,
    "The request line": request_lines.RULES,
    "The target": targets.RULES,
    "Host": hosts.RULES,
    "Fields of a request": fields.RULES,
    "The client's connection": connections.RULES,
    "What is not HTTP/1.1": strangers.RULES,
}
RESPONSE_GROUPS: dict[str, tuple[Rule[AnswerCase], ...]] = {
    "An answer's first line, and what comes before it": answer_lines.RULES,
    "Fields of an answer": answer_heads.RULES,
    "An answer's body, its end, and what comes behind": answer_bodies.RULES,
}
REQUEST_RULES: tuple[Rule[Case], ...] = sum(REQUEST_GROUPS.values(), ())
RESPONSE_RULES: tuple[Rule[AnswerCase], ...] = sum(RESPONSE_GROUPS.values(), ())
RULES: tuple[Rule[Case] | Rule[AnswerCase], ...] = (*REQUEST_RULES, *RESPONSE_RULES)

REQUESTS: tuple[Case, ...] = tuple(case for rule in REQUEST_RULES for case in rule.cases)
RESPONSES: tuple[AnswerCase, ...] = tuple(case for rule in RESPONSE_RULES for case in rule.cases)
CASES: tuple[Case | AnswerCase, ...] = (*REQUESTS, *RESPONSES)

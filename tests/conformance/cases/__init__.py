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

REQUEST_RULES: tuple[Rule[Case], ...] = (
    *lengths.RULES,
    *chunks.RULES,
    *request_lines.RULES,
    *targets.RULES,
    *hosts.RULES,
    *fields.RULES,
    *connections.RULES,
    *strangers.RULES,
)
RESPONSE_RULES: tuple[Rule[AnswerCase], ...] = (*answer_lines.RULES, *answer_heads.RULES, *answer_bodies.RULES)

REQUESTS: tuple[Case, ...] = tuple(case for rule in REQUEST_RULES for case in rule.cases)
RESPONSES: tuple[AnswerCase, ...] = tuple(case for rule in RESPONSE_RULES for case in rule.cases)
CASES: tuple[Case | AnswerCase, ...] = (*REQUESTS, *RESPONSES)
RULES: tuple[Rule[Case] | Rule[AnswerCase], ...] = (*REQUEST_RULES, *RESPONSE_RULES)

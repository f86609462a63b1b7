"""Every case of a backend's bytes, over both doors."""

from __future__ import annotations

import pytest

from tests.conformance.cases import RESPONSE_RULES
from tests.conformance.cases.case import AnswerCase, Rule
from tests.conformance.check import check
from tests.support.cluster import DOORS


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("rule", RESPONSE_RULES, ids=lambda rule: rule.name)
def test_responses(rule: Rule[AnswerCase], door: str) -> None:
    check(rule, door)

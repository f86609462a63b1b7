"""Every case of a client's bytes, over both doors."""

from __future__ import annotations

import pytest

from tests.conformance.cases import REQUEST_RULES
from tests.conformance.cases.case import Case, Rule
from tests.conformance.check import check
from tests.support.cluster import DOORS


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("rule", REQUEST_RULES, ids=lambda rule: rule.name)
def test_requests(rule: Rule[Case], door: str) -> None:
    check(rule, door)

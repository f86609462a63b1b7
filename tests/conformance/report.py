"""The page that holds doors and peers against the tables. Pure: outcomes to Markdown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.conformance.cases import CASES, REQUEST_GROUPS, REQUESTS, RESPONSE_GROUPS, RULES
from tests.conformance.cases.case import AnswerCase, Case, Rule
from tests.conformance.cases.server_decides import server_decides
from tests.conformance.judge import Verdict, danger, describe, describe_answer, verdict
from tests.conformance.lane import Outcome

SHOWN = 5
"""How many cases a cell names before it says how many more there are."""

INTRODUCTION = """\
# Conformance

<!-- Written by `python -m tests.conformance.peers --write docs/conformance.md`. Do not edit. -->

{count} cases of raw bytes, {requests} from a client and {answers} from a backend, say what must hold of HTTP/1.1 by
RFC 9110 and 9112, and against attacks that are known. They stand in `tests/conformance/cases/`, know nothing of
distributer's code, and are run over both doors by `make test`. Here the same bytes have been sent through
{peers} as well, in front of the same origin.

What must hold is what distributer promises; the specification often leaves a choice. So each outcome is one of five:

- as promised: nothing is said but what happened;
- *allowed*: not what distributer promises, but right by the specification, too;
- *stricter*: refused, though it should be served;
- *different*: served, but not as it should be: something was taken away, or left that should be;
- *laxer*: served, though it should be refused.

**!** marks what no proxy should do: pass on what is malformed by the grammar, take for a request what is the body of
another one, or give a client what is not its answer. † marks what the ASGI server in front decides (uvicorn with
httptools), not distributer.

"""


@dataclass(frozen=True)
class Column:
    """A door or a peer, and what became of every case through it."""

    name: str
    version: str
    outcomes: Mapping[str, Outcome]

    @property
    def title(self) -> str:
        """Its name, with its version."""
        return f"{self.name} {self.version}".strip()


def page(columns: Sequence[Column]) -> str:
    """Make the whole page."""
    peers = [column.title for column in columns if column.version]
    parts = [
        INTRODUCTION.format(
            count=len(CASES),
            requests=len(REQUESTS),
            answers=len(CASES) - len(REQUESTS),
            peers=" and ".join(peers) or "no peer (none is installed)",
        ),
        summary(columns),
    ]
    groups: dict[str, Sequence[Rule[Case] | Rule[AnswerCase]]] = {**REQUEST_GROUPS, **RESPONSE_GROUPS}
    for title, rules in groups.items():
        parts.append(f"\n## {title}\n\n")
        parts.append(_row(["what must hold", "by", "cases", *(column.name for column in columns)]))
        parts.append(_row(["---"] * (3 + len(columns))))
        for rule in rules:
            cells = [_cell(rule, column) for column in columns]
            parts.append(_row([_text(rule.must), _text(rule.source), f"`{rule.name}` ×{len(rule.cases)}", *cells]))
    return "".join(parts)


def summary(columns: Sequence[Column]) -> str:
    """Count verdicts, and name the rules in which each column differs."""
    parts = [
        "## In short\n\n",
        _row(["", *(verdict_.value for verdict_ in Verdict), "of these marked !"]),
        _row(["---"] * 7),
    ]
    for column in columns:
        counts = Counter(verdict(case, column.outcomes[case.name]) for case in CASES)
        marked = sum(1 for case in CASES if danger(column.outcomes[case.name]))
        parts.append(_row([column.title, *(str(counts[verdict_]) for verdict_ in Verdict), str(marked)]))
    for column in columns:
        for what in (Verdict.LAXER, Verdict.DIFFERENT, Verdict.STRICTER):
            rules = _rules_with(what, column)
            if rules:
                parts.append(f"\n{column.title} is {what.value} in: {', '.join(rules)}.\n")
    return "".join(parts)


def _rules_with(what: Verdict, column: Column) -> list[str]:
    found = []
    for rule in RULES:
        differing = [case for case in rule.cases if verdict(case, column.outcomes[case.name]) is what]
        if differing:
            mark = " **!**" if any(danger(column.outcomes[case.name]) for case in differing) else ""
            found.append(f"`{rule.name}`{mark} ({len(differing)} of {len(rule.cases)})")
    return found


def _cell(rule: Rule[Case] | Rule[AnswerCase], column: Column) -> str:
    groups: dict[tuple[Verdict, str], list[str]] = defaultdict(list)
    for case in rule.cases:
        outcome = column.outcomes[case.name]
        what = describe(outcome) if isinstance(case, Case) else describe_answer(outcome)
        mark = "**!** " if danger(outcome) else ""
        mark += "† " if column.name == "asgi" and server_decides(case.name) else ""
        groups[verdict(case, outcome), mark + what].append(case.name.partition("/")[2])
    parts = []
    for (found, what), names in sorted(groups.items(), key=lambda item: list(Verdict).index(item[0][0])):
        if found is Verdict.AS_PROMISED:
            parts.append(f"{what} ×{len(names)}" if len(groups) > 1 else what)
        else:
            which = "all" if len(names) == len(rule.cases) and len(names) > 1 else _listed(names)
            parts.append(f"*{found.value}*: {what}: {which}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f"`{_code(name)}`" for name in names[:SHOWN])
    return listed if len(names) <= SHOWN else f"{listed} and {len(names) - SHOWN} more"


def _code(name: str) -> str:
    return name.replace("`", "'").replace("|", "\\|")[:40]


def _text(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("`", "`")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"

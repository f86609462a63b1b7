"""What a run has shown, as JSON and as a page."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from tests.cluster.chaos import Outcome
from tests.cluster.history import History, Kind, Ping, Result, Staged
from tests.cluster.schedule import REDIS, REPLICAS

GOAL = 0.9999
MARK = "<!-- make chaos writes what follows -->"


def summary(outcome: Outcome) -> dict[str, Any]:
    """Say in numbers what a run has shown."""
    history, verdict, options = outcome.history, outcome.verdict, outcome.options
    pings = history.pings
    return {
        "seed": options.seed,
        "seconds": round(outcome.seconds, 1),
        "replicas": options.replicas,
        "backends": options.backends,
        "clients": options.clients,
        "items": options.items,
        "operations": len(history.operations),
        "operations_by_result": _by_result(history),
        "faults": _faults(history.staged),
        "violations": [str(violation) for violation in verdict.violations],
        "undecided_items": verdict.undecided,
        "items_explained_by_a_repeat": len(verdict.repeats),
        "answers_excused_while_degraded": verdict.excused,
        "tickets_checked": verdict.tickets,
        "unevenness_in_lulls": verdict.unevenness,
        "rotated": len(pings),
        "availability_raw": availability(pings),
        "availability": availability(pings, with_retry=True),
        "failures": dict(Counter(ping.why for ping in pings if not ping.is_served_by_retry).most_common()),
        "refusals": outcome.refusals,
        "longest_gap_s": round(longest_gap_s(pings), 3),
        "slowest_s": round(max((ping.end - ping.start for ping in pings), default=0.0), 3),
        "recovery_s": recoveries(history),
        "degraded_s": round(sum(span.end - span.start for span in history.degraded), 1),
        "rest_s": round(outcome.rest_s, 1),
        "check_s": round(outcome.check_s, 1),
    }


def availability(pings: Sequence[Ping], *, with_retry: bool = False) -> float:
    """Say which share of rotated requests was served."""
    if not pings:
        return 1.0
    return sum(ping.is_served_by_retry if with_retry else ping.is_served for ping in pings) / len(pings)


def longest_gap_s(pings: Sequence[Ping]) -> float:
    """Say for how long no rotated request at all was answered."""
    ends = sorted(ping.end for ping in pings if ping.is_served_by_retry)
    return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)


def recoveries(history: History) -> dict[str, dict[str, float]]:
    """Say how long after each kind of fault had ended its target served again.

    A backend: a rotated request. Redis: a create that needed it. Faults on the heels of another are left out.
    """
    by_backend: dict[str, list[float]] = defaultdict(list)
    for ping in sorted(history.pings):
        if ping.is_served_by_retry and ping.backend is not None:
            by_backend[ping.backend].append(ping.start)
    creates = sorted(
        it.start for it in history.operations if it.kind is Kind.CREATE and it.result in (Result.DONE, Result.EXISTS)
    )
    found: dict[str, list[float]] = defaultdict(list)
    for staged in history.staged:
        if staged.target == REPLICAS:
            continue
        if staged.target == REDIS:
            starts, name = creates, REDIS
        else:
            starts, name = by_backend[history.backends[int(staged.target.split()[1])]], "backend"
        after = next((start for start in starts if start >= staged.end), None)
        if after is not None and not _is_disturbed(history, staged, after):
            found[f"{name} {staged.kind}"].append(after - staged.end)
    return {
        kind: {"times": len(times), "median": round(median(times), 3), "longest": round(max(times), 3)}
        for kind, times in sorted(found.items())
    }


def _is_disturbed(history: History, staged: Staged, until: float) -> bool:
    return any(it.target == staged.target and staged.end < it.start < until for it in history.staged)


def _by_result(history: History) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for it in history.operations:
        counts[it.kind.value][it.result.value] += 1
    return {kind: dict(sorted(results.items())) for kind, results in sorted(counts.items())}


def _faults(staged: Sequence[Staged]) -> dict[str, int]:
    names = Counter(f"{it.target.split()[0]}: {it.kind}" for it in staged)
    return dict(sorted(names.items()))


def to_json(outcome: Outcome) -> str:
    """Write the summary as JSON."""
    return json.dumps(summary(outcome), indent=2) + "\n"


def to_markdown(outcome: Outcome) -> str:
    """Write the section."""
    it = summary(outcome)
    violations = it["violations"]
    lines = [
        "## A run of `make chaos`",
        "",
        f"{it['seconds']:g} s, seed {it['seed']}: {it['replicas']} replicas on one port, {it['backends']} backends,"
        f" Redis with `appendfsync always`, {it['clients']} clients on {it['items']} items. {_machine()}",
        "",
        f"**{len(violations) or 'No'} violation{'' if len(violations) == 1 else 's'}** in"
        f" {it['operations']:,} operations and {it['rotated']:,} rotated requests,"
        f" under {sum(it['faults'].values())} faults.",
        "",
        "| | |",
        "|---|---|",
        f"| rotated GETs served, a client sends again as RFC 9110 section 9.2.2 says | {it['availability']:.4%} |",
        f"| served at the first try | {it['availability_raw']:.4%} |",
        f"| longest time in which none was answered | {it['longest_gap_s']:.2f} s |",
        f"| slowest | {it['slowest_s']:.2f} s |",
        f"| tickets checked, each used once | {it['tickets_checked']:,} |",
        f"| largest difference between backends' counts in a lull | {it['unevenness_in_lulls']} |",
        f"| from the last fault until every doubt was resolved | {it['rest_s']:.1f} s |",
        f"| items for which a put or delete must have taken effect twice | {it['items_explained_by_a_repeat']} |",
        f"| 404s left out, since a replica was without Redis | {it['answers_excused_while_degraded']} |",
        "",
        "Faults staged:",
        "",
        "| fault | times |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in it["faults"].items()),
        "",
        "From the end of a fault until its target served again, for a backend the first rotated request, for Redis the"
        " first create:",
        "",
        "| fault | measured | median | longest |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {times['times']} | {times['median']:.2f} s | {times['longest']:.2f} s |"
            for kind, times in it["recovery_s"].items()
        ),
        "",
        "Operations on items:",
        "",
        "| | done | exists | missing | not sent (503) | unknown |",
        "|---|---|---|---|---|---|",
        *(
            f"| {kind} | " + " | ".join(str(counts.get(result.value, 0)) for result in Result) + " |"
            for kind, counts in it["operations_by_result"].items()
        ),
        "",
    ]
    if it["failures"]:
        lines += ["Rotated requests that were not served:", "", "| why | times |", "|---|---|"]
        lines += [f"| {why or 'unknown'} | {count} |" for why, count in it["failures"].items()] + [""]
    if violations:
        lines += ["Violations:", "", "```", *violations, "```", ""]
    return "\n".join(lines)


def into_page(page: str, section: str) -> str:
    """Put the section into a page: behind the mark, in place of an earlier one."""
    head, _, _ = page.partition(MARK)
    return f"{head}{MARK}\n\n{section}"


def _machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}."

"""What came of the checks, as text for people and as JSON for programs.

Rules:
- A failure shows the sentence of docs/protocol.md that it breaks, what was expected, and what came instead.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from router_daemon.conform.checks import Check, Finding

ID_CHARS: Final = 20
INDENT: Final = " " * 10
WIDTH: Final = 110


def text(findings: Sequence[Finding]) -> str:
    """Return the findings, each in a line, a failure with what it is about; then why others were not seen."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict == "not seen":
            reasons.setdefault(finding.note, []).append(finding.check.id)
    lines = [*map(_line, findings), "", *(_reason(note, idents) for note, idents in reasons.items())]
    return "\n".join([*lines, summary(findings)])


def _reason(note: str, idents: Sequence[str]) -> str:
    listed = textwrap.fill(", ".join(idents), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return f"not seen: {note}\n{listed}\n"


def _line(finding: Finding) -> str:
    check, verdict = finding.check, finding.verdict
    word = verdict.upper() if verdict == "fail" else verdict
    lines = [f"{word:9} {check.id:{ID_CHARS}} {check.title}"]
    if verdict == "fail":
        lines.append(f'{INDENT}docs/protocol.md, "{check.section}": {check.quote}')
        lines += _under("expected", finding.expected) + _under("received", finding.received)
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """Return how many of them came to what."""
    counts = Counter(finding.verdict for finding in findings)
    return f"{len(findings)} checks: {counts['pass']} pass, {counts['fail']} fail, {counts['not seen']} not seen"


def plain(side: str, address: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return everything as JSON has it."""
    counts = Counter(finding.verdict for finding in findings)
    about = {"protocol": "CAR/1", "side": side, "address": address, "passed": counts["fail"] == 0}
    totals = {"pass": counts["pass"], "fail": counts["fail"], "not_seen": counts["not seen"]}
    return about | {"counts": totals, "checks": [finding.plain() for finding in findings]}


def listing(checks: Iterable[Check]) -> str:
    """Return the checks that there are, with the sentences that they stand on."""
    return "\n".join(f'{check.id:{ID_CHARS}} {check.title}\n{" " * ID_CHARS} "{check.quote}"' for check in checks)


def _under(word: str, text: str) -> list[str]:
    first, *others = text.splitlines() or [""]
    return [f"{INDENT}{word}  {first}", *(f"{INDENT}{' ' * len(word)}  {other}" for other in others)]

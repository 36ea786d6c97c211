"""What a row measured, and all rows as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ring_app.load import Ledger

DURING_S: Final = 2.0
"""After the kill: as long as it takes to notice a lost link twice over."""
HEADER: Final = (
    "policy",
    "hops",
    "mean ms",
    "alignment",
    "p95 before",
    "during",
    "after",
    "answered",
    "lost",
    "cut off",
    "unanswered",
)


@dataclass
class Measured:
    """One row.

    Attributes:
        hops: links that a message took to its backend, the mean over all deliveries; 0 at the daemon itself.
        killed: the daemon, "" for none; killed_s: when, seconds from the start, of so many `seconds` of load.
        wrong: what must not be.
    """

    name: str
    ledger: Ledger
    hops: float
    killed: str
    killed_s: float
    seconds: float
    wrong: list[str] = field(default_factory=list)

    def p95_ms(self, begin_s: float, end_s: float = math.inf) -> float:
        """Return the 95th percentile of what was sent in that time; NaN for nothing."""
        taken = sorted(answer.seconds for answer in self.ledger.answers if begin_s <= answer.sent_s < end_s)
        return 1000.0 * taken[math.ceil(0.95 * len(taken)) - 1] if taken else math.nan

    def cells(self) -> list[str]:
        """Return the row of the table."""
        ledger, killed_s = self.ledger, self.killed_s
        again_s = killed_s + min(DURING_S, (self.seconds - killed_s) / 2)
        answers = ledger.answers
        count = max(1, len(answers))
        return [
            self.name,
            f"{self.hops:.2f}",
            f"{1000.0 * math.fsum(answer.seconds for answer in answers) / count:.2f}",
            f"{math.fsum(answer.alignment for answer in answers) / count:.3f}",
            f"{self.p95_ms(killed_s / 3, killed_s):.2f}",
            f"{self.p95_ms(killed_s, again_s):.2f}",
            f"{self.p95_ms(again_s):.2f}",
            f"{len(answers)}/{ledger.sent}",
            ", ".join(f"{count} {code}" for code, count in sorted(ledger.errors.items())) or "0",
            str(ledger.cut_off),
            str(ledger.unanswered),
        ]


def table(rows: Sequence[Measured]) -> str:
    """Return all rows as Markdown; times in milliseconds."""
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

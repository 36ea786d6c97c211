"""What came of the messages of one route, kept only where there are several routes: one route is all there is.

Rules:
- Success is the share of answered among all that a route can be blamed for: not what a client cancelled or left, what
  a backend rejected, or what nobody has ever offered.
- Latencies are those of answered messages, from reading the SEND to the last answer.
- Cost is what each delivery costs at its backend, as observed, else as declared; copies cost as well.
- With one route all of this would be what the capabilities' counts say anyway, so then nothing is kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from router_daemon.core.counts import FINE_SECONDS, MESSAGE_OUTCOMES, MOST_HEADS, CapabilityCounts, Histogram
from router_daemon.core.guard import Side

if TYPE_CHECKING:
    from router_daemon.core.messages import Message

FAILURES: Final = ("no_backend", "overloaded", "expired", "failed", "internal")
"""Outcomes that count against a route: a policy may rank nobody, herd until all are full, or go to who fails."""
_BLAMED: Final = frozenset(FAILURES)


class Tally:
    """The counts of one route.

    Attributes:
        outcomes: of its messages, by name.
        seconds: of the answered.
        deliveries: made for its messages, cost: what they come to.
        side: the same for the guard, since the window began; None while there is nothing to compare.
    """

    __slots__ = ("cost", "deliveries", "outcomes", "seconds", "side")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(MESSAGE_OUTCOMES, 0)
        self.seconds = Histogram(FINE_SECONDS)
        self.deliveries = 0
        self.cost = 0.0
        self.side: Side | None = None

    def ended(self, message: Message, outcome: str, seconds: float) -> None:
        """Count a message that has had its last answer, or was refused."""
        self.outcomes[outcome] += 1
        self.deliveries += len(message.deliveries)
        for delivery in message.deliveries:
            self.cost += delivery.backend.cost or 0.0
        side = self.side
        if outcome == "answered":
            self.seconds.observe(seconds)
            if message.request.reply != "none":
                message.client.routes.append(message.route)
            if side is not None and message.accepted_at >= side.began_at:
                side.take(seconds)
        elif outcome in _BLAMED and side is not None and message.accepted_at >= side.began_at:
            side.take(None)

    def figures(self) -> dict[str, Any]:
        """Return it as people see it: times in milliseconds, ratios from 0 to 1, None where nothing is known."""
        shown = figures(self.outcomes, self.seconds, self.deliveries)
        ended = sum(self.outcomes.values())
        return shown | {"cost_per_message": self.cost / ended if ended else None}


def of_everything(series: Iterable[CapabilityCounts], heads: list[int]) -> dict[str, Any]:
    """Return the figures of the only route, from what is counted anyway: its latencies are of all that ended.

    Args:
        series: of every capability.
        heads: messages by how many deliveries they had, `MOST_HEADS` and more in the last place.
    """
    outcomes, seconds = dict.fromkeys(MESSAGE_OUTCOMES, 0), Histogram(FINE_SECONDS)
    for counts in series:
        seconds.take(counts.message_seconds)
        for outcome, count in counts.outcomes.items():
            outcomes[outcome] += count
    deliveries = sum(number * count for number, count in enumerate(heads[: MOST_HEADS + 1]))
    return figures(outcomes, seconds, deliveries) | {"cost_per_message": None}


def figures(outcomes: dict[str, int], seconds: Histogram, deliveries: int) -> dict[str, Any]:
    """Return success, percentiles and deliveries per message of these counts."""
    failed = sum(outcomes[outcome] for outcome in FAILURES)
    answers, ended = outcomes["answered"] + failed, sum(outcomes.values())
    return {
        "messages": ended,
        "answers": answers,
        "success": outcomes["answered"] / answers if answers else None,
        "p50_ms": _ms(seconds, 0.5),
        "p95_ms": _ms(seconds, 0.95),
        "p99_ms": _ms(seconds, 0.99),
        "deliveries_per_message": deliveries / ended if ended else None,
        "outcomes": {outcome: count for outcome, count in outcomes.items() if count},
    }


def _ms(seconds: Histogram, share: float) -> float | None:
    found = seconds.quantile(share)
    return None if found is None else found * 1000.0

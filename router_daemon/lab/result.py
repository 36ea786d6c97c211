"""What a run has shown, in the numbers that runs are compared by.

Rules:
- Everything is computed from the records, one per SEND, so any other cut can be made by `where`.
- Latency is that of answered messages only, from the SEND to its last answer; a policy that answers less is not
  flattered, because the success ratio stands beside it.
- A percentile is the nearest rank: a latency that some message really had; nan where nothing was answered.
- Messages with `reply: none` are accepted, not answered; they count in neither.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from router_daemon.lab.ledger import Record
from router_daemon.lab.timeline import START_S

CRITICAL = 4

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Summary:
    """A set of messages in numbers; times in milliseconds.

    Attributes:
        messages: that ask for an answer.
        success: the share of them that got one.
        p50_ms, p99_ms, p999_ms: of the answered.
        critical_p99_ms: of the answered with priority 4.
        deliveries: per message.
        refused: the share that was never sent to a backend and ended before its time was up.
        outcomes: how many ended in which way.
    """

    messages: int
    success: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    critical_p99_ms: float
    deliveries: float
    refused: float
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run.

    Attributes:
        digest: of every action, in hexadecimal.
        records: one per SEND.
        seconds: virtual time from the beginning to the last answer.
        steps: events and wake-ups that brokers handled. actions: what they made of them.
        busy: per backend, the share of its workers' time that was work begun.
        happened: how often each kind of fault did.
    """

    digest: str
    records: list[Record]
    seconds: float
    steps: int
    actions: int
    busy: Mapping[str, float]
    happened: Mapping[str, int]

    def summary(self) -> Summary:
        """Return all messages in numbers."""
        return summarize(self.records)

    def where(self, chosen: Callable[[Record], bool]) -> Summary:
        """Return some messages in numbers."""
        return summarize(record for record in self.records if chosen(record))

    def by_capability(self) -> dict[str, Summary]:
        """Return each capability in numbers."""
        return _grouped(self.records, lambda record: record.request.capability)

    def by_window(self, seconds: float) -> dict[float, Summary]:
        """Return the messages sent in each window of time, by its beginning in seconds."""
        return _grouped(self.records, lambda record: (record.sent_at - START_S) // seconds * seconds)

    def after(self, seconds: float) -> Summary:
        """Return the messages sent after a warm-up."""
        return self.where(lambda record: record.sent_at - START_S >= seconds)


def percentile(ordered: list[float], share: float) -> float:
    """Return the nearest rank in a sorted list; nan where it is empty."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(records: Iterable[Record]) -> Summary:
    """Return these messages in numbers."""
    asked = [record for record in records if record.request.reply != "none"]
    answered = [record for record in asked if record.outcome == "answered"]
    latencies = sorted(record.latency_s * 1000.0 for record in answered)
    critical = sorted(record.latency_s * 1000.0 for record in answered if record.request.priority == CRITICAL)
    refused = [r for r in asked if not r.deliveries and r.outcome not in ("answered", "expired", "cancelled")]
    count = len(asked) or 1
    return Summary(
        messages=len(asked),
        success=len(answered) / count,
        mean_ms=math.fsum(latencies) / len(latencies) if latencies else math.nan,
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
        p999_ms=percentile(latencies, 0.999),
        critical_p99_ms=percentile(critical, 0.99),
        deliveries=sum(record.deliveries for record in asked) / count,
        refused=len(refused) / count,
        outcomes=Counter(record.outcome for record in asked),
    )


def _grouped(records: list[Record], key: Callable[[Record], _K]) -> dict[_K, Summary]:
    groups: dict[_K, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return {name: summarize(group) for name, group in groups.items()}

"""What the core counts, for `metrics` to read. Plain integers and bucket arrays: a count costs an addition.

Rules:
- Series are found once (when a ranking is made, when a backend registers) and held, never looked up per message.
- Outcomes are plain dictionaries with every key there from the start: half the price of a `Counter`.
- The number of series is bounded: a name beyond `label_values` is counted under `other`, a capability that no backend
  ever offered under `unknown`. The bound is on live series: what is forgotten makes room.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final, TypeVar

from router_daemon.errors import RETRY

OTHER: Final = "other"
UNKNOWN: Final = "unknown"

SECONDS: Final = tuple(m * 10.0**e for e in range(-4, 2) for m in (1.0, 2.5, 5.0))
"""100 us to 50 s: from a local call to a language model."""
_R40: Final = (
    *(1.0, 1.06, 1.12, 1.18, 1.25, 1.32, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.12, 2.24, 2.36, 2.5, 2.65, 2.8, 3.0),
    *(3.15, 3.35, 3.55, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0, 5.3, 5.6, 6.0, 6.3, 6.7, 7.1, 7.5, 8.0, 8.5, 9.0, 9.5),
)
"""The preferred numbers R40 (ISO 3), rounded to two places: steps of 6 %, and 1, 2.5 and 5 are among them."""
FINE_SECONDS: Final = tuple(m * 10.0**e for e in range(-4, 3) for m in _R40 if m * 10.0**e < 501.0)
"""100 us to 500 s in steps of 6 %, fine enough for percentiles; every bound of `SECONDS` is one of these."""
DECISION_SECONDS: Final = tuple(m * 1e-6 for m in (0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 5000))

MOST_NOTED: Final = 128
"""Values that a histogram has not counted yet, at most: 4 KiB of each series."""
MOST_HEADS: Final = 15
"""Deliveries of one message that are told apart; NACKs `busy` allow any number."""
MESSAGE_OUTCOMES: Final = ("answered", "client_gone", *RETRY)
DELIVERY_OUTCOMES: Final = (
    "acked",
    "failed",
    "busy",
    "rejected",
    "cancelled",
    "timeout",
    "lost",
    "malformed",
    "undelivered",
    "unanswered",
)
FAILURE_CAUSES: Final = ("failed", "timeout", "lost", "malformed")


class Histogram:
    """Counts per bucket (not cumulative; the last is +Inf) and the sum of what was observed.

    Values are noted and counted `MOST_NOTED` at a time, sorted: finding the bucket of each as it comes costs three
    times as much, and three are observed per message.

    Attributes:
        noted: observed, and not in the buckets yet.
    """

    __slots__ = ("_counts", "_total", "bounds", "noted")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.noted: list[float] = []
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    @property
    def counts(self) -> list[int]:
        """How many values fell into each bucket."""
        self.settle()
        return self._counts

    @property
    def total(self) -> float:
        """The sum of all values."""
        self.settle()
        return self._total

    def observe(self, value: float) -> None:
        """Count one value."""
        noted = self.noted
        noted.append(value)
        if len(noted) >= MOST_NOTED:
            self.settle()

    def add(self, value: float, count: int) -> None:
        """Count the same value several times."""
        self._counts[bisect_left(self.bounds, value)] += count
        self._total += value * count

    def settle(self) -> None:
        """Put into the buckets what was noted; a bucket takes what is at most its bound."""
        values, bounds, count = self.noted, self.bounds, len(self.noted)
        self._total = sum(values, self._total)
        values.sort()
        at = 0
        while at < count:
            index = bisect_left(bounds, values[at])
            end = bisect_right(values, bounds[index], at) if index < len(bounds) else count
            self._counts[index] += end - at
            at = end
        values.clear()

    def take(self, other: Histogram) -> None:
        """Count all that another one has counted; it has the same bounds."""
        self._counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self._total += other.total

    def folded(self, bounds: tuple[float, ...]) -> Histogram:
        """Return the same in wider buckets; each of `bounds` is one of this histogram's."""
        folded, counts, at = Histogram(bounds), self.counts, 0
        for place, bound in enumerate(bounds):
            end = self.bounds.index(bound) + 1
            folded._counts[place], at = sum(counts[at:end]), end
        folded._counts[-1] = sum(counts[at:])
        folded._total = self.total
        return folded

    def quantile(self, share: float) -> float | None:
        """Return the value below which that share lies, as if values lay evenly within a bucket; None for no values."""
        return quantile(self.bounds, self.counts, share)


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return the value below which a share of what was counted lies; see `Histogram`. Beyond the last bound: that."""
    wanted, low = share * sum(counts), 0.0
    if not wanted:
        return None
    for bound, count in zip(bounds, counts, strict=False):
        if count >= wanted:
            return low + (bound - low) * wanted / count
        wanted -= count
        low = bound
    return low


REFUSALS: Final = ("room", "displaced", "wait", "late", "budget", "open_messages", "client_messages", "client_bytes")
"""Why a message got `overloaded`: no room to wait, displaced by a more important one, the wait would be too long, too
late to finish once it was its turn, no token for a further head; too many open messages, or of this client, or too many
bytes of them."""


FALLBACKS: Final = ("missing", "zero", "dimension", "no_keys", "partial")
"""Why embedding attention could not hold a message against keys: no embedding, a zero vector, no key of its length, no
backend with a key; or (`partial`) not against all of them, as some candidates have no key of its length."""


class CapabilityCounts:
    """The series of one capability label.

    Attributes:
        outcomes: how its messages ended: `answered`, `client_gone`, or an error code.
        lost: messages with `reply: none` that were accepted and not done.
        hedges, retries, explorations: further heads while one was out; after one had failed; messages that explored.
        holds: messages that waited for a full backend while a much slower one had room.
        refusals: by cause, see `REFUSALS`.
        fallbacks: messages that embedding attention had nothing to hold against, see `FALLBACKS`.
        message_seconds: from reading the SEND to its last answer; in fine buckets, for percentiles.
        delivery_seconds: per group of the backend ("" for none), from sending to the ACK or first PART.
    """

    __slots__ = (
        "delivery_seconds",
        "explorations",
        "fallbacks",
        "hedges",
        "holds",
        "label",
        "lost",
        "message_seconds",
        "outcomes",
        "refusals",
        "retries",
    )

    def __init__(self, label: str) -> None:
        self.label = label
        self.outcomes = dict.fromkeys(MESSAGE_OUTCOMES, 0)
        self.lost = 0
        self.hedges = self.retries = self.explorations = self.holds = 0
        self.refusals = dict.fromkeys(REFUSALS, 0)
        self.fallbacks = dict.fromkeys(FALLBACKS, 0)
        self.message_seconds = Histogram(FINE_SECONDS)
        self.delivery_seconds: dict[str, Histogram] = {}

    def delivery_histogram(self, group: str) -> Histogram:
        """Return the latency histogram of a (bounded) group, made where it is missing."""
        return self.delivery_seconds.setdefault(group, Histogram(SECONDS))


class BackendCounts:
    """The series of one backend label.

    Attributes:
        outcomes: how its deliveries ended (`DELIVERY_OUTCOMES`).
        failures: those that count against it, by cause (`FAILURE_CAUSES`).
        ejections: how often it began to get nothing.
        losses: how often it went without saying so.
    """

    __slots__ = ("ejections", "failures", "label", "losses", "outcomes")

    def __init__(self, label: str) -> None:
        self.label = label
        self.outcomes = dict.fromkeys(DELIVERY_OUTCOMES, 0)
        self.failures = dict.fromkeys(FAILURE_CAUSES, 0)
        self.ejections = self.losses = 0


_S = TypeVar("_S", CapabilityCounts, BackendCounts)


class Counts:
    """Everything that is counted, and the bounded tables of series."""

    def __init__(self, label_values: int) -> None:
        self._label_values = label_values
        self.capabilities: dict[str, CapabilityCounts] = {}
        self.backends: dict[str, BackendCounts] = {}
        self.groups: dict[str, float | None] = {}
        """Since when nobody has been seen in a group, None while somebody is."""
        self.decision_hit = Histogram(DECISION_SECONDS)
        self.decision_miss = Histogram(DECISION_SECONDS)
        self.waiting_seconds = [Histogram(SECONDS) for _ in range(5)]  # by priority; index 0 unused
        self.heads = [0] * (MOST_HEADS + 1)
        self.protocol_errors: Counter[str] = Counter()
        self.stray_answers: Counter[str] = Counter()
        self.lost_answers: Counter[str] = Counter()
        self.feedback_ignored = 0
        self.label_overflow = 0
        self.faults = 0

    def capability(self, name: str, *, offered: bool) -> CapabilityCounts:
        """Return the series for a capability, made where it is missing; `offered`: some backend has offered it."""
        found = self.capabilities.get(name)
        if found is not None:
            return found
        label = name if offered else UNKNOWN
        return self._series(self.capabilities, label, CapabilityCounts)

    def backend(self, name: str) -> BackendCounts:
        """Return the series for a backend, made where it is missing."""
        return self._series(self.backends, name, BackendCounts)

    def group(self, name: str) -> str:
        """Return the label for a group of backends; "" is a group like any other."""
        if name not in self.groups and len(self.groups) >= self._label_values:
            self.label_overflow += 1
            return OTHER
        self.groups[name] = None
        return name

    def forget_groups(self, used: Collection[str], now: float, after_s: float) -> None:
        """Drop the groups in which nobody has been for so long, with their series; `used`: labels of those there."""
        for name, empty_since in list(self.groups.items()):
            if name in used:
                self.groups[name] = None
            elif empty_since is None:
                self.groups[name] = now
            elif now - empty_since >= after_s:
                del self.groups[name]
                for capability in self.capabilities.values():
                    capability.delivery_seconds.pop(name, None)

    def _series(self, table: dict[str, _S], label: str, make: type[_S]) -> _S:
        found = table.get(label)
        if found is not None:
            return found
        if label != UNKNOWN and len(table) - (OTHER in table) - (UNKNOWN in table) >= self._label_values:
            self.label_overflow += 1
            label = OTHER
        if label not in table:
            table[label] = make(label)
        return table[label]

"""What was counted until a moment, and what happened between two of them: rates, shares, percentiles.

Rules:
- Pure reading of what is counted anyway; nothing is kept per message.
- A `Moment` is bounded: sums over all capabilities, the routes, and one number for each backend.
- A point (`between`) names at most `MOST_BACKENDS` backends, those with the most outcomes since the earlier moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nlargest
from operator import add, sub
from typing import Any, Final

from msgspec import Struct

from router_daemon.core.broker import Broker
from router_daemon.core.counts import FINE_SECONDS, MESSAGE_OUTCOMES, REFUSALS, Histogram, quantile
from router_daemon.core.tally import FAILURES

MOST_BACKENDS: Final = 32


class Flow(Struct, frozen=True):
    """Messages that have ended: how many by outcome, and how long they took, in the buckets of `FINE_SECONDS`."""

    outcomes: dict[str, int]
    seconds: list[int]

    def since(self, earlier: Flow) -> Flow:
        """Return what has come since; nothing is less than none, where a count began anew."""
        return Flow(
            {key: max(0, count - earlier.outcomes.get(key, 0)) for key, count in self.outcomes.items()},
            [max(0, count) for count in map(sub, self.seconds, earlier.seconds)],
        )

    def figures(self, span_s: float) -> dict[str, Any]:
        """Return messages per second, the ratio of successes, p50 and p99 in ms; None where nothing says."""
        answered = self.outcomes["answered"]
        blamed = answered + sum(self.outcomes[outcome] for outcome in FAILURES)
        return {
            "per_s": sum(self.outcomes.values()) / span_s,
            "success": answered / blamed if blamed else None,
            "p50_ms": _ms(self.seconds, 0.5),
            "p99_ms": _ms(self.seconds, 0.99),
        }


NOTHING: Final = Flow(dict.fromkeys(MESSAGE_OUTCOMES, 0), [0] * (len(FINE_SECONDS) + 1))


class Moment(Struct, frozen=True):
    """Everything that was counted until `now` (seconds, the broker's clock), which is `at` for people (since 1970).

    Attributes:
        whole: all messages. routes: those of each, where there are several.
        backends: by name, how many outcomes were observed (answers and failures).
        hits, looks: of the decision cache.
        refusals: by cause.
    """

    now: float
    at: float
    whole: Flow
    routes: dict[str, Flow]
    backends: dict[str, int]
    hits: int
    looks: int
    refusals: dict[str, int]


def moment_of(broker: Broker, now: float, at: float) -> Moment:
    """Return what is counted until now."""
    counts, routes = broker.counts, broker.routes.by_name.values()
    caches = [route.rankings for route in (*routes, broker.routes.fallback)]
    refusals = dict.fromkeys(REFUSALS, 0)
    for capability in counts.capabilities.values():
        for cause, count in capability.refusals.items():
            refusals[cause] += count
    hits = sum(cache.hits for cache in caches)
    return Moment(
        now=now,
        at=at,
        whole=_sum((c.outcomes, c.message_seconds) for c in counts.capabilities.values()),
        routes={r.name: _sum([(r.tally.outcomes, r.tally.seconds)]) for r in routes if r.tally is not None},
        backends={name: backend.profile.samples for name, backend in broker.registry.by_name.items()},
        hits=hits,
        looks=hits + sum(cache.misses + cache.expired + cache.invalidated for cache in caches),
        refusals=refusals,
    )


def between(earlier: Moment, later: Moment, broker: Broker) -> dict[str, Any]:
    """Return one point of the time series: what happened between two moments, and what is so at the later, now.

    Times in milliseconds; `backends` by name: latency (ms) and success as the daemon believes them, outcomes a second.
    """
    span_s = max(1e-3, later.now - earlier.now)
    looks = later.looks - earlier.looks
    refused = {cause: count - earlier.refusals[cause] for cause, count in later.refusals.items()}
    return {
        "at": later.at,
        "span_s": span_s,
        **later.whole.since(earlier.whole).figures(span_s),
        "in_flight": broker.open_messages,
        "waiting": broker.dispatcher.waiting.by_priority[1:],
        "hit_ratio": (later.hits - earlier.hits) / looks if looks else None,
        "refused_per_s": sum(refused.values()) / span_s,
        "refused": {cause: count for cause, count in refused.items() if count},
        "routes": {
            name: flow.since(earlier.routes.get(name, NOTHING)).figures(span_s) for name, flow in later.routes.items()
        },
        "backends": _backends(earlier, later, broker, span_s),
    }


def _backends(earlier: Moment, later: Moment, broker: Broker, span_s: float) -> dict[str, Any]:
    done = outcomes_since(earlier, later)
    by_name = broker.registry.by_name
    busiest = nlargest(MOST_BACKENDS, ((count, name) for name, count in done.items() if name in by_name))
    found = {}
    for count, name in sorted(busiest, key=lambda pair: pair[1]):
        profile = by_name[name].profile
        found[name] = [profile.latency_s * 1000.0, profile.success, count / span_s]
    return found


def outcomes_since(earlier: Moment, later: Moment) -> dict[str, int]:
    """Return how many outcomes each backend had between two moments; one that began to count anew: since then."""
    found = {}
    for name, count in later.backends.items():
        before = earlier.backends.get(name, 0)
        found[name] = count - before if count >= before else count
    return found


def _sum(series: Iterable[tuple[dict[str, int], Histogram]]) -> Flow:
    outcomes, seconds = dict(NOTHING.outcomes), NOTHING.seconds
    for counted, histogram in series:
        seconds = list(map(add, seconds, histogram.counts))
        for outcome, count in counted.items():
            outcomes[outcome] += count
    return Flow(outcomes, seconds)


def _ms(buckets: Sequence[int], share: float) -> float | None:
    found = quantile(FINE_SECONDS, buckets, share)
    return None if found is None else found * 1000.0

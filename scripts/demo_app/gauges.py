"""What the daemon says of itself: `/backends` and `/metrics` of its admin address, as numbers for the table.

Rules:
- Only public interfaces: the same JSON and the same Prometheus text that any operator gets.
- A poll that fails leaves the last numbers as they are; whoever shows them sees how old they are.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

POLL_S: Final = 0.5
TIMEOUT_S: Final = 2.0

EXTRA: Final = ("router_hedges_total", "router_retries_total", "router_backend_ejections_total")

Buckets = dict[float, float]


@dataclass(slots=True)
class Snapshot:
    """One look at the daemon.

    Attributes:
        backends: name -> the entry of `/backends`; of one that left, the last there was, with `up` false.
        deliveries: name -> outcome -> count; it outlives a backend that was lost.
        messages: ended so far, of any outcome.
        messages_per_s: since the look before.
        hit_ratio: of the decision cache; None before the first decision.
        hedges, retries, ejections: so far.
        heads: deliveries for one message (as text, cumulated) -> messages.
        decision_buckets: upper bound in seconds -> cumulated count, hits and misses together.
    """

    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    deliveries: dict[str, dict[str, int]] = field(default_factory=dict)
    messages: float = 0.0
    messages_per_s: float = 0.0
    hit_ratio: float | None = None
    hedges: int = 0
    retries: int = 0
    ejections: int = 0
    heads: Buckets = field(default_factory=dict)
    decision_buckets: Buckets = field(default_factory=dict)
    read_at_s: float = 0.0

    def delivered(self, backend: str) -> int:
        """Return how many deliveries of a backend have ended, in whatever way."""
        return sum(self.deliveries.get(backend, {}).values())

    def all_delivered(self) -> int:
        """Return how many deliveries have ended."""
        return sum(map(self.delivered, self.deliveries))

    def copied(self) -> float | None:
        """Return the share of messages that had more than one delivery; None before the first message."""
        total = self.heads.get(float("inf"), 0.0)
        return (total - self.heads.get(1.0, 0.0)) / total if total else None

    def latency_ms(self, backend: str) -> float | None:
        """Return the EWMA of a backend's latency; None while it is only the daemon's cold-start value."""
        acked = self.deliveries.get(backend, {}).get("acked", 0)
        return self.backends.get(backend, {}).get("latency_ms") if acked else None

    def success_percent(self, backend: str) -> float | None:
        """Return the EWMA of a backend's success; None before its first delivery ended."""
        ratio = self.backends.get(backend, {}).get("success_ratio")
        return None if ratio is None or not self.delivered(backend) else ratio * 100

    def decision_us(self, share: float) -> float | None:
        """Return a quantile of the time that a routing decision took, over the whole run."""
        seconds = bucket_quantile(self.decision_buckets, share)
        return None if seconds is None else seconds * 1e6


def bucket_quantile(buckets: Buckets, share: float) -> float | None:
    """Return a quantile from cumulated bucket counts, linear inside a bucket; None for an empty histogram.

    What lies beyond the last finite bound is reported as that bound, as Prometheus does.
    """
    bounds = sorted(buckets)
    if not bounds or (total := buckets[bounds[-1]]) == 0:
        return None
    rank = share * total
    lower_bound = lower_count = 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return lower_bound
            inside = buckets[bound] - lower_count
            return lower_bound + (bound - lower_bound) * ((rank - lower_count) / inside if inside else 1.0)
        lower_bound, lower_count = bound, buckets[bound]
    return lower_bound


def read_metrics(text: str, snapshot: Snapshot) -> None:
    """Take what the table shows out of the exposition text."""
    buckets: defaultdict[float, float] = defaultdict(float)
    deliveries: defaultdict[str, dict[str, int]] = defaultdict(dict)
    messages = 0.0
    extra: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "router_messages_total":
                messages += sample.value
            elif sample.name == "router_deliveries_total":
                deliveries[sample.labels["backend"]][sample.labels["outcome"]] = int(sample.value)
            elif sample.name == "router_decision_cache_hit_ratio":
                snapshot.hit_ratio = sample.value
            elif sample.name in EXTRA:
                extra[sample.name] += int(sample.value)
            elif sample.name == "router_heads_per_message_bucket":
                snapshot.heads[float(sample.labels["le"])] = sample.value
            elif sample.name == "router_decision_seconds_bucket":
                buckets[float(sample.labels["le"])] += sample.value
    snapshot.deliveries = dict(deliveries)
    snapshot.messages = messages
    snapshot.hedges, snapshot.retries, snapshot.ejections = (extra[name] for name in EXTRA)
    snapshot.decision_buckets = dict(buckets)


class Gauges:
    """Polls one daemon."""

    def __init__(self, admin_address: str) -> None:
        self._base = f"http://{admin_address}"
        self.last = Snapshot()

    async def poll(self, session: aiohttp.ClientSession) -> bool:
        """Look once; returns False, and changes nothing, when the daemon does not answer."""
        snapshot = Snapshot(hit_ratio=self.last.hit_ratio, read_at_s=time.monotonic())
        try:
            async with session.get(f"{self._base}/backends") as response:
                listed = (await response.json())["backends"]
            async with session.get(f"{self._base}/metrics") as response:
                read_metrics(await response.text(), snapshot)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            return False
        gone = {name: entry | {"up": False, "in_flight": 0} for name, entry in self.last.backends.items()}
        snapshot.backends = gone | {entry["name"]: entry for entry in listed}
        elapsed_s = snapshot.read_at_s - self.last.read_at_s
        snapshot.messages_per_s = (snapshot.messages - self.last.messages) / elapsed_s
        self.last = snapshot
        return True

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        async with self.session() as session:
            while True:
                await self.poll(session)
                await asyncio.sleep(POLL_S)

    def session(self) -> aiohttp.ClientSession:
        """Return a session for `poll`."""
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))

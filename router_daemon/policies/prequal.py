"""Prequal's rule: by latency among the cold, by requests in flight where all are hot.

RIF, requests in flight, is what a backend has to do from whoever it got it: open deliveries and load from elsewhere. A
candidate is hot where its RIF is above theta, the Q_RIF-quantile of RIFs seen lately. If some are cold: of those the
one with the least latency estimate. If all are hot: the least RIF.

Source: Wydrowski, Kleinberg, Rumble and Archer, "Load is not what you should balance: Introducing Prequal", NSDI 2024,
section 4 (hot-cold lexicographic rule; Q_RIF = 2^-0.25, about 0.84; three probes per query).

Idealised is the probing: RIF is exact at the moment of the choice, and each choice sees every candidate, where Prequal
has a pool of at most 16 replies to asynchronous probes, of some age, each reused a few times and then removed. Its
replicas estimate their latency as the median of recent ones near the present RIF; here the daemon does, from what it
measured itself: the median of the last `RECENT` successes sent at that RIF, or at the nearest one that has any, the
lower of two. theta is of the last `SEEN` RIFs of the capability, of three candidates drawn for each choice, as three
probes would show. Its guard against replicas that fail fast is not published in detail: failures do not enter the
latency, so failing fast is not attractive. Cold start: the capability's mean, else `profile.initial_latency_s`, at any
RIF; theta is infinite (nobody is hot).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from math import ceil, inf
from random import Random
from statistics import median
from typing import Final

from msgspec import Struct

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.messages import Delivery
from router_daemon.core.ranking import MAX_ENTRIES, Account, Candidate, Ranking
from router_daemon.core.service import Service
from router_daemon.core.settings import Settings
from router_daemon.policies.balancers import Balancer, expected_s

Q_RIF: Final = 2.0**-0.25
RECENT: Final = 16
SEEN: Final = 128
PROBES: Final = 3
MOST_RIF: Final = 64
"""RIFs from here on are one."""
HOT_S: Final = 1e6
"""What a hot one seems to take at least, where hot and cold are told by one number; for people."""
MOST_SENT: Final = 1024
"""Choices remembered per service until they are answered; more: the oldest is forgotten."""


class Latencies(Struct, eq=False):
    """One service's recent latencies by the RIF they were sent at.

    Attributes:
        recent: by RIF. medians: of those, and of RIFs between, as far as they were asked for since the last change.
        sent: RIF by the moment of the choice, which is that of the delivery.
    """

    recent: dict[int, deque[float]]
    medians: dict[int, float]
    sent: dict[float, int]

    def add(self, rif: int, latency_s: float) -> None:
        """Take in a success."""
        recent = self.recent.get(rif)
        if recent is None:
            recent = self.recent[rif] = deque(maxlen=RECENT)
        recent.append(latency_s)
        self.medians.clear()

    def estimate_s(self, rif: int) -> float | None:
        """Return the median at the nearest RIF that has any; None where none has."""
        known = self.medians.get(rif)
        if known is None:
            if not self.recent:
                return None
            nearest = min(self.recent, key=lambda other: (abs(other - rif), other))
            known = self.medians[rif] = median(self.recent[nearest])
        return known


class Seen:
    """The last RIFs of a capability."""

    __slots__ = ("_ordered", "_recent")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []

    def add(self, rif: float) -> None:
        """Take one in, and forget the oldest of too many."""
        self._recent.append(rif)
        insort(self._ordered, rif)
        if len(self._recent) > SEEN:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]

    def quantile(self, share: float) -> float:
        """Return the nearest rank; infinite where there is none."""
        return self._ordered[ceil(share * len(self._ordered)) - 1] if self._ordered else inf


class Prequal(Balancer):
    """See the module."""

    name = "prequal"

    def __init__(self, settings: Settings, rng: Random, *, q_rif: float = Q_RIF) -> None:
        super().__init__(rng)
        self._initial_s = settings.profile.initial_latency_s
        self._q_rif = q_rif
        self._seen: dict[str, Seen] = {}
        self._last_theta = inf
        self.observe = self._observe

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the fastest of the cold, else the least busy, of those with room that were not tried."""
        theta = self._last_theta = self._theta(ranking)
        best = self._least(ranking.candidates, tried, lambda service: self._load(service, theta))
        if best is not None:
            self._note(best.service, now)
        return best

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return the cold ones by latency, then the hot ones by what they have to do."""
        seen = self._seen.get(ranking.capability)
        theta = seen.quantile(self._q_rif) if seen is not None else inf
        return sorted(ranking.candidates, key=lambda candidate: self._load(candidate.service, theta))

    def account(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Account:
        """Return of those whom `pick` has just looked at whether each is hot, and what it is compared by.

        The score is minus the latency of a cold one, of a hot one minus its RIF and `HOT_S`.
        """
        looked = [c for c in ranking.candidates if c.backend.free > 0 and c.backend not in tried]
        loads = [self._load(candidate.service, self._last_theta) for candidate in looked]
        return ("hot", "by"), [
            (candidate, -by - HOT_S * hot, (float(hot), by)) for candidate, (hot, by) in zip(looked, loads, strict=True)
        ]

    def _load(self, service: Service, theta: float) -> tuple[bool, float]:
        """Return (hot, what it is compared by): the latency of a cold one, the RIF of a hot one."""
        rif = _rif(service.backend)
        if rif > theta:
            return True, rif
        own: Latencies | None = service.own
        estimate_s = own.estimate_s(_step(rif)) if own is not None else None
        return False, expected_s(service, self._initial_s) if estimate_s is None else estimate_s

    def _theta(self, ranking: Ranking) -> float:
        """Take in the RIFs that this choice's probes would show, and return over which one a candidate is hot."""
        seen = self._seen.get(ranking.capability)
        if seen is None:
            if len(self._seen) >= MAX_ENTRIES:
                self._seen.clear()
            seen = self._seen[ranking.capability] = Seen()
        candidates, draw = ranking.candidates, self._rng.random
        theta = seen.quantile(self._q_rif)
        for _ in range(PROBES if candidates else 0):
            seen.add(_rif(candidates[int(draw() * len(candidates))].backend))
        return theta

    def _note(self, service: Service, now: float) -> None:
        """Remember at which RIF a delivery is sent now: the delivery does not."""
        if service.own is None:
            service.own = Latencies({}, {}, {})
        sent: dict[float, int] = service.own.sent
        if len(sent) >= MOST_SENT:
            del sent[next(iter(sent))]
        sent[now] = _step(_rif(service.backend))

    def _observe(self, delivery: Delivery, latency_s: float, ok: bool, now: float) -> None:
        own: Latencies | None = delivery.service.own
        if own is None:
            return
        rif = own.sent.pop(delivery.sent_at, None)
        if ok and rif is not None:
            own.add(rif, latency_s)


def _rif(backend: Backend) -> float:
    return len(backend.open) + backend.other


def _step(rif: float) -> int:
    return min(MOST_RIF, int(rif + 0.5))

"""Published load balancers, as what `attention` is compared with: least in flight, peak EWMA, C3.

Rules:
- Each is what its source says of *choosing*; what its source says beside that (rate control, aperture, probing) is
  left out, and the docstring says so. Retries, ejection and the waiting room are the shell's, for every policy alike.
- Only backends with room are looked at. Ties are broken at random, by the injected generator.
- Who has not been measured starts as `core.service` starts it: with the capability's mean, else with
  `profile.initial_latency_s`; a source's own cold-start value is named where it differs.
- What a policy learns of a (backend, capability) is kept in `Service.own`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from math import exp
from random import Random
from typing import Any, Final

from msgspec import Struct

from router_daemon.core.backends import Backend
from router_daemon.core.events import Request
from router_daemon.core.messages import Delivery
from router_daemon.core.ranking import Account, Candidate, Observer, Ranking
from router_daemon.core.service import Service
from router_daemon.core.settings import Settings

LEAST_S: Final = 1e-6


class Balancer:
    """What they share: equal scores, since nothing that they choose by lasts."""

    name = ""
    threshold = 0.0
    random_ties = False
    observe: Observer | None = None
    watch = None
    objection = None

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        """Return every backend with an equal score."""
        share = 1.0 / max(1, len(backends))
        return [Candidate(backend, share, {"share": share}) for backend in backends]

    def _least(
        self, candidates: Iterable[Candidate], tried: Sequence[Backend], cost: Callable[[Service], Any]
    ) -> Candidate | None:
        """Return the candidate with the least cost of those with room that were not tried; ties at random."""
        best, least, ties = None, None, 1
        for candidate in candidates:
            backend = candidate.backend
            if backend.free > 0 and backend not in tried:
                its = cost(candidate.service)
                if best is None or its < least:
                    best, least, ties = candidate, its, 1
                elif its == least:
                    ties += 1
                    if self._rng.random() * ties < 1.0:
                        best = candidate
        return best


class ByCost(Balancer, ABC):
    """A balancer that gives each candidate a cost of its own; ties are broken at random."""

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the candidate with the least cost of those with room that were not tried."""
        return self._least(ranking.candidates, tried, lambda service: self.cost(service, now))

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        """Return them by cost, the least first."""
        return sorted(ranking.candidates, key=lambda candidate: self.cost(candidate.service, now))

    def account(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Account:
        """Return what those cost whom `pick` has just looked at; the score is minus that."""
        looked = [c for c in ranking.candidates if c.backend.free > 0 and c.backend not in tried]
        costs = [self.cost(candidate.service, now) for candidate in looked]
        return ("cost",), [(candidate, -cost, (cost,)) for candidate, cost in zip(looked, costs, strict=True)]

    @abstractmethod
    def cost(self, service: Service, now: float) -> float:
        """Return what a further message would cost there: the less, the better."""


class LeastInFlight(ByCost):
    """Fewest deliveries open there, of this daemon's (HAProxy `leastconn`, nginx `least_conn`, without weights)."""

    name = "least_in_flight"

    def cost(self, service: Service, now: float) -> float:
        """Return how many are open."""
        return float(len(service.backend.open))


class PeakEwma(Struct, eq=False):
    """The moving peak of one service's round trips: `rtt_s` as of `at`."""

    rtt_s: float
    at: float

    def take(self, rtt_s: float, now: float, tau_s: float) -> float:
        """Take in a round trip, 0 just to let time pass, and return the average."""
        if rtt_s > self.rtt_s:
            self.rtt_s = rtt_s
        else:
            kept = exp((self.at - now) / tau_s)
            self.rtt_s = self.rtt_s * kept + rtt_s * (1.0 - kept)
        self.at = now
        return self.rtt_s


class P2cPeakEwma(ByCost):
    """Of two backends drawn at random, the one with the less cost = ewma * (open + 1).

    A round trip above the average replaces it; another one, and time that passes without any (a round trip of 0),
    move it by 1 - exp(-dt / tau), tau = 10 s. Failures' round trips are taken in like any other.

    Source: Finagle, `PeakEwma` in com.twitter.finagle.loadbalancer.p2c, tau `decayTime` 10 s; tower, `load::PeakEwma`
    under `balance::p2c`. Cold start: tower has its user say a round trip to begin with; here that is the capability's
    mean, else `profile.initial_latency_s`.
    """

    name = "p2c_peak_ewma"

    def __init__(self, settings: Settings, rng: Random, *, tau_s: float = 10.0) -> None:
        super().__init__(rng)
        self._initial_s = settings.profile.initial_latency_s
        self._tau_s = tau_s
        self._drawn: tuple[int, tuple[Candidate, ...]] = 0, ()
        self.observe = self._observe

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        """Return the better of two with room that were not tried."""
        open_ones = [c for c in ranking.candidates if c.backend.free > 0 and c.backend not in tried]
        self._drawn = len(tried), ()
        if len(open_ones) < 2:
            return open_ones[0] if open_ones else None
        draw, count = self._rng.randrange, len(open_ones)
        first = draw(count)
        second = draw(count - 1)
        one, other = open_ones[first], open_ones[second + (second >= first)]
        self._drawn = len(tried), (one, other)
        return one if self.cost(one.service, now) <= self.cost(other.service, now) else other

    def account(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Account:
        """Return what the two cost that `pick` has just drawn; nobody where it drew others since."""
        had_tried, drawn = self._drawn
        ranking = ranking.only(lambda candidate: had_tried == len(tried) and candidate in drawn)
        return super().account(ranking, request, tried, now)

    def cost(self, service: Service, now: float) -> float:
        """Return ewma * (open + 1), in seconds."""
        return self._ewma(service, now).take(0.0, now, self._tau_s) * (len(service.backend.open) + 1)

    def _ewma(self, service: Service, now: float) -> PeakEwma:
        if service.own is None:
            service.own = PeakEwma(expected_s(service, self._initial_s), now)
        own: PeakEwma = service.own
        return own

    def _observe(self, delivery: Delivery, latency_s: float, ok: bool, now: float) -> None:
        self._ewma(delivery.service, now).take(latency_s, now, self._tau_s)


class Replica(Struct, eq=False):
    """What C3 keeps of one service: means of the response and of the work, in seconds, and of the queue."""

    response_s: float
    work_s: float
    queue: float = 0.0


class C3(ByCost):
    """The least psi = R - 1/mu + qhat^3 / mu, with qhat = 1 + os * w + qbar.

    R is the mean response as measured here, 1/mu the mean time of the work, qbar the mean number that waited at the
    backend when it answered, os what is open there, and w the number of clients, of which a daemon is one. Each mean
    moves by alpha = 0.9 of the difference with each success. A failure may only raise R, or failing at once would
    look fast.

    What stands in for what a backend does not say: for the time of the work, the share of the response that
    `core.service` had expected to be work; for the queue, what this daemon still has open there, which is what a
    backend would say whose only client it is. Of either, what is over its slots waits.

    Source: Suresh, Canini, Schmid and Feldmann, "C3: Cutting Tail Latency in Cloud Data Stores via Adaptive Replica
    Selection", NSDI 2015, section 3.1; alpha is that of the authors' simulator (absim). Its rate control and
    backpressure (section 3.2) are left out. Cold start: R = 1/mu = the capability's mean, else
    `profile.initial_latency_s`, and qbar = 0; the authors' simulator lets an unmeasured one cost nothing.
    """

    name = "c3"

    def __init__(self, settings: Settings, rng: Random, *, clients: int = 1, alpha: float = 0.9) -> None:
        super().__init__(rng)
        self._initial_s = settings.profile.initial_latency_s
        self._clients = clients
        self._alpha = alpha
        self.observe = self._observe

    def cost(self, service: Service, now: float) -> float:
        """Return psi, in seconds."""
        replica = self._replica(service)
        queue = 1.0 + len(service.backend.open) * self._clients + replica.queue
        return replica.response_s - replica.work_s + queue * queue * queue * replica.work_s

    def _replica(self, service: Service) -> Replica:
        if service.own is None:
            initial_s = expected_s(service, self._initial_s)
            service.own = Replica(initial_s, initial_s)
        own: Replica = service.own
        return own

    def _observe(self, delivery: Delivery, latency_s: float, ok: bool, now: float) -> None:
        replica, backend, alpha = self._replica(delivery.service), delivery.backend, self._alpha
        if ok or latency_s > replica.response_s:
            replica.response_s += alpha * (latency_s - replica.response_s)
        if ok:
            replica.work_s += alpha * (latency_s * delivery.share - replica.work_s)
            there = len(backend.open) if backend.queue is None else backend.queue
            replica.queue += alpha * (max(0, there - backend.info.slots) - replica.queue)


def expected_s(service: Service, initial_s: float) -> float:
    """Return what to expect of a backend that was never measured."""
    pool = service.pool
    return max(LEAST_S, pool.reference_s if pool.samples else initial_s)

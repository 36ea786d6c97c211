"""What was measured of one backend for one capability, and what a message would meet there now.

Rules:
- One profile per backend would mix services that differ a thousandfold; hence one for each (backend, capability).
- `service_s` is the time of the work itself: a sample is the latency times the share of it that was expected to be
  work when the delivery was sent. `response_s` and `deviation_s` are of the latency as it was.
- What a decision reads (`expected_s`, `success`) is computed when something happened at the backend (`Backend.version`)
  or when time alone may have changed it (`fresh_until`), not per message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, inf
from typing import TYPE_CHECKING, Any, Final

from router_daemon.core.settings import AttentionSettings, ProfileSettings, Settings

if TYPE_CHECKING:
    from router_daemon.core.backends import Backend
    from router_daemon.core.pools import Pool

LEAST_S: Final = 1e-6
HARDLY: Final = 0.01
"""A backend that fails less than this is not held dearer for retries that are few."""
DRIFT_STEP: Final = 1.0 / 50.0


class Learning:
    """The settings of how measurements enter, in one place, since every answer asks for all of them.

    Attributes:
        alpha: weight of a sample, once there are more than 1 / alpha; before, each has its equal share.
        steady: from so many samples on that holds, and enough are known to say when an answer is late.
        known: enough to say that. deviations, unknown_times: see `HedgeSettings`.
        initial_s: what is assumed before any sample.
    """

    __slots__ = ("alpha", "deviations", "initial_s", "known", "reference_alpha", "steady", "unknown_times")

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over other settings."""
        profile, hedge = settings.profile, settings.hedge
        self.alpha = profile.latency_alpha
        self.reference_alpha = profile.reference_alpha
        self.initial_s = profile.initial_latency_s
        self.known = hedge.samples
        self.deviations = hedge.deviations
        self.unknown_times = hedge.unknown_times
        self.steady = max(2, hedge.samples, int(1.0 / self.alpha) + 1)


@dataclass(slots=True, eq=False)
class Service:
    """One (backend, capability); seconds.

    Attributes:
        service_s: estimate of the work itself (s), without waiting.
        response_s, deviation_s: mean of the latency (m), and mean of its deviation (dev).
        late_s: m + deviations dev, after which an answer is late; before enough samples are known, a few reference
            latencies of the capability; inf where there is none either.
        samples: successes and timeouts it has seen.
        sampled_at, used_at: the last of them; the last delivery sent.
        expected_s: latency to expect, with the penalty for failures: E, see `refresh`.
        latency_s: L alone. wait_s: the wait expected, share: what is not waiting of it and the service together.
        success: S. All as of `version`, until `fresh_until`.
        own: whatever policies keep here, each under itself.
    """

    backend: Backend
    pool: Pool
    service_s: float
    sampled_at: float
    used_at: float
    response_s: float = 0.0
    deviation_s: float = 0.0
    late_s: float = inf
    samples: int = 0
    expected_s: float = 0.0
    latency_s: float = 0.0
    wait_s: float = 0.0
    share: float = 1.0
    success: float = 0.0
    version: int = -1
    fresh_until: float = -inf
    own: dict[Any, Any] = field(default_factory=dict)

    def observe(self, latency_s: float, work: float, learning: Learning, now: float) -> None:
        """Take in a success: its latency, of which `work` (0 to 1) was expected to be work when it was sent.

        The capability's reference follows: ref += max(reference_alpha, 1/n) (latency - ref) (design: routing).
        """
        pool = self.pool
        n = pool.samples = pool.samples + 1
        weight = 1.0 / n
        if weight < learning.reference_alpha:
            weight = learning.reference_alpha
        pool.reference_s += weight * (latency_s - pool.reference_s)
        n = self.samples = self.samples + 1
        weight = learning.alpha if n >= learning.steady else max(learning.alpha, 1.0 / n)
        self.service_s += weight * (latency_s * work - self.service_s)
        off = latency_s - self.response_s
        self.response_s = response_s = self.response_s + weight * off
        deviation_s = self.deviation_s
        deviation_s += weight * ((off if off > 0.0 else -off) - deviation_s)
        self.sampled_at = now
        if n >= learning.steady:
            self.deviation_s = deviation_s
            self.late_s = response_s + learning.deviations * deviation_s
        else:
            self.deviation_s = 0.5 * latency_s if n == 1 else deviation_s  # as RFC 6298 starts
            self.expect_late(learning)

    def observe_at_least(self, age_s: float, alpha: float, now: float) -> None:
        """Take in that a delivery had not been answered after so long; raises the estimate, never lowers it."""
        if age_s > self.service_s:
            self.service_s += alpha * (age_s - self.service_s)
            self.sampled_at = now
            self.version = -1

    def start_afresh(self, now: float, learning: Learning) -> None:
        """Forget what was measured: expect what the capability takes elsewhere."""
        self.service_s = self.pool.reference_s if self.pool.samples else learning.initial_s
        self.response_s = self.deviation_s = 0.0
        self.samples = 0
        self.expect_late(learning)
        self.sampled_at = self.used_at = now
        self.version = -1

    def expect_late(self, learning: Learning) -> None:
        """Set `late_s` by what is known."""
        if self.samples >= learning.known:
            self.late_s = self.response_s + learning.deviations * self.deviation_s
        else:
            known = self.pool.samples >= learning.known
            self.late_s = learning.unknown_times * self.pool.reference_s if known else inf

    def bring_up_to_date(self, now: float, profile: ProfileSettings, attention: AttentionSettings) -> None:
        """Recompute what a decision reads, where something happened since, or time alone may have changed it."""
        if self.version != self.backend.version or now >= self.fresh_until:
            self.refresh(now, profile, attention)

    def refresh(self, now: float, profile: ProfileSettings, attention: AttentionSettings) -> None:
        """Recompute what a decision reads.

        With q deliveries at a backend of `slots`, and W the work in them: wait = W (q + 1 - slots) / (q slots) where
        q + 1 > slots, else 0; L = (s + wait)^2 / s; E = L + (1 - S) ref (design: routing), where what a failure costs
        rises as the retries left become few: (1 + scarcity lack), lack the empty share of the budget. While deliveries
        are out, a silence of more than `silence_services` mean services is a lower bound of L.
        """
        backend, pool = self.backend, self.pool
        self.version = backend.version
        service_s, until = self.service_s, inf
        if service_s > pool.reference_s:
            service_s, until = self._drifted(now, profile)
        elif service_s < LEAST_S:
            service_s = LEAST_S
        held, slots = len(backend.open), backend.info.slots
        q, wait_s = held + backend.other, 0.0
        if q + 1.0 > slots and q > 0.0:
            mean_s = backend.work_s / held if held else service_s
            wait_s = mean_s * (q + 1.0 - slots) / slots
        total_s = service_s + wait_s
        latency_s = total_s * total_s / service_s
        if held:
            alarm_at = backend.progress_at + attention.silence_services * backend.work_s / held
            if now >= alarm_at:
                latency_s = max(latency_s, now - backend.progress_at)
                until = now
            elif alarm_at < until:
                until = alarm_at
        self.wait_s, self.share = wait_s, service_s / total_s
        self.latency_s, self.fresh_until = latency_s, until
        self.success = success = backend.profile.success
        failing = 1.0 - success
        if failing > HARDLY:  # else the budget is not worth a look
            failing *= 1.0 + attention.scarcity * pool.retries.lack(pool.messages, now)
        self.expected_s = latency_s + failing * pool.reference_s

    def _drifted(self, now: float, profile: ProfileSettings) -> tuple[float, float]:
        """Return an estimate above the reference, drifted towards it where it is old, and until when it holds."""
        service_s, reference_s = self.service_s, self.pool.reference_s
        tau_s = max(profile.forget_s, profile.forget_services * service_s)
        begins = self.sampled_at + profile.forget_from * tau_s
        if now < begins:
            return service_s, begins
        drifted_s = reference_s + (service_s - reference_s) * exp((begins - now) / tau_s)
        return max(drifted_s, LEAST_S), now + DRIFT_STEP * tau_s

"""What was measured of one backend as a whole: success, cost, and the latency average of the published rule.

What was measured for each capability is in `service`; both survive as `registry` and `state` say.
"""

from __future__ import annotations

from router_daemon.core.counts import BackendCounts
from router_daemon.core.settings import ProfileSettings


class Profile:
    """Exponentially weighted moving averages of latency and success.

    new = alpha * observed + (1 - alpha) * old (cross-attention paper, update rule), starting from the configured
    cold-start values. Latency is fed by successes and, at full length, by timeouts; never by a failure that came
    fast, or failing fast would look fast.

    Attributes:
        latency_s: seconds from send to ACK (of a stream: to its first PART).
        success: ratio in [0, 1].
        samples: outcomes observed since the latency last started afresh.
        cost: mean of the costs that its ACKs told; None where none did.
        version: of the backend that was measured, as it last said; None where it never did.
    """

    __slots__ = (
        "_latency_alpha",
        "_settings",
        "_success_alpha",
        "cost",
        "counts",
        "latency_s",
        "samples",
        "success",
        "version",
    )

    def __init__(self, settings: ProfileSettings, counts: BackendCounts) -> None:
        self._take(settings)
        self.counts = counts
        self.success = settings.initial_success
        self.cost: float | None = None
        self.version: str | None = None
        self.start_afresh()

    def configure(self, settings: ProfileSettings) -> None:
        """Take over other settings; what was measured stays, what was only assumed is assumed anew."""
        assumed = self.success == self._settings.initial_success
        self._take(settings)
        if not self.samples:
            self.success = settings.initial_success if assumed else self.success
            self.start_afresh()

    def _take(self, settings: ProfileSettings) -> None:
        self._settings = settings
        self._latency_alpha = settings.latency_alpha
        self._success_alpha = settings.success_alpha

    def start_afresh(self) -> None:
        """Forget the latency; keep success and counters."""
        self.latency_s = self._settings.initial_latency_s
        self.samples = 0

    def observe_success(self, latency_s: float) -> None:
        """Take in a delivery that was acknowledged after that many seconds."""
        before_s, success = self.latency_s, self.success
        self.latency_s = before_s + self._latency_alpha * (latency_s - before_s)
        self.success = success + self._success_alpha * (1.0 - success)
        self.samples += 1
        self.counts.outcomes["acked"] += 1

    def observe_failure(self, cause: str, full_length_s: float | None = None) -> None:
        """Take in a failure; `full_length_s` of a timeout is a lower bound of the latency, so it only raises it."""
        if full_length_s is not None and full_length_s > self.latency_s:
            self.latency_s += self._latency_alpha * (full_length_s - self.latency_s)
        self.success -= self._success_alpha * self.success
        self.samples += 1
        self.counts.outcomes[cause] += 1
        self.counts.failures[cause] += 1

    def observe_cost(self, cost: float) -> None:
        """Take in what one delivery cost."""
        self.cost = cost if self.cost is None else self.cost + self._latency_alpha * (cost - self.cost)

    def count(self, outcome: str) -> None:
        """Count a delivery that says nothing about the backend (busy, rejected, cancelled, ...)."""
        self.counts.outcomes[outcome] += 1

"""What the core is told once, at start: frozen, validated by `router_daemon.config`, without a notion of files.

The reason for each default stands where users read it, in `router_daemon.config.sections`; times in seconds, sizes in
bytes, counts in messages unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of the score's terms; the published ones by default (cross-attention paper, score formula)."""

    capability: float = 0.4
    performance: float = 0.3
    reliability: float = 0.2
    priority: float = 0.1


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """How measurements enter a profile, and what stands there before the first one.

    Attributes:
        latency_alpha: weight of a new latency sample (paper: 0.1).
        success_alpha: weight of a new outcome (paper: 0.05).
        initial_latency_s: cold start; low, so that a new backend is tried.
        initial_success: cold start; between "never fails" and what one failure would leave of it.
        reference_alpha: least weight of a sample in a capability's reference latency.
        forget_s: an estimate above the reference drifts to it with this time constant at least,
        forget_services: and with this many times the estimate where that is more,
        forget_from: once it is older than this share of that time.
        queue_alpha: weight of a new report of a backend's queue.
    """

    latency_alpha: float = 0.1
    success_alpha: float = 0.05
    initial_latency_s: float = 0.001
    initial_success: float = 0.9
    reference_alpha: float = 0.002
    forget_s: float = 3.0
    forget_services: float = 100.0
    forget_from: float = 1 / 30
    queue_alpha: float = 0.5


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """The live part of the score.

    Attributes:
        silence_services: silence longer than this many services while work is out is a lower bound of the latency.
        cost_weight: of a backend's cost over that of the cheapest; 0 ignores cost.
        scarcity: how much more a failure counts when no retries are left.
        scan_most: up to so many candidates each is looked at; of more, `sample` drawn at random.
        hold_times: a message waits for a full backend that is so many times as fast as those with room; under 1: never.
    """

    silence_services: float = 5.0
    cost_weight: float = 0.0
    scarcity: float = 3.0
    scan_most: int = 50
    sample: int = 32
    hold_times: float = 4.0


@dataclass(frozen=True, slots=True)
class RingAttentionSettings:
    """The policies ring, ring_multi and ring_greedy.

    Published are a temperature of 0.7, `latency = "profile"` and no path cost; docs/papers.md says what the defaults
    gain over that.

    Attributes:
        temperature: tau: the lower, the more alignment counts.
        performance, reliability: weights of log(1 / (1 + latency in ms)) and of log(success ratio).
        scaling: `unit`: cosine / (tau sqrt(d)); `raw`: q.k / tau, as printed.
        latency: `live`: what is to be expected now, with the load; `profile`: the mean of what was measured.
        path_cost: latency includes the way to a backend of another daemon.
        without_embedding: what becomes of a message that no key can be held against: `attention` or `refuse`.
        attention_heads: of ring_multi, seed: of their projections, where none are given:
        projections: array of shape (heads, size, d), or (2, heads, size, d), those of queries first.
        dimensions: longer embeddings are none.
    """

    temperature: float = 0.75
    performance: float = 0.3
    reliability: float = 0.2
    scaling: str = "unit"
    latency: str = "live"
    path_cost: bool = True
    without_embedding: str = "attention"
    attention_heads: int = 4
    seed: int = 1
    projections: Any = field(default=None, compare=False)
    dimensions: int = 4096


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """Fail-over: how much of it, and when a head counts as timed out.

    Attributes:
        share, start, per_s, most: the token bucket of each capability: what a message adds, what is there at first,
            what a second adds at least, and the most there can be.
        same_backend: in modes auto and hedge the same backend may be tried again once there is no other.
        pause_services: before that, half to all of this many services go by.
        timeout_floor_s: an attempt timeout learnt from latencies is never shorter.
        timeout_times: it is so many times the latency after which an answer is late, see `HedgeSettings`,
        timeout_samples: once that many are known.
    """

    share: float = 0.2
    start: float = 3.0
    per_s: float = 1.0
    most: float = 10.0
    same_backend: bool = True
    pause_services: float = 1.0
    timeout_floor_s: float = 0.05
    timeout_times: float = 3.0
    timeout_samples: int = 20


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """A second head while the first is out.

    Attributes:
        share, most: the token bucket of each capability, empty at first; share 0: none but those a message asks for.
        deviations: an answer is late, and a hedge leaves, after mean + deviations * mean deviation of the response.
        load_below: while less of the capability's slots is taken.
        trouble_below: while retries and timeouts are a smaller share of messages.
        trouble_window, trouble_s: of the last so many messages; none where the last trouble is older.
        samples: once so many responses are known; before, so many reference latencies are late (`unknown_times`).
    """

    share: float = 0.05
    most: float = 10.0
    deviations: float = 4.0
    load_below: float = 0.7
    trouble_below: float = 0.1
    trouble_window: int = 512
    trouble_s: float = 60.0
    samples: int = 16
    unknown_times: float = 3.0


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    """When a failing backend gets nothing for a while.

    Attributes:
        failures, share, window, window_s: at least so many failures, and more than this share of the last `window`
            deliveries, none of them older than `window_s`; failures 0: never.
        elsewhere: not while a larger share of the capability's other deliveries fails, too.
        first_s, most_s, jitter: for how long: doubling from the one to the other, +- a share.
    """

    failures: int = 5
    share: float = 0.5
    window: int = 20
    window_s: float = 30.0
    elsewhere: float = 0.3
    first_s: float = 0.25
    most_s: float = 10.0
    jitter: float = 0.2

    @property
    def remembered(self) -> int:
        """How many failures' times are kept."""
        return max(1, self.failures)


@dataclass(frozen=True, slots=True)
class WaitingSettings:
    """Who may wait, and what is kept for critical messages.

    Attributes:
        longest: a message whose predicted wait is more than this share of its time to live is refused.
        reserve: the share of a capability's places, and of the waiting room, that only critical messages may take.
        step_share: the share of its time to live that a message waits for a step in standing, at most.
        step_services: how many reference latencies a message waits for a step in standing, at most: see `waiting`.
        rate_window_s: over which completions are counted to predict the wait.
    """

    longest: float = 0.25
    reserve: float = 0.1
    step_share: float = 0.25
    step_services: float = 4.0
    rate_window_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ExplorationSettings:
    """Messages that go to a backend nobody has heard of for a while.

    Attributes:
        share: of a capability's messages.
        after_s, after_services: a backend is due after the longer of both, the latter in reference latencies.
        complete_share: of mode auto's fan-outs, so many let the losers finish, to be measured.
        slow_start: a new backend gets one place, then two, four, ... while enough others are warm.
    """

    share: float = 0.01
    after_s: float = 1.0
    after_services: float = 50.0
    complete_share: float = 0.05
    slow_start: bool = True


@dataclass(frozen=True, slots=True)
class WhySettings:
    """What is kept of decisions, for people.

    Attributes:
        entries, bytes: the most there are; entries 0: nothing is kept.
        sample_every_s: of the messages that are not kept anyway, one in so long, on average; 0: every one.
        slow_s: an answer that took longer is slow (None: however long it takes),
        slow_times: and one that took more than so many reference latencies of its capability (0: however many).
    """

    entries: int = 2000
    bytes: int = 8_388_608
    sample_every_s: float = 0.05
    slow_s: float | None = None
    slow_times: float = 10.0


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """A named policy (of `policies.base.NAMES`), and by key what differs for it: see `policies.routes`."""

    policy: str = "attention"
    changes: Mapping[str, float | int | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Which messages take which route, and when a candidate gets more of them, or none.

    Attributes:
        stable, candidate, control: names of routes; candidate "": no rollout. control "": as stable, counted apart.
        name: what keys are hashed with; "": the candidate's.
        percent: of the messages, where the candidate begins; None: at the first stage.
        control_percent: of the messages, for the control group.
        stages: of percent, rising. stage_s: how long each lasts at least.
        sticky: by what a message is assigned where it has that: `key`, else `trace`, else `message`.
        max_success_drop, max_p99_ratio: how much worse than stable the candidate may be.
        confidence: 1 - the share of harmless candidates that the guard may stop.
        min_answers: on each side, before a stage ends. window_s: what is compared is not older, once there are as many.
        budget_s: for a decision; longer, and the fallback decides for a while. fallback: name of a policy.
    """

    stable: str = "stable"
    candidate: str = ""
    control: str = ""
    name: str = ""
    percent: float | None = None
    control_percent: float = 1.0
    stages: tuple[float, ...] = (1.0, 5.0, 25.0, 50.0, 100.0)
    stage_s: float = 600.0
    sticky: str = "key"
    max_success_drop: float = 0.01
    max_p99_ratio: float = 1.5
    confidence: float = 0.99
    min_answers: int = 1000
    window_s: float = 3600.0
    budget_s: float = 0.05
    fallback: str = "least_in_flight"

    @property
    def first_percent(self) -> float:
        """Where the candidate begins."""
        return self.stages[0] if self.percent is None else self.percent


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the broker needs to know.

    `attempt_timeout_s` None: learnt, see `RetrySettings`; `attempt_timeouts_s`: per capability. `auto_idle`: in mode
    auto all heads get a message at once while less of the slots is taken. `extra_cost_ratio`: no second head at a
    backend dearer than this many times the first. `unsaid_idempotent`: what a message that does not say `idempotent`
    may have done to it: `copies` (several at once), `retries` (one after the other), `never`. `backend_override`:
    clients may name the backend that a message goes to; the ring's daemons may in any case. `policy_override`: the same
    for the route or policy. `routes`: by name; `rollout`: who takes which.
    """

    mode: str = "auto"
    heads: int = 3
    threshold: float = 0.3
    cache_ttl_s: float = 30.0
    require_capability: bool = True
    unsaid_idempotent: str = "copies"
    backend_override: bool = False
    policy_override: bool = False
    attempt_timeout_s: float | None = None
    attempt_timeouts_s: dict[str, float] = field(default_factory=dict)
    auto_idle: float = 0.15
    extra_cost_ratio: float = 2.0
    default_ttl_ms: int = 30_000
    max_ttl_ms: int = 300_000
    heartbeat_s: float = 1.0
    weights: Weights = field(default_factory=Weights)
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    ring_attention: RingAttentionSettings = field(default_factory=RingAttentionSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    hedge: HedgeSettings = field(default_factory=HedgeSettings)
    ejection: EjectionSettings = field(default_factory=EjectionSettings)
    waiting: WaitingSettings = field(default_factory=WaitingSettings)
    exploration: ExplorationSettings = field(default_factory=ExplorationSettings)
    why: WhySettings = field(default_factory=WhySettings)
    routes: Mapping[str, RouteSettings] = field(default_factory=dict)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    queue_messages: int = 10_000
    queue_bytes: int = 268_435_456
    open_messages: int = 100_000
    client_messages: int = 2_500
    client_bytes: int = 67_108_864
    backends: int = 10_000
    label_values: int = 200
    max_message_bytes: int = 16_777_216
    version: str = "0"

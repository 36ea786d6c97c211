"""What the core is told once, at start: frozen, validated by `router_daemon.config`, without a notion of files."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """

    latency_alpha: float = 0.1
    success_alpha: float = 0.05
    initial_latency_s: float = 0.001
    initial_success: float = 0.9


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the broker needs to know; times in seconds, sizes in bytes, counts in messages.

    `attempt_timeout_s` None: half of the remaining time to live. `unsaid_idempotent`: what a message that does not
    say `idempotent` may have done to it: `copies` (several at once), `retries` (one after the other), `never`.
    """

    mode: str = "fanout"
    heads: int = 3
    threshold: float = 0.3
    cache_ttl_s: float = 30.0
    require_capability: bool = True
    unsaid_idempotent: str = "copies"
    attempt_timeout_s: float | None = None
    default_ttl_ms: int = 30_000
    max_ttl_ms: int = 300_000
    heartbeat_s: float = 1.0
    weights: Weights = field(default_factory=Weights)
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    queue_messages: int = 10_000
    queue_bytes: int = 268_435_456
    open_messages: int = 100_000
    client_messages: int = 2_500
    client_bytes: int = 67_108_864
    backends: int = 10_000
    label_values: int = 200
    max_message_bytes: int = 16_777_216
    version: str = "0"

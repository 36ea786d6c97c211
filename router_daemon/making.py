"""From the configuration, as people write it, to what the core is told: other units, and absent values filled in."""

from __future__ import annotations

from router_daemon import __version__
from router_daemon.config import Config
from router_daemon.config.embedding import load_projections
from router_daemon.config.routes import RolloutSection
from router_daemon.core.settings import (
    AttentionSettings,
    EjectionSettings,
    ExplorationSettings,
    HedgeSettings,
    ProfileSettings,
    RetrySettings,
    RingAttentionSettings,
    RolloutSettings,
    RouteSettings,
    Settings,
    WaitingSettings,
    Weights,
)


def make_settings(config: Config) -> Settings:
    """Return what the core is told of a configuration."""
    routing, profile, limits = config.routing, config.profile, config.limits
    timeout_ms = routing.attempt_timeout_ms
    retry = config.retry.model_dump()
    floor_ms = retry.pop("timeout_floor_ms")
    return Settings(
        mode=routing.mode,
        heads=routing.heads,
        threshold=routing.threshold,
        cache_ttl_s=routing.cache_ttl_s,
        require_capability=routing.require_capability,
        unsaid_idempotent=routing.unsaid_idempotent,
        backend_override=routing.allow_backend,
        policy_override=routing.allow_policy,
        attempt_timeout_s=None if timeout_ms is None else timeout_ms / 1000.0,
        attempt_timeouts_s={name: ms / 1000.0 for name, ms in routing.attempt_timeouts_ms.items()},
        auto_idle=routing.auto_idle,
        extra_cost_ratio=routing.extra_cost_ratio,
        default_ttl_ms=routing.default_ttl_ms,
        max_ttl_ms=routing.max_ttl_ms,
        heartbeat_s=config.backend.heartbeat_ms / 1000.0,
        weights=Weights(**config.weights.model_dump()),
        profile=ProfileSettings(
            latency_alpha=profile.latency_alpha,
            success_alpha=profile.success_alpha,
            initial_latency_s=profile.initial_latency_ms / 1000.0,
            initial_success=profile.initial_success,
            reference_alpha=profile.reference_alpha,
            forget_s=profile.forget_s,
            forget_services=profile.forget_services,
            forget_from=profile.forget_from,
            queue_alpha=profile.queue_alpha,
        ),
        attention=AttentionSettings(**config.attention.model_dump()),
        ring_attention=make_ring_attention(config),
        retry=RetrySettings(**retry, timeout_floor_s=floor_ms / 1000.0),
        hedge=HedgeSettings(**config.hedge.model_dump()),
        ejection=EjectionSettings(**config.ejection.model_dump()),
        waiting=WaitingSettings(**config.waiting.model_dump()),
        exploration=ExplorationSettings(**config.exploration.model_dump()),
        routes={name: RouteSettings(route.policy, route.changes) for name, route in config.routes.items()},
        rollout=_rollout(config.rollout),
        queue_messages=limits.queue_messages,
        queue_bytes=limits.queue_bytes,
        open_messages=limits.open_messages,
        client_messages=limits.client_messages,
        client_bytes=limits.client_bytes,
        backends=limits.backends,
        label_values=limits.label_values,
        max_message_bytes=limits.max_message_bytes,
        version=__version__,
    )


def make_ring_attention(config: Config) -> RingAttentionSettings:
    """Return what the policies of embedding attention are told.

    Raises:
        ConfigError: the file of projections is none.
    """
    section = config.ring_attention.model_dump()
    return RingAttentionSettings(**section | {"projections": load_projections(section["projections"])})


def _rollout(section: RolloutSection) -> RolloutSettings:
    values = section.model_dump()
    return RolloutSettings(
        stage_s=values.pop("stage_minutes") * 60.0,
        window_s=values.pop("window_minutes") * 60.0,
        budget_s=values.pop("budget_ms") / 1000.0,
        **values,
    )

"""What a configuration describes: the core's settings, the broker, the node around it in a ring, the sockets.

Nothing is started here, and nothing but the clock and the system's randomness is asked: for numbers and names that no
earlier process has used.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from random import Random
from typing import Final

from router_daemon import __version__
from router_daemon.config import Config
from router_daemon.config.embedding import load_projections
from router_daemon.config.routes import RolloutSection
from router_daemon.core.broker import Broker
from router_daemon.core.ranking import Policy
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
    WhySettings,
)
from router_daemon.core.traces import Traced
from router_daemon.links import Links
from router_daemon.native import NativeTransport
from router_daemon.policies.ring_greedy import RingGreedy
from router_daemon.policies.routes import Kept, named_policy, plan_again, plan_routes, routes_of
from router_daemon.ring.node import Node
from router_daemon.ring.settings import RingSettings
from router_daemon.ring.topology import Topology
from router_daemon.ring_layout import RingLayout
from router_daemon.tracing import Tracer
from router_daemon.transport import Listener, SocketLimits, ZmqTransport
from router_daemon.wire import Limits
from router_daemon.zmq_links import ZmqLinks

LINK_BYTES: Final = 65_536
"""What may be larger between daemons than for clients: who wrote it and the way it went; and pages of rosters."""


def make_settings(config: Config) -> Settings:
    """Return what the core is told of a configuration."""
    routing, profile, limits, why = config.routing, config.profile, config.limits, config.why
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
        why=WhySettings(
            entries=why.entries,
            bytes=why.bytes,
            sample_every_s=why.sample_every_ms / 1000.0,
            slow_s=None if why.slow_ms is None else why.slow_ms / 1000.0,
            slow_times=why.slow_times,
        ),
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
    values = section.model_dump(exclude={"rollback_file"})
    return RolloutSettings(
        stage_s=values.pop("stage_minutes") * 60.0,
        window_s=values.pop("window_minutes") * 60.0,
        budget_s=values.pop("budget_ms") / 1000.0,
        **values,
    )


def make_tracer(config: Config) -> Tracer | None:
    """Return what sends traces, not yet started; None where none are wanted.

    Raises:
        StartError: OpenTelemetry is missing.
    """
    return Tracer(config.tracing) if config.tracing.endpoint else None


def make_broker(config: Config, seed: int, tracer: Tracer | None = None) -> Broker:
    """Return the broker that a configuration describes; `tracer` is handed the messages that are traced."""
    settings = make_settings(config)
    rng = Random(seed)
    plan = plan_routes(settings, rng, policy=config.routing.policy)
    return Broker(
        settings,
        plan.policy,
        rng=rng,
        timer=time.perf_counter,
        instance=secrets.token_hex(8),
        first_delivery_id=microseconds(),
        make_policy=lambda name: named_policy(name, settings, rng),
        decisions=None if tracer is None else Traced(settings, tracer.sampling, tracer.put),
        **plan.extras(),
    )


def reconfigure(broker: Broker, before: Config, after: Config, settings: Settings, now: float) -> None:
    """Have a broker go on under another configuration: all of it, or, where this raises, nothing.

    Args:
        broker: at work, made of `before`.
        before: in force.
        after: like it in what cannot change, see `config.changes`.
        settings: those that `make_settings` returns for `after`.
        now: seconds, on the broker's clock.

    Raises:
        ValueError: see `Broker.configure`.
    """
    routes, rng = broker.routes, Random(secrets.randbits(64))
    configured = routes_of(broker.settings, before.routing.policy)
    by_route = {name: route.policy for name, route in routes.by_name.items()}
    asked_for = frozenset(by_route.keys() - configured.keys())
    kept = Kept(broker.settings, before.routing.policy, by_route, asked_for, routes.fallback.policy)
    outlay = plan_again(settings, rng, policy=after.routing.policy, kept=kept)
    broker.configure(settings, outlay, now)


def _lay_out(topology: Topology, policy: Policy) -> None:
    """Tell a policy that climbs who is whose neighbour."""
    if isinstance(policy, RingGreedy) and not isinstance(policy.layout, RingLayout):
        policy.layout = RingLayout(topology)


def make_node(config: Config, broker: Broker) -> Node | None:
    """Return what makes the broker one of a ring, None where it is on its own."""
    ring = config.ring
    if not ring.name:
        return None
    settings = RingSettings(
        name=ring.name,
        ring=ring.ring,
        neighbours=ring.neighbours,
        address=ring.addresses[0],
        echo_s=ring.echo_ms / 1000.0,
        lost_after=ring.lost_after,
        profiles_s=ring.profiles_ms / 1000.0,
        max_hops=ring.max_hops,
        max_daemons=ring.max_daemons,
        max_backends=ring.max_backends,
        keep_results=ring.keep_results,
        keep_bytes=ring.keep_bytes,
    )
    node = Node(broker, settings, instance=microseconds(), secret=secrets.token_bytes(8), version=__version__)
    prepare = broker.routes.prepare = partial(_lay_out, node.topology)
    for route in (broker.routes.fallback, *broker.routes.by_name.values()):
        prepare(route.policy)
    return node


def microseconds() -> int:
    """Return those since 1970: above every number of an earlier process, as long as none made a million a second."""
    return time.time_ns() // 1000


def make_transport(config: Config) -> Listener:
    """Return the sockets that a configuration describes, not yet bound."""
    limits = config.limits
    message = Limits(limits.max_body_frames, limits.max_header_bytes, limits.max_message_bytes)
    mark = limits.high_water_mark
    clients = SocketLimits(message, mark, limits.client_unread_bytes)
    backends = SocketLimits(message, mark, limits.backend_unread_bytes)
    passed_on = Limits(
        limits.max_body_frames, limits.max_header_bytes + LINK_BYTES, limits.max_message_bytes + LINK_BYTES
    )
    links = SocketLimits(passed_on, mark, limits.backend_unread_bytes + LINK_BYTES)
    named, neighbours, rng = bool(config.ring.name), config.ring.neighbours, Random()
    if config.transport.engine == "native":
        return NativeTransport(clients, backends, *([Links(links, neighbours, rng)] if named else []))
    ring = partial(ZmqLinks, limits=links, neighbours=neighbours, rng=rng)
    return ZmqTransport(clients, backends, ring if named else None)

"""What the tests of embedding attention share: brokers with keys, and messages with embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from router_daemon.core.actions import Deliver
from router_daemon.core.events import Request
from router_daemon.core.ranking import Candidate, Ranking
from router_daemon.core.settings import ExplorationSettings, RingAttentionSettings
from router_daemon.testing import BrokerFixture, only

SEED = 20_250_917
Vector = Iterable[float]


def ring(
    keys: Mapping[str, Vector | None], *, policy: str = "ring", slots: int = 4, seed: int = SEED, **own: Any
) -> BrokerFixture:
    """Return a broker with these backends for capability "c"; None: one without a key."""
    settings = RingAttentionSettings(**own)
    everybody_warm = ExplorationSettings(slow_start=False, share=0.0)
    broker = BrokerFixture(policy=policy, seed=seed, mode="single", exploration=everybody_warm, ring_attention=settings)
    for name, key in keys.items():
        extra: dict[str, Any] = {} if key is None else {"embedding": list(map(float, key))}
        broker.register(name, "c", slots=slots, **extra)
    return broker


def measured(broker: BrokerFixture, name: str, latency_ms: float, success: float = 0.9) -> None:
    """Have measured this of a backend."""
    backend = broker.backend(name)
    service = broker.broker.registry.service(backend, "c", broker.clock.now)
    service.service_s, service.version = latency_ms / 1000.0, -1
    broker.broker.registry.pool("c").reference_s = 1000.0  # nothing above it drifts
    backend.profile.latency_s, backend.profile.success = latency_ms / 1000.0, success


def asking(vector: Vector | None, **keys: Any) -> Request:
    """Return a message with this embedding."""
    return Request(1, "c", **keys) if vector is None else Request(1, "c", embedding=list(map(float, vector)), **keys)


def packed(vector: Vector) -> bytes:
    """Return a vector as its bytes on the wire."""
    return np.array(list(vector), dtype="<f4").tobytes()


def ranking_of(broker: BrokerFixture) -> Ranking:
    """Return the ranking in force."""
    return broker.broker.rankings.get("c", 2, broker.clock.now)


def shown(broker: BrokerFixture, request: Request) -> dict[str, Candidate]:
    """Return what people are shown, by name, in the order in which the message would prefer them."""
    ranking = ranking_of(broker).detached()
    live = broker.broker.policy.peek(ranking, request, broker.clock.now)
    return {candidate.backend.name: candidate for candidate in live}


def picked(broker: BrokerFixture, request: Request, *tried: str) -> str | None:
    """Return whom the policy picks."""
    backends = [broker.backend(name) for name in tried]
    candidate = broker.broker.policy.pick(ranking_of(broker), request, backends, broker.clock.now)
    return None if candidate is None else candidate.backend.name


def sent_to(broker: BrokerFixture, client_id: int = 1, **keys: Any) -> str:
    """Send a message and return the backend that gets it."""
    [delivery] = only(broker.send("c", client_id=client_id, **keys), Deliver)
    return delivery.peer.decode()

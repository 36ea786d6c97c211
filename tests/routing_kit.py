"""What the tests of the routing share: messages that take a given time, and what was measured of a backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from router_daemon.core.actions import Deliver, Error
from router_daemon.core.pools import Pool
from router_daemon.core.service import Service
from router_daemon.testing import BrokerFixture, only


def make(*, seed: int = 0, **settings: Any) -> BrokerFixture:
    """Return a broker with the default policy and mode single, so that one head shows whom it chose.

    Heartbeats are far apart, so that nobody is lost for having nothing to say.
    """
    given: dict[str, Any] = {"mode": "single", "heartbeat_s": 1000.0} | settings
    return BrokerFixture(policy="attention", seed=seed, **given)


def send(fixture: BrokerFixture, number: int = 1, capability: str = "c", **keys: Any) -> list[Deliver]:
    """SEND; return what was delivered."""
    return only(fixture.send(capability, client_id=number, **keys), Deliver)


def send_one(fixture: BrokerFixture, number: int = 1, capability: str = "c", **keys: Any) -> Deliver:
    """SEND; return the one delivery."""
    (deliver,) = send(fixture, number, capability, **keys)
    return deliver


def works(fixture: BrokerFixture, latency_s: float, times: int = 1, capability: str = "c", **keys: Any) -> None:
    """Let messages be done one after the other, each by the one backend it goes to, in that time."""
    for number in range(times):
        deliver = send_one(fixture, 1_000_000 + number, capability, **keys)
        fixture.advance(latency_s)
        fixture.ack(deliver)


@contextmanager
def room_only_at(fixture: BrokerFixture, name: str) -> Iterator[None]:
    """Let all others seem full meanwhile, so that whoever is preferred this one gets it."""
    others = [backend for backend in fixture.broker.registry.by_name.values() if backend.name != name]
    for other in others:
        other.paused_until = fixture.clock.now + 1e9
        other.refresh(fixture.clock.now)
    yield
    for other in others:
        other.paused_until = 0.0
        other.refresh(fixture.clock.now)


def learn(fixture: BrokerFixture, name: str, latency_s: float, times: int = 1, capability: str = "c") -> None:
    """Let one backend do messages one after the other, each in that time."""
    with room_only_at(fixture, name):
        works(fixture, latency_s, times, capability)


def occupy(fixture: BrokerFixture, name: str, times: int) -> list[Deliver]:
    """Let one backend have so many messages to do, and no other one for them."""
    with room_only_at(fixture, name):
        return [send_one(fixture, 2_000_000 + number, heads=1, priority=4) for number in range(times)]


def service(fixture: BrokerFixture, name: str = "a", capability: str = "c") -> Service:
    """Return what was measured of a backend for a capability, as a decision would read it now."""
    settings = fixture.settings
    found = fixture.backend(name).services[capability]
    found.refresh(fixture.clock.now, settings.profile, settings.attention)
    return found


def pool(fixture: BrokerFixture, capability: str = "c") -> Pool:
    """Return the sums and budgets of a capability."""
    return fixture.broker.registry.pool(capability)


def name_of(deliver: Deliver) -> str:
    """Return the backend of a delivery (its connection is its name in these tests)."""
    return deliver.peer.decode()


def refusal(actions: list[Any]) -> tuple[str, Any]:
    """Return code and retry_after_ms of the one ERROR."""
    (error,) = only(actions, Error)
    return error.header.code, error.header.retry_after_ms

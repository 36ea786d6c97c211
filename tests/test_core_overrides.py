"""What takes the choice out of the policy's hands: overrides by capability, `policy` of SEND, and a new version."""

from __future__ import annotations

from typing import Any

import pytest
from core_kit import make_broker
from rollout_kit import route, send_and_answer, with_candidate

from router_daemon.core.actions import Deliver, Error
from router_daemon.core.overrides import MOST_OVERRIDES, MOST_S, Overrides
from router_daemon.core.settings import ExplorationSettings
from router_daemon.core.views import backends, routes
from router_daemon.testing import BrokerFixture, only


def goes_to(broker: BrokerFixture, number: int, capability: str = "c", **keys: Any) -> list[bytes]:
    delivers = only(broker.send(capability, client_id=number, **keys), Deliver)
    for deliver in delivers:
        broker.ack(deliver)
    return [deliver.peer for deliver in delivers]


# --- overrides by capability ---


def test_an_override_sends_all_of_a_capability_to_one_backend_for_its_time() -> None:
    broker = make_broker("a", "b")
    broker.register("d", "other")
    broker.broker.overrides.set("c", "b", 10.0, broker.clock.now)
    assert goes_to(broker, 1) == [b"b"]
    assert goes_to(broker, 2, mode="single") == [b"b"]
    assert goes_to(broker, 3, "other") == [b"d"]
    shown = routes(broker.broker, broker.clock.now)["overrides"]
    assert shown == [{"capability": "c", "backend": "b", "left_s": 10.0}]
    broker.clock.advance(10.0)
    assert goes_to(broker, 4) == [b"a", b"b"]
    assert broker.broker.overrides.in_force == {}
    assert broker.broker.overrides.applied == 2


@pytest.mark.parametrize("state", ["unknown", "draining", "incapable"])
def test_an_override_to_who_cannot_take_it_has_no_effect(state: str) -> None:
    broker = make_broker("a", "b")
    broker.register("incapable", "other")
    if state == "draining":
        broker.register("draining", "c")
        broker.send("c", client_id=99)
        broker.drain(b"draining")
    broker.broker.overrides.set("c", state, 10.0, broker.clock.now)
    assert goes_to(broker, 1) == [b"a", b"b"]


def test_a_message_that_names_a_backend_goes_where_it_says() -> None:
    broker = make_broker("a", "b", backend_override=True)
    broker.broker.overrides.set("c", "b", 10.0, broker.clock.now)
    assert goes_to(broker, 1, backend="a") == [b"a"]


def test_an_override_can_be_ended_and_survives_a_restart() -> None:
    overrides = Overrides()
    overrides.set("c", "b", 10.0, 100.0)
    again = Overrides()
    again.restore(overrides.snapshot(103.0), 5.0)
    assert (again.backend("c", 11.9), again.backend("c", 12.0)) == ("b", None)
    assert overrides.clear("c")
    assert not overrides.clear("c")


def test_overrides_are_bounded_in_number_and_time() -> None:
    overrides = Overrides()
    for number in range(MOST_OVERRIDES):
        overrides.set(f"c{number}", "b", 1.0, 0.0)
    overrides.set("c0", "a", 1.0, 0.0)
    with pytest.raises(ValueError, match="no more are allowed"):
        overrides.set("one more", "b", 1.0, 0.5)
    overrides.set("one more", "b", 1.0, 1.5)
    for wrong in (0.0, -1.0, MOST_S + 1.0, float("nan")):
        with pytest.raises(ValueError, match="lasts up to"):
            overrides.set("c", "b", wrong, 0.0)


# --- `policy` of SEND ---


def test_a_message_may_ask_for_a_route_where_that_is_allowed() -> None:
    broker = with_candidate("a", percent=0.0, settings={"policy_override": True})
    assert send_and_answer(broker, 1) == "stable"
    assert send_and_answer(broker, 2, policy="candidate") == "candidate"


def test_a_message_may_ask_for_a_policy_which_then_is_a_route() -> None:
    broker = BrokerFixture(mode="single", policy_override=True)
    broker.register("a", "c")
    assert send_and_answer(broker, 1, policy="c3") == "c3"
    assert send_and_answer(broker, 2, policy="c3") == "c3"
    assert list(broker.broker.routes.by_name) == ["stable", "c3"]
    assert route(broker, "c3").rankings.hits == 1
    assert broker.backend("a").services["c"].own, "its policy is told of outcomes"


def test_an_unknown_policy_is_said_to_be_unknown() -> None:
    broker = BrokerFixture(mode="single", policy_override=True)
    broker.register("a", "c")
    [error] = only(broker.send("c", policy="guesswork"), Error)
    assert (error.header.code, error.header.retry) == ("unknown_policy", False)


# --- a new version ---


def known(fixture: BrokerFixture, name: str, times: int, start: int) -> None:
    for number in range(times):
        [deliver] = only(fixture.send("c", client_id=start + number), Deliver)
        fixture.clock.advance(0.001)
        fixture.ack(deliver)


@pytest.mark.parametrize("how", ["update", "register", "rejoin"])
def test_a_backend_with_a_new_version_is_measured_anew(how: str) -> None:
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=1000.0)
    broker.register("a", "c", version="1")
    known(broker, "a", 20, 0)
    broker.broker.take_news()
    if how == "update":
        broker.update(b"a", version="2")
    elif how == "register":
        broker.register("a", "c", version="2")
    else:
        broker.unregister(b"a")
        broker.register("a", "c", version="2")
    service = broker.broker.registry.service(broker.backend("a"), "c", broker.clock.now)
    assert (service.samples, broker.backend("a").profile.samples) == (0, 0)
    assert backends(broker.broker, broker.clock.now)[0]["stale"] is True
    news = [what for what, name in broker.broker.take_news() if name == "a"]
    assert "backend has version '2', before '1': measured anew" in news


@pytest.mark.parametrize("version", ["1", None])
def test_the_same_version_and_none_change_nothing(version: str | None) -> None:
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=1000.0)
    broker.register("a", "c", version="1")
    known(broker, "a", 20, 0)
    keys: dict[str, Any] = {} if version is None else {"version": version}
    broker.register("a", "c", **keys)
    assert broker.backend("a").services["c"].samples == 20
    assert backends(broker.broker, broker.clock.now)[0]["stale"] is False


def test_what_is_known_of_an_old_version_is_not_taken_over_a_restart() -> None:
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=1000.0)
    broker.register("a", "c", version="1")
    known(broker, "a", 20, 0)
    profiles = broker.broker.export_profiles(broker.clock.now)
    for version, samples in (("1", 20), ("2", 0)):
        again = BrokerFixture(policy="attention", mode="single", heartbeat_s=1000.0)
        again.broker.restore_profiles(profiles, again.clock.now)
        again.register("a", "c", version=version)
        assert again.backend("a").services["c"].samples == samples


def test_a_new_version_is_explored_until_it_is_known() -> None:
    """Ten times as often as an unused backend: every 11th message at 1 %, until 16 answers are known."""
    broker = BrokerFixture(
        policy="attention", mode="single", heartbeat_s=1000.0, exploration=ExplorationSettings(slow_start=False)
    )
    for name in ("a", "b"):
        broker.register(name, "c", version="1", slots=8)
    known(broker, "a", 100, 0)
    broker.update(b"b", version="2")
    broker.backend("b").profile.success = 0.1
    broker.backend("b").version += 1
    taken = []
    for number in range(400):
        [deliver] = only(broker.send("c", client_id=1000 + number), Deliver)
        taken.append(deliver.peer)
        broker.clock.advance(0.001)
        broker.ack(deliver)
    assert taken[0] == b"b"
    assert 16 <= taken.count(b"b") <= 20, "and after 16 answers it is a backend like others"
    assert taken[:100].count(b"b") >= 8
    assert backends(broker.broker, broker.clock.now)[1]["stale"] is False


def test_another_update_does_not_end_that() -> None:
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=1000.0)
    broker.register("a", "c", version="1")
    broker.update(b"a", version="2")
    broker.update(b"a", slots=3)
    assert backends(broker.broker, broker.clock.now)[0]["stale"] is True
    broker.unregister(b"a")
    assert broker.broker.registry.pool("c").stale == {}

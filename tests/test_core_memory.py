"""What outlives a restart, seen from the core: exported, read back, and claimed by whoever comes under the name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from core_kit import SESSION, deliver

from router_daemon.core.memory import BackendRecord, Profiles, ReferenceRecord, ServiceRecord
from router_daemon.core.registry import REMEMBER_S
from router_daemon.testing import BrokerFixture, only


def answer(broker: BrokerFixture, capability: str, after_s: float, **keys: Any) -> None:
    """Let one message be sent to one backend and answered after that long."""
    [sent] = broker.send(capability, mode="single")
    broker.clock.advance(after_s)
    broker.ack(sent, **keys)  # type: ignore[arg-type]


def measured() -> BrokerFixture:
    """Return a broker with two backends of which something is known; `a` is warm."""
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=60.0)
    broker.register("a", "c", "d", slots=1, session=SESSION)
    for _ in range(3):
        answer(broker, "c", 0.2, cost=3.0)
    answer(broker, "d", 0.05)
    broker.register("b", "c", slots=2)
    return broker


def exported(broker: BrokerFixture) -> Profiles:
    """Return the export as it comes back from JSON."""
    data = msgspec.json.encode(broker.broker.export_profiles(broker.clock.now))
    return msgspec.json.decode(data, type=Profiles)


def restarted(profiles: Profiles, **settings: Any) -> BrokerFixture:
    """Return a new broker that was told what an earlier one knew."""
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=60.0, **settings)
    broker.clock.advance(1e6)  # another process, another clock
    broker.broker.restore_profiles(profiles, broker.clock.now)
    broker.broker.check()
    return broker


def test_what_was_measured_is_exported_with_its_age() -> None:
    broker = measured()
    broker.clock.advance(7.0)
    profiles = exported(broker)
    assert list(profiles.backends) == ["a", "b"]
    a = profiles.backends["a"]
    assert (a.samples, a.warm, a.age_s) == (4, True, 0.0)
    assert a.cost == pytest.approx(3.0)
    assert a.success == pytest.approx(broker.backend("a").profile.success)
    assert a.services["c"].age_s == pytest.approx(7.05)
    assert a.services["d"].age_s == pytest.approx(7.0)
    assert a.services["c"].service_s == pytest.approx(0.2)
    assert a.services["c"].samples == 3
    assert profiles.backends["b"].services == {}, "nothing was measured there"
    assert profiles.capabilities["c"].samples == 3
    assert profiles.capabilities["c"].reference_s == pytest.approx(0.2)


def test_a_backend_begins_where_it_was_when_it_registers_under_its_name() -> None:
    broker = measured()
    before = broker.backend("a")
    new = restarted(exported(broker))
    new.register("a", "c", "d", slots=1)
    after = new.backend("a")
    assert after.profile.success == before.profile.success
    assert after.profile.latency_s == before.profile.latency_s
    assert (after.profile.samples, after.profile.cost) == (4, before.profile.cost)
    assert after.warm
    assert after.window is None
    for capability in ("c", "d"):
        old, service = before.services[capability], after.services[capability]
        assert service.service_s == old.service_s
        assert (service.response_s, service.deviation_s, service.samples) == (
            old.response_s,
            old.deviation_s,
            old.samples,
        )
        assert new.clock.now - service.sampled_at == pytest.approx(broker.clock.now - old.sampled_at)
    assert new.broker.registry.pool("c").reference_s == pytest.approx(0.2)
    assert new.broker.registry.pool("c").samples == 3


def test_a_restored_estimate_drifts_by_its_age() -> None:
    """A slow backend whose measurement is old is nearly forgotten; one measured just now is not."""

    def expected_s(age_s: float) -> float:
        record = BackendRecord(0.9, 1.0, 5, services={"c": ServiceRecord(1.0, 1.0, 0.1, 5, age_s)})
        broker = restarted(Profiles({"a": record}, {"c": ReferenceRecord(0.1, 100)}))
        broker.register("a", "c")
        service = broker.backend("a").services["c"]
        service.refresh(broker.clock.now, broker.settings.profile, broker.settings.attention)
        return service.latency_s

    assert expected_s(0.0) == pytest.approx(1.0)
    assert expected_s(500.0) == pytest.approx(0.1, rel=0.2)


def test_the_first_message_after_a_restart_goes_to_whoever_was_faster() -> None:
    def record(service_s: float) -> BackendRecord:
        return BackendRecord(0.9, service_s, 50, services={"c": ServiceRecord(service_s, service_s, 0.01, 50, 1.0)})

    broker = restarted(Profiles({"slow": record(0.5), "fast": record(0.05)}, {"c": ReferenceRecord(0.2, 100)}))
    for name in ("slow", "fast"):
        broker.register(name, "c")
    [sent] = broker.send("c")
    assert sent.peer == b"fast"


def test_whoever_was_warm_is_not_started_slowly_and_a_stranger_is() -> None:
    broker = measured()
    new = restarted(exported(broker))
    new.register("a", "c", "d", slots=4)
    new.register("stranger", "c", slots=4)
    assert new.backend("a").limit == 4
    assert new.backend("stranger").limit == 1


def test_what_was_restored_is_taken_once_and_leaving_is_leaving() -> None:
    """Who leaves and comes back while the daemon lives starts with its latency unknown, as ever."""
    new = restarted(exported(measured()))
    new.register("a", "c")
    new.unregister(b"a")
    new.register("a", "c")
    again = new.backend("a")
    assert again.services == {}
    assert again.profile.samples == 0
    assert again.profile.success > 0.9


def test_one_who_left_is_exported_without_its_latency() -> None:
    broker = measured()
    success = broker.backend("a").profile.success
    broker.unregister(b"a")
    broker.clock.advance(3.0)
    record = exported(broker).backends["a"]
    assert (record.success, record.samples, record.services) == (success, 0, {})
    assert record.age_s == pytest.approx(3.0)
    new = restarted(exported(broker))
    new.register("a", "c")
    assert new.backend("a").profile.success == success
    assert new.backend("a").profile.latency_s == new.settings.profile.initial_latency_s


def test_what_nobody_has_claimed_yet_outlives_a_second_restart_and_gets_older() -> None:
    first = exported(measured())
    age_s = first.backends["a"].services["c"].age_s
    new = restarted(first)
    new.advance(20.0)
    second = exported(new)
    assert second.backends["a"].services["c"].age_s == pytest.approx(age_s + 20.0)
    assert second.backends["a"].age_s == pytest.approx(20.0)
    assert second.capabilities == first.capabilities
    third = restarted(second)
    third.register("a", "c")
    assert third.backend("a").services["c"].samples == 3


def test_what_nobody_claims_is_forgotten() -> None:
    new = restarted(exported(measured()))
    new.advance(REMEMBER_S + 61.0)
    assert exported(new) == Profiles({}, {})
    new.register("a", "c")
    assert new.backend("a").services == {}
    assert new.backend("a").profile.success == new.settings.profile.initial_success


def test_a_capability_that_is_offered_no_more_is_not_restored() -> None:
    new = restarted(exported(measured()))
    new.register("a", "d")
    assert list(new.backend("a").services) == ["d"]


def test_who_is_registered_already_is_left_alone() -> None:
    new = BrokerFixture(policy="attention")
    new.register("a", "c")
    new.broker.restore_profiles(exported(measured()), new.clock.now)
    new.broker.check()
    assert new.backend("a").profile.samples == 0
    assert new.broker.registry.pool("c").samples == 3, "the capability's mean is news, though"


def test_one_pool_of_everybody_is_restored_too() -> None:
    broker = BrokerFixture(policy="attention", mode="single", require_capability=False)
    broker.register("a", "c")
    answer(broker, "c", 0.2)
    new = restarted(exported(broker), require_capability=False)
    new.register("a", "c")
    assert new.broker.registry.pool("whatever").reference_s == pytest.approx(0.2)
    assert new.backend("a").services["c"].service_s == pytest.approx(0.2)
    [sent] = only(new.send("c"), type(deliver("a", 1)))
    assert sent.peer == b"a"


def test_the_parts_together_are_the_whole_though_backends_leave_meanwhile() -> None:
    broker = BrokerFixture(policy="attention")
    for number in range(10):
        broker.register(f"b{number}", "c")
    seen: dict[str, BackendRecord] = {}
    for part in broker.broker.export_parts(broker.clock.now, size=3):
        seen |= part.backends
        if "b2" in seen and "b9" in broker.broker.registry.by_name:
            broker.unregister(b"b9")
            broker.register("new", "c")
    assert set(seen) == {f"b{number}" for number in range(10)}
    assert set(broker.broker.export_profiles(broker.clock.now).backends) == {*seen, "new"}


def test_an_export_changes_nothing() -> None:
    broker = measured()
    assert exported(broker) == exported(broker)
    broker.broker.check()

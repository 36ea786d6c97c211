"""Other settings for a broker at work: no room keeps the old ones, nothing open is lost, nothing learnt is forgotten."""

from __future__ import annotations

import gc
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest
from routing_kit import name_of, pool, refusal, send, send_one, service, works

from router_daemon import assembly
from router_daemon.assembly import make_broker, make_node, make_settings
from router_daemon.config import load_config
from router_daemon.core.actions import Deliver, Reply
from router_daemon.core.broker import Broker
from router_daemon.core.changes import FIXED
from router_daemon.core.chores import Look
from router_daemon.core.rollout import ROLLED_BACK, RUNNING
from router_daemon.core.settings import RolloutSettings, RouteSettings, Settings
from router_daemon.policies.base import HELD, NAMES, make_policy
from router_daemon.policies.ring_greedy import RingGreedy
from router_daemon.policies.routes import Kept, plan_again, routes_of
from router_daemon.ring_layout import RingLayout
from router_daemon.testing import BrokerFixture, only

OTHER_WORDS = {"mode": "single", "unsaid_idempotent": "never", "scaling": "raw", "latency": "profile"}
OTHER_WORDS |= {"without_embedding": "refuse", "sticky": "trace", "fallback": "round_robin", "policy": "ring_multi"}
ONCE_NONE = {"percent": 7.0, "slow_s": 2.0, "attempt_timeout_s": 3.0}


def reconfigure(fixture: BrokerFixture, policy: str, settings: Settings, was: str = "attention") -> None:
    """Give a broker other settings as the daemon does."""
    broker, rng = fixture.broker, fixture.random
    by_route = {name: route.policy for name, route in broker.routes.by_name.items()}
    asked_for = frozenset(by_route.keys() - routes_of(broker.settings, was).keys())
    kept = Kept(broker.settings, was, by_route, asked_for, broker.routes.fallback.policy)
    outlay = plan_again(settings, rng, policy=policy, kept=kept)
    broker.configure(settings, outlay, fixture.clock.now)
    fixture.settings = settings
    broker.check()


def change(fixture: BrokerFixture, **changes: Any) -> list[Any]:
    """Change some settings of a broker whose policy is attention; return what it sends at once."""
    reconfigure(fixture, "attention", replace(fixture.broker.settings, **changes))
    return fixture.advance(0.0)


# --- no room keeps the old settings ---


def otherwise(settings: Any) -> Any:
    """Return settings of which every one differs, but for those that cannot, and for names."""
    changes: dict[str, Any] = {}
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if is_dataclass(value):
            changes[name] = otherwise(value)
        elif isinstance(value, bool):
            changes[name] = not value
        elif isinstance(value, int):
            changes[name] = value - 1
        elif isinstance(value, float):
            changes[name] = 0.9 * value if value else 0.01
        elif isinstance(value, tuple):
            changes[name] = tuple(0.9 * each for each in value)
        elif name in OTHER_WORDS or name in ONCE_NONE:
            changes[name] = OTHER_WORDS.get(name, ONCE_NONE.get(name))
    return replace(settings, **{name: value for name, value in changes.items() if name not in FIXED})


GROWS = {
    "epoch",
    "changes",
    "version",
    "_timers",
    "news",
    "history",
    "_faults_in_a_row",
    "bucket",
    "windows",
    "_at",
    "tokens",
    "told",
}
"""What counts what has happened, what budgets hold, and the timers, which hold the moment of the change."""
PLAIN = (bool, int, float, str, bytes, type(None))


def parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds."""
    if isinstance(thing, Mapping):
        yield from ((f"[{number}]", each) for number, each in enumerate(thing.values()))
    elif isinstance(thing, Sequence | deque | set | frozenset):
        yield from ((f"[{number}]", each) for number, each in enumerate(thing))
        yield "maxlen", getattr(thing, "maxlen", None)
    elif isinstance(thing, types.MethodType):
        yield "self", thing.__self__
    elif type(thing).__module__.startswith("router_daemon"):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        slots += list(getattr(thing, "__struct_fields__", ()))
        for name in dict.fromkeys((*getattr(thing, "__dict__", {}), *slots)):
            if name not in GROWS and not name.startswith("__"):
                yield f".{name}", getattr(thing, name, None)


def differences(one: Any, other: Any) -> list[str]:
    """Walk through two objects side by side, and return where they differ."""
    found, seen, todo = [], set(), [("broker", one, other)]
    while todo:
        path, mine, its = todo.pop()
        if isinstance(mine, PLAIN) or isinstance(its, PLAIN):
            if mine != its:
                found.append(f"{path}: {mine!r} is not {its!r}")
            continue
        if id(mine) in seen or isinstance(mine, Random):
            continue
        seen.add(id(mine))
        if type(mine) is not type(its):
            found.append(f"{path}: {type(mine).__name__} is not {type(its).__name__}")
            continue
        held, should = list(parts(mine)), list(parts(its))
        if len(held) != len(should):
            found.append(f"{path}: {len(held)} parts are not {len(should)}")
        todo += [(path + name, a, b) for (name, a), (_, b) in zip(held, should, strict=False)]
    assert len(seen) > 150, "the walk has not met the rooms"
    return found


EVERY_POLICY = {name.replace("_", "-"): RouteSettings(name) for name in NAMES}


def both(**settings: Any) -> tuple[BrokerFixture, BrokerFixture]:
    """Return a broker whose settings were all changed while backends were there, and one made with those."""
    changed = BrokerFixture(policy="attention", **settings)
    after = otherwise(changed.settings)
    values = {field.name: getattr(after, field.name) for field in fields(after)}
    fresh = BrokerFixture(policy="paper", **values)
    for fixture in (changed, fresh):
        fixture.register("a", "c", slots=3)
        fixture.register("b", "c", "d", slots=20)
    reconfigure(changed, "paper", after)
    return changed, fresh


def test_a_broker_with_other_settings_is_as_one_made_with_them() -> None:
    """Every object that can be reached from the broker, number by number: so no room is forgotten by `configure`."""
    changed, fresh = both()
    assert differences(changed.broker, fresh.broker) == []


def test_so_it_is_with_routes_and_a_rollout() -> None:
    rollout = RolloutSettings(candidate="ring", fallback="c3")
    changed, fresh = both(routes=EVERY_POLICY, rollout=rollout)
    told = [text for text in differences(changed.broker, fresh.broker) if "began_at" not in text]
    assert [text for text in told if "window_at" not in text and "_restored" not in text] == []


def test_the_walk_sees_a_room_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_daemon.core.patience.Patience.configure", lambda self, settings: None)
    monkeypatch.setattr(
        "router_daemon.core.patience.Patience.__init__", lambda self, settings: setattr(self, "_samples", settings)
    )
    changed, fresh = both()
    assert any("_patience" in text for text in differences(changed.broker, fresh.broker))


def test_nothing_reachable_is_of_the_old_settings() -> None:
    """By identity, through everything that Python's collector knows, caches and closures too."""
    fixture = BrokerFixture(policy="attention")
    fixture.register("a", "c")
    works(fixture, 0.01, 3)
    old = fixture.broker.settings
    reconfigure(fixture, "attention", otherwise(old))
    stale = {id(old): "settings"} | {id(getattr(old, f.name)): f.name for f in fields(old) if is_dataclass(f.type)}
    stale |= {id(getattr(old, f.name)): f.name for f in fields(old) if is_dataclass(getattr(old, f.name))}
    seen, todo = set(), [fixture.broker.dispatcher, fixture.broker.registry, fixture.broker._clients]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(thing))
        assert id(thing) not in stale, stale[id(thing)]
        todo += gc.get_referents(thing)


@pytest.mark.parametrize("key", FIXED)
def test_what_cannot_change_is_refused_and_nothing_has_changed(key: str) -> None:
    fixture = BrokerFixture(policy="attention")
    before = fixture.broker.settings
    value = getattr(before, key)
    other = "9" if isinstance(value, str) else (not value if isinstance(value, bool) else value + 1)
    with pytest.raises(ValueError, match=key):
        change(fixture, heads=1, **{key: other})
    assert fixture.broker.settings is before


# --- what a policy has learnt ---


@pytest.mark.parametrize("name", NAMES)
def test_what_a_policy_is_made_of_is_what_it_reads(name: str) -> None:
    """So that one which would be made otherwise is never kept."""
    read: set[str] = set()

    class Watched:
        def __init__(self, of: Any, path: str) -> None:
            self._of, self._path = of, path

        def __getattr__(self, key: str) -> Any:
            path = f"{self._path}{key}"
            read.add(path)
            value = getattr(self._of, key)
            return Watched(value, f"{path}.") if path == "profile" else value

    settings: Any = Watched(Settings(), "")
    policy = make_policy(name, settings, Random(1))
    if any(isinstance(value, Watched) for value in vars(policy).values()):
        read |= {"profile.everything"}
    leaves = {path for path in read if path != "profile"}
    assert {path for path in leaves if path not in HELD[name] and path.split(".")[0] not in HELD[name]} == set()


LEARNS = ("p2c_peak_ewma", "prequal", "c3")


@pytest.mark.parametrize("name", LEARNS)
def test_a_policy_whose_settings_stay_keeps_what_it_has_learnt(name: str) -> None:
    routes = {"stable": RouteSettings(name), "other": RouteSettings("c3")}
    fixture = BrokerFixture(policy="attention", routes=routes, mode="single")
    fixture.register("a", "c")
    works(fixture, 0.01, 5)
    policy, own = fixture.broker.policy, dict(service(fixture).own)
    assert policy in own
    change(fixture, queue_messages=5, routes={"stable": RouteSettings(name)})
    assert fixture.broker.policy is policy
    assert service(fixture).own[policy] is own[policy]
    assert set(service(fixture).own) == {policy}, "what the route that is no more has kept is dropped"


def test_another_policy_begins_anew_and_the_old_one_leaves_nothing() -> None:
    fixture = BrokerFixture(policy="attention", routes={"stable": RouteSettings("c3")}, mode="single")
    fixture.register("a", "c")
    works(fixture, 0.01, 5)
    assert service(fixture).own
    samples = service(fixture).samples
    change(fixture, routes={"stable": RouteSettings("prequal")})
    assert service(fixture).own == {}
    assert service(fixture).samples == samples, "what was measured is no policy's"
    works(fixture, 0.01, 1)


def test_so_does_one_that_messages_ask_for_as_long_as_they_may() -> None:
    fixture = BrokerFixture(policy="attention", policy_override=True, mode="single")
    fixture.register("a", "c")
    fixture.ack(send_one(fixture, policy="c3"))
    routes = fixture.broker.routes
    policy = routes.by_name["c3"].policy
    change(fixture, queue_messages=5)
    assert routes.by_name["c3"].policy is policy
    change(fixture, policy_override=False)
    assert list(routes.by_name) == ["stable"]
    assert refusal(fixture.send("c", client_id=7, policy="c3"))[0] == "forbidden"


@pytest.mark.parametrize("named", [False, True])
def test_other_projections_are_another_policy(named: bool) -> None:
    """They are numbers of a file, which may change under the same name."""
    one = replace(Settings().ring_attention, projections=np.ones((1, 2, 3)) if named else None)
    fixture = BrokerFixture(policy="ring_multi", ring_attention=one)
    before = fixture.broker.policy
    reconfigure(fixture, "ring_multi", replace(fixture.settings, heads=1), was="ring_multi")
    assert fixture.broker.policy is before
    other = replace(one, projections=np.full((1, 2, 3), 2.0))
    reconfigure(fixture, "ring_multi", replace(fixture.settings, ring_attention=other), was="ring_multi")
    assert fixture.broker.policy is not before


def test_a_new_policy_that_climbs_knows_the_ring() -> None:
    """By the daemon's own way from one configuration to another."""
    before = load_config(None, {}, ["ring.name=a", "ring.listen=tcp://127.0.0.1:5599"])
    after = load_config(None, {}, ["ring.name=a", "ring.listen=tcp://127.0.0.1:5599", "routing.policy=ring_greedy"])
    broker = make_broker(before, 1)
    node = make_node(before, broker)
    assert node is not None
    assembly.reconfigure(broker, before, after, make_settings(after), 1000.0)
    assert isinstance(broker.policy, RingGreedy)
    assert isinstance(broker.policy.layout, RingLayout)


def test_so_does_one_that_a_message_asks_for_and_one_that_stands_in() -> None:
    """They took all backends for one ring by their names."""
    keys = ["ring.name=a", "ring.listen=tcp://127.0.0.1:5599", "routing.allow_policy=true"]
    config = load_config(None, {}, [*keys, "rollout.fallback=ring_greedy"])
    broker = make_broker(config, 1)
    node = make_node(config, broker)
    assert node is not None
    policies = [broker.routes.fallback.policy]
    found = broker.routes.named("ring_greedy")
    assert found is not None
    policies.append(found.policy)
    assembly.reconfigure(broker, config, config, make_settings(config), 1000.0)
    assert broker.routes.by_name["ring_greedy"].policy is found.policy
    for policy in policies:
        assert isinstance(policy, RingGreedy)
        assert isinstance(policy.layout, RingLayout)


# --- what is open ---


def test_an_open_message_keeps_its_deadline_and_is_answered() -> None:
    fixture = BrokerFixture(policy="attention", mode="single", heartbeat_s=100.0)
    fixture.register("a", "c")
    sent = send_one(fixture, ttl_ms=10_000)
    change(fixture, max_ttl_ms=100, default_ttl_ms=100, client_messages=1, open_messages=1, backends=1)
    fixture.advance(5.0)
    assert only(fixture.ack(sent), Reply)
    assert fixture.broker.open_messages == 0


def test_a_message_on_a_route_that_is_no_more_goes_on_with_the_fallback() -> None:
    settings: dict[str, Any] = {
        "routes": {"try": RouteSettings("round_robin")},
        "policy_override": True,
        "mode": "single",
    }
    fixture = BrokerFixture(policy="attention", **settings)
    fixture.register("a", "c")
    fixture.register("b", "c")
    first = send_one(fixture, policy="try")
    change(fixture, routes={}, policy_override=False)
    (again,) = only(fixture.nack(first), Deliver)
    assert name_of(again) != name_of(first)
    assert only(fixture.ack(again), Reply)
    assert list(fixture.broker.routes.by_name) == ["stable"]


def test_who_waits_for_what_was_reserved_goes_at_once() -> None:
    fixture = BrokerFixture(policy="attention", mode="single", waiting=replace(Settings().waiting, reserve=0.5))
    fixture.register("a", "c", slots=2)
    send_one(fixture, 1)
    assert not send(fixture, 2)
    reconfigure(fixture, "attention", replace(fixture.settings, waiting=replace(Settings().waiting, reserve=0.0)))
    assert [deliver.header.id for deliver in only(fixture.advance(0.002), Deliver)] == [2]


def test_a_smaller_waiting_room_turns_nobody_out() -> None:
    fixture = BrokerFixture(policy="attention", mode="single")
    fixture.register("a", "c", slots=1)
    first = send_one(fixture, 1)
    for number in range(2, 6):
        assert not send(fixture, number)
    assert not change(fixture, queue_messages=1)
    assert fixture.broker.dispatcher.waiting.size == 4
    for _ in range(4):
        (first,) = only(fixture.ack(first), Deliver)
    assert only(fixture.ack(first), Reply)


def test_budgets_keep_what_they_hold_up_to_what_they_may() -> None:
    fixture = BrokerFixture(policy="attention", mode="single")
    fixture.register("a", "c")
    works(fixture, 0.01, 100)
    change(fixture, retry=replace(Settings().retry, most=2.0, start=1.0), hedge=replace(Settings().hedge, most=1.5))
    assert (pool(fixture).retries.tokens, pool(fixture).hedges.tokens) == (2.0, 1.5)


# --- rollouts ---


def timed(wheel: Any) -> list[Any]:
    """Return what a wheel of the timers holds."""
    return [item for bucket in getattr(wheel, "_buckets", {}).values() for item in bucket]


CANDIDATE = {"candidate": RouteSettings("paper")}


def with_rollout(**changes: Any) -> BrokerFixture:
    rollout = RolloutSettings(candidate="candidate", **changes)
    fixture = BrokerFixture(policy="attention", routes=CANDIDATE, rollout=rollout)
    fixture.register("a", "c")
    return fixture


def rollout_of(broker: Broker) -> Any:
    assert broker.routes.rollout is not None
    return broker.routes.rollout


def test_a_rollout_that_is_not_touched_goes_on_in_its_window() -> None:
    fixture = with_rollout()
    before = rollout_of(fixture.broker)
    before.set_percent(25.0, fixture.clock.now)
    change(fixture, queue_messages=7)
    assert rollout_of(fixture.broker) is before


def test_other_margins_keep_its_stage_and_another_candidate_does_not() -> None:
    fixture = with_rollout()
    rollout_of(fixture.broker).set_percent(25.0, fixture.clock.now)
    change(fixture, rollout=replace(fixture.settings.rollout, max_p99_ratio=2.0))
    assert (rollout_of(fixture.broker).percent, rollout_of(fixture.broker).state) == (25.0, RUNNING)
    change(fixture, routes={"candidate": RouteSettings("round_robin")})
    assert rollout_of(fixture.broker).percent == 1.0


def test_what_was_rolled_back_stays_so() -> None:
    fixture = with_rollout()
    rollout_of(fixture.broker).roll_back(fixture.clock.now)
    change(fixture, routes={"candidate": RouteSettings("round_robin")})
    change(fixture, rollout=replace(fixture.settings.rollout, percent=50.0))
    assert rollout_of(fixture.broker).state == ROLLED_BACK


def test_what_has_happened_to_a_rollout_is_told_once_after_a_change() -> None:
    """It was listed twice: from what the old rollout had kept, and again from its history."""
    fixture = with_rollout()
    rollout_of(fixture.broker).roll_back(fixture.clock.now)
    before = rollout_of(fixture.broker).view(fixture.clock.now)["history"]
    change(fixture, rollout=replace(fixture.broker.settings.rollout, max_p99_ratio=2.0))
    assert rollout_of(fixture.broker).view(fixture.clock.now)["history"] == before
    assert [what for what, *_ in fixture.broker.routes.take_news()] == ["rollout rolled back"]
    assert rollout_of(fixture.broker).shares()["candidate"] == 0.0


def test_a_rollout_begins_and_ends_by_configuration() -> None:
    fixture = BrokerFixture(policy="attention")
    fixture.register("a", "c")
    change(
        fixture, routes=CANDIDATE, rollout=RolloutSettings(candidate="candidate", percent=100.0, control_percent=0.0)
    )
    assert rollout_of(fixture.broker).began_at == fixture.clock.now
    send_one(fixture, mode="single")
    (message,) = fixture.broker.dispatcher.messages
    assert message.route.name == "candidate"
    fixture.advance(1.0)
    change(fixture, routes={}, rollout=RolloutSettings())
    assert fixture.broker.routes.rollout is None
    fixture.advance(1.0)
    change(fixture, routes=CANDIDATE, rollout=RolloutSettings(candidate="candidate"))
    fixture.advance(1.0)
    timers = fixture.broker._timers
    looks = [item for wheel in (timers._fine, timers._coarse) for item in timed(wheel) if type(item) is Look]
    assert len(looks) == 1

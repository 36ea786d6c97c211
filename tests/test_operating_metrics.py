"""Metrics of who operates the daemon: overrides, acts, events, reloads, the configuration in force; labels bounded."""

from __future__ import annotations

import urllib.request
from typing import Any, Final

import pytest
from command_line import invoke
from conftest import DaemonFactory, free_port, write_config
from prometheus_client.parser import text_string_to_metric_families as parse_text
from rollout_kit import send_and_answer, with_candidate

from router_daemon.config import Config, load_config
from router_daemon.config.loaded import Loaded, fingerprint
from router_daemon.core.chronicle import Chronicle
from router_daemon.core.operating import MOST_KINDS, OTHER, Act, Operator
from router_daemon.metrics import Snapshot, render
from router_daemon.operating_metrics import Operations
from router_daemon.testing import BrokerFixture

WALL: Final = 1_750_000_000.0
Samples = dict[tuple[str, str], float]


def samples(text: str) -> Samples:
    """Return the values of a page by name and the values of its labels."""
    found = (sample for family in parse_text(text) for sample in family.samples)
    return {(sample.name, ",".join(sample.labels.values())): sample.value for sample in found}


def scraped(fixture: BrokerFixture, operations: Operations | None = None) -> Samples:
    snapshot = Snapshot(fixture.broker, fixture.clock.now, operations=operations)
    return samples(render(snapshot, openmetrics=False).decode())


def operations_of(fixture: BrokerFixture) -> Operations:
    return Operations(Operator(fixture.broker), Chronicle(), Loaded(Config(), WALL))


def test_overrides_in_force_and_how_many_messages_they_moved() -> None:
    fixture = with_candidate("a", "b")
    fixture.broker.overrides.set("c", "b", 60.0, fixture.clock.now)
    fixture.broker.overrides.set("d", "b", 10.0, fixture.clock.now)
    for number in range(3):
        send_and_answer(fixture, number)
    found = scraped(fixture)
    assert (found["router_overrides", ""], found["router_override_messages_total", ""]) == (2, 3)
    fixture.clock.advance(20.0)
    assert scraped(fixture)["router_overrides", ""] == 1, "though nobody has looked at it since"


def test_what_people_say_is_counted_by_what() -> None:
    fixture = with_candidate("a")
    operations = operations_of(fixture)
    operator = operations.operator
    for what in ("rollback", "end override", "rollback"):
        operator.remember(Act(WALL, what, "", "me"))
    operator.recall([Act(WALL, "advance", "", "somebody before a restart")])
    operator.hold("the file is there", fixture.clock.now)
    operator.hold("the file is there", fixture.clock.now)
    operator.hold("", fixture.clock.now)
    found = {
        label: n for (name, label), n in scraped(fixture, operations).items() if name == "router_operator_acts_total"
    }
    assert found == {"rollback": 2, "end_override": 1, "rollback_file": 1}
    assert [act.what for act in operator.acts][-1] == "advance"


def test_kinds_of_acts_are_bounded() -> None:
    operator = Operator(BrokerFixture().broker)
    for number in range(3 * MOST_KINDS):
        operator.remember(Act(WALL, f"act {number}", "", "me"))
    assert len(operator.counts) == MOST_KINDS + 1
    assert operator.counts[OTHER] == 2 * MOST_KINDS


def test_events_are_counted_though_they_are_no_longer_kept() -> None:
    fixture = BrokerFixture()
    operations = operations_of(fixture)
    for _ in range(250):
        operations.chronicle.note(WALL, "backend joined", "a")
    assert scraped(fixture, operations)["router_events_total", "backend_joined"] == 250


def test_what_is_in_force_and_how_the_last_reload_went() -> None:
    fixture = BrokerFixture()
    operations = operations_of(fixture)
    loaded = operations.loaded
    assert loaded is not None

    def shown(*names: str) -> list[float]:
        found = scraped(fixture, operations)
        return [found[name, ""] for name in names]

    rest = ("router_config_last_reload_ok", "router_config_waiting_for_restart")
    assert shown("router_config_loaded_timestamp_seconds", *rest) == [WALL, 1, 0]
    first = shown("router_config_hash")
    loaded.refused()
    assert shown("router_config_loaded_timestamp_seconds", *rest) == [WALL, 0, 0]
    assert shown("router_config_hash") == first
    loaded.took(load_config(None, {}, ["routing.heads=1"]), 2, WALL + 60.0)
    assert shown("router_config_loaded_timestamp_seconds", *rest) == [WALL + 60.0, 1, 2]
    assert shown("router_config_hash") != first
    found = scraped(fixture, operations)
    assert (found["router_reloads_total", "ok"], found["router_reloads_total", "refused"]) == (1, 1)


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("admin.token=0123456789abcdef", True),
        ("frontend.bind=ipc:///elsewhere", True),
        ("backend.heartbeat_ms=500", False),
        ("rollout.rollback_file=/run/stop", True),
        ("rollout.confidence=0.9", False),
        ("retry.most=3", False),
    ],
)
def test_the_hash_is_of_what_a_daemon_does_and_not_of_where_it_is(setting: str, same: bool) -> None:
    plain = fingerprint(load_config(None, {}, []))
    assert plain == fingerprint(load_config(None, {}, []))
    assert (plain == fingerprint(load_config(None, {}, [setting]))) is same
    assert float(plain) == plain < 2**48


def test_a_running_daemon_says_how_its_reloads_went(daemon: DaemonFactory) -> None:
    admin = f"127.0.0.1:{free_port()}"
    running = daemon(admin={"bind": admin})
    file = running.log.parent / "router.toml"

    def reload(**sections: Any) -> dict[str, float]:
        write_config(file, running.settings | sections)
        invoke("reload", "--admin", admin)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{admin}/metrics", timeout=10.0) as answer:
            found = samples(answer.read().decode())
        return {
            name.removeprefix("router_"): value for (name, _), value in found.items() if "router_config_" in name
        } | {label: value for (name, label), value in found.items() if name == "router_reloads_total"}

    good = reload(weights={"priority": 0.5}, transport={"engine": "libzmq"})
    bad = reload(weights={"priorty": 0.5})
    assert (good["ok"], good["refused"], bad["ok"], bad["refused"]) == (1, 0, 1, 1)
    assert (good["config_last_reload_ok"], bad["config_last_reload_ok"]) == (1, 0)
    assert good["config_waiting_for_restart"] == 1
    assert good["config_hash"] == bad["config_hash"]
    assert good["config_loaded_timestamp_seconds"] == bad["config_loaded_timestamp_seconds"] > 1.7e9

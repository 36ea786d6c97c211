"""What has happened, as people see it: the chronicle, what the rooms tell it, and GET /events/recent."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Final

from command_line import invoke
from conftest import DaemonFactory, free_port, write_config
from rollout_kit import odd, rollout_of, route, send_and_answer, with_candidate
from routing_kit import send_one

from router_daemon.admin.server import AdminServer
from router_daemon.core.actions import Deliver
from router_daemon.core.chronicle import KINDS, MOST_AT_ONCE, MOST_OF_A_KIND, OTHER, Chronicle, kind_of
from router_daemon.core.settings import EjectionSettings, RetrySettings
from router_daemon.news import Teller
from router_daemon.testing import BrokerFixture, only

WALL: Final = 1_750_000_000.0


# --- the chronicle ---


def test_a_page_that_asks_again_gets_what_came_since() -> None:
    chronicle = Chronicle(1_000)
    assert chronicle.view() == {"events": [], "last": 999, "left_out": 0}
    chronicle.note(WALL, "backend joined", "a")
    chronicle.note(WALL + 1.0, "rollout stopped", "candidate", "success is too low")
    view = chronicle.view()
    assert view == {
        "events": [
            {"id": 1_000, "at": WALL, "kind": "backend_joined", "name": "a", "text": "backend joined"},
            {
                "id": 1_001,
                "at": WALL + 1.0,
                "kind": "rollout_stopped",
                "name": "candidate",
                "text": "success is too low",
            },
        ],
        "last": 1_001,
        "left_out": 0,
    }
    assert chronicle.view(1_000)["events"] == view["events"][1:]
    assert chronicle.view(1_001) == {"events": [], "last": 1_001, "left_out": 0}


def test_an_id_of_the_future_is_given_back() -> None:
    """A machine's clock may have been set back before the restart."""
    chronicle = Chronicle(10)
    chronicle.note(WALL, "link up", "b")
    assert chronicle.view(5_000) == {"events": [], "last": 5_000, "left_out": 0}


def test_a_flood_of_one_kind_leaves_the_others() -> None:
    chronicle = Chronicle()
    chronicle.note(WALL, "rollout stopped", "candidate", "why")
    for number in range(3 * MOST_OF_A_KIND):
        chronicle.note(WALL, "backend joined", f"b{number}")
    view = chronicle.view()
    assert [each["kind"] for each in view["events"]] == ["rollout_stopped"] + ["backend_joined"] * MOST_OF_A_KIND
    assert [each["id"] for each in view["events"]] == sorted(each["id"] for each in view["events"])
    assert view["left_out"] == 2 * MOST_OF_A_KIND
    assert chronicle.counts == {"rollout_stopped": 1, "backend_joined": 3 * MOST_OF_A_KIND}


def test_of_more_than_asked_for_the_newest() -> None:
    chronicle = Chronicle()
    for number, what in enumerate(("link up", "backend joined", "link down", "backend left")):
        chronicle.note(WALL + number, what, "x")
    view = chronicle.view(0, 2)
    assert ([each["id"] for each in view["events"]], view["left_out"]) == ([3, 4], 2)
    assert chronicle.view(0, 0)["left_out"] == 4


def test_a_text_of_peers_is_bounded() -> None:
    assert len(Chronicle().note(WALL, "route's policy raised", "r", "x" * 100_000).text) == 1_000


def test_each_kind_is_read_off_its_beginning_alone() -> None:
    assert len(set(KINDS.values())) == len(KINDS)
    for begin, kind in KINDS.items():
        assert kind_of(begin) == kind_of(f"{begin} and more") == kind
    assert kind_of("stands aside: a newer process has this name") == OTHER


# --- what the rooms tell ---


class Told:
    """A broker, and the chronicle of what happens to it."""

    def __init__(self, fixture: BrokerFixture) -> None:
        self.fixture = fixture
        self.chronicle = Chronicle()
        self._teller = Teller(self.chronicle, lambda: WALL)
        self._seen = 0

    def news(self) -> list[tuple[str, str, str]]:
        """Return kind, name and text of what has happened since the last call."""
        self._teller.tell(self.fixture.broker)
        found = self.chronicle.since(self._seen)
        self._seen = self.chronicle.last
        return [(each.kind, each.name, each.text) for each in found]

    def kinds(self) -> list[tuple[str, str]]:
        return [(kind, name) for kind, name, _ in self.news()]


def test_backends_that_come_change_and_go() -> None:
    told = Told(BrokerFixture(mode="single"))
    fixture = told.fixture
    fixture.register("a", "c", version="1")
    fixture.register("b", "c")
    assert told.kinds() == [("backend_joined", "a"), ("backend_joined", "b")]
    fixture.update(b"a", version="2")
    assert told.news() == [("backend_version", "a", "backend has version '2', before '1': measured anew")]
    fixture.unregister(b"a")
    fixture.gone(b"b")
    assert told.news() == [
        ("backend_left", "a", "backend left"),
        ("backend_lost", "b", "backend lost: its connection is gone"),
    ]
    assert told.news() == []


def test_an_ejection_is_told_once_and_so_is_its_end() -> None:
    retry = RetrySettings(start=1_000.0, most=1_000.0)
    fixture, policy = odd("a", "b", ejection=EjectionSettings(jitter=0.0), retry=retry, heartbeat_s=1000.0)
    assert policy.picked == 0
    told = Told(fixture)
    told.news()
    for number in range(5):
        for again in only(fixture.nack(send_one(fixture, number), "failed"), Deliver):
            fixture.ack(again)
    assert told.news() == [
        ("backend_ejected", "a", "backend ejected for 0.2 s: 5 of its last 5 deliveries failed"),
    ]
    fixture.advance(0.3)
    trial = send_one(fixture, 6)
    for again in only(fixture.nack(trial, "failed"), Deliver):
        fixture.ack(again)
    assert told.news() == [], "its trial failed: it is ejected as before"
    fixture.advance(0.6)
    fixture.ack(send_one(fixture, 7))
    assert told.kinds() == [("backend_let_in", "a")]


def test_what_happens_to_a_rollout() -> None:
    told = Told(with_candidate("a", stages=(1.0, 100.0), stage_s=0.0, min_answers=1))
    fixture, rollout = told.fixture, rollout_of(told.fixture)
    told.news()
    rollout.advance(fixture.clock.now)
    rollout.roll_back(fixture.clock.now, "odd answers")
    rollout.resume(fixture.clock.now)
    assert told.news() == [
        ("rollout_stage", "candidate", "100 % of the messages: a person says so"),
        ("rollout_rolled_back", "candidate", "odd answers"),
        ("rollout_stage", "candidate", "1 % of the messages: resumed by a person"),
    ]
    route(fixture, "candidate").opened_at = fixture.clock.now
    rollout.tick(fixture.clock.now)
    assert [kind for kind, _ in told.kinds()] == ["rollout_stopped", "route_retire"]


def test_a_policy_that_fails() -> None:
    fixture, policy = odd("a", heartbeat_s=1000.0)
    told = Told(fixture)
    told.news()
    policy.choose = lambda *_: 1 / 0
    for number in range(3):
        send_and_answer(fixture, number)
    assert told.kinds() == [("route_fault", "stable"), ("route_breaker_opened", "stable")]
    policy.choose = None
    fixture.advance(31.0)
    for number in range(3, 6):
        send_and_answer(fixture, number)
    assert told.kinds() == [("route_breaker_closed", "stable")]


def test_an_override_that_is_set_ended_and_runs_out() -> None:
    told = Told(BrokerFixture(mode="single", heartbeat_s=1000.0))
    fixture = told.fixture
    fixture.register("a", "c")
    told.news()
    overrides, now = fixture.broker.overrides, fixture.clock.now
    overrides.set("c", "a", 600.0, now)
    assert overrides.clear("c")
    assert not overrides.clear("c")
    overrides.set("c", "a", 1.0, now)
    assert told.news() == [
        ("override_set", "c", "to a for 600 s"),
        ("override_ended", "c", "to a: a person says so"),
        ("override_set", "c", "to a for 1 s"),
    ]
    fixture.clock.advance(2.0)
    fixture.send("c")
    assert told.news() == [("override_ended", "c", "to a: its time is over")]
    overrides.restore([{"capability": "c", "backend": "a", "left_s": 5.0}], fixture.clock.now)
    assert told.news() == [], "it was told of when it was set"


# --- GET /events/recent ---


def fetched(address: str, query: str = "") -> tuple[int, Any]:
    url = f"http://{address}/events/recent{query}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10.0) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_the_page_of_what_has_happened() -> None:
    chronicle = Chronicle(7)
    for number in range(3):
        chronicle.note(WALL + number, "backend joined", f"<b>{number}")

    async def questions() -> None:
        address = f"127.0.0.1:{free_port()}"
        server = AdminServer(BrokerFixture().broker, address, chronicle=chronicle)
        await server.start()
        try:
            for query, ids in (("", [7, 8, 9]), ("?since=8", [9]), ("?limit=1", [9]), ("?since=9&limit=99999", [])):
                status, answer = await asyncio.to_thread(fetched, address, query)
                assert (status, [each["id"] for each in answer["events"]], answer["last"]) == (200, ids, 9)
            for query in ("?since=-1", "?since=x", "?limit=1.5", "?since=²", f"?since={'9' * 19}"):
                status, answer = await asyncio.to_thread(fetched, address, urllib.parse.quote(query, "?=&-."))
                assert (status, "must be a whole number" in answer["error"]) == (400, True)
        finally:
            await server.stop()

    assert MOST_AT_ONCE < 99_999
    asyncio.run(questions())


def test_a_daemon_tells_of_its_start_and_of_reloads(daemon: DaemonFactory) -> None:
    admin = f"127.0.0.1:{free_port()}"
    began = time.time()
    running = daemon(admin={"bind": admin})
    file = running.log.parent / "router.toml"
    write_config(file, running.settings | {"weights": {"priority": 0.5}})
    assert invoke("reload", "--admin", admin).exit_code == 0
    first = fetched(admin)[1]
    write_config(file, running.settings | {"weights": {"priorty": 0.5}})
    assert invoke("reload", "--admin", admin).exit_code == 3
    second = fetched(admin, f"?since={first['last']}")[1]
    assert [each["kind"] for each in first["events"]] == ["daemon_started", "reload_ok"]
    assert first["events"][1]["text"] == "weights.priority: 0.1 -> 0.5"
    [refused] = second["events"]
    assert (refused["kind"], "priorty" in refused["text"]) == ("reload_failed", True)
    assert began - 1.0 <= refused["at"] <= time.time() + 1.0
    assert all(began * 1e6 <= each["id"] + 1e6 < 2**53 for each in first["events"])


def test_a_restart_goes_on_with_higher_ids(daemon: DaemonFactory) -> None:
    ids = []
    for _ in range(2):
        admin = f"127.0.0.1:{free_port()}"
        running = daemon(admin={"bind": admin})
        ids.append(fetched(admin)[1]["last"])
        running.stop()
    assert ids[0] < ids[1]

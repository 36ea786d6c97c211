"""The admin HTTP server on a real socket: states, formats, and what it says to a wrong question."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
from conftest import free_port
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from router_daemon import __version__
from router_daemon.admin.server import AdminServer
from router_daemon.core.actions import Deliver
from router_daemon.errors import StartError
from router_daemon.testing import BrokerFixture, only

WALL: Final = 1_750_000_000.0


class Answer(NamedTuple):
    status: int
    type: str
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


Get = Callable[..., Awaitable[Answer]]


def ask(broker: BrokerFixture, questions: Callable[[Get], Awaitable[None]]) -> None:
    """Run a server for the broker, and the questions against it."""

    async def run() -> None:
        port = free_port()
        server = AdminServer(broker.broker, f"127.0.0.1:{port}", clock=broker.clock, calendar=lambda: WALL)
        await server.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

                async def get(path: str, method: str = "GET", **headers: str) -> Answer:
                    url = f"http://127.0.0.1:{port}{path}"
                    async with session.request(method, url, headers=headers) as response:
                        return Answer(response.status, response.headers["Content-Type"], await response.text())

                await questions(get)
        finally:
            await server.stop()

    asyncio.run(run())


def make_broker() -> BrokerFixture:
    broker = BrokerFixture(mode="single")
    broker.register("a", "c", group="blue")
    broker.send("c")
    return broker


def test_it_lives_and_is_ready_until_it_drains() -> None:
    broker = make_broker()

    async def questions(get: Get) -> None:
        assert (await get("/livez"))[::2] == (200, "ok\n")
        assert (await get("/readyz"))[::2] == (200, "ok\n")
        broker.broker.start_drain()
        assert (await get("/livez")).status == 200
        assert (await get("/readyz"))[::2] == (503, "draining\n")

    ask(broker, questions)


def test_backends_are_listed_as_json() -> None:
    broker = make_broker()

    async def questions(get: Get) -> None:
        answer = await get("/backends")
        assert (answer.status, answer.type) == (200, "application/json; charset=utf-8")
        [told] = answer.json()["backends"]
        assert (told["name"], told["group"], told["in_flight"], told["up"]) == ("a", "blue", 1, True)

    ask(broker, questions)


def test_explain_tells_term_by_term() -> None:
    broker = make_broker()

    async def questions(get: Get) -> None:
        answer = await get("/explain?capability=c&priority=3")
        assert (answer.status, answer.type) == (200, "application/json; charset=utf-8")
        told = answer.json()
        assert (told["capability"], told["priority"], told["cache"]["state"]) == ("c", 3, "absent")
        [candidate] = told["candidates"]
        assert set(candidate["terms"]) == {"capability", "performance", "reliability", "priority"}
        assert (await get("/explain?capability=c")).json()["priority"] == 2

    ask(broker, questions)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("", "capability"),
        ("?capability=", "capability"),
        ("?priority=2", "capability"),
        *((f"?capability=c&priority={priority}", "priority") for priority in ("0", "5", "high", "2.0", "-1", "", "02")),
    ],
)
def test_explain_says_what_is_wrong_with_a_question(query: str, word: str) -> None:
    async def questions(get: Get) -> None:
        answer = await get(f"/explain{query}")
        assert answer.status == 400
        assert word in answer.json()["error"]

    ask(make_broker(), questions)


def test_explain_of_what_nobody_offers_is_no_error() -> None:
    async def questions(get: Get) -> None:
        answer = await get("/explain?capability=never%20offered%20%C3%A9")
        assert answer.status == 200
        assert answer.json()["capability"] == "never offered é"
        assert answer.json()["error"]["code"] == "no_capability"

    ask(make_broker(), questions)


def test_metrics_come_as_text_and_as_openmetrics_when_asked_for() -> None:
    async def questions(get: Get) -> None:
        answer = await get("/metrics")
        assert (answer.status, answer.type) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert any(family.name == "router_messages_in_flight" for family in parse_text(answer.text))
        answer = await get("/metrics", Accept="application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert (answer.status, answer.type) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        names = [family.name for family in parse_openmetrics(answer.text)]  # type: ignore[no-untyped-call]
        assert "router_messages_in_flight" in names
        prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        assert (await get("/metrics", Accept=prometheus)).type.startswith("application/openmetrics-text")
        assert (await get("/metrics", Accept="text/html, */*")).type.startswith("text/plain")

    ask(make_broker(), questions)


def test_the_index_names_the_pages() -> None:
    async def questions(get: Get) -> None:
        told = (await get("/")).json()
        assert told["router-daemon"] == __version__
        for page in told["see"]:
            assert (await get(page)).status in (200, 400), page

    ask(make_broker(), questions)


def test_it_is_read_only_and_knows_nothing_else() -> None:
    async def questions(get: Get) -> None:
        assert (await get("/backends", method="POST")).status == 405
        assert (await get("/nowhere")).status == 404

    ask(make_broker(), questions)


def test_an_address_in_use_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        bind = f"127.0.0.1:{holder.getsockname()[1]}"

        async def run() -> None:
            server = AdminServer(make_broker().broker, bind)
            with pytest.raises(StartError, match=f"cannot listen on {bind}"):
                await server.start()
            await server.stop()

        asyncio.run(run())


def test_no_address_is_no_server() -> None:
    async def run() -> None:
        server = AdminServer(make_broker().broker, "")
        await server.start()
        assert server._runner is None
        await server.stop()

    asyncio.run(run())


def test_it_stops_listening() -> None:
    async def run() -> None:
        port = free_port()
        server = AdminServer(make_broker().broker, f"127.0.0.1:{port}")
        await server.start()
        await server.stop()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0

    asyncio.run(run())


# --- decisions ---


def make_decisions() -> BrokerFixture:
    """Return a broker that kept m1 (sampled, answered by a) and m2 (refused)."""
    broker = BrokerFixture(mode="single")
    broker.register("a", "c")
    [delivery] = only(broker.send("c", client_id="job/7 ä"), Deliver)
    broker.advance(0.25)
    broker.ack(delivery)
    broker.advance(10.0)
    broker.send("nobody", client_id=b"\xff\x01")
    return broker


def test_a_message_is_told_by_any_of_its_names() -> None:
    async def questions(get: Get) -> None:
        for name in ("m1", "job%2F7%20%C3%A4", "job/7%20%C3%A4"):
            answer = await get(f"/decisions/{name}")
            assert (answer.status, answer.type) == (200, "application/json; charset=utf-8")
            [told] = answer.json()["decisions"]
            assert (told["message"], told["id"], told["answered_by"]) == ("m1", "job/7 ä", "a")
            assert told["at"] == pytest.approx(WALL - 10.25)
        assert (await get("/decisions/ff01")).json()["decisions"][0]["outcome"] == "no_capability"

    ask(make_decisions(), questions)


def test_a_message_that_is_not_there_is_a_404_with_a_sentence() -> None:
    async def questions(get: Get) -> None:
        answer = await get("/decisions/m99")
        assert answer.status == 404
        assert answer.json()["error"].startswith("nothing is kept of 'm99': it was never here, ")

    ask(make_decisions(), questions)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["m2", "m1"]),
        ("?limit=1", ["m2"]),
        ("?capability=c", ["m1"]),
        ("?outcome=no_capability", ["m2"]),
        ("?backend=a&outcome=answered", ["m1"]),
        ("?kept=sampled", ["m1"]),
        ("?since=5.5", ["m2"]),
        ("?route=stable", ["m2", "m1"]),
        ("?route=candidate", []),
    ],
)
def test_decisions_are_searched(query: str, found: list[str]) -> None:
    async def questions(get: Get) -> None:
        told = (await get(f"/decisions{query}")).json()
        assert [row["message"] for row in told["decisions"]] == found
        assert (told["entries"], told["kept"]["refused"], told["kept"]["sampled"]) == (2, 1, 1)
        assert 0 < told["bytes"] < 10_000

    ask(make_decisions(), questions)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("capabilty=c", "capabilty is unknown: /decisions takes capability, outcome, "),
        ("since=yesterday", "since must be a number of seconds"),
        ("since=nan", "since must be a number of seconds"),
        ("since=-1", "since must be a number of seconds"),
        ("limit=0", "limit must be an integer from 1 to 1000"),
        ("limit=1001", "limit must be an integer from 1 to 1000"),
        ("limit=10000000000", "limit must be an integer from 1 to 1000"),
        ("limit=²", "limit must be an integer from 1 to 1000"),
    ],
)
def test_a_search_says_what_is_wrong_with_it(query: str, words: str) -> None:
    async def questions(get: Get) -> None:
        answer = await get(f"/decisions?{query}")
        assert answer.status == 400
        assert answer.json()["error"].startswith(words)

    ask(make_decisions(), questions)

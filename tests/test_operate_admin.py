"""The pages that change something: what they do, who may ask, and what a page in a browser may not."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import structlog
from conftest import free_port
from rollout_kit import rollout_of, send_and_answer, with_candidate

from router_daemon.admin.commands import BODY_BYTES
from router_daemon.admin.gate import Gate, is_loopback
from router_daemon.admin.server import AdminServer
from router_daemon.config.sections import AdminSection
from router_daemon.config.tokens import admin_token
from router_daemon.core.operating import MOST_ACTS, Act, Operator
from router_daemon.errors import ConfigError
from router_daemon.testing import BrokerFixture

TOKEN: Final = "a-token-of-some-length"
WALL: Final = 1_750_000_000.0
Ask = Callable[..., Awaitable[tuple[int, Any]]]


def ask(
    broker: BrokerFixture, questions: Callable[[Ask], Awaitable[None]], *, token: str = "", operator: Any = None
) -> list[str]:
    """Run a server for the broker, and the questions against it; return how often it said that something changed."""
    changed: list[str] = []

    async def note() -> None:
        changed.append("changed")

    async def run() -> None:
        bind = f"127.0.0.1:{free_port()}"
        server = AdminServer(
            broker.broker,
            bind,
            clock=broker.clock,
            calendar=lambda: WALL,
            token=token,
            operator=operator,
            changed=note,
        )
        await server.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:

                async def say(path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, Any]:
                    named = {name.replace("_", "-"): text for name, text in headers.items()}
                    data = {"data": body} if isinstance(body, bytes) else {"json": body or {}}
                    if method != "POST":
                        data = {}
                    elif isinstance(body, bytes):
                        named.setdefault("Content-Type", "application/json")
                    async with session.request(method, f"http://{bind}{path}", headers=named, **data) as response:
                        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
                        return response.status, await response.json()

                await questions(say)
        finally:
            await server.stop()

    asyncio.run(run())
    return changed


def test_a_rollback_is_answered_with_what_is_so_now() -> None:
    broker = with_candidate("a", percent=100.0)

    async def questions(say: Ask) -> None:
        with structlog.testing.capture_logs() as logs:
            status, told = await say("/routes/rollback", {"why": "answers look odd"})
        assert status == 200
        assert (told["rollout"]["state"], told["rollout"]["reason"]) == ("rolled back", "answers look odd")
        assert told["rollout"]["percent"] == {"stable": 100.0, "candidate": 0.0}
        [act] = told["acts"]
        assert act == {"at": WALL, "what": "rollback", "detail": "answers look odd", "by": "127.0.0.1"}
        assert [(log["event"], log["said"], log["by"]) for log in logs] == [("operator", "rollback", "127.0.0.1")]
        assert told == (await say("/routes", method="GET"))[1]

    assert send_and_answer(broker, 1) == "candidate"
    assert ask(broker, questions) == ["changed"]
    assert send_and_answer(broker, 2) == "stable"
    assert [what for what, _, _ in broker.broker.routes.take_news()] == ["rollout rolled back"]


def test_the_rollout_is_led_by_hand() -> None:
    broker = with_candidate("a", stages=(1.0, 5.0, 25.0))

    async def questions(say: Ask) -> None:
        async def percent(command: str, body: Any = None) -> Any:
            status, told = await say(f"/routes/{command}", body)
            return told["rollout"]["percent"]["candidate"] if status == 200 else (status, told["error"])

        assert await percent("advance") == 5.0
        assert await percent("percent", {"percent": 7}) == pytest.approx(7.0)
        assert await percent("advance") == 25.0
        assert await percent("advance") == (409, "25 % is the last stage")
        status, why = await percent("resume")
        assert (status, "nothing to resume" in why) == (409, True)
        assert await percent("rollback") == 0.0
        assert await percent("rollback") == 0.0
        for command, body in (("advance", None), ("percent", {"percent": 50.0})):
            status, why = await percent(command, body)
            assert (status, "resume it first" in why) == (409, True)
        assert await percent("resume") == 1.0

    ask(broker, questions)
    history = [each.what for each in rollout_of(broker).history]
    assert history.count("rollout rolled back") == 1, "the second time it had been done already"


def test_an_override_begins_and_ends() -> None:
    broker = with_candidate("a", "b")

    async def questions(say: Ask) -> None:
        status, told = await say("/routes/override", {"capability": "c", "backend": "b", "for_s": 60})
        assert (status, told["overrides"]) == (200, [{"capability": "c", "backend": "b", "left_s": 60.0}])
        assert told["acts"][-1]["detail"] == "c to b for 60 s"
        status, told = await say("/routes/override?capability=c", method="DELETE")
        assert (status, told["overrides"]) == (200, [])
        status, told = await say("/routes/override?capability=c", method="DELETE")
        assert (status, told) == (409, {"error": "there is no override for 'c'"})
        assert (await say("/routes/override", method="DELETE"))[0] == 400

    assert ask(broker, questions) == ["changed"] * 2


@pytest.mark.parametrize(
    ("backend", "why"),
    [("nobody", "no backend 'nobody'"), ("other", "does not offer 'c'"), ("leaving", "'leaving' drains")],
)
def test_an_override_without_effect_is_refused(backend: str, why: str) -> None:
    broker = with_candidate("a")
    broker.register("other", "d")
    broker.register("leaving", "c", "e")
    broker.send("e")  # and so it is still there
    broker.drain(b"leaving")

    async def questions(say: Ask) -> None:
        status, told = await say("/routes/override", {"capability": "c", "backend": backend, "for_s": 60})
        assert (status, why in told["error"]) == (409, True), told

    assert ask(broker, questions) == []


def test_a_backend_is_drained_and_gets_messages_again() -> None:
    broker = with_candidate("a", "b")

    async def questions(say: Ask) -> None:
        row = {"backend": "b", "for_s": 0.0, "registered": True, "in_flight": 0}
        status, told = await say("/backends/drain", {"backend": "b"})
        assert (status, told) == (200, {"drained": [row]})
        _, told = await say("/backends", method="GET")
        assert ([each["state"] for each in told["backends"]], told["drained"]) == (["up", "drained"], [row])
        status, told = await say("/backends/drain?backend=b", method="DELETE")
        assert (status, told) == (200, {"drained": []})
        status, told = await say("/backends/drain?backend=b", method="DELETE")
        assert (status, told) == (409, {"error": "backend 'b' is not drained by anybody"})
        assert (await say("/backends/drain", {"backend": "x"}))[0] == 409
        status, told = await say("/backends/drain", method="DELETE")
        assert (status, told["error"]) == (400, "backend is missing: DELETE /backends/drain?backend=NAME")
        _, told = await say("/routes", method="GET")
        assert [(act["what"], act["detail"]) for act in told["acts"]] == [("drain", "b"), ("undrain", "b")]

    assert ask(broker, questions) == ["changed"] * 2


@pytest.mark.parametrize(
    ("page", "body", "status", "word"),
    [
        ("percent", b"{}", 400, "percent"),
        ("percent", b'{"percent": 101}', 400, "100"),
        ("percent", b'{"percent": NaN}', 400, "malformed"),
        ("percent", b'{"percent": "5"}', 400, "float"),
        ("percent", b"\xff", 400, ""),
        ("percent", b"[" * 16000, 400, ""),
        ("rollback", b'{"percent": 5}', 400, "unknown field"),
        ("rollback", b'{"why": ""}', 400, "why"),
        ("rollback", b" " * (BODY_BYTES + 1), 413, "bytes"),
        ("override", b'{"capability": "c", "backend": "a"}', 400, "for_s"),
        ("override", b'{"capability": "c", "backend": "a", "for_s": 0}', 400, "for_s"),
        ("override", b'{"capability": "c", "backend": "a", "for_s": 1e9}', 400, "for_s"),
        ("override", b'{"capability": "", "backend": "a", "for_s": 1}', 400, "capability"),
    ],
)
def test_what_is_malformed_is_said_in_a_line(page: str, body: bytes, status: int, word: str) -> None:
    broker = with_candidate("a")

    async def questions(say: Ask) -> None:
        got, told = await say(f"/routes/{page}", body)
        assert got == status
        assert word in told["error"]
        assert "\n" not in told["error"]

    assert ask(broker, questions) == []


def test_without_a_rollout_there_is_nothing_to_roll_back() -> None:
    broker = BrokerFixture(mode="single")

    async def questions(say: Ask) -> None:
        for page, body in (("rollback", None), ("resume", None), ("advance", None), ("percent", {"percent": 1})):
            status, told = await say(f"/routes/{page}", body)
            assert (status, "there is no rollout" in told["error"]) == (409, True)

    assert ask(broker, questions) == []


def test_with_a_token_only_those_who_know_it_may_write() -> None:
    broker = with_candidate("a")

    async def questions(say: Ask) -> None:
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Basic eA=="}):
            assert (await say("/routes/rollback", **wrong))[0] == 401
            assert (await say("/routes/override?capability=c", method="DELETE", **wrong))[0] == 401
            assert (await say("/backends/drain", {"backend": "a"}, **wrong))[0] == 401
            assert (await say("/backends/drain?backend=a", method="DELETE", **wrong))[0] == 401
        assert rollout_of(broker).state == "running"
        assert (await say("/routes", method="GET"))[0] == 200
        assert (await say("/routes/rollback", Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert rollout_of(broker).state == "rolled back"

    ask(broker, questions, token=TOKEN)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Host": "elsewhere.example:9575"}, 403),
        ({"Host": "elsewhere.example", "Origin": "http://elsewhere.example"}, 403),
    ],
)
def test_a_page_in_a_browser_cannot_write(headers: dict[str, str], status: int) -> None:
    broker = with_candidate("a")

    async def questions(say: Ask) -> None:
        got, told = await say("/routes/rollback", b"{}", **{"Content-Type": "application/json"} | headers)
        assert (got, "\n" in told["error"]) == (status, False)

    assert ask(broker, questions) == []
    assert rollout_of(broker).state == "running"


# --- the gate by itself ---


def status(bind: str, token: str = "", content_type: str | None = "application/json", **headers: str) -> int:
    objection = Gate(bind, token).objection({"Host": bind} | headers, content_type)
    return 200 if objection is None else objection.status


def test_beyond_loopback_nobody_writes_without_a_token() -> None:
    for bind in ("0.0.0.0:9575", "192.0.2.1:9575", "[::]:9575", "router.example:9575"):
        assert status(bind) == 403
        assert status(bind, TOKEN) == 401
        assert status(bind, TOKEN, Authorization=f"bearer  {TOKEN}", Host="router.example") == 200
        assert status(bind, TOKEN, Authorization=f"Bearer {TOKEN}", Origin="http://elsewhere.example") == 403


def test_a_token_that_is_no_ascii_is_a_wrong_one() -> None:
    assert status("0.0.0.0:9575", TOKEN, Authorization="Bearer \udcff\u00e9") == 401


def test_loopback_by_all_its_names() -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "127.8.9.1"):
        assert status(f"{host}:9575", Host="localhost") == 200
        assert status("127.0.0.1:9575", Host=f"{host}:80", Origin=f"http://{host}:80") == 200
    assert [is_loopback(host) for host in ("0.0.0.0", "localhost.example", "", "[::]")] == [False] * 4
    assert status("127.0.0.1:9575", Host="") == 403


# --- the token's file ---


def test_the_token_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert admin_token(AdminSection(token_file=str(file))) == TOKEN
    assert admin_token(AdminSection(token=TOKEN)) == TOKEN
    assert admin_token(AdminSection()) == ""


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"with a space in it, and long", "é".encode() * 20])
def test_a_file_without_a_token_ends_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="has no token") as raised:
        admin_token(AdminSection(token_file=str(file)))
    assert not content.strip() or content.decode() not in str(raised.value)


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        admin_token(AdminSection(token_file=str(tmp_path / "none")))


# --- the operator by itself ---


def test_what_was_said_is_remembered_within_bounds() -> None:
    operator = Operator(with_candidate("a").broker)
    for number in range(MOST_ACTS + 3):
        operator.remember(Act(float(number), "advance", "", "somebody"))
    shown = operator.view()["acts"]
    assert (len(shown), shown[0]["at"], shown[-1]["at"]) == (MOST_ACTS, 3.0, MOST_ACTS + 2.0)


def test_every_change_has_another_revision() -> None:
    broker = with_candidate("a", stages=(1.0, 5.0, 25.0))
    operator, seen = Operator(broker.broker), set()
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: operator.advance(0.0),
        lambda: operator.set_percent(5.0, 0.0),
        lambda: operator.roll_back(0.0),
        lambda: operator.resume(0.0),
        lambda: operator.override("c", "a", 1.0, 0.0),
        lambda: operator.end_override("c"),
        lambda: operator.drain("a", 0.0),
        lambda: operator.undrain("a", 0.0),
        lambda: operator.remember(Act(0.0, "advance", "", "somebody")),
        lambda: setattr(broker.broker.routes, "rollout", copy.copy(rollout_of(broker))),
    ]
    for change in changes:
        change()
        seen.add(operator.revision())
    assert len(seen) == len(changes)

"""The commands that ask a running daemon: what they request, how they lay it out, and what a bad answer does."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from command_line import invoke

from router_daemon.core import views, whys
from router_daemon.core.actions import Deliver
from router_daemon.testing import BrokerFixture, only


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ROUTER_DAEMON__")]:
        monkeypatch.delenv(name)


BACKENDS: Final = {
    "backends": [
        {
            "name": "fast\x1b[31m",
            "up": True,
            "state": "up",
            "capabilities": ["alpha", "beta"],
            "slots": 2,
            "prefetch": 1,
            "in_flight": 1,
            "queue": None,
            "latency_ms": 1.23456,
            "success_ratio": 0.9,
            "group": None,
            "zone": "eu-1",
            "version": None,
            "cost": None,
            "deliveries": {"acked": 10, "nacked": 2},
            "failures": {"timeout": 1, "nack": 2},
            "connected_s": 12.5,
            "last_seen_s": 0.25,
        },
        {"name": "old", "state": "draining"},
    ]
}

EXPLAIN: Final = {
    "capability": "alpha",
    "priority": 3,
    "policy": "paper",
    "mode": "fanout",
    "heads": 3,
    "threshold": 0.3,
    "require_capability": True,
    "cache": {"state": "hit", "age_s": 3.25, "ttl_s": 30.0},
    "error": None,
    "candidates": [
        {
            "backend": "fast",
            "weight": 0.6,
            "score": 0.9,
            "terms": {"capability": 0.4, "performance": 0.2, "reliability": 0.2, "priority": 0.075},
            "head": 1,
            "reason": "best score",
            "in_flight": 0,
            "places": 3,
        },
        {"backend": "slow", "score": 0.5, "terms": {"capability": 0.4}, "head": None, "reason": "no place"},
    ],
}


class Admin:
    """An admin room that answers what it is told to, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.body = b"{}"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def says(self, answer: Any) -> None:
        self.body = json.dumps(answer).encode()


@pytest.fixture
def admin() -> Iterator[Admin]:
    room = Admin()
    thread = threading.Thread(target=room.server.serve_forever, args=(0.01,))
    thread.start()
    yield room
    room.server.shutdown()
    room.server.server_close()
    thread.join()


def columns(line: str) -> list[str]:
    return [cell for cell in line.replace("  ", "\0").split("\0") if cell.strip()]


def test_backends_is_an_aligned_table(admin: Admin) -> None:
    admin.says(BACKENDS)
    result = invoke("backends", "--admin", admin.address)
    assert result.exit_code == 0
    header, fast, old = result.stdout.splitlines()
    assert [cell.strip() for cell in columns(header)] == [
        *("NAME", "STATE", "OPEN", "QUEUE", "MS", "SUCCESS", "ACKED", "FAILED", "SEEN S"),
        *("ZONE", "CAPABILITIES"),
    ]
    assert [cell.strip() for cell in columns(fast)] == [
        *("fast\\x1b[31m", "up", "1/3", "-", "1.23", "0.900", "10", "3", "0.25", "eu-1", "alpha, beta"),
    ]
    assert [cell.strip() for cell in columns(old)][:3] == ["old", "draining", "-/-"]
    assert header.index("CAPABILITIES") == fast.index("alpha")
    assert header.index("MS") + len("MS") == fast.index("1.23") + len("1.23")


def test_backends_as_json_is_what_the_daemon_said(admin: Admin) -> None:
    admin.says(BACKENDS)
    assert json.loads(invoke("backends", "--json", "--admin", admin.address).stdout) == BACKENDS


def test_no_backends(admin: Admin) -> None:
    admin.says({"backends": []})
    assert invoke("backends", "--admin", admin.address).stdout == "no backends\n"


@pytest.mark.parametrize("name", [["alpha"], ["--capability", "alpha"]])
def test_explain_shows_every_candidate_term_by_term(admin: Admin, name: list[str]) -> None:
    admin.says(EXPLAIN)
    result = invoke("explain", *name, "--priority", "3", "--admin", admin.address)
    assert result.exit_code == 0
    rule, ranking, _, who, first, second, _, header, fast, slow = result.stdout.splitlines()
    assert rule == ("alpha, priority 3: policy paper, mode fanout, up to 3 heads over 0.3, capability required")
    assert ranking == "cached ranking: hit, 3.25 s old, kept for 30.0 s"
    assert [cell.strip() for cell in columns(who)] == ["HEAD", "BACKEND", "STATE", "OPEN", "REASON"]
    assert [cell.strip() for cell in columns(first)] == ["1", "fast", "-", "0/3", "best score"]
    assert [cell.strip() for cell in columns(second)] == ["-", "slow", "-", "-/-", "no place"]
    assert [cell.strip() for cell in columns(header)] == [
        *("BACKEND", "WEIGHT", "SCORE", "CAPABILITY", "PERFORMANCE", "RELIABILITY", "PRIORITY"),
    ]
    assert [cell.strip() for cell in columns(fast)] == [
        *("fast", "0.600", "0.900", "0.400", "0.200", "0.200", "0.075"),
    ]
    assert [cell.strip() for cell in columns(slow)] == ["slow", "-", "0.500", "0.400", "-", "-", "-"]
    assert admin.asked == ["/explain?capability=alpha&priority=3"]


def lively() -> BrokerFixture:
    """Return a broker with everything that can be shown: open work, costs, one that is ejected, one that is new."""
    broker = BrokerFixture(policy="attention", heartbeat_s=60.0)
    for name in ("trend-theil-sen", "export-spool-1", "bad"):
        broker.register(name, "trend_analysis", slots=4)
    for number in range(8):
        heads = only(broker.send("trend_analysis", client_id=number, mode="fanout"), Deliver)
        broker.clock.advance(0.0123)
        for sent in sorted(heads, key=lambda sent: sent.peer != b"bad"):
            (broker.nack if sent.peer == b"bad" else broker.ack)(sent)
    broker.register("anomaly-detector", "trend_analysis", slots=4, cost=0.25, prefetch=2)
    broker.heartbeat(b"export-spool-1", queue=3)
    for number in range(6):
        broker.send("trend_analysis", client_id=100 + number, mode="single")
    broker.clock.advance(0.002)
    return broker


def test_explain_shows_the_moment_in_a_hundred_columns(admin: Admin) -> None:
    broker = lively()
    admin.says(views.explain(broker.broker, "trend_analysis", 2, broker.clock.now))
    result = invoke("explain", "trend_analysis", "--max-cost", "7.5", "--admin", admin.address)
    assert result.exit_code == 0
    assert admin.asked == ["/explain?capability=trend_analysis&priority=2&max_cost=7.5"]
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100, "of names and reasons as long as these"
    for wanted in (
        "a message now: send, there is room",
        "mode auto now: single, ",
        "slots: ",
        "budgets: ",
        "waiting by",
    ):
        assert [line for line in lines if line.startswith(wanted)], wanted
    assert "ejected for another" in result.stdout
    assert "SILENT S" in result.stdout
    assert "COST" in result.stdout


def test_backends_show_what_limits_them_and_their_services_when_asked(admin: Admin) -> None:
    broker = lively()
    admin.says({"backends": views.backends(broker.broker, broker.clock.now)})
    result = invoke("backends", "--admin", admin.address)
    assert "ejected 0." in result.stdout
    assert "up, slow: 1" in result.stdout
    assert "WORK MS" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    result = invoke("backends", "--services", "--admin", admin.address)
    header, *rows = result.stdout.split("\n\n")[1].splitlines()
    assert columns(header)[:2] == ["NAME", "CAPABILITY"]
    assert len(rows) == 4
    assert max(map(len, result.stdout.splitlines())) <= 100
    admin.says(BACKENDS)
    assert "nothing was measured yet" in invoke("backends", "--services", "--admin", admin.address).stdout


def test_explain_of_what_nobody_offers_says_so_and_fails(admin: Admin) -> None:
    error = {"code": "no_capability", "detail": "nobody offers\nit"}
    answer = EXPLAIN | {"capability": "ä&b", "error": error, "candidates": [], "cache": {"state": "absent"}}
    admin.says(answer)
    result = invoke("explain", "ä&b", "--admin", admin.address)
    assert (result.exit_code, result.stderr) == (3, "error: no_capability: nobody offers\\nit\n")
    assert admin.asked == ["/explain?capability=%C3%A4%26b&priority=2"]
    result = invoke("explain", "ä&b", "--json", "--admin", admin.address)
    assert (result.exit_code, json.loads(result.stdout)) == (3, answer)


@pytest.mark.parametrize("arguments", [[], ["a", "--capability", "b"]])
def test_explain_needs_one_capability(arguments: list[str]) -> None:
    result = invoke("explain", *arguments)
    assert (result.exit_code, result.stderr) == (2, "error: explain takes one CAPABILITY\n")


@pytest.mark.parametrize("answer", [[], {"backends": 3}, {"backends": [3]}, {"backends": None}, {}])
def test_answers_of_another_shape_are_no_traceback(admin: Admin, answer: Any) -> None:
    admin.says(answer)
    result = invoke("backends", "--admin", admin.address)
    assert result.exit_code == (0 if isinstance(answer, dict) else 1)
    assert len(result.output.splitlines()) == 1
    admin.says({"candidates": [{"terms": 3}, {"terms": {"x\n": "y"}}], "cache": 3})
    assert invoke("explain", "alpha", "--admin", admin.address).exit_code == 0


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (400, b'{\n  "error": "no such\\nthing"\n}\n', "answered 400 Bad Request: no such\\nthing"),
        (503, b"draining", "answered 503 Service Unavailable: draining"),
        (404, b"", "answered 404 Not Found: "),
        (200, b"<html>", "answered something that is no JSON object"),
        (200, b"\xff", "answered something that is no JSON object"),
        (200, b"[" * 100_000, "answered something that is no JSON object"),
    ],
    ids=["error in JSON", "error in words", "error without words", "no JSON", "no UTF-8", "too deep"],
)
def test_a_bad_answer_is_one_line(admin: Admin, status: int, body: bytes, text: str) -> None:
    admin.status, admin.body = status, body
    result = invoke("backends", "--admin", admin.address)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: http://{admin.address}/backends {text}\n"


def test_no_admin_room_is_one_line() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # taken, and nobody listens
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        result = invoke("backends", "--admin", address, env={"http_proxy": "http://127.0.0.1:1"})
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: no daemon's admin room at {address}: connection refused\n",
    )


def test_the_admin_address_comes_from_the_configuration(admin: Admin, tmp_path: Path) -> None:
    admin.says(BACKENDS)
    path = tmp_path / "router.toml"
    path.write_text(f'[admin]\nbind = "{admin.address.replace("127.0.0.1", "0.0.0.0")}"\n')
    assert invoke("backends", "--config", str(path)).exit_code == 0
    assert invoke("backends", env={"ROUTER_DAEMON__ADMIN__BIND": admin.address}).exit_code == 0
    assert len(admin.asked) == 2


# --- why ---


def troubled() -> BrokerFixture:
    """Return a broker with a message that was retried, one that failed, and one that is open."""
    broker = BrokerFixture(policy="attention", mode="single", heartbeat_s=1000.0)
    for name in ("one\x1b[31m", "two"):
        broker.register(name, "c", slots=2, peer=name.encode())
    (first,) = only(broker.send("c", client_id="job\x1b[31m"), Deliver)
    broker.advance(0.010)
    (second,) = only(broker.nack(first, reason="disk full"), Deliver)
    broker.advance(0.020)
    broker.ack(second)
    (third,) = only(broker.send("c", client_id=8), Deliver)
    broker.nack(third, "rejected", reason="no such page")
    broker.send("c", client_id=9)
    return broker


def told(broker: BrokerFixture, text: str) -> dict[str, Any]:
    return {"decisions": whys.why(broker.broker, text, broker.clock.now, 1_750_000_000.0)}


def test_why_shows_a_message_from_end_to_end(admin: Admin) -> None:
    admin.says(told(troubled(), "m1"))
    result = invoke("why", "job/ä 7", "--admin", admin.address)
    assert result.exit_code == 0
    assert admin.asked == ["/decisions/job%2F%C3%A4%207?"]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("m1: c, priority 2, id job\\x1b[31m (text) of client 636c69656e74, trace -")
    assert lines[1].startswith("came 2025-06-15T15:06:39.970Z (0.03 s ago) with 0 bytes and 30000 ms to live; kept as ")
    assert "after 30.0 ms, last failure: " in lines[2]
    assert lines[3].startswith(
        "mode single (asked: -; done: single), up to 3 heads, reply first; route stable, policy att"
    )
    assert "\x1b" not in result.stdout
    header, first, second = lines[6:9]
    assert [cell.strip() for cell in columns(header)] == [
        *("HEAD", "BACKEND", "OUTCOME", "SENT", "SETTLED", "TOOK", "EXPECTED WORK", "WORK SHARE", "QUEUE", "NOTE"),
    ]
    assert [cell.strip() for cell in columns(first)][2:6] == ["failed", "0", "10.00", "10.00"]
    assert [cell.strip() for cell in columns(second)][2:6] == ["acked, the answer", "10.00", "30.0", "20.0"]
    assert [line for line in lines if line.startswith("terms: ")] == ["terms: exact, as compared at that moment"] * 2
    candidates = [columns(line) for line in lines if "others were better" in line or "drawn after it" in line]
    assert candidates
    assert "it had been tried" in lines[-1]


def test_why_says_what_is_not_exact_and_where_to_look(admin: Admin) -> None:
    admin.says(told(troubled(), "m2"))
    text = invoke("why", "m2", "--admin", admin.address).stdout
    assert "rejected after 0 ms: " in text
    assert "\nterms: " not in text
    assert text.splitlines()[-1] == (
        "the nearest message of the kind whose first decision has its terms: m1, 30.0 ms earlier"
    )


def test_why_without_an_id_lists(admin: Admin) -> None:
    broker = troubled()
    admin.says(whys.search(broker.broker, whys.Wanted(), 50, broker.clock.now, 1_750_000_000.0))
    result = invoke("why", "--outcome", "rejected", "--since", "60", "--limit", "7", "--admin", admin.address)
    assert admin.asked == ["/decisions?limit=7&outcome=rejected&since=60.0"]
    header, failed, retried = result.stdout.splitlines()
    assert [cell.strip() for cell in columns(header)] == [
        *("WHEN", "MESSAGE", "ID", "CAPABILITY", "PRIO", "KEPT", "OUTCOME", "MS", "BACKENDS"),
    ]
    assert [cell.strip() for cell in columns(failed)][1:7] == ["m2", "8", "c", "2", "failed", "rejected"]
    assert [cell.strip() for cell in columns(retried)][1:7] == [
        *("m1", "job\\x1b[31m", "c", "2", "retried", "answered"),
    ]
    admin.says({"decisions": []})
    assert invoke("why", "--admin", admin.address).stdout == "no decisions\n"


def test_why_as_json_is_what_the_daemon_said(admin: Admin) -> None:
    answer = told(troubled(), "9")
    admin.says(answer)
    assert json.loads(invoke("why", "9", "--json", "--admin", admin.address).stdout) == answer
    assert answer["decisions"][0]["outcome"] == "open"


def test_why_of_what_is_not_there_says_so_and_fails(admin: Admin) -> None:
    admin.status = 404
    admin.says({"error": "nothing is kept of 'm9': it was never here"})
    result = invoke("why", "m9", "--admin", admin.address)
    assert (result.exit_code, result.stderr) == (3, "error: nothing is kept of 'm9': it was never here\n")


def test_why_takes_an_id_or_a_search() -> None:
    result = invoke("why", "m9", "--backend", "a")
    assert (result.exit_code, result.stderr) == (2, "error: why takes an ID or --backend, not both\n")


@pytest.mark.parametrize("command", [["why"], ["why", "m1"]])
@pytest.mark.parametrize("answer", [{}, {"decisions": [{}]}, {"decisions": [{"decisions": [{}], "deliveries": [{}]}]}])
def test_why_survives_an_answer_of_another_version(admin: Admin, command: list[str], answer: Any) -> None:
    admin.says(answer)
    assert invoke(*command, "--admin", admin.address).exit_code == 0

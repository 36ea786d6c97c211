"""`router-daemon route`: against the very pages of the admin server, and what it refuses to send."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from admin_kit import Served
from command_line import invoke
from conftest import free_port
from rollout_kit import rollout_of, send_and_answer, with_candidate

from router_daemon.cli import routing
from router_daemon.cli.exits import CommandError
from router_daemon.cli.operating import seconds_of
from router_daemon.core.actions import Deliver
from router_daemon.core.rollout import ROLLED_BACK
from router_daemon.testing import only

TOKEN: Final = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ROUTER_DAEMON__")]:
        monkeypatch.delenv(name)


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(token: str = "") -> Served:
        running.append(Served(with_candidate("a", "b", stages=(1.0, 5.0, 100.0)), token))
        running[-1].start()
        return running[-1]

    with structlog.testing.capture_logs():  # the daemon's log is not the command's output
        yield start
        for each in running:
            each.stop()


def test_route_shows_routes_and_rollout(served: Callable[..., Served]) -> None:
    room = served()
    send_and_answer(room.broker, 1, after_s=0.01)
    code, text = room.says()
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split() == [
        *("ROUTE", "POLICY", "DECIDES", "PERCENT", "ANSWERED", "SUCCESS", "P50", "MS", "P99", "MS", "QUALITY")
    ]
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["stable", "paper", "stable", "99.0", "1"],
        ["candidate", "round_robin", "candidate", "1.00", "-"],
    ]
    assert "rollout candidate of candidate: running" in lines
    assert "the stage waits for 1000 answers of candidate in this window" in lines


def test_route_names_what_is_to_be_retired_and_why(served: Callable[..., Served]) -> None:
    room = served()
    room.broker.broker.routes.review(room.broker.clock.now)
    why = "the rollout does not refer to it, and messages may not name it (routing.allow_policy)"
    assert f"to be retired: baseline: {why}" in room.says()[1].splitlines()


def test_explain_says_which_route_a_key_takes_and_shows_another(served: Callable[..., Served]) -> None:
    room = served()
    room.broker.broker.overrides.set("c", "a", 60.0, room.broker.clock.now)

    def explained(*arguments: str) -> tuple[int, list[str]]:
        result = invoke("explain", "c", *arguments, "--admin", room.address)
        return result.exit_code, (result.stdout + result.stderr).splitlines()

    code, lines = explained()
    assert (code, lines[1]) == (0, "route stable: no route was asked for; other routes: candidate, baseline")
    assert "override: new messages go to a for another 60.0 s" in lines
    code, lines = explained("--key", "user 7 & co")
    assert (code, lines[1]) == (
        0,
        "route stable: a message with this key takes it; other routes: candidate, baseline",
    )
    assert lines[2].startswith("key user 7 & co takes stable (rollout candidate): the key stands at ")
    assert "the rollout is running, at 1.00 %: stage 1 of 3" in lines
    code, lines = explained("--route", "candidate")
    assert (code, "policy round_robin" in lines[0]) == (0, True)
    assert lines[1] == "route candidate: asked for; other routes: stable, baseline"
    code, lines = explained("--route", "nobody")
    assert (code, lines) == (3, ["error: there is no route 'nobody', but: stable, candidate, baseline"])


def test_the_rollout_is_led_from_the_command_line(served: Callable[..., Served]) -> None:
    room = served()
    rollout = rollout_of(room.broker)
    assert room.says("advance")[0] == 0
    assert rollout.percent == 5.0
    assert room.says("percent", "7.5")[0] == 0
    assert rollout.percent == 7.5
    code, text = room.says("rollback", "--why", "odd \x1b[31m answers")
    assert (code, rollout.state) == (0, ROLLED_BACK)
    assert "rolled back: odd \\x1b[31m answers" in text
    assert "\x1b" not in text
    code, text = room.says("advance")
    assert (code, text.count("\n"), "resume it first" in text) == (3, 1, True)
    code, text = room.says("resume", "--json")
    assert (code, json.loads(text)["rollout"]["state"]) == (0, "running")
    acts = [act["what"] for act in json.loads(text)["acts"]]
    assert acts == ["advance", "percent", "rollback", "resume"]


def test_an_override_from_the_command_line(served: Callable[..., Served]) -> None:
    room = served()
    code, text = room.says("override", "--capability", "c", "--backend", "b", "--for", "10m")
    assert code == 0
    assert ["c", "b", "600"] in [line.split() for line in text.splitlines()]
    assert room.broker.broker.overrides.backend("c", room.broker.clock.now + 599.0) == "b"
    assert room.says("override", "--end", "--capability", "c")[0] == 0
    code, text = room.says("override", "--end", "--capability", "c")
    assert (code, text) == (3, "error: there is no override for 'c'\n")
    code, text = room.says("override", "--capability", "c", "--backend", "z", "--for", "1m")
    assert (code, text) == (3, "error: no backend 'z' is registered\n")


def test_the_token_comes_from_the_option_the_environment_or_the_file(
    served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = served(TOKEN)
    code, text = room.says("advance")
    assert (code, "token is missing or wrong" in text) == (3, True)
    assert room.says("advance", "--token", "another-token-of-some-length")[0] == 3
    assert room.says("advance", "--token", TOKEN)[0] == 0
    monkeypatch.setenv("ROUTER_DAEMON__ADMIN__TOKEN", TOKEN)
    assert room.says("rollback")[0] == 0
    monkeypatch.delenv("ROUTER_DAEMON__ADMIN__TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("ROUTER_DAEMON__ADMIN__TOKEN_FILE", str(tmp_path / "token"))
    assert room.says("resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--json", "rollback"], "options stand after the subcommand"),
        (["--admin", "127.0.0.1:1", "rollback"], "options stand after the subcommand"),
        (["percent", "101"], "100"),
        (["percent"], "N"),
        (["override", "--capability", "c"], "--backend and --for"),
        (["override", "--capability", "c", "--backend", "b", "--for", "10 minutes"], "--for 10 minutes"),
        (["override", "--capability", "c", "--backend", "b", "--end"], "--capability alone"),
        (["advance", "--admin", "127.0.0.1:1", "--token", "a\nb"], "--token"),
        (["advance", "--admin", "nowhere"], "--admin nowhere"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], word: str) -> None:
    result = invoke("route", *arguments)
    assert result.exit_code == 2
    assert word in result.stderr


def test_without_a_daemon_it_is_exit_code_1() -> None:
    result = invoke("route", "rollback", "--admin", f"127.0.0.1:{free_port()}")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1.5", 1.5)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1m", "m", "10w", "1e3", "nan", "٣m", "1m\n"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CommandError, match="must be a time"):
        seconds_of(text)


def test_a_token_is_not_sent_on_to_another_place() -> None:
    """RFC 9110, 15.4: a redirection is the client's choice; urllib would take the token with it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        result = invoke("route", "advance", "--token", TOKEN, "--admin", f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (result.exit_code, asked) == (1, ["/routes/advance"])
    assert TOKEN not in result.output


def test_an_answer_of_another_version_is_shown_with_dashes() -> None:
    assert "no rollout" in routing.routes_text({})
    odd: dict[str, Any] = {
        "routes": [{"name": "stable\x07"}],
        "rollout": {"state": "running", "missing": "much", "history": [{}]},
        "acts": [{"at": "yesterday"}, {"at": 0.0}],
    }
    text = routing.routes_text(odd)
    assert "stable\\x07" in text
    assert "1970-01-01T00:00:00Z" in text


def test_check_reads_the_file_of_the_token_and_shows_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_DAEMON__ADMIN__TOKEN", TOKEN)
    shown = invoke("check", "--show")
    assert (shown.exit_code, TOKEN in shown.output, "# token is set, and not shown" in shown.output) == (0, False, True)
    monkeypatch.setenv("ROUTER_DAEMON__ADMIN__TOKEN_FILE", str(tmp_path / "none"))
    both = invoke("check")
    assert (both.exit_code, TOKEN in both.output) == (2, False)
    assert "must not be set together" in both.output
    monkeypatch.delenv("ROUTER_DAEMON__ADMIN__TOKEN")
    assert "cannot be read" in invoke("check").output
    monkeypatch.setenv("ROUTER_DAEMON__ADMIN__TOKEN", "too short")
    short = invoke("check")
    assert (short.exit_code, "short" in short.output, "admin.token = ...: must be 16 to" in short.output) == (
        2,
        False,
        True,
    )


# --- drain and undrain ---


def test_a_backend_is_drained_and_undrained(served: Callable[..., Served]) -> None:
    room = served()
    code, text = room.told("drain", "b")
    assert (code, [line.split() for line in text.splitlines()]) == (
        0,
        [["DRAINED", "FOR", "S", "REGISTERED", "OPEN"], ["b", "0", "yes", "0"]],
    )
    assert room.broker.backend("b").state == "drained"
    assert room.told("drain", "b")[0] == 0, "twice is as good as once"
    assert room.told("undrain", "b") == (0, "nobody is drained\n")
    assert room.broker.backend("b").state == "up"
    assert room.told("undrain", "b") == (3, "error: backend 'b' is not drained by anybody\n")
    code, text = room.told("drain", "x\x1b[31m")
    assert (code, text) == (3, "error: no backend 'x\\x1b[31m' is registered\n")
    code, text = room.told("drain", "b", "--json")
    assert [row["backend"] for row in json.loads(text)["drained"]] == ["b"]


def test_drain_waits_until_nothing_is_open(served: Callable[..., Served], monkeypatch: pytest.MonkeyPatch) -> None:
    room = served()
    [sent] = only(room.broker.send("c"), Deliver)
    name = sent.peer.decode()
    code, text = room.told("drain", name, "--wait", "0.001s")
    assert (code, text) == (4, f"error: {name} is drained, and 1 deliveries are open there still\n")
    monkeypatch.setattr("router_daemon.cli.draining.time.sleep", lambda _: room.broker.ack(sent))
    code, text = room.told("drain", name, "--wait", "1h")
    assert (code, text.splitlines()[1].split()) == (0, [name, "0", "yes", "0"])
    assert room.told("drain", name, "--wait", "soon")[0] == 2


def test_draining_needs_the_token(served: Callable[..., Served]) -> None:
    room = served(TOKEN)
    assert room.told("drain", "a")[0] == 3
    assert room.told("drain", "a", "--token", TOKEN)[0] == 0
    assert room.told("undrain", "a")[0] == 3
    assert room.broker.backend("a").state == "drained"

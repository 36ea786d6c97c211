"""The command line: what it calls with which values, what it prints, and how each kind of trouble ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

import pytest
from command_line import environ, invoke, process

from router_daemon import __version__
from router_daemon.cli import sending
from router_daemon.config import Config, addresses
from router_daemon.errors import ConnectionLost, StartError, router_error
from router_daemon.sdk.answers import Reply

REPOSITORY: Final = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ROUTER_DAEMON__")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("router_daemon.logs.configure_logging", lambda *_: None)


# --- run ---

Read = Callable[[], Config]
Daemon = Callable[[Callable[[Config, Read], int]], None]


@pytest.fixture
def as_daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Let a function stand for the daemon."""

    def replace(run: Callable[[Config, Read], int]) -> None:
        module = ModuleType("router_daemon.daemon")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "router_daemon.daemon", module)

    return replace


def test_run_gives_the_daemon_its_configuration_and_returns_its_exit_code(as_daemon: Daemon, tmp_path: Path) -> None:
    seen: list[Config] = []
    path = tmp_path / "router.toml"

    def run(config: Config, read: Read) -> int:
        path.write_text("[routing]\nheads = 2\nthreshold = 0.1\n")
        seen.extend((config, read()))
        return 7

    as_daemon(run)
    path.write_text("[routing]\nheads = 1\nthreshold = 0.1\n[log]\nlevel = 'error'\n")
    flags = ["--frontend", "ipc://a", "--backend", "ipc://b", "--admin", "", "--log-level", "debug"]
    result = invoke("run", "--config", str(path), "--set", "routing.threshold=0.2", "--set", "log.format=json", *flags)
    assert result.exit_code == 7
    config, again = seen
    assert (config.routing.heads, config.routing.threshold) == (1, 0.2)
    assert (again.routing.heads, again.routing.threshold) == (2, 0.2), "read again, under the same flags"
    assert (again.frontend, again.log.level) == (config.frontend, "debug")
    assert (config.frontend.bind, config.backend.bind, config.admin.bind) == ("ipc://a", "ipc://b", "")
    assert (config.log.level, config.log.format) == ("debug", "json")


def test_run_that_cannot_start_is_one_line(as_daemon: Daemon) -> None:
    def run(config: Config, read: Read) -> int:
        raise StartError("tcp://127.0.0.1:5570 is in use")

    as_daemon(run)
    result = invoke("run")
    assert (result.exit_code, result.stderr) == (1, "error: tcp://127.0.0.1:5570 is in use\n")


def test_run_with_a_wrong_configuration_names_every_fault(as_daemon: Daemon) -> None:
    result = invoke("run", "--frontend", "here", "--log-level", "loud", "--set", "routing.heads=9")
    assert result.exit_code == 2
    assert [line.split(" ")[0] for line in result.stderr.splitlines()] == ["--set:", "--frontend:", "--log-level:"]


def test_an_interrupted_command_ends_without_a_word(as_daemon: Daemon) -> None:
    def run(config: Config, read: Read) -> int:
        raise KeyboardInterrupt

    as_daemon(run)
    result = invoke("run")
    assert (result.exit_code, result.output) == (130, "")


# --- check ---


def test_check(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[routing]\nheads = 1\n")
    bad.write_text("[routing]\nheads = 9\nmodus = 'single'\n")
    assert invoke("check").output == "ok: the defaults\n"
    assert invoke("check", "--config", str(good)).output == f"ok: {good}\n"
    result = invoke("check", "--config", str(bad), "--set", "log.level=loud")
    assert (result.exit_code, result.stdout) == (2, "")
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [f"{bad}:2", f"{bad}:3", "--set"]


def test_check_show_prints_what_is_in_force_as_toml(tmp_path: Path) -> None:
    shown = tmp_path / "shown.toml"
    result = invoke("check", "--show", "--set", "routing.heads=1", env={"ROUTER_DAEMON__ROUTING__SEED": "4"})
    shown.write_text(result.stdout)
    assert "heads = 1\n" in result.stdout
    assert invoke("check", "--show", "--config", str(shown)).stdout == result.stdout
    assert "seed = 4\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("backends --admin here", "--admin here: must be HOST:PORT"),
        ("backends --admin a:0", "--admin a:0: must name a port, to be connected to"),
        ("backends --admin ", "the admin room is switched off (admin.bind): say where it is with --admin HOST:PORT"),
        ("send --capability a --frontend tcp://a:*", "--frontend tcp://a:*: must name a port, to be connected to"),
        ("send --capability a --frontend a:1", f"--frontend a:1: must be {addresses.ENDPOINT_RULE}"),
        ("send --capability a --all --stream", "--all and --stream cannot be had together"),
        ("serve --name n --capability c -- no-such-program -x", "no such executable: no-such-program"),
    ],
)
def test_wrong_usage_is_one_line(arguments: str, text: str) -> None:
    result = invoke(*arguments.split(" "))
    assert (result.exit_code, result.output) == (2, f"error: {text}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        *("send", "nonsense", "run --x", "serve --name a -- true", "send --capability a --priority 5"),
        *("send --capability a --heads 0", "send --capability a --mode x"),
    ],
)
def test_options_that_do_not_exist_or_fit(arguments: str) -> None:
    result = invoke(*arguments.split(" "))
    assert result.exit_code == 2
    assert "Error: " in result.stderr


# --- send ---


class FakeClient:
    """What `send` needs of a SyncClient; `answer` is what the daemon does."""

    answer: Any = None
    calls: Final[list[tuple[str, str, list[bytes], dict[str, Any]]]] = []

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def ping(self, timeout_s: float) -> None:
        assert timeout_s == 2.0
        if isinstance(self.answer, ConnectionLost):
            raise self.answer

    def _answer(self, capability: str, body: list[bytes], keys: dict[str, Any]) -> Any:
        self.calls.append((self.address, capability, body, keys))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def send(self, capability: str, body: list[bytes], **keys: Any) -> Any:
        return self._answer(capability, body, keys)

    def send_all(self, capability: str, body: list[bytes], **keys: Any) -> Any:
        return self._answer(capability, body, keys)

    def stream(self, capability: str, body: list[bytes], **keys: Any) -> Any:
        pieces, end = self._answer(capability, body, keys)
        yield from pieces
        return end


@pytest.fixture
def daemon_says(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    monkeypatch.setattr(sending, "SyncClient", FakeClient)
    FakeClient.calls.clear()
    yield lambda answer: setattr(FakeClient, "answer", answer)
    FakeClient.answer = None


def reply(*body: bytes) -> Reply:
    return Reply(list(body), "fast", 1, 1, 0.5, "m1")


def test_send_writes_the_body_as_it_is(daemon_says: Callable[[Any], None]) -> None:
    daemon_says(reply(b"\xff\x00", b"tail"))
    options = ["--priority", "4", "--body", "hi ü", "--ttl-ms", "50", "--heads", "2", "--mode", "single"]
    result = invoke("send", "--capability", "alpha", *options)
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, b"\xff\x00tail", "")
    keys = {"priority": 4, "ttl_ms": 50, "heads": 2, "mode": "single"}
    assert FakeClient.calls == [("tcp://127.0.0.1:5570", "alpha", ["hi ü".encode()], keys)]


def test_send_reads_standard_input_and_finds_the_daemon(daemon_says: Callable[[Any], None]) -> None:
    daemon_says(reply())
    variables = {"ROUTER_DAEMON__FRONTEND__BIND": '["tcp://*:77", "ipc://b"]'}
    invoke("send", "--capability", "a", "--body", "-", input=b"\x00\xfe\n", env=variables)
    invoke("send", "--capability", "a", "--frontend", "ipc://c")
    assert [call[0::2] for call in FakeClient.calls] == [("tcp://127.0.0.1:77", [b"\x00\xfe\n"]), ("ipc://c", [])]
    assert FakeClient.calls[1][3] == {"priority": 2, "ttl_ms": None, "heads": None, "mode": None}


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        *(("no_capability", 3), ("no_backend", 3), ("overloaded", 3), ("draining", 3), ("forbidden", 3)),
        *(("bad_header", 3), ("rejected", 3), ("cancelled", 3), ("expired", 4), ("failed", 4), ("internal", 4)),
        ("a_code_of_tomorrow", 4),
    ],
)
def test_send_says_why_there_is_no_answer(daemon_says: Callable[[Any], None], code: str, exit_code: int) -> None:
    daemon_says(router_error(code, "for a reason", retry=False))
    result = invoke("send", "--capability", "a")
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", f"error: {code}: for a reason\n")


def test_send_without_a_daemon(daemon_says: Callable[[Any], None]) -> None:
    daemon_says(ConnectionLost("no answer", retry=True))
    result = invoke("send", "--capability", "a")
    assert (result.exit_code, result.stderr) == (1, "error: no daemon at tcp://127.0.0.1:5570\n")
    assert FakeClient.calls == []


def test_send_all_writes_each_answer_on_a_line_and_names_the_heads_that_failed(
    daemon_says: Callable[[Any], None],
) -> None:
    failed = router_error("failed", "broken", retry=True, backend="bad")
    daemon_says([reply(b"one"), failed, reply(b"two\n"), reply(b"three")])
    result = invoke("send", "--capability", "a", "--all")
    assert (result.exit_code, result.stdout) == (4, "one\ntwo\nthree")
    assert result.stderr == "error: bad: failed: broken\n"
    daemon_says([reply(b"one")])
    assert invoke("send", "--capability", "a", "--all").exit_code == 0


def test_send_stream_writes_pieces_and_the_last_body(daemon_says: Callable[[Any], None]) -> None:
    daemon_says(([[b"a", b"b"], [b"\xff"]], reply(b"end")))
    result = invoke("send", "--capability", "a", "--stream")
    assert (result.exit_code, result.stdout_bytes) == (0, b"ab\xffend")


# --- the process ---


def test_version_and_help() -> None:
    assert invoke("--version").stdout == f"router-daemon {__version__}\n"
    for command in ("run", "check", "backends", "explain", "why", "send", "serve"):
        assert command in invoke("--help").stdout
        text = invoke(command, "--help").stdout
        assert f"router-daemon {command}" in text
        assert "Exit code: 0" in text


def test_main_ends_with_the_exit_code_and_one_line_for_each_fault() -> None:
    result = process("check", "--set", "routing.heads=9", ROUTER_DAEMON__LOG__LEVEL="loud")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        'ROUTER_DAEMON__LOG__LEVEL: log.level = "loud": must be one of "debug", "info", "warning", "error", "critical"',
        "--set: routing.heads = 9: must be an integer from 1 to 3",
    ]


def test_send_to_nobody_gives_up_soon(tmp_path: Path) -> None:
    result = process("send", "--capability", "a", "--frontend", f"ipc://{tmp_path}/nobody", "--ttl-ms", "300000")
    assert (result.returncode, result.stderr) == (1, f"error: no daemon at ipc://{tmp_path}/nobody\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "router-daemon ",
            {
                "run",
                "check",
                "backends",
                "reload",
                "explain",
                "why",
                "ring",
                "route",
                "send",
                "serve",
                "simulate",
                "guard",
                "compare",
                "conform",
                "reproduce",
                "top",
                "bench",
                "drain",
                "undrain",
            },
        ),
        ("router-daemon ba", {"backends"}),
        ("router-daemon send --mo", {"--mode"}),
        ("router-daemon send --mode f", {"fanout"}),
    ],
)
def test_bash_completes(words: str, expected: set[str]) -> None:
    extra = {"_ROUTER_DAEMON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = process(**extra)
    assert (result.returncode, result.stderr) == (0, "")
    assert set(result.stdout.split()) == expected


def test_the_bash_completion_script_is_for_this_command() -> None:
    result = process(_ROUTER_DAEMON_COMPLETE="source_bash")
    assert "_ROUTER_DAEMON_COMPLETE=complete_bash" in result.stdout
    assert result.stdout.rstrip().endswith("router-daemon")


def test_ctrl_c_while_waiting_for_a_body_ends_without_a_traceback() -> None:
    command = [sys.executable, "-m", "router_daemon", "send", "--capability", "a", "--body", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environ()) as sender:
        assert sender.stdin is not None
        assert sender.stderr is not None
        sender.stdin.write(b"x" * 100_000)  # more than a pipe holds: returns once the command reads
        sender.stdin.flush()
        for _ in range(10):  # a signal just before the read begins is seen by Python only after it
            sender.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                sender.wait(2)
                break
        assert sender.returncode == 130
        assert sender.stderr.read() == b""

"""`router-daemon conform` as it is typed: what it prints, its exit codes, and the program that it starts and ends."""

from __future__ import annotations

import json
import shlex
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_line import invoke
from conftest import free_port
from tools import REPOSITORY

from router_daemon.conform import backend_checks, client_checks

ANY = "tcp://127.0.0.1:0"
PYTHON = REPOSITORY / "docs/examples/python"


def run_of(script: str) -> str:
    """Return --run for a program in Python, given as text."""
    return shlex.join([sys.executable, "-c", script, "{address}"])


def example(side: str) -> str:
    return shlex.join([sys.executable, str(PYTHON / f"conform_{side}.py"), "{address}"])


def test_the_list_names_every_check_with_its_sentence() -> None:
    text = invoke("conform", "--list").stdout
    for check in (*backend_checks.CHECKS, *client_checks.CHECKS):
        assert check.id in text
        assert check.quote in text
    for role in backend_checks.ROLES:
        assert f"conform.{role}" in text
    assert "answers-by-id" not in invoke("conform", "--backend", ANY, "--list").stdout
    assert "drop-unfinished" not in invoke("conform", "--client", ANY, "--list").stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "conform takes either --backend ADDR or --client ADDR"),
        (["--backend", ANY, "--client", ANY], "conform takes either --backend ADDR or --client ADDR"),
        (["--backend", "127.0.0.1:1"], "--backend 127.0.0.1:1: must be tcp://HOST:PORT"),
        (["--client", ANY, "--only", "nothing"], "--only: there is no nothing; --list names the checks"),
        (["--backend", ANY, "--capability", "echo"], "--capability echo: must be ROLE=NAME; roles are echo, stream"),
        (["--backend", ANY, "--capability", "sing=a"], "--capability sing=a: must be ROLE=NAME"),
        (["--client", ANY, "--capability", "echo=a"], "--capability goes with --backend"),
        (["--client", ANY, "--run", "'"], "--run ': No closing quotation"),
        (["--client", ANY, "--run", ""], "--run: no command"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], complaint: str) -> None:
    result = invoke("conform", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {complaint}")
    assert result.stdout == ""


def test_an_address_in_use_and_a_program_that_is_not_there_are_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = invoke("conform", "--backend", address)
    assert (result.exit_code, result.stderr) == (1, f"error: cannot listen at {address}: Address already in use\n")
    result = invoke("conform", "--backend", ANY, "--run", "/no/such/program")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot start /no/such/program: ")


def test_nobody_there_is_a_failure_that_says_so(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    file = tmp_path / "findings.json"
    result = invoke("conform", "--backend", address, "--timeout", "0.1", "--json", str(file))
    assert result.exit_code == 1
    assert f"listening at {address}" in result.stderr
    assert "FAIL      register-first " in result.stdout
    assert "received  nothing" in result.stdout
    found = json.loads(file.read_text())
    assert (found["protocol"], found["side"], found["address"]) == ("CAR/1", "backend", address)
    assert found["passed"] is False
    assert found["counts"]["fail"] == 1
    first = next(check for check in found["checks"] if check["id"] == "register-first")
    assert first["quote"] == "Before anything else, REGISTER."
    assert (first["expected"], first["received"]) == ("REGISTER within 0.1 s", "nothing")


@pytest.mark.parametrize("side", ["backend", "client"])
def test_a_program_that_dies_is_a_failure(side: str) -> None:
    result = invoke("conform", f"--{side}", ANY, "--run", run_of("import sys; sys.exit(7)"))
    assert result.exit_code == 1
    assert "error: before the end the program has ended, exit code 7" in result.stderr


def test_only_some_checks_are_made_and_shown() -> None:
    result = invoke("conform", "--client", ANY, "--only", "body-empty", "--only", "stream", "--run", example("client"))
    assert result.exit_code == 0, result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("pass")] == [
        ["pass", "body-empty"],
        ["pass", "stream"],
    ]
    assert result.stdout.endswith("2 checks: 2 pass, 0 fail, 0 not seen\n")


def test_what_could_not_be_seen_fails_only_where_that_is_asked_for() -> None:
    silent = run_of(
        "import sys; from router_daemon import SyncClient\nwith SyncClient(sys.argv[1]) as c: c.send('work', b'x')"
    )
    arguments = ("conform", "--client", ANY, "--only", "send-header", "--only", "stream", "--run", silent)
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "not seen  stream " in result.stdout
    assert "nothing could be seen any more: the program has ended, exit code 0" in result.stdout
    assert invoke(*arguments, "--strict").exit_code == 1


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_program_and_what_it_started_are_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_daemon.cli.playing.END_S", 0.1)
    pids = tmp_path / "pids"
    stubborn = (
        "import os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "child.wait()\n"
    )
    result = invoke("conform", "--client", ANY, "--timeout", "2", "--only", "send-header", "--run", run_of(stubborn))
    assert result.exit_code == 1
    until = time.monotonic() + 5
    while any(map(lives, map(int, pids.read_text().split()))):  # killed, but not yet gone
        assert time.monotonic() < until


def test_a_backend_s_own_capabilities_can_have_the_roles() -> None:
    script = (
        "import sys; from router_daemon import Backend\n"
        "b = Backend('b', sys.argv[1]); b.handler('mirror')(lambda d: d.body); b.serve()"
    )
    arguments = ("conform", "--backend", ANY, "--only", "body-frames", "--run", run_of(script))
    assert "not seen  body-frames" in invoke(*arguments).stdout
    assert "pass      body-frames" in invoke(*arguments, "--capability", "echo=mirror").stdout

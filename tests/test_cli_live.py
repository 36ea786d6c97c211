"""The commands against a running daemon: messages in and out, backends made of programs, and what the daemon tells."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from command_line import environ, invoke, process
from conftest import Daemon, DaemonFactory, Room, free_port
from peers import unique

WAIT_S: Final = 15.0
OpenRoom = Callable[[Daemon], Room]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start commands in processes of their own; all must have ended by the end of the test."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "router_daemon", *arguments]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environ()))
        return running[-1]

    yield begin
    for each in running:
        if each.poll() is None:
            each.kill()
        each.communicate()


def end(command: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """Return exit code, stdout and stderr of a command that ends by itself."""
    out, err = command.communicate(timeout=WAIT_S)
    assert b"Traceback" not in err, err.decode()
    return command.returncode, out, err.decode()


# --- send ---


def sending(start: Start, room: Room, *options: str) -> subprocess.Popen[bytes]:
    return start("send", "--capability", room.capability, "--frontend", room.daemon.frontend, *options)


def test_send_and_answer_byte_for_byte(start: Start, room: Room) -> None:
    backend = room.backend()
    command = sending(start, room, "--body", "hello ü", "--priority", "4", "--ttl-ms", "9000", "--heads", "1")
    delivery = backend.delivery(WAIT_S, capability=room.capability, priority=4, heads=1)
    assert delivery.body == ["hello ü".encode()]
    assert 8_000 < delivery.header["ttl_ms"] <= 9_000
    backend.ack(delivery, b"\xff\x00", b"tail\n")
    assert end(command) == (0, b"\xff\x00tail\n", "")


def test_nobody_offers_it(start: Start, room: Room) -> None:
    code, out, err = end(sending(start, room))
    assert (code, out) == (3, b"")
    assert err.startswith("error: no_capability: ")
    assert err.count("\n") == 1


def test_failed_and_expired(start: Start, room: Room) -> None:
    backend = room.backend(slots=2)
    command = sending(start, room, "--heads", "1")
    backend.nack(backend.delivery(WAIT_S), reason="out of paper")
    code, _, err = end(command)
    assert (code, err.startswith("error: failed: ")) == (4, True), err
    code, _, err = end(sending(start, room, "--ttl-ms", "50"))
    assert (code, err.startswith("error: expired: ")) == (4, True), err


def test_every_head_answers_for_itself(start: Start, room: Room) -> None:
    good, bad = room.backend(), room.backend()
    command = sending(start, room, "--all")
    good.ack(good.delivery(WAIT_S), b"fine")
    bad.nack(bad.delivery(WAIT_S), reason="broken")
    code, out, err = end(command)
    assert (code, out.strip()) == (4, b"fine")
    assert err.startswith(f"error: {bad.name}: failed: ")


def test_a_stream_is_written_piece_by_piece(start: Start, room: Room) -> None:
    backend = room.backend()
    command = sending(start, room, "--stream")
    delivery = backend.delivery(WAIT_S)
    backend.part(delivery, b"one ")
    assert command.stdout is not None
    assert os.read(command.stdout.fileno(), 100) == b"one "
    backend.part(delivery, b"two", b" ")
    backend.ack(delivery, b"end")
    assert end(command) == (0, b"two end", "")


def test_ctrl_c_cancels_the_message(start: Start, room: Room) -> None:
    backend = room.backend()
    command = sending(start, room)
    delivery = backend.delivery(WAIT_S)
    command.send_signal(signal.SIGINT)
    backend.cancelled(delivery)
    assert end(command) == (130, b"", "")


def test_a_daemon_that_dies_is_noticed(start: Start, daemon: DaemonFactory, open_room: OpenRoom) -> None:
    room = open_room(daemon())
    backend = room.backend()
    command = sending(start, room)
    backend.delivery(WAIT_S)
    daemon.daemons.clear()
    room.daemon.process.kill()
    room.daemon.process.wait()
    code, _, err = end(command)
    assert (code, err.startswith("error: connection_lost: ")) == (1, True), err


# --- serve ---


def serving(start: Start, room: Room, name: str, script: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a shell script as a backend and return once it is registered."""
    basics = ["--name", name, "--capability", room.capability, "--backend", room.daemon.backend]
    command = start("serve", *basics, *options, "--", "sh", "-c", script)
    client = room.client()
    deadline_s = time.monotonic() + WAIT_S
    while True:  # a message that expires at once tells whether anybody offers the capability
        ident = client.send(room.capability, ttl_ms=1)
        if client.until_last(ident)[-1].header.get("code") != "no_capability":
            return command
        assert command.poll() is None, end(command)
        assert time.monotonic() < deadline_s, "not registered in time"


def drained(command: subprocess.Popen[bytes]) -> str:
    """End a backend as an operator would; return what it logged."""
    command.send_signal(signal.SIGTERM)
    code, out, err = end(command)
    assert (code, out) == (0, b"")
    return err


def test_a_program_is_a_backend(start: Start, room: Room) -> None:
    name = unique("program")
    script = 'read -r line; echo "$line for $CAR_CAPABILITY at $CAR_PRIORITY, attempt $CAR_ATTEMPT"'
    command = serving(start, room, name, script, "--capability", f"{room.capability}-too")
    client = room.client()
    for capability in (room.capability, f"{room.capability}-too"):
        ident = client.send(capability, b"hel", b"lo\n", priority=3)
        reply = client.expect("REPLY", id=ident, backend=name, last=True)
        assert reply.body == [f"hello for {capability} at 3, attempt 1\n".encode()]
    log = [json.loads(line) for line in drained(command).splitlines()]
    assert log[0]["event"] == "serving"
    assert log[0]["command"] == f"sh -c {shlex.quote(script)}"


def test_its_exit_code_and_last_words_make_a_failure(start: Start, room: Room) -> None:
    command = serving(start, room, unique("program"), "cat >&2; echo; echo 'no sensor' >&2; exit 3")
    client = room.client()
    error = client.error("failed", client.send(room.capability, b"noise\n"))
    assert "no sensor" in error.header["detail"]
    log = drained(command)
    assert "no sensor" in log
    assert "exception" not in log


def await_gone(pid: int) -> None:
    """Return once there is no such process."""
    deadline_s = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s, f"process {pid} lives"
        os.sched_yield()


def test_cancel_and_the_end_of_time_kill_the_program(start: Start, room: Room, tmp_path: Path) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    script = f'read -r word; [ "$word" = wait ] && echo $$ >{fifo} && exec sleep 60'
    command = serving(start, room, unique("program"), script, "--slots", "2")
    client = room.client()
    ident = client.send(room.capability, b"wait\n")
    pid = int(fifo.read_text())
    client.command("CANCEL", {"id": ident})
    client.error("cancelled", ident)
    await_gone(pid)
    ident = client.send(room.capability, b"wait\n", ttl_ms=1_000)
    pid = int(fifo.read_text())
    assert client.expect("ERROR", id=ident).header["code"] in {"expired", "failed"}  # whose clock is first
    await_gone(pid)
    drained(command)


def test_sigterm_lets_the_program_finish(start: Start, room: Room, tmp_path: Path) -> None:
    begun, release = tmp_path / "begun", tmp_path / "release"
    os.mkfifo(begun)
    os.mkfifo(release)
    script = f'read -r word; [ "$word" = work ] && echo >{begun} && cat {release}'
    command = serving(start, room, unique("program"), script)
    client, other = room.client(), room.client()
    ident = client.send(room.capability, b"work\n")
    begun.read_text()
    command.send_signal(signal.SIGTERM)
    deadline_s = time.monotonic() + WAIT_S
    while True:  # until it takes nothing more
        probe = other.send(room.capability, ttl_ms=50)
        if other.until_last(probe)[-1].header["code"] == "no_backend":
            break
        assert time.monotonic() < deadline_s
    release.write_text("finished\n")
    assert client.expect("REPLY", id=ident).body == [b"finished\n"]
    code, _, _ = end(command)
    assert code == 0


def test_a_registration_that_the_daemon_refuses_is_one_line(start: Start, room: Room) -> None:
    options = ["--name", "x" * 65, "--capability", room.capability, "--backend", room.daemon.backend]
    code, _, err = end(start("serve", *options, "--", "cat"))
    assert code == 3
    assert err.splitlines()[-1].startswith("error: bad_header: ")


# --- the admin room ---


def test_backends_and_explain_of_a_running_daemon(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    admin = f"127.0.0.1:{free_port()}"
    room = open_room(daemon(admin={"bind": admin}))
    assert invoke("backends", "--admin", admin).stdout == "no backends\n"
    backend = room.backend(slots=2, prefetch=1, zone="eu\x1b[1m")
    other, client = room.backend(), room.client()
    ident = client.send(room.capability, heads=1)
    assert client.pending() == []  # by then it was delivered
    ((worker, delivery),) = room.deliveries([backend, other])
    worker.ack(delivery)
    client.expect("REPLY", id=ident)
    table = invoke("backends", "--admin", admin)
    lines = table.stdout.splitlines()
    assert table.exit_code == 0
    assert len(lines) == 3
    (mine,) = (line for line in lines if backend.name in line)
    assert "eu\\x1b[1m" in mine
    assert "0/3" in mine
    answer = json.loads(invoke("backends", "--json", "--admin", admin).stdout)
    assert {each["name"] for each in answer["backends"]} >= {backend.name}
    explained = invoke("explain", room.capability, "--admin", admin)
    assert explained.exit_code == 0
    assert backend.name in explained.stdout
    listed = invoke("why", "--capability", room.capability, "--admin", admin)
    assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, 2)
    (entry,) = json.loads(invoke("why", "--json", "--capability", room.capability, "--admin", admin).stdout)[
        "decisions"
    ]
    for name in (entry["message"], str(entry["id"])):
        told = invoke("why", name, "--admin", admin)
        assert (told.exit_code, told.stdout.count("acked, the answer")) == (0, 1)
    missing = invoke("why", "no-such-message", "--admin", admin)
    assert (missing.exit_code, missing.stderr.startswith("error: nothing is kept of ")) == (3, True)
    refused = invoke("explain", "nobody-does-this", "--admin", admin)
    assert (refused.exit_code, refused.stderr.startswith("error: no_capability: ")) == (3, True)


# --- run ---


@pytest.mark.parametrize("which", ["frontend", "backend", "admin"])
def test_a_taken_port_is_one_line(which: str, tmp_path: Path) -> None:
    binds = {"frontend": f"ipc://{tmp_path}/f", "backend": f"ipc://{tmp_path}/b", "admin": ""}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        binds[which] = address if which == "admin" else f"tcp://{address}"
        result = process("run", *(text for name, bind in binds.items() for text in (f"--{name}", bind)))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert address in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_with_flags_serves_until_a_signal(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    addresses = ["--frontend", f"ipc://{tmp_path}/f", "--backend", f"ipc://{tmp_path}/b", "--admin", ""]
    command = start("run", *addresses, "--set", "log.format=json", "--log-level", "info")
    assert command.stderr is not None
    assert json.loads(command.stderr.readline())["event"] == "serving"
    code, _, err = end(start("send", "--capability", "x", "--frontend", f"ipc://{tmp_path}/f"))
    assert (code, err.startswith("error: no_capability")) == (3, True)
    command.send_signal(number)
    assert end(command)[0] == 0

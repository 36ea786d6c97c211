"""A command that works on one delivery: what it gets, what becomes of it, and that it never outlives its delivery."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from router_daemon.cli import serving as serve
from router_daemon.cli.exits import CommandError
from router_daemon.cli.serving import CommandFailed, run_command
from router_daemon.sdk.deliveries import Delivery

WAIT_S = 10.0


def delivery(*body: bytes, ttl_ms: int = 30_000) -> Delivery:
    header = {"id": 1, "message": "m-7", "capability": "alpha", "priority": 3, "ttl_ms": ttl_ms, "attempt": 2}
    return Delivery.of(header, list(body))


def run(command: list[str], *body: bytes, ttl_ms: int = 30_000) -> bytes:
    return asyncio.run(run_command(command, delivery(*body, ttl_ms=ttl_ms)))


def failure(command: list[str], *body: bytes, ttl_ms: int = 30_000) -> str:
    with pytest.raises(CommandFailed) as caught:
        run(command, *body, ttl_ms=ttl_ms)
    return str(caught.value)


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def await_gone(pid: int) -> None:
    """Return once there is no such process."""
    deadline_s = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s, f"process {pid} lives"
        os.sched_yield()


async def read_pid(fifo: Path) -> int:
    """Return the number that a command writes into the named pipe."""
    return int(await asyncio.to_thread(fifo.read_text))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_the_frames_go_in_as_one_and_what_is_printed_comes_out() -> None:
    assert run(["cat"], b"\x00one", b"\xfftwo\n") == b"\x00one\xfftwo\n"
    assert run(["true"]) == b""


def test_a_body_larger_than_a_pipe_both_ways() -> None:
    body = os.urandom(3_000_000)
    assert run(["cat"], body) == body


def test_a_command_need_not_read_its_input() -> None:
    assert run(shell("exec 0<&-; echo done"), b"x" * 1_000_000) == b"done\n"


def test_the_environment_tells_about_the_delivery() -> None:
    script = shell('echo "$CAR_CAPABILITY $CAR_PRIORITY $CAR_MESSAGE $CAR_ATTEMPT $HOME"')
    assert run(script).decode() == f"alpha 3 m-7 2 {os.environ.get('HOME', '')}\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo result; echo first >&2; echo ' why ' >&2; echo >&2; exit 3", "why"),
        ("echo result; exit 3", "exit code 3"),
        ("kill -9 $$", "killed by signal 9"),
        ("printf '\\377\\n' >&2; exit 1", "\ufffd"),
        ("yes long | head -c 1000000 >&2; echo; echo last >&2; exit 1", "last"),
    ],
)
def test_another_exit_code_is_a_failure_for_the_last_line_of_stderr(script: str, reason: str) -> None:
    assert failure(shell(script)) == reason


def test_what_cannot_be_started_is_a_failure() -> None:
    assert failure(["/no/such/program"]).startswith("cannot start /no/such/program: ")


def test_too_much_output_is_a_failure_and_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "OUTPUT_BYTES", 1000)
    assert run(["head", "-c", "1000", "/dev/zero"]) == bytes(1000)
    assert failure(["head", "-c", "1001", "/dev/zero"]) == "printed more than 1000 bytes"
    assert failure(["cat", "/dev/zero"]) == "printed more than 1000 bytes"


def test_the_time_limit_is_that_of_the_delivery_and_kills_the_whole_group(fifo: Path) -> None:
    async def main() -> int:
        reading = asyncio.create_task(read_pid(fifo))
        work = asyncio.create_task(run_command(shell(f"sleep 60 & echo $! >{fifo}; wait"), delivery(ttl_ms=300)))
        pid = await reading
        with pytest.raises(CommandFailed, match="killed after its 300 ms were over"):
            await work
        return pid

    await_gone(asyncio.run(main()))


def test_a_child_that_keeps_stdout_is_waited_for_until_the_time_is_over() -> None:
    assert failure(shell("sleep 60 & echo result"), ttl_ms=200) == "killed after its 200 ms were over"
    assert run(shell("sleep 0.2 >&- 2>&- & echo result")) == b"result\n"


def test_no_time_left_is_a_failure() -> None:
    assert failure(["cat"], ttl_ms=-1).startswith("killed after")


def test_cancelling_kills_the_command_and_waits_for_it(fifo: Path) -> None:
    async def main() -> int:
        work = asyncio.create_task(run_command(shell(f"echo $$ >{fifo}; exec sleep 60"), delivery()))
        pid = await read_pid(fifo)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return pid

    pid = asyncio.run(main())
    assert not Path(f"/proc/{pid}").exists()


def test_cancelling_at_any_moment_leaves_nothing_behind() -> None:
    async def main() -> None:
        for turns in range(40):
            work = asyncio.create_task(run_command(["true"], delivery()))
            for _ in range(turns // 2):
                await asyncio.sleep(0)
            work.cancel()
            async with asyncio.timeout(WAIT_S):
                await asyncio.wait([work])

    before = set(psutil.Process().children())
    asyncio.run(main())
    assert set(psutil.Process().children()) <= before


def test_a_program_is_looked_for_where_the_shell_would() -> None:
    assert shutil.which("cat") is not None
    with pytest.raises(CommandError, match=r"no such executable: \./cat"):
        serve.serve("n", ["c"], ["./cat"], "ipc:///nowhere", 1, None)


@pytest.fixture
def adopting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be the parent of what its children leave behind, as process 1 is."""
    set_child_subreaper = 36
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    me = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    yield
    monkeypatch.undo()
    assert os.getpid() == me
    assert prctl(set_child_subreaper, 0, 0, 0, 0) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_as_process_1_it_waits_for_what_a_killed_command_leaves_behind(adopting: None, fifo: Path) -> None:
    async def scenario() -> int:
        command = shell(f"sleep 60 & echo $! >{fifo}; wait")
        killed = asyncio.create_task(run_command(command, delivery(b"")))
        child = await read_pid(fifo)
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        return child

    child = asyncio.run(scenario())
    for _ in range(50):  # it may die after the command that it was killed with: the next one's end is the time
        assert run(["true"]) == b""
        if not Path(f"/proc/{child}").exists():
            break
    assert not Path(f"/proc/{child}").exists()
    assert serve._left_behind._groups == set()

"""Any executable as a backend: one process per delivery, body on stdin, result from stdout.

Rules:
- Exit code 0 is an ACK with what was printed; anything else a NACK with the last line of stderr as its reason.
- A process never outlives its delivery: CANCEL, the end of the time to live and too much output kill it and all that
  it started (its process group), and it is waited for. A process that puts itself into another group is its own.
- Output is bounded: past `OUTPUT_BYTES` the delivery has failed; of stderr only the end is kept.
- The result is complete when stdout is closed, so a command that leaves a child behind with it must close it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Final

import zmq

from router_daemon.backend import Backend, Delivery
from router_daemon.cli_exit import USAGE, CommandError

OUTPUT_BYTES: Final = 16 * 1024 * 1024
"""As much as a message may have by default."""
COMPLAINT_BYTES: Final = 4096
CHUNK_BYTES: Final = 64 * 1024
KILL_TIMEOUT_S: Final = 1.0
"""How long a killed process is waited for; longer only where the kernel cannot end it."""


class CommandFailed(Exception):  # noqa: N818 - becomes the NACK's reason
    """The command did not do its work, and why."""


def serve(name: str, capabilities: Sequence[str], command: Sequence[str], address: str, slots: int) -> None:
    """Be a backend until SIGTERM or SIGINT, which drain it.

    Args:
        name: of the backend.
        capabilities: that the command has.
        command: program and arguments.
        address: of the daemon's backend socket.
        slots: how many may run at once.

    Raises:
        CommandError: there is no such program, or the address is none.
        RouterError: the daemon does not take the registration.
    """
    if shutil.which(command[0]) is None:
        raise CommandError(USAGE, f"no such executable: {command[0]}")
    backend = Backend(name, address, slots=slots)

    @backend.handler(*capabilities)
    async def work(delivery: Delivery) -> bytes:
        return await run_command(command, delivery)

    try:
        backend.serve()
    except zmq.ZMQError as error:
        raise CommandError(USAGE, f"{address}: {error.strerror}") from None


async def run_command(command: Sequence[str], delivery: Delivery) -> bytes:
    """Return what the command prints for one delivery.

    Raises:
        CommandFailed: it could not be started, exited with another code than 0, printed too much, or took too long.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=_environment(delivery), start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot start {command[0]}: {error}") from None
    ended = False
    try:
        async with asyncio.timeout(delivery.time_left_s):
            output, complaint = await _converse(process, delivery.data)
        ended = True
    except TimeoutError:
        raise CommandFailed(f"killed after its {delivery.ttl_ms} ms were over") from None
    finally:
        if not ended:
            await _end(process)
    if output is None:
        raise CommandFailed(f"printed more than {OUTPUT_BYTES} bytes")
    if process.returncode != 0:
        raise CommandFailed(_last_line(complaint) or _exit_text(process.returncode))
    return output


def _environment(delivery: Delivery) -> dict[str, str]:
    return os.environ | {
        "CAR_CAPABILITY": delivery.capability,
        "CAR_PRIORITY": str(delivery.priority),
        "CAR_MESSAGE": delivery.message,
        "CAR_ATTEMPT": str(delivery.attempt),
    }


async def _converse(process: Process, body: bytes) -> tuple[bytes | None, bytes]:
    """Feed a process, read it out and wait for its end; return its output (None: too much) and the end of stderr."""
    _, output, complaint, _ = await asyncio.gather(
        _feed(process, body), _read_output(process), _read_complaint(process), process.wait()
    )
    return output, complaint


async def _feed(process: Process, body: bytes) -> None:
    """Write the body; a command need not read it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await process.stdin.wait_closed()


async def _read_output(process: Process) -> bytes | None:
    """Return all of stdout; None, and the process is killed, where that is too much (the rest is read and dropped)."""
    assert process.stdout is not None
    chunks: list[bytes] = []
    size_bytes = 0
    while chunk := await process.stdout.read(CHUNK_BYTES):
        size_bytes += len(chunk)
        if size_bytes <= OUTPUT_BYTES:
            chunks.append(chunk)
        elif chunks:
            chunks.clear()
            _kill(process)
    return b"".join(chunks) if size_bytes <= OUTPUT_BYTES else None


async def _read_complaint(process: Process) -> bytes:
    """Return the end of stderr."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(CHUNK_BYTES):
        kept = (kept + chunk)[-COMPLAINT_BYTES:]
    return kept


def _kill(process: Process) -> None:
    """Kill a process and all in its group; the group may live on without its first process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process) -> None:
    """Leave nothing of an unfinished command behind: kill it and wait for it."""
    _kill(process)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), KILL_TIMEOUT_S)


def _last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"

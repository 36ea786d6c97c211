"""Any executable as a backend: one process per delivery, body on stdin, result from stdout.

Rules:
- Exit code 0 is an ACK with what was printed; anything else a NACK with the last line of stderr as its reason.
- A process never outlives its delivery: CANCEL, the end of the time to live and too much output kill it and all that
  it started (its process group), and it is waited for. A process that puts itself into another group is its own.
- Output is bounded: past `OUTPUT_BYTES` the delivery has failed; of stderr only the end is kept.
- The result is complete when stdout is closed, so a command that leaves a child behind with it must close it.
- As process 1 (in a container without an init) this program is the parent of whatever commands leave behind, and waits
  for it: else what was killed with a command would stay a zombie, and with enough of them nothing could be started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import shutil
import signal
from collections.abc import Sequence
from typing import Final

import structlog
import zmq

from router_daemon.backend import Backend
from router_daemon.cli.exits import USAGE, CommandError
from router_daemon.sdk.deliveries import Delivery

log = structlog.get_logger(__name__)

OUTPUT_BYTES: Final = 16 * 1024 * 1024
"""As much as a message may have by default."""
COMPLAINT_BYTES: Final = 4096
KILL_TIMEOUT_S: Final = 1.0
"""How long a killed process is waited for; longer only where the kernel cannot end it."""


class CommandFailed(Exception):  # noqa: N818 - becomes the NACK's reason
    """The command did not do its work, and why."""


def serve(
    name: str, capabilities: Sequence[str], command: Sequence[str], address: str, slots: int, prefetch: int | None
) -> None:
    """Be a backend until SIGTERM or SIGINT, which drain it.

    Args:
        name: of the backend.
        capabilities: that the command has.
        command: program and arguments.
        address: of the daemon's backend socket.
        slots: how many may run at once.
        prefetch: how many more may wait here; None as the work is, see `Backend`.

    Raises:
        CommandError: there is no such program, or the address is none.
        RouterError: the daemon does not take the registration.
    """
    if shutil.which(command[0]) is None:
        raise CommandError(USAGE, f"no such executable: {command[0]}")
    backend = Backend(name, address, slots=slots, prefetch=prefetch)

    @backend.handler(*capabilities)
    async def work(delivery: Delivery) -> bytes:
        return await run_command(command, delivery)

    logging.getLogger("router_daemon.sdk.runner").addFilter(_without_traceback)
    log.info("serving", name=name, capabilities=capabilities, daemon=address, command=shlex.join(command))
    try:
        backend.serve()
    except zmq.ZMQError as error:
        raise CommandError(USAGE, f"{address}: {error.strerror}") from None


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let a command's failure be one line: where in this program it came up says nothing."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, CommandFailed):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = None
    return True


async def run_command(command: Sequence[str], delivery: Delivery) -> bytes:
    """Return what the command prints for one delivery.

    Raises:
        CommandFailed: it could not be started, exited with another code than 0, printed too much, or took too long.
    """
    try:
        run = await _start(command, _environment(delivery))
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot start {command[0]}: {error}") from None
    try:
        async with asyncio.timeout(delivery.time_left_s):
            await run.converse(delivery.data)
    except TimeoutError:
        raise CommandFailed(f"killed after its {delivery.ttl_ms} ms were over") from None
    finally:
        await run.close()
        _left_behind.collect()
    return run.result()


async def _start(command: Sequence[str], environment: dict[str, str]) -> _Run:
    """Start a process, or none: being cancelled half-way, asyncio may wait for ever for a process that has gone."""
    loop = asyncio.get_running_loop()
    starting = asyncio.ensure_future(
        loop.subprocess_exec(lambda: _Run(loop), *command, env=environment, start_new_session=True)
    )
    try:
        _, run = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, ValueError):
            _, run = await starting
            await run.close()
        raise
    return run


def _environment(delivery: Delivery) -> dict[str, str]:
    return os.environ | {
        "CAR_CAPABILITY": delivery.capability,
        "CAR_PRIORITY": str(delivery.priority),
        "CAR_MESSAGE": delivery.message,
        "CAR_ATTEMPT": str(delivery.attempt),
    }


class _Run(asyncio.SubprocessProtocol):
    """One process: what it printed so far, and its end.

    A protocol instead of `asyncio.subprocess`, where nothing closes the pipes of a process whose child lives on.

    Attributes:
        ended: done once the process has exited and stdin, stdout and stderr are closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = loop.create_future()
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._complaint = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._complaint = (self._complaint + data)[-COMPLAINT_BYTES:]
            return
        self._output_bytes += len(data)
        self._output.append(data)
        if self._output_bytes > OUTPUT_BYTES:
            self._output.clear()
            self._kill_group()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - of a pipe; the exit code says more
        if not self.ended.done():
            self.ended.set_result(None)

    async def converse(self, body: bytes) -> None:
        """Feed the process, which need not read it, and wait for its end."""
        stdin = self._transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        stdin.write(body)
        stdin.write_eof()
        await asyncio.shield(self.ended)

    async def close(self) -> None:
        """Leave nothing behind: where it has not ended, kill the process and all in its group, and wait for it."""
        _left_behind.add(self._transport.get_pid())
        if not self.ended.done():
            self._kill_group()
            self._transport.close()
            await asyncio.wait([self.ended], timeout=KILL_TIMEOUT_S)
        self._transport.close()

    def result(self) -> bytes:
        """Return what a process that has ended printed.

        Raises:
            CommandFailed: it did not do its work.
        """
        if self._output_bytes > OUTPUT_BYTES:
            raise CommandFailed(f"printed more than {OUTPUT_BYTES} bytes")
        exit_code = self._transport.get_returncode()
        if exit_code != 0:
            raise CommandFailed(_last_line(self._complaint) or _exit_text(exit_code))
        return b"".join(self._output)

    def _kill_group(self) -> None:
        """The group may live on without its first process, so that one's end is no reason not to."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), signal.SIGKILL)


class _LeftBehind:
    """Process groups of commands that have ended: as process 1, this one has to wait for what is left of them.

    No timer: what ends after its command is waited for when the next command has ended. So there are never more
    groups than processes that live on, and never more zombies than one command leaves.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()

    def add(self, group: int) -> None:
        """A command has ended; its group is called by the number of its first process."""
        if os.getpid() == 1:
            self._groups.add(group)

    def collect(self) -> None:
        """Wait for all of them that have ended; forget the groups of which nothing is left."""
        for group in list(self._groups):
            self._wait_for(group)
            with contextlib.suppress(PermissionError):  # somebody else's by now, but there
                try:
                    os.killpg(group, 0)
                except ProcessLookupError:
                    self._groups.discard(group)

    @staticmethod
    def _wait_for(group: int) -> None:
        """The first process of a group is asyncio's, which waits for it itself."""
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid == group:
                    return
                os.waitpid(found.si_pid, os.WNOHANG)


_left_behind: Final = _LeftBehind()


def _last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"

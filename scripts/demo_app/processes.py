"""The processes of the demo: one daemon and the backends, started, watched and ended by id.

Rules:
- Every child has a process group of its own (Ctrl-C is for the demo alone) and dies with the demo (`guard`).
- Every child's output goes to a file in the demo's temporary directory; what it last said is shown when it fails.
- Nothing that ends is started again: the demo shows what the daemon does about it.
- Ending: backends first, so that they can say good-bye to the daemon; whoever does not end in time is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from demo_app.roster import ROSTER

STOP_S: Final = 4.0
STOP_ALONE_S: Final = 0.5
"""The same without a daemon: there is nobody to say good-bye to."""
HOME: Final = str(Path(__file__).resolve().parent.parent)
"""Where the children find this package."""
PORTS: Final = range(20_000, 32_000)
"""Below the usual range of outgoing connections, which could take a port between the look and the daemon's bind."""
_reserved: Final[list[socket.socket]] = []

CONFIG: Final = """\
[frontend]
bind = "tcp://127.0.0.1:{frontend}"

[backend]
bind = "tcp://127.0.0.1:{backend}"
heartbeat_ms = 500

[admin]
bind = "127.0.0.1:{admin}"

[routing]
unsaid_idempotent = "copies"

# The first windows are too short for one backend's algorithm, which shows fail-over: enough of it for all series.
[retry]
start = 10.0

[log]
level = "info"
format = "console"
"""

ROLLOUT: Final = """
[routes.candidate]
policy = "{policy}"

[rollout]
candidate = "candidate"
stages = [1, 5, 25, 50, 100]
stage_minutes = 0.5
min_answers = 100
"""


def free_ports(count: int) -> list[int]:
    """Return distinct ports of loopback that nobody has; on Linux nobody else draws them while this process lives."""
    with contextlib.ExitStack() as held:
        found: dict[int, socket.socket] = {}
        for port in random.sample(PORTS, len(PORTS)):
            candidate = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                candidate.bind(("127.0.0.1", port))
                found[port] = candidate
            if len(found) == count:
                reserve(found.values())
                return list(found)
    raise OSError("no free port on loopback")


def reserve(drawn: Iterable[socket.socket]) -> None:
    """Keep ports from others: on Linux a child may listen there, if both reuse addresses and this one only binds."""
    if sys.platform == "linux":
        for each in drawn:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _reserved.append(each.dup())


class Child:
    """One process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.pid = process.pid
        self._log = log

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], log: Path, *, stdin: int = asyncio.subprocess.PIPE
    ) -> Child:
        """Start a process in a session of its own that finds these packages; what it prints is added to `log`."""
        path = os.pathsep.join(filter(None, [HOME, os.environ.get("PYTHONPATH")]))
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    def fate(self) -> str:
        """Return how it ended, for a person."""
        code = self.process.returncode
        if code is None:
            return "running"
        return f"killed by {self.cause()}" if code < 0 else f"ended with exit code {code}"

    def cause(self) -> str:
        """Return why it ended, in a word or two."""
        code = self.process.returncode or 0
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    def last_words(self, lines: int = 8) -> str:
        """Return the end of what it printed."""
        text = self._log.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended.

        Not by `Popen.send_signal`, which would look for the exit code and take it away from asyncio.
        """
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Troupe:
    """All children of one run; `directory` holds the configuration, the logs and the spool.

    `rollout` names the policy of a candidate, "" for no rollout.
    """

    def __init__(self, directory: Path, seed: int, rollout: str = "") -> None:
        self._directory = directory
        self._seed = seed
        frontend, backend, admin = free_ports(3)
        self.frontend = f"tcp://127.0.0.1:{frontend}"
        self.admin = f"127.0.0.1:{admin}"
        self.spool = directory / "findings.jsonl"
        self._backend = f"tcp://127.0.0.1:{backend}"
        self._config = directory / "router-daemon.toml"
        config = CONFIG.format(frontend=frontend, backend=backend, admin=admin)
        self._config.write_text(config + (ROLLOUT.format(policy=rollout) if rollout else ""))
        self.daemon: Child | None = None
        self.backends: dict[str, Child] = {}

    async def start_daemon(self) -> Child:
        """Start the daemon, guarded."""
        command = [sys.executable, "-m", "router_daemon", "run", "--config", str(self._config)]
        self.daemon = await self._start(
            "daemon", [sys.executable, "-m", "demo_app.guard", str(os.getpid()), "--", *command]
        )
        return self.daemon

    async def start_backends(self, syslog_port: int) -> None:
        """Start every backend of the roster."""
        for spec in ROSTER:
            command = [sys.executable, "-m", "demo_app.backends", "--name", spec.name]
            command += ["--connect", self._backend, "--seed", str(self._seed), "--spool", str(self.spool)]
            command += ["--syslog-port", str(syslog_port), "--parent", str(os.getpid())]
            self.backends[spec.name] = await self._start(spec.name, command)

    async def _start(self, name: str, command: list[str]) -> Child:
        return await Child.start(name, command, self._directory / f"{name}.log")

    async def watch(self, on_end: Callable[[Child], None]) -> None:
        """Call `on_end` for each child that ends, until cancelled."""

        async def wait_for(child: Child) -> None:
            await child.process.wait()
            on_end(child)

        await asyncio.gather(*(wait_for(child) for child in self._all()))

    def _all(self) -> list[Child]:
        return [*self.backends.values(), *([self.daemon] if self.daemon else [])]

    async def stop(self) -> None:
        """End every child and wait for each."""
        daemon = [self.daemon] if self.daemon is not None and self.daemon.running else []
        await _end(self.backends.values(), STOP_S if daemon else STOP_ALONE_S)
        await _end(daemon, STOP_S)

    def kill(self) -> None:
        """End every child at once, without waiting."""
        for child in self._all():
            child.signal(signal.SIGKILL)


async def _end(children: Iterable[Child], patience_s: float) -> None:
    ending = [child for child in children if child.running]
    for child in ending:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)  # one that somebody stopped could not end otherwise
    waits = [asyncio.create_task(child.process.wait()) for child in ending]
    if waits and (await asyncio.wait(waits, timeout=patience_s))[1]:
        for child in ending:
            child.signal(signal.SIGKILL)
        await asyncio.wait(waits)

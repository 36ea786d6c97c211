"""The processes of a run, started, signalled and ended by id: one daemon, the backends, a flooder at times.

Rules:
- Every child has a process group of its own and dies with the driver, however that ends (`demo_app.guard`).
- Everything is on loopback, on ports below those of outgoing connections; limits are small, so that they are met.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from demo_app.processes import Child, free_ports

from chaos_app.daemon_side import scrape
from chaos_app.work import ID

START_S: Final = 30.0
STOP_S: Final = 10.0
LOOK_S: Final = 0.05
CLIENT_MESSAGES: Final = 200
DEAF_ANSWER_BYTES: Final = 65_536
"""So that the kernel's buffers are soon full of what is not read, and then the daemon's allowance."""

CONFIG: Final = """\
[frontend]
bind = "tcp://127.0.0.1:{frontend}"

[backend]
bind = "tcp://127.0.0.1:{backend}"
heartbeat_ms = 500

[admin]
bind = "127.0.0.1:{admin}"

[routing]
mode = "single"

[limits]
max_message_bytes = 262144
queue_messages = 2000
client_messages = {client_messages}
client_bytes = 4194304
client_unread_bytes = 1048576
backend_unread_bytes = 1048576
drain_timeout_s = 3

[log]
format = "json"
"""


class Spec(NamedTuple):
    """One backend: how many at once, how long each takes, which share fails, whether the proxy stands before it."""

    name: str
    slots: int
    service_ms: float
    fail: float
    proxied: bool


SPECS: Final = (
    Spec("swift", 2, 4.0, 0.0, proxied=False),
    Spec("brisk", 2, 8.0, 0.05, proxied=True),
    Spec("plain", 2, 12.0, 0.0, proxied=False),
    Spec("shaky", 2, 20.0, 0.10, proxied=False),
    Spec("tardy", 2, 40.0, 0.01, proxied=True),
)


class StageError(Exception):
    """A process did not do what it must; the text says which and what it said last."""


class Stage:
    """All processes of one run; `directory` holds their configuration and logs."""

    def __init__(self, directory: Path, seed: int, settings: list[str]) -> None:
        self.directory = directory
        self._seed = seed
        self._settings = settings
        ports = free_ports(5)
        self.frontend_port, self.backend_port, admin, self.front_proxy_port, self.back_proxy_port = ports
        self.frontend = f"tcp://127.0.0.1:{self.frontend_port}"
        self.backend = f"tcp://127.0.0.1:{self.backend_port}"
        self.admin = f"127.0.0.1:{admin}"
        self._config = directory / "router-daemon.toml"
        self._config.write_text(
            CONFIG.format(
                frontend=self.frontend_port, backend=self.backend_port, admin=admin, client_messages=CLIENT_MESSAGES
            )
        )
        self._ran = directory / "ran"
        self._ran.touch()
        self.daemon: Child | None = None
        self.backends: dict[str, Child] = {}
        self._children: list[Child] = []
        self._logs: list[Path] = []

    # --- the daemon ---

    async def start_daemon(self) -> Child:
        """Start the daemon and return once it answers."""
        command = [sys.executable, "-m", "router_daemon", "run", "--config", str(self._config)]
        command += [word for setting in self._settings for word in ("--set", setting)]
        guarded = [sys.executable, "-m", "demo_app.guard", str(os.getpid()), "--", *command]
        self.daemon = await self._start(f"daemon-{len(self._logs)}", guarded)
        self._logs.append(self.directory / f"{self.daemon.name}.log")
        until_s = time.monotonic() + START_S
        while await scrape(self.admin) is None:
            self._must_run(self.daemon)
            if time.monotonic() > until_s:
                raise StageError(f"{self.daemon.name} does not answer\n{self.daemon.last_words()}")
            await asyncio.sleep(LOOK_S)
        return self.daemon

    async def ended(self, child: Child, patience_s: float = STOP_S) -> int:
        """Return the exit code of a child that is ending; one that does not is killed."""
        try:
            return await asyncio.wait_for(child.process.wait(), patience_s)
        except TimeoutError:
            child.signal(signal.SIGKILL)
            await child.process.wait()
            raise StageError(f"{child.name} did not end within {patience_s:.0f} s\n{child.last_words()}") from None

    def complaints(self) -> list[str]:
        """Return what daemons have said that they must never say."""
        return [
            f"{path.name}: {line[:200]}"
            for path in self._logs
            for line in path.read_text(errors="replace").splitlines()
            if "Traceback" in line or "fault while" in line
        ]

    # --- backends ---

    async def start_backend(self, spec: Spec) -> Child:
        """Start one backend; it registers by itself."""
        port = self.back_proxy_port if spec.proxied else self.backend_port
        command = [sys.executable, "-m", "chaos_app.backend", "--name", spec.name]
        command += ["--connect", f"tcp://127.0.0.1:{port}", "--slots", str(spec.slots)]
        command += ["--service-ms", str(spec.service_ms), "--fail", str(spec.fail), "--seed", str(self._seed)]
        command += ["--ran", str(self._ran), "--parent", str(os.getpid())]
        child = self.backends[spec.name] = await self._start(spec.name, command)
        return child

    async def registered(self, timeout_s: float = START_S) -> bool:
        """Wait until every backend is up at the daemon; tell whether that was so in time."""
        until_s = time.monotonic() + timeout_s
        while True:
            page = await scrape(self.admin)
            if page is not None and all(page.value("router_backend_up", backend=name) for name in self.backends):
                return True
            for child in self.backends.values():
                self._must_run(child)
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(LOOK_S)

    def ran_twice(self) -> int:
        """Return how many messages that may run once have run more often."""
        data = self._ran.read_bytes()
        size = ID.size
        whole = len(data) // size
        return whole - len({data[at * size : (at + 1) * size] for at in range(whole)})

    def ran_once(self) -> int:
        """Return how many runs of such messages there were."""
        return len(self._ran.read_bytes()) // ID.size

    # --- a flood ---

    async def flood(self, capability: str, seconds: float, size: int, *, deaf: bool) -> dict[str, Any]:
        """Flood for so long and return the flooder's ledger."""
        command = [sys.executable, "-m", "chaos_app.flooder", "--connect", self.frontend]
        command += ["--capability", capability, "--seconds", str(seconds), "--size", str(size)]
        command += ["--parent", str(os.getpid())]
        command += ["--deaf", "--answer-size", str(DEAF_ANSWER_BYTES)] if deaf else []
        child = await self._start("flooder", command)
        code = await self.ended(child, seconds + START_S)
        if code != 0:
            raise StageError(f"the flooder failed\n{child.last_words()}")
        found: dict[str, Any] = json.loads(child.last_words(1))
        return found

    # --- all ---

    async def _start(self, name: str, command: list[str]) -> Child:
        child = await Child.start(name, command, self.directory / f"{name}.log")
        self._children.append(child)
        return child

    def _must_run(self, child: Child) -> None:
        if not child.running:
            raise StageError(f"{child.name} does not run: {child.fate()}\n{child.last_words()}")

    async def stop_backends(self) -> None:
        """End everything but the daemon, to which backends say good-bye."""
        await _end([child for child in self._children if child.running and child is not self.daemon], 3.0)

    async def stop(self) -> None:
        """End what still runs."""
        await self.stop_backends()
        await _end([child for child in self._children if child.running], STOP_S)

    def kill(self) -> None:
        """End every child at once."""
        for child in self._children:
            child.signal(signal.SIGKILL)


async def _end(children: list[Child], patience_s: float) -> None:
    for child in children:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)  # one that was stopped could not end otherwise
    waits = [asyncio.create_task(child.process.wait()) for child in children]
    if waits and (await asyncio.wait(waits, timeout=patience_s))[1]:
        for child in children:
            child.signal(signal.SIGKILL)
        await asyncio.wait(waits)

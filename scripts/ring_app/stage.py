"""The processes of one row: the daemons, their backends, the links' delays; started, asked over HTTP, ended by id.

Rules:
- Everything is on loopback, on ports below those of outgoing connections, and dies with the driver.
- Of two linked daemons the one with the lower number dials.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import aiohttp
from chaos_app.daemon_side import Page, scrape
from demo_app.processes import Child, free_ports

from ring_app.options import Options, Row
from ring_app.plan import Plan, backend_name, daemon_name

START_S: Final = 60.0
STOP_S: Final = 10.0
LOOK_S: Final = 0.1
FAULT_CHARS: Final = 400
SCRAPES: Final = 4
"""A daemon on a crowded machine may be late for one."""

CONFIG: Final = """\
[frontend]
bind = "tcp://127.0.0.1:{frontend}"

[backend]
bind = "tcp://127.0.0.1:{backend}"

[admin]
bind = "127.0.0.1:{admin}"

[transport]
engine = "{engine}"

[routing]
policy = "{policy}"
mode = "{mode}"

# What is compared are policies, not who stands in for one while this machine has no time for so many processes.
[rollout]
budget_ms = 5000

[ring]
name = "{name}"
listen = "tcp://127.0.0.1:{ring}"
neighbours = {neighbours}

[limits]
drain_timeout_s = 3

[log]
format = "json"
"""


class StageError(Exception):
    """A process did not do what it must; the text says which and what it said last."""


def _fault(line: str) -> str:
    """Return the end of the traceback in a line of the log."""
    try:
        told = json.loads(line)
    except ValueError:
        return line[-FAULT_CHARS:]
    return f"{told.get('event', '')[:80]}: {told.get('exception', '')[-FAULT_CHARS:]}"


class Ports:
    """Where one daemon is found."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.frontend, self.backend, self.admin, self.ring = numbers

    @property
    def frontend_address(self) -> str:
        """Where its clients connect."""
        return f"tcp://127.0.0.1:{self.frontend}"

    @property
    def admin_address(self) -> str:
        """Where it answers people."""
        return f"127.0.0.1:{self.admin}"


class Stage:
    """All processes of one row; `directory` holds their configurations and logs."""

    def __init__(self, directory: Path, plan: Plan, row: Row, options: Options) -> None:
        self.directory = directory
        self.plan = plan
        self._row = row
        self._options = options
        delayed = plan.edges if options.link_ms else ()
        numbers = free_ports(4 * plan.size + len(delayed))
        self.ports = [Ports(numbers[4 * node : 4 * node + 4]) for node in range(plan.size)]
        self._delays = dict(zip(delayed, numbers[4 * plan.size :], strict=True))
        self.pids: dict[int, int] = {}
        self.dead: set[int] = set()
        self._children: list[Child] = []

    async def start(self) -> None:
        """Start everything, and return once every daemon knows every backend."""
        if self._delays:
            links = [f"{port}:{self.ports[other].ring}" for (_, other), port in self._delays.items()]
            await self._start("delays", "ring_app.delays", "--delay-ms", str(self._options.link_ms), *links)
        configs = [str(self._configure(node)) for node in range(self.plan.size)]
        daemons = await self._start("daemons", "ring_app.daemons", *configs)
        await self._start("backends", "ring_app.backends", str(self._backends_file()))
        self.pids = {configs.index(path): pid for path, pid in (await self._printed(daemons)).items()}
        await self._until_known()

    def _configure(self, node: int) -> Path:
        neighbours = [
            f"tcp://127.0.0.1:{self._delays.get((one, other), self.ports[other].ring)}"
            for one, other in self.plan.edges
            if one == node
        ]
        ports = self.ports[node]
        path = self.directory / f"{daemon_name(node)}.toml"
        path.write_text(
            CONFIG.format(
                frontend=ports.frontend,
                backend=ports.backend,
                admin=ports.admin,
                ring=ports.ring,
                engine=self._options.engine,
                policy=self._row.policy,
                mode=self._row.mode,
                name=daemon_name(node),
                neighbours=json.dumps(neighbours),
            )
        )
        return path

    def _backends_file(self) -> Path:
        specs = [
            {
                "name": backend_name(node),
                "address": f"tcp://127.0.0.1:{self.ports[node].backend}",
                "service_ms": member.service_ms,
                "reliability": member.reliability,
                "embedding": member.embedding,
            }
            for node, member in enumerate(self.plan.members)
        ]
        path = self.directory / "backends.json"
        path.write_text(json.dumps(specs))
        return path

    async def _printed(self, child: Child) -> dict[str, int]:
        """Return the JSON object that a child prints first."""
        until_s = time.monotonic() + START_S
        while not (text := child.last_words(1)).startswith("{"):
            self._must_run(child, until_s)
            await asyncio.sleep(LOOK_S)
        found: dict[str, int] = json.loads(text)
        return found

    async def _until_known(self) -> None:
        """Wait until every daemon has every backend."""
        until_s = time.monotonic() + START_S
        waiting = set(range(self.plan.size))
        while waiting:
            for child in self._children:
                self._must_run(child, until_s)
            for node in list(waiting):
                answer = await self.ask(node, "/backends")
                if answer is None or sum(row.get("state") == "up" for row in answer["backends"]) < self.plan.size:
                    break
                waiting.discard(node)
            else:
                return
            await asyncio.sleep(LOOK_S)

    async def ask(self, node: int, path: str) -> dict[str, Any] | None:
        """Return what a daemon answers over HTTP; None where it does not."""
        try:
            timeout = aiohttp.ClientTimeout(total=STOP_S)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{self.ports[node].admin_address}{path}") as reply,
            ):
                answer: dict[str, Any] = await reply.json()
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def pages(self) -> dict[int, Page]:
        """Return /metrics of every daemon that lives."""
        found: dict[int, Page] = {}
        for _ in range(SCRAPES):
            nodes = [node for node in range(self.plan.size) if node not in self.dead and node not in found]
            pages = await asyncio.gather(*(scrape(self.ports[node].admin_address) for node in nodes))
            found |= {node: page for node, page in zip(nodes, pages, strict=True) if page is not None}
        missing = [daemon_name(node) for node in range(self.plan.size) if node not in self.dead and node not in found]
        if missing:
            raise StageError(f"no answer of {', '.join(missing)}\n{self.complaints()}")
        return found

    def kill(self, node: int) -> None:
        """End a daemon as a crash would."""
        self.dead.add(node)
        os.kill(self.pids[node], signal.SIGKILL)

    def complaints(self) -> list[str]:
        """Return what daemons have said that they must never say: each fault once, with how often it came."""
        said = Counter(
            _fault(line)
            for path in sorted(self.directory.glob("*.log"))
            for line in path.read_text(errors="replace").splitlines()
            if "Traceback" in line or "fault while" in line
        )
        return [f"{count} times: {text}" for text, count in said.items()]

    async def _start(self, name: str, module: str, *arguments: str) -> Child:
        command = [sys.executable, "-m", module, "--parent", str(os.getpid()), *arguments]
        log = self.directory / f"{name}.out"
        child = await Child.start(name, command, log, stdin=asyncio.subprocess.DEVNULL)
        self._children.append(child)
        return child

    def _must_run(self, child: Child, until_s: float) -> None:
        if not child.running:
            raise StageError(f"{child.name} does not run: {child.fate()}\n{child.last_words()}")
        if time.monotonic() > until_s:
            raise StageError(f"not ready in time\n{child.last_words()}\n{self.complaints()}")

    async def stop(self) -> None:
        """End everything: backends first, so that they can say good-bye; what does not end in time is killed."""
        for child in reversed(self._children):
            child.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(child.process.wait(), STOP_S)
            except TimeoutError:
                child.signal(signal.SIGKILL)
                await child.process.wait()

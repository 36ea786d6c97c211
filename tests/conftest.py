"""Daemons as subprocesses on loopback, and rooms in them: a capability of its own for each test.

Rules:
- A daemon is whatever `python -m router_daemon run` starts; the tests meet it on its sockets only.
- Tests share the daemons below (one per configuration) and stay out of each other's way by unique names.
- Every daemon must end by SIGTERM with exit code 0 and must never have printed a traceback.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import zmq
from contract import Message
from packaging_kit import installed, wheel  # noqa: F401 - fixtures
from peers import RawBackend, RawClient, RawPeer, unique

if TYPE_CHECKING:
    from container_kit import Pod

REPOSITORY: Final = Path(__file__).resolve().parent.parent
START_S: Final = 45.0
STOP_S: Final = 15.0
RESERVED: Final = 100  # ports: far more than one test draws before its daemons listen
_reserved: Final[deque[socket.socket]] = deque()

Sections = dict[str, dict[str, Any]]


@dataclass
class Daemon:
    """One running daemon."""

    process: subprocess.Popen[bytes]
    frontend: str
    backend: str
    log: Path
    settings: Sections
    signalled: bool = False

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.signalled = True
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        return self.process.wait(timeout_s)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Assert that it lives and nothing went wrong inside so far."""
        assert self.process.poll() is None, f"the daemon died:\n{self.printed()[-4000:]}"
        assert "Traceback" not in self.printed(), self.printed()[-4000:]

    def stop(self) -> None:
        """End it as an operator would and assert that it went well."""
        if self.process.poll() is None and not self.signalled:
            self.signal()
        try:
            code = self.wait()
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        assert code == 0, f"exit code {code}:\n{self.printed()[-4000:]}"
        assert "Traceback" not in self.printed(), self.printed()[-4000:]


@dataclass
class Room:
    """What one test uses of a daemon: its own capability, its own peers, closed when it ends."""

    daemon: Daemon
    context: zmq.Context[zmq.Socket[bytes]]
    capability: str = field(default_factory=lambda: unique("work"))
    peers: list[RawPeer] = field(default_factory=list)

    def client(self, *, delimiter: bool = False, **options: int) -> RawClient:
        """Return a new client."""
        client = RawClient(self.context, self.daemon.frontend, delimiter=delimiter, **options)
        self.peers.append(client)
        return client

    def stranger(self, name: str | None = None, *, delimiter: bool = False, **options: int) -> RawBackend:
        """Return a backend that has not registered."""
        name = name or unique("backend")
        backend = RawBackend(self.context, self.daemon.backend, name, delimiter=delimiter, **options)
        self.peers.append(backend)
        return backend

    def backend(self, **keys: Any) -> RawBackend:
        """Return a backend registered for the room's capability, with these REGISTER keys."""
        backend = self.stranger(keys.pop("name", None))
        backend.register(*keys.pop("capabilities", [self.capability]), **keys)
        return backend

    def backends(self, count: int, **keys: Any) -> list[RawBackend]:
        """Return several registered backends."""
        return [self.backend(**keys) for _ in range(count)]

    def deliveries(self, backends: list[RawBackend]) -> list[tuple[RawBackend, Message]]:
        """Return who has got a DELIVER until now, with it; anything else that came fails the test."""
        found = []
        for backend in backends:
            for message in backend.pending():
                assert message.verb == "DELIVER", message
                found.append((backend, message))
        return found

    def sent_to(self, client: RawClient, backends: list[RawBackend]) -> list[tuple[RawBackend, Message]]:
        """Return who has got a DELIVER for what the client has sent until now; it has got no answer yet."""
        assert client.pending() == []
        return self.deliveries(backends)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


def free_port() -> int:
    """Return a port nobody has, below those the kernel gives to outgoing connections.

    Several processes draw at a time, and bind some time later: so the port is reserved meanwhile. On Linux one socket
    may listen at a port that another has bound, if both reuse addresses and the other does not listen.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.close()
            continue
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(_reserved) == RESERVED:
            _reserved.popleft().close()
        _reserved.append(probe)
        return port
    raise AssertionError("no free port")


def write_config(path: Path, sections: Sections) -> None:
    """Write the sections as TOML (JSON's scalars and lists are TOML's)."""
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines) + "\n")


def merged(frontend: str, backend: str, sections: Sections) -> Sections:
    """Return the settings the tests start from, changed by `sections`."""
    base: Sections = {
        "frontend": {"bind": frontend},
        "backend": {"bind": backend, "heartbeat_ms": 10_000},
        "admin": {"bind": ""},
        "limits": {"drain_timeout_s": 1},
        "rollout": {"budget_ms": 10_000},  # on a busy machine any decision may be interrupted for long
    }
    return {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}


def start_daemon(directory: Path, frontend: str, backend: str, sections: Sections) -> Daemon:
    """Start a daemon; its output goes to a file."""
    settings = merged(frontend, backend, sections)
    config = directory / "router.toml"
    write_config(config, settings)
    log = directory / "daemon.log"
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "router_daemon", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": path},
        )
    return Daemon(process, frontend, backend, log, settings)


def await_ready(daemon: Daemon, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Return once a PING is answered."""
    probe = RawClient(context, daemon.frontend)
    try:
        probe.command("PING")
        deadline_s = time.monotonic() + START_S
        while (pong := probe.poll(0.1)) is None:
            assert daemon.process.poll() is None, f"the daemon did not start:\n{daemon.printed()[-4000:]}"
            assert time.monotonic() < deadline_s, f"no PONG within {START_S} s:\n{daemon.printed()[-4000:]}"
        assert pong.verb == "PONG", pong
    finally:
        probe.close()


class DaemonFactory:
    """Starts daemons, and stops all it started."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], directory: Callable[[], Path]) -> None:
        self._context = context
        self._directory = directory
        self.daemons: list[Daemon] = []

    def __call__(self, *, front: str | None = None, back: str | None = None, **sections: Any) -> Daemon:
        """Start a daemon at these addresses (default: free tcp ports) with these sections; wait until it answers."""
        front = front or f"tcp://127.0.0.1:{free_port()}"
        back = back or f"tcp://127.0.0.1:{free_port()}"
        daemon = start_daemon(self._directory(), front, back, sections)
        self.daemons.append(daemon)
        await_ready(daemon, self._context)
        return daemon

    def stop(self) -> None:
        """Stop all that still run; every one must have ended well."""
        for daemon in self.daemons:
            if daemon.process.poll() is None and not daemon.signalled:
                daemon.signal()
        faults = []
        for daemon in self.daemons:
            try:
                daemon.stop()
            except (AssertionError, subprocess.TimeoutExpired) as fault:
                faults.append(str(fault))
        assert not faults, "\n".join(faults)


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start: a job in the background is begun deaf to it, and hands that on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write half a surrogate pair as an escape where a test has logged one: between processes goes only Unicode."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def zmq_context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(scope="session")
def session_daemon(
    zmq_context: zmq.Context[zmq.Socket[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaemonFactory]:
    factory = DaemonFactory(zmq_context, lambda: tmp_path_factory.mktemp("d"))
    yield factory
    factory.stop()


@pytest.fixture
def daemon(
    zmq_context: zmq.Context[zmq.Socket[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaemonFactory]:
    """Start daemons for one test alone."""
    factory = DaemonFactory(zmq_context, lambda: tmp_path_factory.mktemp("d"))
    yield factory
    factory.stop()


@pytest.fixture
def open_room(zmq_context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Callable[[Daemon], Room]]:
    """Open rooms in daemons of the test's own."""
    rooms: list[Room] = []

    def opened(daemon: Daemon) -> Room:
        rooms.append(Room(daemon, zmq_context))
        return rooms[-1]

    yield opened
    for room in rooms:
        room.close()


@pytest.fixture(scope="session")
def plain_daemon(session_daemon: DaemonFactory) -> Daemon:
    """Return the daemon with the defaults (heartbeats far apart, so that silent peers stay registered)."""
    return session_daemon()


@pytest.fixture(scope="session")
def nimble_daemon(session_daemon: DaemonFactory) -> Daemon:
    """Return a daemon that misses a silent backend after 0.75 s and repeats only what failed."""
    return session_daemon(backend={"heartbeat_ms": 250}, routing={"unsaid_idempotent": "retries"})


@pytest.fixture(scope="session")
def careful_daemon(session_daemon: DaemonFactory) -> Daemon:
    """Return a daemon for which nothing may run twice unless its SEND says so, with short attempts."""
    routing = {"unsaid_idempotent": "never", "heads": 2, "attempt_timeout_ms": 200, "default_ttl_ms": 8_000}
    return session_daemon(routing=routing)


@pytest.fixture(scope="session")
def small_daemon(session_daemon: DaemonFactory) -> Daemon:
    """Return a daemon with low limits."""
    limits = {
        "max_message_bytes": 100_000,
        "max_header_bytes": 2_000,
        "max_body_frames": 4,
        "queue_messages": 2,
        "client_unread_bytes": 300_000,
    }
    return session_daemon(limits=limits, routing={"default_ttl_ms": 700, "max_ttl_ms": 3_000})


def _room(daemon: Daemon, context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Room]:
    daemon.check()
    room = Room(daemon, context)
    yield room
    room.close()
    daemon.check()


@pytest.fixture
def room(plain_daemon: Daemon, zmq_context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Room]:
    yield from _room(plain_daemon, zmq_context)


@pytest.fixture
def nimble(nimble_daemon: Daemon, zmq_context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Room]:
    yield from _room(nimble_daemon, zmq_context)


@pytest.fixture
def careful(careful_daemon: Daemon, zmq_context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Room]:
    yield from _room(careful_daemon, zmq_context)


@pytest.fixture
def small(small_daemon: Daemon, zmq_context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Room]:
    yield from _room(small_daemon, zmq_context)


@pytest.fixture
def pod(installed: Path, tmp_path: Path) -> Iterator[Pod]:  # noqa: F811 - a parameter is how pytest hands it over
    """Start containers as processes; see `container_kit`."""
    from container_kit import Pod

    with contextlib.closing(Pod(installed, tmp_path)) as made:
        yield made

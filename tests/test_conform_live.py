"""The SDK and the examples in JavaScript under `conform`, and those examples with a real daemon.

The plain form plays the scripts that take no time; all of them are played in the full form.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from command_line import environ
from conftest import Daemon, DaemonFactory, Room
from peers import unique
from sdk_fakes import FakeDaemon
from tools import FULL, REPOSITORY, require_npm_packages, require_tool

EXAMPLES: Final = REPOSITORY / "docs/examples"
JAVASCRIPT: Final = EXAMPLES / "javascript"
SIDES: Final = ("backend", "client")
QUICK: Final = {
    "backend": ("body-frames", "body-empty", "big-id", "wide-encoding", "unknown-keys", "stream", "cancel"),
    "client": (
        "body-frames",
        "body-empty",
        "wide-encoding",
        "unknown-keys",
        "stream",
        "cancel",
        "complaint",
        "restart",
    ),
}
END_S: Final = 60.0


def program(language: str, side: str) -> list[str]:
    if language == "python":
        return [sys.executable, str(EXAMPLES / f"python/conform_{side}.py"), "{address}"]
    node = require_tool("node")
    require_npm_packages(JAVASCRIPT)
    return [node, str(JAVASCRIPT / f"conform-{side}.js"), "{address}"]


@contextmanager
def started(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and leave nothing of it behind."""
    process = subprocess.Popen(
        command, text=True, env=environ(), stdin=subprocess.DEVNULL, start_new_session=True, **options
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module", params=["python", "javascript"])
def findings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return what came of the checks on both sides of a language, which are played at once."""
    directory = tmp_path_factory.mktemp("conform")
    found = {}
    with ExitStack() as stack:
        running = {}
        for side in SIDES:
            only = () if FULL else [word for ident in QUICK[side] for word in ("--only", ident)]
            command = [sys.executable, "-m", "router_daemon", "conform", f"--{side}", "tcp://127.0.0.1:0", *only]
            command += ["--run", shlex.join(program(request.param, side)), "--json", str(directory / side)]
            log = stack.enter_context((directory / f"{side}.log").open("w"))
            running[side] = stack.enter_context(started(*command, stdout=log, stderr=log))
        for side, process in running.items():
            code = process.wait(END_S)
            assert code == 0, (directory / f"{side}.log").read_text()
            found[side] = json.loads((directory / side).read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("side", SIDES)
def test_what_is_shown_to_users_keeps_to_the_protocol(findings: dict[str, dict[str, Any]], side: str) -> None:
    verdicts = {check["id"]: check["verdict"] for check in findings[side]["checks"]}
    assert set(verdicts.values()) == {"pass"}
    assert findings[side]["side"] == side
    assert findings[side]["passed"] is True
    assert verdicts.keys() >= set(QUICK[side])


# --- the examples in JavaScript, with a daemon ---

Ask = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def node() -> str:
    require_npm_packages(JAVASCRIPT)
    return require_tool("node")


@pytest.fixture
def nodes_daemon(daemon: DaemonFactory, node: str) -> Daemon:
    return daemon(backend={"heartbeat_ms": 300})


@contextmanager
def working(node: str, daemon: Daemon, room: Room) -> Iterator[subprocess.Popen[str]]:
    """Start the example's backend, and wait until it is registered."""
    with started(node, str(JAVASCRIPT / "work.js"), unique("js"), daemon.backend) as process:
        await_capability(room, "upper")
        yield process


def await_capability(room: Room, capability: str) -> None:
    """Return once a backend for it answers."""
    client = room.client()
    for _ in range(200):
        ident = client.send(capability, b"", ttl_ms=2_000)
        answer = client.until_last(ident)[-1]
        if answer.verb == "REPLY":
            return
        client.poll(0.05)  # nothing else is on its way: a pause that reads
    raise AssertionError(f"nobody came for {capability}: {answer}")


def ask(node: str, daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example's client."""
    command = [node, str(JAVASCRIPT / "ask.js"), *arguments, daemon.frontend]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_example_s_client_and_backend_understand_a_daemon(
    node: str, nodes_daemon: Daemon, open_room: Callable[[Daemon], Room]
) -> None:
    with working(node, nodes_daemon, open_room(nodes_daemon)) as backend:
        done = ask(node, nodes_daemon, "upper", "grüße")
        assert (done.returncode, done.stdout) == (0, "GRÜSSE\n")
        assert done.stderr.startswith("from js-")
        done = ask(node, nodes_daemon, "count", "5")
        assert (done.returncode, done.stdout) == (0, "1\n2\n3\n4\n5\n")
        done = ask(node, nodes_daemon, "count", "many")
        assert done.returncode == 1
        assert done.stderr.startswith("rejected: js-")
        assert done.stderr.endswith("rejected: count takes a number\n")
        done = ask(node, nodes_daemon, "unheard-of", "")
        assert (done.returncode, done.stderr[:14]) == (1, "no_capability:")
        backend.send_signal(signal.SIGTERM)
        assert backend.wait(10) == 0


def test_the_example_s_backend_finds_a_daemon_that_was_killed(
    node: str, daemon: DaemonFactory, open_room: Callable[[Daemon], Room]
) -> None:
    first = daemon(backend={"heartbeat_ms": 300})
    with working(node, first, open_room(first)):
        first.process.kill()
        first.process.wait()
        daemon.daemons.remove(first)
        again = daemon(front=first.frontend, back=first.backend, backend={"heartbeat_ms": 300})
        await_capability(open_room(again), "upper")
        assert ask(node, again, "upper", "back").stdout == "BACK\n"


def test_the_example_s_client_cancels_what_nobody_reads(node: str, room: Room, tmp_path: Path) -> None:
    backend = room.backend()
    script = tmp_path / "leave.mjs"
    script.write_text(
        f"""import {{ Client }} from {json.dumps(str(JAVASCRIPT / "client.js"))};
        const client = new Client({json.dumps(room.daemon.frontend)});
        for await (const piece of client.stream({json.dumps(room.capability)}, "x")) break;
        await client.ping();
        client.close();
        """
    )
    with started(node, str(script)) as process:
        delivery = backend.delivery(timeout_s=30)  # Node.js starts slowly on a busy machine
        backend.part(delivery, b"first")
        backend.cancelled(delivery)
        backend.nack(delivery, code="cancelled")
        assert process.wait(10) == 0


# --- the example's backend, when its connection is lost and the daemon still knows it ---


def test_the_example_s_backend_answers_over_the_next_connection(node: str) -> None:
    with FakeDaemon() as fake, started(node, str(JAVASCRIPT / "conform-backend.js"), fake.address):
        first = fake.registered(heartbeat_ms=60_000)
        fake.deliver(first.peer, 1, b"1500", capability="conform.slow")
        fake.deliver(first.peer, 2, b"now", capability="conform.echo")
        assert fake.expect("ACK").header["id"] == 2  # so it works on the other one
        fake.vanish()
        fake.bind()
        assert fake.registered(heartbeat_ms=60_000).header["session"] == first.header["session"]
        answer = fake.expect("ACK")
        assert (answer.header["id"], answer.body) == (1, [b"1500"])


def test_the_example_s_backend_leaves_no_gap_in_a_stream(node: str) -> None:
    with FakeDaemon() as fake, started(node, str(JAVASCRIPT / "work.js"), "js", fake.address):
        first = fake.registered(heartbeat_ms=60_000)
        fake.deliver(first.peer, 1, b"100000", capability="count")
        assert fake.expect("PART").body == [b"1"]
        fake.vanish()
        fake.bind()
        fake.registered(heartbeat_ms=60_000)
        answer = fake.expect("NACK")
        assert (answer.header["id"], answer.header["code"]) == (1, "failed")
        assert fake.silent()

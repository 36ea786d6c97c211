"""`Backend.serve()` in a process of its own: signals, and dying without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sdk_fakes import PATIENCE_S, FakeDaemon

SCRIPT = """
import sys, threading
from router_daemon import Backend
backend = Backend("b1", sys.argv[1], drain_timeout_s=30)
@backend.handler("work")
async def work(delivery):
    import asyncio
    if delivery.data == b"hang":
        await asyncio.Event().wait()
    return b"done"
backend.serve()
print("ended well", flush=True)
"""


@contextmanager
def served(daemon: FakeDaemon) -> Iterator[subprocess.Popen[bytes]]:
    """Run `serve()` in a process of its own."""
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, daemon.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_on_a_signal(number: signal.Signals) -> None:
    with FakeDaemon() as daemon, served(daemon) as process:
        peer = daemon.registered().peer
        daemon.deliver(peer, 1)
        assert daemon.expect("ACK", "HEARTBEAT").body == [b"done"]
        process.send_signal(number)
        daemon.expect("DRAIN", "HEARTBEAT")
        daemon.send(peer, "BYE", {})
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out, err) == (0, b"ended well\n", b"")


def test_a_second_signal_ends_serve_at_once() -> None:
    with FakeDaemon() as daemon, served(daemon) as process:
        peer = daemon.registered(heartbeat_ms=100).peer
        daemon.deliver(peer, 1, b"hang")
        while daemon.expect("HEARTBEAT").header != {"queue": 1}:
            daemon.send(peer, "HEARTBEAT", {})
        process.send_signal(signal.SIGTERM)
        daemon.expect("DRAIN", "HEARTBEAT")
        process.send_signal(signal.SIGTERM)
        daemon.expect("UNREGISTER", "HEARTBEAT")
        out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out, err) == (0, b"ended well\n", b"")


def test_a_killed_backend_process_is_just_gone() -> None:
    with FakeDaemon() as daemon, served(daemon) as process:
        daemon.registered()
        process.kill()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL
        assert daemon.silent("HEARTBEAT")

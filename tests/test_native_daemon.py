"""A message that never ends, sent by hand to a daemon's own process: what it costs there, and whom."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped, unused-ignore]
import psutil
import pytest
from conftest import Daemon, DaemonFactory, Room
from peers import WAIT_S
from zmtp_bytes import command, frame, handshake, metadata

FRAME: Final = frame(bytes(65_536), more=True)
SENT_BYTES: Final = 150 << 20
GROWN_BYTES: Final = 64 << 20
READ: Final = len(handshake()[:64] + command(b"READY", metadata(Socket_Type=b"ROUTER", Identity=b"")))
ENGINES: Final = [
    "native",
    pytest.param(
        "libzmq",
        marks=pytest.mark.xfail(
            strict=False, raises=AssertionError, reason="libzmq gathers the frames of a message, however many, unseen"
        ),
    ),
]


@contextlib.contextmanager
def endless(daemon: Daemon) -> Iterator[socket.socket]:
    """Open a connection that has sent the beginning of a SEND, and body frames without end."""
    host, _, port = daemon.frontend.removeprefix("tcp://").rpartition(":")
    header = msgpack.packb({"id": "endless", "capability": "c"})
    with socket.create_connection((host, int(port)), WAIT_S) as link:
        link.sendall(handshake())
        greeted = b""
        while len(greeted) < READ:  # libzmq takes no frame before it has sent all of its handshake
            greeted += link.recv(READ - len(greeted))
        link.sendall(frame(b"CAR1.SEND", more=True) + frame(header, more=True))
        for _ in range(SENT_BYTES // len(FRAME)):
            link.sendall(FRAME)
        yield link


@pytest.mark.parametrize("engine", ENGINES)
def test_a_message_that_never_ends_costs_the_daemon_little_memory(
    daemon: DaemonFactory, open_room: Callable[[Daemon], Room], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTER_DAEMON__TRANSPORT__ENGINE", engine)
    running = daemon()
    process = psutil.Process(running.process.pid)
    client = open_room(running).client()
    assert client.pending() == []
    before = process.memory_info().rss
    with endless(running) as link:
        assert client.pending() == []  # others are served meanwhile
        grown = process.memory_info().rss - before
        link.sendall(frame(b"the end"))
        answer = b""
        while b"too_large" not in answer:
            answer += link.recv(65_536)
        assert b"endless" in answer
    assert grown < GROWN_BYTES, f"{grown >> 20} MiB"


def test_the_engine_of_the_environment_is_the_one_that_runs(
    daemon: DaemonFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for engine in ("native", "libzmq"):
        monkeypatch.setenv("ROUTER_DAEMON__TRANSPORT__ENGINE", engine)
        running = daemon(log={"format": "json"})
        assert f'"engine": "{engine}"' in running.printed() or f'"engine":"{engine}"' in running.printed()

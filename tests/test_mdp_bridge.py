"""docs/examples/python/mdp_bridge.py against workers written from ZeroMQ's RFCs 7 and 18, and a daemon between them and a client."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import zmq
from command_line import environ
from conftest import Room, free_port

BRIDGE: Final = Path(__file__).resolve().parent.parent / "docs/examples/python/mdp_bridge.py"
BEAT_MS: Final = 1_000
WAIT_S: Final = 20.0

pytestmark = pytest.mark.slow


class MdpWorker:
    """A worker that answers nothing by itself; `version` 1 is RFC 7, 2 is RFC 18."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, version: int = 2) -> None:
        self.lead = [b""] if version == 1 else []
        self.name = b"MDPW0%d" % version
        self.ready, self.request = b"\x01", b"\x02"
        self.partial = b"\x03"  # of RFC 18
        self.final = b"\x03" if version == 1 else b"\x04"
        self.heartbeat = b"\x04" if version == 1 else b"\x05"
        self.disconnect = b"\x05" if version == 1 else b"\x06"
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)

    def say(self, command: bytes, *rest: bytes) -> None:
        self.socket.send_multipart([*self.lead, self.name, command, *rest])

    def heard(self, timeout_s: float) -> list[bytes] | None:
        """Return the next command that is no heartbeat, with what follows it; keep alive meanwhile."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not self.socket.poll(int(min(left_s * 1000, BEAT_MS))):
                self.say(self.heartbeat)
                continue
            frames = self.socket.recv_multipart()
            assert frames[: len(self.lead) + 1] == [*self.lead, self.name]
            command, *rest = frames[len(self.lead) + 1 :]
            if command != self.heartbeat:
                return [command, *rest]
        return None


class Bridged:
    """A bridge, its workers, and a client of the daemon behind it."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.workers = f"tcp://127.0.0.1:{free_port()}"
        self.client = room.client()
        self.opened: list[MdpWorker] = []
        options = ["--daemon", room.daemon.backend, "--workers", self.workers, "--heartbeat-ms", str(BEAT_MS)]
        self.process = subprocess.Popen(
            [sys.executable, str(BRIDGE), *options],
            env=environ(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def worker(self, version: int = 2) -> MdpWorker:
        """Return a worker that has said READY."""
        worker = self.stranger(version)
        worker.say(worker.ready, self.room.capability.encode())
        return worker

    def stranger(self, version: int = 2) -> MdpWorker:
        worker = MdpWorker(self.room.context, self.workers, version)
        self.opened.append(worker)
        return worker

    def asked(self, worker: MdpWorker, *body: bytes, **keys: Any) -> tuple[Any, bytes]:
        """SEND until this worker has the REQUEST; return the id of the SEND and the address in the REQUEST."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            ident = self.client.send(self.room.capability, *body, **{"mode": "single", "ttl_ms": 20_000, **keys})
            if (heard := worker.heard(0.5)) is not None:
                command, address, empty, *got = heard
                assert (command, empty, got) == (worker.request, b"", list(body))
                return ident, address
            refused = self.client.expect("ERROR", id=ident)
            assert refused.header["code"] in {"no_capability", "no_backend"}
        raise AssertionError(f"no REQUEST within {WAIT_S} s")

    def served(self, worker: MdpWorker, *body: bytes) -> None:
        """SEND what only this worker has a place for, and have it done: by then the daemon knows it."""
        ident = self.client.send(self.room.capability, *body, mode="single", ttl_ms=20_000)
        heard = worker.heard(WAIT_S)
        assert heard is not None
        assert (heard[0], heard[3:]) == (worker.request, list(body))
        worker.say(worker.final, heard[1], b"", b"done")
        assert self.client.expect("REPLY", id=ident).body == [b"done"]

    def end(self) -> str:
        """End it as an operator would; return what it said."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=WAIT_S)[1]
        assert self.process.returncode == 0, said
        assert "Traceback" not in said, said
        return said


@pytest.fixture
def bridged(room: Room) -> Iterator[Bridged]:
    bridged = Bridged(room)
    try:
        yield bridged
        if bridged.process.poll() is None:
            bridged.end()
    finally:
        for worker in bridged.opened:
            worker.socket.close(0)
        if bridged.process.poll() is None:
            bridged.process.kill()
        bridged.process.communicate()


def test_partials_and_the_final_of_rfc_18_arrive_as_a_stream(bridged: Bridged) -> None:
    worker = bridged.worker()
    ident, address = bridged.asked(worker, b"one", b"two")
    worker.say(worker.partial, address, b"", b"piece")
    worker.say(worker.partial, address, b"", b"more", b"frames")
    worker.say(worker.final, address, b"", b"end")
    first, second, last = (bridged.client.recv() for _ in range(3))
    assert [first.body, second.body, last.body] == [[b"piece"], [b"more", b"frames"], [b"end"]]
    assert [message.verb for message in (first, second, last)] == ["PART", "PART", "REPLY"]
    assert last.header["id"] == ident
    assert last.header["backend"] == f"{bridged.room.capability}-1"


def test_a_worker_of_rfc_7_is_served_too(bridged: Bridged) -> None:
    worker = bridged.worker(version=1)
    for body in (b"first", b"second"):
        ident, address = bridged.asked(worker, body)
        worker.say(worker.final, address, b"", body.upper())
        assert bridged.client.expect("REPLY", id=ident).body == [body.upper()]


def test_an_answer_to_something_else_is_dropped(bridged: Bridged) -> None:
    worker = bridged.worker()
    ident, address = bridged.asked(worker, b"x")
    worker.say(worker.final, b"12345", b"", b"wrong")
    worker.say(worker.final, address, b"", b"right")
    assert bridged.client.expect("REPLY", id=ident).body == [b"right"]


def test_who_says_anything_before_ready_is_sent_away(bridged: Bridged) -> None:
    stranger = bridged.stranger()
    stranger.say(stranger.heartbeat)
    assert stranger.heard(WAIT_S) == [stranger.disconnect]


def test_a_second_ready_ends_the_first(bridged: Bridged) -> None:
    worker = bridged.worker()
    ident, _ = bridged.asked(worker, b"x")
    worker.say(worker.ready, b"another")
    assert worker.heard(WAIT_S) == [worker.disconnect]
    bridged.client.error("failed", ident, timeout_s=WAIT_S)


def test_an_idle_worker_that_is_silent_is_gone(bridged: Bridged) -> None:
    worker = bridged.worker()
    _, address = bridged.asked(worker, b"x")
    worker.say(worker.final, address, b"", b"done")
    bridged.client.expect("REPLY")
    deadline_s = time.monotonic() + WAIT_S
    while worker.socket.recv_multipart()[-1] != worker.disconnect:
        assert time.monotonic() < deadline_s
    ident = bridged.client.send(bridged.room.capability)
    ended = bridged.client.expect("ERROR", id=ident)
    assert ended.header["code"] in {"no_backend", "failed"}  # failed: it was on its way when the worker was given up


def test_a_busy_worker_may_be_silent(bridged: Bridged) -> None:
    worker = bridged.worker()
    ident, address = bridged.asked(worker, b"x")
    beats = 0
    while beats < 8:  # more than three, without a word of its own
        assert worker.socket.recv_multipart()[-1] == worker.heartbeat
        beats += 1
    worker.say(worker.final, address, b"", b"long work")
    assert bridged.client.expect("REPLY", id=ident).body == [b"long work"]


def test_what_a_worker_had_that_leaves_goes_to_another(bridged: Bridged) -> None:
    leaving = bridged.worker()
    ident, _ = bridged.asked(leaving, b"x")
    staying = bridged.worker()  # only now, or it might have got the message
    bridged.served(staying, b"there")
    leaving.say(leaving.disconnect)
    heard = staying.heard(WAIT_S)
    assert heard is not None
    command, address, _, body = heard
    assert (command, body) == (staying.request, b"x")
    staying.say(staying.final, address, b"", b"saved")
    assert bridged.client.expect("REPLY", id=ident).body == [b"saved"]


def test_a_worker_keeps_its_place_until_it_is_done_though_nobody_waits(bridged: Bridged) -> None:
    worker = bridged.worker()
    first, address = bridged.asked(worker, b"first")
    bridged.client.command("CANCEL", {"id": first})
    bridged.client.error("cancelled", first)
    second = bridged.client.send(bridged.room.capability, b"second", mode="single", ttl_ms=20_000)
    assert worker.heard(1.0) is None
    worker.say(worker.final, address, b"", b"too late")
    heard = worker.heard(WAIT_S)
    assert heard is not None
    assert heard[3:] == [b"second"]
    worker.say(worker.final, heard[1], b"", b"in time")
    assert bridged.client.expect("REPLY", id=second).body == [b"in time"]


def test_at_its_end_workers_are_told_to_go(bridged: Bridged) -> None:
    worker = bridged.worker()
    _, address = bridged.asked(worker, b"x")
    worker.say(worker.final, address, b"", b"done")
    bridged.client.expect("REPLY")
    bridged.process.send_signal(signal.SIGTERM)
    assert worker.heard(WAIT_S) == [worker.disconnect]
    said = bridged.process.communicate(timeout=WAIT_S)[1]
    assert bridged.process.returncode == 0, said
    assert f"{bridged.room.capability}-1 joined, by MDPW02" in said

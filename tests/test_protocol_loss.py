"""Peers that fall silent, disconnect or are killed, and a daemon that is restarted."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Daemon, DaemonFactory, Room
from contract import Message
from peers import LATE_S, RawBackend, Stopwatch, recv_while_beating, unique

OpenRoom = Callable[[Daemon], Room]


class Doomed:
    """A backend process of its own, to be killed."""

    def __init__(self, room: Room) -> None:
        self.name = unique("doomed")
        script = Path(__file__).with_name("doomed_backend.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), room.daemon.backend, self.name, room.capability],
            stdout=subprocess.PIPE,
        )

    def says(self, word: str, timeout_s: float = 10) -> None:
        """Assert that this is the next word the process prints."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], timeout_s)[0], f"it never said {word}"
        assert self.process.stdout.readline().decode().strip() == word

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def doomed(nimble: Room) -> Iterator[Doomed]:
    process = Doomed(nimble)
    process.says("registered")
    yield process
    process.close()


def test_a_backend_killed_in_mid_message_fails_over(nimble: Room, doomed: Doomed) -> None:
    client = nimble.client()
    ident = client.send(nimble.capability, b"work", mode="single", ttl_ms=20_000, idempotent=True)
    doomed.says("delivered")
    backend = nimble.backend()
    doomed.kill()
    watch = Stopwatch()
    repeated = recv_while_beating(backend, [backend])
    assert (repeated.verb, repeated.header["attempt"], repeated.body) == ("DELIVER", 2, [b"work"])
    assert watch.elapsed_s < 0.75 + LATE_S
    backend.ack(repeated, b"done")
    reply = client.expect("REPLY", id=ident, backend=backend.name, heads=2, last=True)
    assert reply.body == [b"done"]


def test_the_only_backend_killed_in_mid_message_is_failed(nimble: Room, doomed: Doomed) -> None:
    client = nimble.client()
    ident = client.send(nimble.capability, ttl_ms=20_000)
    doomed.says("delivered")
    doomed.kill()
    assert client.error("failed", ident, timeout_s=0.75 + LATE_S).header["retry"] is True
    client.error("no_backend", client.send(nimble.capability))


def test_a_killed_head_of_a_fanout_leaves_the_answer_to_the_others(nimble: Room, doomed: Doomed) -> None:
    client, backend = nimble.client(), nimble.backend()
    first = client.send(nimble.capability, idempotent=True)
    doomed.says("delivered")
    delivery = backend.delivery()
    doomed.kill()
    backend.ack(delivery)
    client.expect("REPLY", id=first, backend=backend.name, last=True)
    second = client.send(nimble.capability, idempotent=True, mode="single", ttl_ms=20_000)
    repeated = recv_while_beating(backend, [backend])
    backend.ack(repeated)
    client.expect("REPLY", id=second, backend=backend.name, last=True)


def test_three_silent_heartbeats_are_a_loss(nimble: Room) -> None:
    client, backends = nimble.client(), nimble.backends(2)
    ident = client.send(nimble.capability, mode="single", ttl_ms=20_000)
    ((silent, delivery),) = nimble.sent_to(client, backends)
    watch = Stopwatch()
    (other,) = (backend for backend in backends if backend is not silent)
    repeated = recv_while_beating(other, [other], timeout_s=0.75 + LATE_S)
    assert 0.7 <= watch.elapsed_s < 0.75 + LATE_S
    assert (repeated.verb, repeated.header["attempt"]) == ("DELIVER", 2)
    silent.ack(delivery, b"of a registration that is lost")
    assert until_not_registered(silent) == []
    other.ack(repeated, b"second")
    assert client.expect("REPLY", id=ident, last=True, backend=other.name).body == [b"second"]
    silent.register(nimble.capability)
    other.command("UNREGISTER")
    other.expect("BYE")
    client.send(nimble.capability)
    silent.ack(silent.delivery())
    client.expect("REPLY", last=True, backend=silent.name)


def until_not_registered(backend: RawBackend) -> list[Message]:
    """Return what comes before the next `not_registered`, but for BYE and CANCEL, which a loss may bring."""
    told: list[Message] = []
    while (message := backend.recv()).header.get("code") != "not_registered":
        if message.verb not in {"BYE", "CANCEL"}:
            told.append(message)
    return told


@pytest.mark.parametrize("verb", ["HEARTBEAT", "UPDATE", "PART"])
def test_any_valid_command_is_a_sign_of_life(nimble: Room, verb: str) -> None:
    client, backend = nimble.client(), nimble.backend()
    ident = client.send(nimble.capability, ttl_ms=20_000)
    delivery = backend.delivery()
    watch = Stopwatch()
    seq = 0
    while watch.elapsed_s < 1.2:
        if verb == "PART":
            backend.part(delivery, b"piece")
            client.expect("PART", id=ident, seq=seq)
            seq += 1
        elif verb == "UPDATE":
            backend.command("UPDATE", {"slots": 2})
            backend.expect("REGISTERED")
        else:
            backend.beat()
        assert backend.poll(0.1) is None
    backend.ack(delivery)
    client.expect("REPLY", id=ident, last=True)


def test_a_client_that_is_gone_has_its_deliveries_cancelled(room: Room) -> None:
    client, backends = room.client(), room.backends(3)
    client.send(room.capability, ttl_ms=30_000)
    sent = room.sent_to(client, backends)
    assert len(sent) == 3
    client.close()
    for backend, delivery in sent:
        backend.cancelled(delivery, timeout_s=5)


def test_a_client_that_left_harms_nobody_who_answers_it(room: Room) -> None:
    client, backend = room.client(), room.backend(slots=3)
    for _ in range(3):
        client.send(room.capability)
    sent = room.sent_to(client, [backend])
    client.close()
    for _, delivery in sent:
        backend.part(delivery, b"piece")
        backend.ack(delivery, b"done")
    assert all(told.verb == "CANCEL" for told in backend.pending())
    other = room.client()
    other.send(room.capability)
    backend.ack(backend.delivery())
    other.expect("REPLY", last=True)


def test_ids_are_not_used_again_after_a_restart(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    first = daemon()
    room = open_room(first)
    client, backend = room.client(), room.backend(slots=30)
    for _ in range(30):
        client.send(room.capability, priority=4)
    before = [delivery for _, delivery in room.sent_to(client, [backend])]
    for delivery in before:
        backend.ack(delivery)
    assert backend.pending() == []
    for _ in before:
        client.expect("REPLY", last=True)
    first.stop()
    backend.expect("BYE")
    daemon(front=first.frontend, back=first.backend)
    await_not_registered(backend)
    client.error("no_capability", client.send(room.capability))
    backend.register(room.capability, slots=30)
    for _ in range(30):
        client.send(room.capability, priority=4)
    after = [delivery for _, delivery in room.sent_to(client, [backend])]
    for key in ("id", "message"):
        assert len({delivery.header[key] for delivery in before + after}) == 60


def await_not_registered(backend: RawBackend) -> None:
    """Return once the connection is there again, and the daemon does not know it."""
    backend.command("HEARTBEAT")
    backend.expect("ERROR", code="not_registered", timeout_s=10)


def test_ids_are_not_used_again_after_the_daemon_was_killed(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    victim = daemon()
    room = open_room(victim)
    client, backend = room.client(), room.backend(slots=30)
    for _ in range(30):
        client.send(room.capability, priority=4)
    before = [delivery for _, delivery in room.sent_to(client, [backend])]
    victim.process.kill()
    victim.process.wait(10)
    daemon.daemons.remove(victim)
    daemon(front=victim.frontend, back=victim.backend)
    await_not_registered(backend)
    for delivery in before:
        backend.ack(delivery, b"of the daemon before")
        backend.expect("ERROR", code="not_registered")
    backend.register(room.capability, slots=30)
    fresh = room.client()
    for _ in range(30):
        fresh.send(room.capability, priority=4)
    after = [delivery for _, delivery in room.sent_to(fresh, [backend])]
    for key in ("id", "message"):
        assert len({delivery.header[key] for delivery in before + after}) == 60
    assert client.poll(0.05) is None

"""SIGTERM and SIGINT drain, a second signal does not wait; and the same contract over ipc and several addresses."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest
from conftest import Daemon, DaemonFactory, Room, free_port
from peers import LATE_S, RawBackend, RawClient, Stopwatch, unique

OpenRoom = Callable[[Daemon], Room]


def await_draining(client: RawClient, capability: str) -> None:
    """SEND until the answer is that the daemon drains."""
    watch = Stopwatch()
    while watch.elapsed_s < 5:
        ident = client.send(capability)
        message = client.expect("ERROR", id=ident, last=True)
        if message.header["code"] == "draining":
            assert message.header["retry"] is True
            return
        assert message.header["code"] == "no_capability", message
    raise AssertionError("the signal did not make it drain")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_messages_finish(daemon: DaemonFactory, open_room: OpenRoom, number: signal.Signals) -> None:
    running = daemon(limits={"drain_timeout_s": 30})
    room = open_room(running)
    client, other, backend = room.client(), room.client(), room.backend()
    ident = client.send(room.capability, b"open")
    waiting = client.send(room.capability, b"waiting")
    delivery = backend.delivery()
    running.signal(number)
    await_draining(other, unique("nobody"))
    client.error("draining", client.send(room.capability))
    assert backend.pending() == []
    backend.ack(delivery, b"done")
    assert client.expect("REPLY", id=ident, last=True).body == [b"done"]
    second = backend.delivery()
    assert second.body == [b"waiting"]
    backend.part(second, b"piece")
    client.expect("PART", id=waiting)
    backend.ack(second, b"done")
    client.expect("REPLY", id=waiting, last=True)
    backend.expect("BYE")
    assert running.wait() == 0


def test_an_idle_daemon_ends_at_once_and_says_bye(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    running = daemon(limits={"drain_timeout_s": 30})
    backends = open_room(running).backends(3)
    watch = Stopwatch()
    running.signal()
    for backend in backends:
        backend.expect("BYE")
    assert running.wait() == 0
    assert watch.elapsed_s < LATE_S


def test_what_is_still_open_at_the_drain_timeout_ends_as_draining(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    running = daemon(limits={"drain_timeout_s": 1})
    room = open_room(running)
    client, backend = room.client(), room.backend()
    out, waiting = client.send(room.capability), client.send(room.capability)
    other = room.client()
    third = other.send(room.capability, reply="all")
    backend.delivery()
    assert client.pending() == []
    assert other.pending() == []
    watch = Stopwatch()
    running.signal()
    assert {client.expect("ERROR", code="draining", last=True).header["id"] for _ in range(2)} == {out, waiting}
    assert 0.9 <= watch.elapsed_s < 1 + LATE_S
    assert other.until_last(third)[-1].header["code"] == "draining"
    while (told := backend.recv()).verb != "BYE":
        assert told.verb == "CANCEL"
    assert running.wait() == 0


def test_what_was_delivered_is_answered_when_the_daemon_ends_under_load(
    daemon: DaemonFactory, open_room: OpenRoom
) -> None:
    running = daemon()
    room = open_room(running)
    client, backend = room.client(), room.backend(slots=20, prefetch=20)
    answers: Counter[str] = Counter()
    delivered: set[int] = set()
    number, signalled_at = 0, 0
    while not signalled_at or number < signalled_at + 300:
        number += 1
        if not signalled_at and len(delivered) > 100:
            running.signal()
            signalled_at = number
        client.send(room.capability, number.to_bytes(2, "big"), bytes(2_000), id=number, ttl_ms=20_000)
        serve(backend, delivered)
        count(client, answers)
    while running.process.poll() is None:
        serve(backend, delivered)
        count(client, answers, 0.005)
    assert running.wait() == 0
    count(client, answers, 0.1)
    assert {number for _, number in client.open} & delivered == set()
    assert answers["REPLY"] >= len(delivered) > 100
    assert set(answers) <= {"REPLY", "draining"}


def serve(backend: RawBackend, delivered: set[int]) -> None:
    """Do all the work that is there."""
    while (message := backend.poll(0)) is not None:
        if message.verb == "DELIVER":
            delivered.add(int.from_bytes(message.body[0], "big"))
            backend.ack(message, *message.body)


def count(client: RawClient, answers: Counter[str], timeout_s: float = 0) -> None:
    """Count what the client hears; it keeps the books itself."""
    while (message := client.poll(timeout_s)) is not None:
        answers[message.header.get("code", message.verb)] += 1


def test_a_second_signal_ends_it_at_once(daemon: DaemonFactory, open_room: OpenRoom) -> None:
    running = daemon(limits={"drain_timeout_s": 30})
    room = open_room(running)
    client, backend = room.client(), room.backend()
    client.send(room.capability)
    backend.delivery()
    running.signal()
    await_draining(room.client(), unique("nobody"))
    watch = Stopwatch()
    running.signal()
    running.wait()
    assert watch.elapsed_s < LATE_S
    assert "Traceback" not in running.printed()
    daemon.daemons.remove(running)


def test_ipc_carries_the_same_contract(
    daemon: DaemonFactory, open_room: OpenRoom, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("s")
    room = open_room(daemon(front=f"ipc://{directory}/front", back=f"ipc://{directory}/back"))
    client, holder = room.client(), room.backend()
    body = [b"", b"x" * 100_000, b""]
    client.send(room.capability, *body)
    delivery = holder.delivery()
    assert delivery.body == body
    holder.part(delivery, b"piece")
    client.expect("PART", seq=0)
    holder.ack(delivery, *body)
    assert client.expect("REPLY", last=True).body == body
    req = room.client(delimiter=True)
    req.send(room.capability)
    holder.ack(holder.delivery())
    req.expect("REPLY", last=True)
    holder.close()
    await_name(room, holder.name)
    client.send(room.capability, ttl_ms=200)
    client.expect("ERROR", code="expired", last=True)


def await_name(room: Room, name: str) -> None:
    """Register under the name of a peer that is gone."""
    heir, watch = room.stranger(name), Stopwatch()
    heir.ask_register(room.capability)
    while (answer := heir.recv()).verb != "REGISTERED":
        assert answer.header["code"] == "name_taken"
        assert watch.elapsed_s < 3
        heir.poll(0.02)
        heir.ask_register(room.capability)


def test_one_daemon_listens_on_several_addresses(
    daemon: DaemonFactory, open_room: OpenRoom, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("s")
    fronts = [f"tcp://127.0.0.1:{free_port()}", f"ipc://{directory}/front"]
    backs = [f"ipc://{directory}/back", f"tcp://127.0.0.1:{free_port()}"]
    running = daemon(front=fronts[0], back=backs[0], frontend={"bind": fronts}, backend={"bind": backs})
    room = open_room(running)
    backends = [room.backend(), open_backend(room, backs[1])]
    for address in fronts:
        client = RawClient(room.context, address)
        room.peers.append(client)
        ident = client.send(room.capability, mode="fanout")
        sent = room.sent_to(client, backends)
        assert len(sent) == 2
        backend, delivery = sent[-1]
        backend.ack(delivery)
        client.expect("REPLY", id=ident, last=True, backend=backend.name)
        loser, lost = sent[0]
        loser.cancelled(lost)
        loser.nack(lost, code="cancelled")
        assert loser.pending() == []


def open_backend(room: Room, address: str) -> RawBackend:
    """Return a backend registered at another address of the daemon."""
    backend = RawBackend(room.context, address, unique("backend"))
    room.peers.append(backend)
    backend.register(room.capability)
    return backend

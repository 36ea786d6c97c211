"""Garbage at both sockets and backends that misbehave at random: the daemon goes on, and the books are right."""

from __future__ import annotations

import os
import random
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import zmq
from conftest import Room
from contract import Message, check_for_backend, check_for_client, pack, parse
from peers import LATE_S, RawBackend, Stopwatch, unique

VERBS = b"SEND CANCEL FEEDBACK PING REGISTER UPDATE HEARTBEAT ACK NACK PART DRAIN UNREGISTER DELIVER REPLY".split()


@pytest.fixture
def dice() -> random.Random:
    """Return a random source whose seed is printed; CHAOS_SEED replays a run."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"CHAOS_SEED={seed}")  # noqa: T201
    return random.Random(seed)


def random_value(dice: random.Random, depth: int = 0) -> Any:
    """Return anything MessagePack can say."""
    kind = dice.randrange(10 if depth < 3 else 7)
    if kind < 7:
        return (
            None,
            dice.random() < 0.5,
            dice.randrange(-(2**63), 2**64) >> dice.randrange(64),
            dice.choice([0.5, -1.0, float("nan"), float("inf")]),
            dice.choice(["", "x", "first", "all", "failed", "é" * 40, "y" * 300]),
            dice.randbytes(dice.randrange(40)),
            dice.randrange(5),
        )[kind]
    items = [random_value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {str(number): item for number, item in enumerate(items)} if kind == 7 else items


KEYS = [
    "id",
    "capability",
    "capabilities",
    "name",
    "slots",
    "prefetch",
    "priority",
    "ttl_ms",
    "heads",
    "mode",
    "reply",
    "idempotent",
    "embedding",
    "resources",
    "key",
    "budget",
    "first_ms",
    "code",
    "queue",
    "quality",
    "timing_us",
    "retry_after_ms",
    "session",
    "score",
    "reason",
    "cost",
    "zone",
]


def random_header(dice: random.Random, capability: str) -> bytes:
    """Return a header: sensible but for a few keys, then perhaps cut, doubled or with a byte changed."""
    header: dict[str, Any] = {"id": dice.randrange(20), "capability": capability, "ttl_ms": 200}
    header |= {"name": f"garbage-{dice.randrange(50)}", "capabilities": [capability], "score": 1}
    for key in dice.sample(KEYS, dice.randrange(4)):
        header[key] = random_value(dice)
    packed = bytearray(pack(header))
    fault = dice.randrange(8)
    if fault == 0:
        del packed[dice.randrange(len(packed)) :]
    elif fault == 1:
        packed *= 2
    elif fault == 2:
        packed[dice.randrange(len(packed))] = dice.randrange(256)
    elif fault == 3:
        packed = bytearray(dice.randbytes(dice.randrange(100)))
    return bytes(packed)


def garbage(dice: random.Random, capability: str) -> list[bytes]:
    """Return the frames of one message that may be anything."""
    if dice.random() < 0.3:
        return [dice.randbytes(dice.choice([0, 1, 5, 9, 300])) for _ in range(dice.randrange(1, 7))]
    frames = [b"CAR1." + dice.choice(VERBS), random_header(dice, capability)]
    frames += [dice.randbytes(dice.randrange(30)) for _ in range(dice.choice([0, 0, 1, 2, 70]))]
    if dice.random() < 0.1:
        frames.insert(0, b"")
    if dice.random() < 0.1:
        del frames[dice.randrange(len(frames))]
    return frames


def drain(peer: zmq.Socket[bytes], check: Any) -> int:
    """Read and check all that is there; returns how many messages that was."""
    count = 0
    while peer.poll(0):
        frames = peer.recv_multipart()
        check(parse(frames[1:] if frames[0] == b"" else frames))
        count += 1
    return count


def test_garbage_never_stops_the_daemon(room: Room, dice: random.Random) -> None:
    capability = unique("garbage")
    clients = [room.client() for _ in range(3)]
    backends = [room.stranger() for _ in range(2)] + [room.backend(capabilities=[capability])]
    answers = 0
    for _ in range(1_000):
        dice.choice(clients).send_frames(*garbage(dice, capability))
        dice.choice(backends).send_frames(*garbage(dice, capability))
        answers += sum(drain(client.socket, check_for_client) for client in clients)
        answers += sum(drain(backend.socket, check_for_backend) for backend in backends)
    assert answers
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability, b"still there")
    backend.ack(backend.delivery())
    client.expect("REPLY", id=ident, last=True)


def test_bytes_that_are_no_zeromq_harm_nobody(room: Room, dice: random.Random) -> None:
    for address in (room.daemon.frontend, room.daemon.backend):
        port = urlsplit(address).port
        assert port
        for size in (0, 1, 10, 64, 5_000):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
                stream.sendall(dice.randbytes(size))
    client, backend = room.client(), room.backend()
    ident = client.send(room.capability)
    backend.ack(backend.delivery())
    client.expect("REPLY", id=ident, last=True)


def misbehave(dice: random.Random, backend: RawBackend, delivery: Message) -> None:
    """Answer a delivery well, badly, late, twice or not at all."""
    way = dice.randrange(12)
    if way < 4:
        backend.ack(delivery, b"done")
    elif way < 6:
        backend.nack(delivery, code=dice.choice(["failed", "rejected", "cancelled"]))
    elif way == 6:
        backend.nack(delivery, code="busy", retry_after_ms=dice.randrange(1, 100))
    elif way == 7:
        backend.part(delivery, b"piece")
        backend.ack(delivery, b"done")
        backend.ack(delivery, b"twice")
    elif way == 8:
        backend.part(delivery, b"piece")
        backend.nack(delivery)
    elif way == 9:
        backend.ack(delivery, quality=7)
    elif way == 10:
        backend.part(delivery, b"and then nothing")


def test_every_send_ends_in_exactly_one_last_message(room: Room, dice: random.Random) -> None:
    client, backends = room.client(), room.backends(4, slots=20, prefetch=5)
    sent, watch = 0, Stopwatch()
    while sent < 600 or (client.open and watch.elapsed_s < 10):
        if sent < 600:
            sent += 1
            keys = {"mode": dice.choice(["single", "fanout"]), "heads": dice.randrange(1, 4)}
            keys |= {"reply": dice.choice(["first", "first", "none"]), "ttl_ms": dice.randrange(1, 500)}
            if keys["mode"] == "fanout" and dice.random() < 0.3:
                keys["reply"] = "all"
            elif dice.random() < 0.3:
                keys["idempotent"] = False
            ident = client.send(room.capability, b"work", **keys)
            if dice.random() < 0.05:
                client.command("CANCEL", {"id": ident})
            watch = Stopwatch()
        while client.poll(0) is not None:
            pass  # the client keeps the books
        for backend in backends:
            serve(dice, backend)
        if sent == 600:
            client.poll(0.01)
    assert client.open == set()
    assert watch.elapsed_s < 0.5 + 0.1 + LATE_S, "the last ones ended too late"
    assert client.pending() == []


def serve(dice: random.Random, backend: RawBackend) -> None:
    """Take what has come; ERRORs are for what it does wrong on purpose."""
    while (message := backend.poll(0)) is not None:
        assert message.verb in {"DELIVER", "CANCEL", "ERROR"}
        if message.verb == "DELIVER":
            misbehave(dice, backend, message)
        elif message.verb == "CANCEL" and dice.random() < 0.9:
            backend.command("NACK", {"id": message.header["id"], "code": "cancelled"})

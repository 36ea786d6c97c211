"""The clients of `bench_prefetch`: one DEALER, driven by one loop without threads.

Rules:
- Closed: the next request leaves when an answer has come. Open: requests leave at their moments, whatever has come.
- An open loop measures from the moment at which a request was to leave, so a late generator is not flattered.
- A closed loop is not refused anything: whatever is not an answer ends the run. An open one counts its ERRORs.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack
import zmq

Socket = zmq.Socket[bytes]
TTL_MS = 300_000
END_MS = 10_000


class Arrival(NamedTuple):
    """A message to send: when (seconds from the start), to whom, and how long to work on it."""

    at_s: float
    capability: str
    work_s: float


@dataclass
class Closed:
    """What a closed loop measured: answers in the window, and the latency of each."""

    seconds: float
    latencies_s: list[float]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds


@dataclass
class Opened:
    """What an open loop measured, by capability: seconds to the first PART or answer, and how many got an ERROR.

    `backends`: who answered.
    """

    first_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)
    backends: set[str] = field(default_factory=set)


@contextmanager
def dealer(frontend: str) -> Iterator[Socket]:
    """A client's connection."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0
        socket.connect(frontend)
        yield socket


def send(socket: Socket, number: int, capability: str, work_s: float) -> None:
    """Send one message."""
    header = msgpack.packb({"id": number, "capability": capability, "ttl_ms": TTL_MS})
    socket.send_multipart([b"CAR1.SEND", header, b"%.6f" % work_s])


def receive(socket: Socket) -> tuple[bytes, dict[str, Any]]:
    """Return the next command and its header."""
    command, header, *_ = socket.recv_multipart()
    return command, msgpack.unpackb(header)


def closed_loop(
    frontend: str, capability: str, work_s: float, outstanding: int, seconds: float, warmup_s: float
) -> Closed:
    """Keep so many requests out."""
    clock = time.perf_counter
    sent: dict[int, float] = {}
    latencies: list[float] = []
    with dealer(frontend) as socket:
        for number in range(outstanding):
            sent[number] = clock()
            send(socket, number, capability, work_s)
        number, begin = outstanding, clock() + warmup_s
        end = begin + seconds
        while (now := clock()) < end:
            if not socket.poll(max(1, int((end - now) * 1000))):
                continue
            command, header = receive(socket)
            assert command == b"CAR1.REPLY", f"{command!r} {header}"
            now = clock()
            left_at = sent.pop(header["id"])
            if begin <= now < end:
                latencies.append(now - left_at)
            sent[number] = now
            send(socket, number, capability, work_s)
            number += 1
        drain(socket, set(sent))
    return Closed(seconds, latencies)


def drain(socket: Socket, missing: set[int]) -> None:
    """Take the answers that are still out."""
    while missing:
        assert socket.poll(END_MS), f"{len(missing)} requests got no answer"
        missing.discard(receive(socket)[1]["id"])


def open_loop(frontend: str, arrivals: Sequence[Arrival], patience_s: float) -> Opened:
    """Send what arrives at its moment, and wait for all to end."""
    result, missing, heard = Opened(), set(range(len(arrivals))), set()
    with dealer(frontend) as socket:
        start = time.perf_counter()
        number = 0
        while missing:
            now = time.perf_counter() - start
            while number < len(arrivals) and arrivals[number].at_s <= now:
                send(socket, number, arrivals[number].capability, arrivals[number].work_s)
                number += 1
            until = arrivals[number].at_s if number < len(arrivals) else arrivals[-1].at_s + patience_s
            assert until > now or number < len(arrivals), f"{len(missing)} messages did not end"
            if not socket.poll(max(0, int((until - now) * 1000))):
                continue
            command, header = receive(socket)
            arrival = arrivals[header["id"]]
            if command == b"CAR1.ERROR":
                result.refused[arrival.capability] += 1
            elif header["id"] not in heard:
                heard.add(header["id"])
                result.first_s[arrival.capability].append(time.perf_counter() - start - arrival.at_s)
                result.backends.add(header["backend"])
            if command != b"CAR1.PART":
                missing.discard(header["id"])
    return result

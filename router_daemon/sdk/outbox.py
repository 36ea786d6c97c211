"""The results of a backend on their way to the daemon, and what to do about them when the connection is lost.

Rules:
- What handlers produce faster than the daemon takes it is bounded: `put` says when a stream has to wait, `sent` when it
  may go on.
- What was handed to a connection may be lost with it. The daemon answers each HEARTBEAT in its turn, so an answer
  confirms everything sent before that HEARTBEAT; what no answer has confirmed is sent again over the next connection.
  A second ACK changes nothing at the daemon.
- A second PART would: a stream with unconfirmed pieces ends with a NACK instead, for it must never have a gap, and
  nobody can tell whether it would.
- Two threads meet here: any may `put`; all else is for the thread that owns the socket.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, NamedTuple

from router_daemon.sdk.deliveries import refusal
from router_daemon.sdk.link import PREFIX

ROOM_BYTES: Final = 8 * 1024 * 1024
"""What may wait for the daemon before streams have to; ACKs and NACKs are let in beyond it."""
KEPT_BYTES: Final = 8 * 1024 * 1024
"""Unconfirmed ACKs that are kept for the next connection; the oldest go first, as most likely confirmed."""
FRAME_OVERHEAD_BYTES: Final = 64
PART: Final = PREFIX + b"PART"


class Result(NamedTuple):
    """An ACK, a NACK or a PART of a delivery."""

    delivery_id: int
    frames: list[bytes]

    @property
    def is_part(self) -> bool:
        """Return whether more of the same delivery follows."""
        return self.frames[0] == PART

    @property
    def size_bytes(self) -> int:
        """Return what it takes to hold it."""
        return sum(map(len, self.frames)) + FRAME_OVERHEAD_BYTES * len(self.frames)


class Outbox:
    """Results in the order in which they were put; what was sent stays known until it is confirmed."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[Result] = deque()
        self._waiting_bytes = 0
        self._starved = False
        self._sent_count = 0
        self._heartbeats: deque[int] = deque()  # for each without an answer: how many results went out before it
        self._kept: deque[tuple[int, Result]] = deque()  # ACKs and NACKs not confirmed yet, numbered as they were sent
        self._kept_bytes = 0
        self._streams: dict[int, int] = {}  # deliveries with unconfirmed PARTs -> the number of the last one

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, delivery_id: int, frames: list[bytes]) -> bool:
        """Queue a result; return False when a stream should wait until there is room."""
        result = Result(delivery_id, frames)
        with self._guard:
            self._waiting.append(result)
            self._waiting_bytes += result.size_bytes
            full = self._waiting_bytes > ROOM_BYTES
            self._starved |= full
        return not full

    def first(self) -> list[bytes]:
        """Return the frames to send next."""
        return self._waiting[0].frames

    def sent(self) -> bool:
        """Note that the first was sent; return True when streams that had to wait may go on."""
        with self._guard:
            result = self._waiting.popleft()
            self._waiting_bytes -= result.size_bytes
            room = self._starved and self._waiting_bytes <= ROOM_BYTES // 2
            self._starved &= not room
        if result.is_part:
            self._streams[result.delivery_id] = self._sent_count
        else:
            self._keep(result)
        self._sent_count += 1
        return room

    def heartbeat_sent(self) -> None:
        """Note that a HEARTBEAT went out behind everything sent so far."""
        self._heartbeats.append(self._sent_count)

    def heartbeat_answered(self) -> None:
        """Forget what went out before the oldest HEARTBEAT without an answer: the daemon has read it."""
        if not self._heartbeats:
            return
        confirmed = self._heartbeats.popleft()
        while self._kept and self._kept[0][0] < confirmed:
            self._forget_oldest()
        if self._streams:
            self._streams = {each: number for each, number in self._streams.items() if number >= confirmed}

    def clear(self) -> None:
        """Forget everything: the registration that it belongs to has ended."""
        with self._guard:
            self._waiting.clear()
            self._waiting_bytes = 0
        self._forget_sent()

    def connection_lost(self) -> list[int]:
        """Queue again what may be lost; return the deliveries whose streams are broken, each already NACKed."""
        broken = list(self._streams)
        reason = "the connection was lost in the middle of the stream"
        again = [Result(delivery_id, refusal(delivery_id, "failed", reason)) for delivery_id in broken]
        again += [result for _, result in self._kept if result.delivery_id not in self._streams]
        with self._guard:
            rest = [result for result in self._waiting if result.delivery_id not in self._streams]
            self._waiting = deque([*again, *rest])
            self._waiting_bytes = sum(result.size_bytes for result in self._waiting)
        self._forget_sent()
        return broken

    def _keep(self, result: Result) -> None:
        """Keep an ACK or a NACK until it is confirmed, or until there are too many."""
        self._kept.append((self._sent_count, result))
        self._kept_bytes += result.size_bytes
        while self._kept_bytes > KEPT_BYTES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._kept_bytes -= self._kept.popleft()[1].size_bytes

    def _forget_sent(self) -> None:
        self._heartbeats.clear()
        self._kept.clear()
        self._kept_bytes = 0
        self._streams.clear()

"""A client process that sends as fast as its connection takes it; it keeps its own ledger and prints it as JSON.

Its ids are its own (from 1). With `--deaf` it never reads, and at the end it simply goes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from typing import Any, Final

import msgpack
import zmq
from demo_app.guard import die_with, watch_stdin

from chaos_app.work import body_of, id_in

TTL_MS: Final = 2000
GIVE_UP_S: Final = 8.0
"""For the last answers: what the connection's buffers hold is read at the daemon's pace."""
BUFFER_BYTES: Final = 65_536
MARK: Final = 100


class Flood:
    """One connection."""

    def __init__(self, address: str, capability: str, size: int, answer_size: int) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, MARK), (zmq.SNDBUF, BUFFER_BYTES)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.RCVBUF, BUFFER_BYTES)
        self._socket.connect(address)
        self._capability = capability
        self._size = size
        self._answer_size = answer_size
        self._open: set[int] = set()
        self.sent = self.twice = 0
        self.outcomes: Counter[str] = Counter()

    def send(self) -> bool:
        """Send one; tell whether the connection took it."""
        ident = self.sent + 1
        header = msgpack.packb({"id": ident, "capability": self._capability, "ttl_ms": TTL_MS})
        body = body_of(ident, once=False, size=self._size, answer_size=self._answer_size)
        try:
            self._socket.send_multipart([b"CAR1.SEND", header, body], zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._open.add(ident)
        self.sent = ident
        return True

    def read(self) -> None:
        """Read what has come."""
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            header = msgpack.unpackb(frames[1])
            ident = header["id"]
            if ident not in self._open or (len(frames) > 2 and id_in(frames[2]) != ident):
                self.twice += 1
            elif header["last"]:
                self._open.discard(ident)
                self.outcomes[header.get("code", "answered")] += 1

    def wait(self, timeout_ms: int, *, deaf: bool) -> None:
        """Wait until something can be sent or read."""
        self._socket.poll(timeout_ms, zmq.POLLOUT if deaf else zmq.POLLIN | zmq.POLLOUT)

    def run(self, seconds: float, *, deaf: bool) -> dict[str, Any]:
        """Flood for so long, wait for the last answers, and return the ledger."""
        began_s = time.monotonic()
        while time.monotonic() < began_s + seconds:
            while self.send():
                if self.sent % 64 == 0 and not deaf:
                    self.read()
                if time.monotonic() >= began_s + seconds:
                    break
            if not deaf:
                self.read()
            self.wait(20, deaf=deaf)
        flooded_s = time.monotonic() - began_s
        until_s = time.monotonic() + (0.0 if deaf else GIVE_UP_S)
        while self._open and time.monotonic() < until_s:
            self._socket.poll(50, zmq.POLLIN)
            self.read()
        return {
            "capability": self._capability,
            "sent": self.sent,
            "outcomes": dict(self.outcomes),
            "open": len(self._open),
            "twice": self.twice,
            "seconds": flooded_s,
            "deaf": deaf,
        }


def main() -> None:
    """Flood and print one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connect", required=True)
    parser.add_argument("--capability", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--answer-size", type=int, default=0)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    die_with(options.parent)
    if sys.platform != "linux":
        watch_stdin()
    flood = Flood(options.connect, options.capability, options.size, options.answer_size)
    print(json.dumps(flood.run(options.seconds, deaf=options.deaf)), flush=True)


if __name__ == "__main__":
    main()

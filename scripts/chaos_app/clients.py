"""Clients in the driver: raw DEALER sockets that never wait, whose every message is in the ledger.

Rules:
- Nothing of the daemon's code is used: frames and MessagePack by hand, as docs/protocol.md has them.
- A socket is read until it is empty, and the time of that look is kept: see `books`.
- A body begins with the message's id and flags (`work.BODY`): what the backends need, and what an answer must repeat.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgpack
import zmq

from chaos_app.books import Books
from chaos_app.work import body_of, id_in

Context = zmq.Context[zmq.Socket[bytes]]
GIVE_UP_AFTER_S: Final = 1.0
"""A client gives up by itself this long after its time to live, says docs/protocol.md."""
_SEND, _PING, _CANCEL, _EMPTY = b"CAR1.SEND", b"CAR1.PING", b"CAR1.CANCEL", b"\x80"


class ChaosClient:
    """One connection; `timed`: nothing but the daemon can delay its answers, so their times are judged.

    Attributes:
        open: its open messages, with the moment at which it gives each up.
        pongs: how many PONGs have come.
    """

    def __init__(self, context: Context, address: str, books: Books, *, timed: bool = True, **options: int) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self._socket.setsockopt(getattr(zmq, name), value)
        self._socket.connect(address)
        self._books = books
        self._timed = timed
        self._looked_s = 0.0
        self.open: dict[int, float] = {}
        self.pongs = 0

    def send(
        self,
        capability: str,
        now_s: float,
        *,
        ttl_ms: int = 2000,
        size: int = 64,
        answer_size: int = 0,
        watched: bool = False,
        **keys: Any,
    ) -> int | None:
        """SEND and return the id; None where the socket is full, which takes it back."""
        ident = self._books.sent(capability, ttl_ms / 1000.0, now_s, timed=self._timed, watched=watched)
        header = msgpack.packb({"id": ident, "capability": capability, "ttl_ms": ttl_ms, **keys})
        body = body_of(ident, once=keys.get("idempotent") is False, size=size, answer_size=answer_size)
        try:
            self._socket.send_multipart([_SEND, header, body], zmq.NOBLOCK)
        except zmq.Again:
            self._books.unsent(ident)
            return None
        self.open[ident] = now_s + ttl_ms / 1000.0 + GIVE_UP_AFTER_S
        return ident

    def cancel(self, ident: int) -> None:
        """CANCEL."""
        self._try(_CANCEL, msgpack.packb({"id": ident}))

    def ping(self) -> None:
        """PING: its PONG comes after all the daemon had to say before."""
        self._try(_PING, _EMPTY)

    def drain(self, now_s: float) -> int:
        """Read what has come and return how many messages ended."""
        ended = 0
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            ended += self._take(self._socket.recv_multipart(zmq.NOBLOCK), now_s)
        self._looked_s = now_s
        return ended

    def _take(self, frames: list[bytes], now_s: float) -> bool:
        verb = frames[0].removeprefix(b"CAR1.").decode()
        if verb == "PONG":
            self.pongs += 1
            return False
        header = msgpack.unpackb(frames[1])
        ident = header.get("id")
        if ident is None:
            self._books.fault(f"about no SEND: {verb} {header}")
            return False
        if verb == "REPLY" and id_in(frames[2]) != ident:
            self._books.fault(f"the answer to {id_in(frames[2])} was given to {ident}")
        if not self._books.answer(ident, verb, header, now_s, self._looked_s):
            return False
        self.open.pop(ident, None)
        return True

    def give_up(self, why: str, now_s: float = float("inf")) -> int:
        """Give up what is past its time (by default everything) and return how many that were."""
        over = [ident for ident, until_s in self.open.items() if now_s >= until_s]
        for ident in over:
            del self.open[ident]
            self._books.give_up(ident, why)
        return len(over)

    def close(self, why: str | None) -> int:
        """Close the connection; return how many messages were open, given up for that reason (None: left open)."""
        self._socket.close(linger=0)
        return len(self.open) if why is None else self.give_up(why)

    def _try(self, *frames: bytes) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return


def open_in(clients: Iterable[ChaosClient]) -> int:
    """Return how many messages these clients have open."""
    return sum(len(client.open) for client in clients)

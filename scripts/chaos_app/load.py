"""The ordinary traffic: clients that connect directly, clients behind the proxy, at a steady rate or in a closed loop.

Rules:
- One tick every `TICK_S`: read every socket until it is empty, then send what is due. How late a tick was is kept: it
  is what the driver's own clock adds to the answers' times.
- A rate is kept whatever the answers do (an open loop), so that a slow daemon is not spared by those who measure it.
- Clients behind the proxy give up by themselves; direct ones never do: a message of theirs without an answer is a
  fault.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

from chaos_app.books import Books
from chaos_app.clients import ChaosClient, Context, open_in

TICK_S: Final = 0.002
DIRECT: Final = 8
PROXIED: Final = 2
PROXIED_SHARE: Final = 0.1
OUTSTANDING: Final = 64
"""In the closed loop: well above the backends' slots, well below every limit."""
WARM_UP_S: Final = 0.5
BURST_S: Final = 1.0
SWEEP_EVERY_S: Final = 0.1

_MIX: Final[tuple[tuple[float, str, dict[str, Any]], ...]] = (
    (0.06, "oneway", {"reply": "none"}),
    (0.12, "all", {"reply": "all", "heads": 2}),
    (0.18, "work", {"idempotent": False}),
    (0.22, "work", {"mode": "fanout", "heads": 2}),
)
_HASTY: Final = 0.28
_REGRETTED: Final = 0.31
"""Cumulative shares: beyond the mix come short times to live, then CANCELs, then what is ordinary and watched."""


class Load:
    """All ordinary clients; `rate` is in messages a second, 0 for none."""

    def __init__(self, context: Context, direct: str, proxied: str, books: Books, rng: random.Random) -> None:
        self._context = context
        self._address = direct
        self._books = books
        self._rng = rng
        self.direct = [ChaosClient(context, direct, books) for _ in range(DIRECT)]
        self.proxied = [ChaosClient(context, proxied, books, timed=False) for _ in range(PROXIED)]
        self.others: list[ChaosClient] = []
        self.rate = 0.0
        self.late_s: list[float] = []
        self.ended = 0
        self.not_taken = 0
        self._closed = 0
        self._credit = 0.0
        self._looked_s = time.monotonic()
        self._swept_s = 0.0
        self._cancel_next: list[tuple[ChaosClient, int]] = []

    async def run(self) -> None:
        """Tick until cancelled."""
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + TICK_S, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())
            now_s = time.monotonic()
            self.late_s.append(now_s - due_s)
            self.tick(now_s)

    def tick(self, now_s: float) -> None:
        """Read everything, then send what is due."""
        for client in (*self.direct, *self.proxied, *self.others):
            self.ended += client.drain(time.monotonic())
        for client, ident in self._cancel_next:
            client.cancel(ident)
        self._cancel_next.clear()
        if now_s >= self._swept_s + SWEEP_EVERY_S:
            self._swept_s = now_s
            for client in self.proxied:
                client.give_up("lost", now_s)
        self._credit = min(self._credit + self.rate * (now_s - self._looked_s), self.rate * BURST_S)
        self._looked_s = now_s
        while self._credit >= 1.0:
            self._credit -= 1.0
            self._send(now_s)
        for _ in range(self._closed - open_in(self.direct)):
            self._taken(self._rng.choice(self.direct).send("work", now_s))

    def _send(self, now_s: float) -> None:
        rng = self._rng
        if rng.random() < PROXIED_SHARE:
            self._taken(rng.choice(self.proxied).send("proxied", now_s, ttl_ms=rng.choice((500, 1000, 2000))))
            return
        client, dice = rng.choice(self.direct), rng.random()
        for share, capability, keys in _MIX:
            if dice < share:
                self._taken(client.send(capability, now_s, **keys))
                return
        if dice < _HASTY:
            self._taken(client.send("work", now_s, ttl_ms=rng.randrange(1, 200)))
        elif dice < _REGRETTED:
            ident = client.send("work", now_s)
            if self._taken(ident) and ident is not None:
                self._cancel_next.append((client, ident))
        else:
            self._taken(client.send("work", now_s, watched=True))

    def _taken(self, ident: int | None) -> bool:
        self.not_taken += ident is None
        return ident is not None

    async def capacity(self, seconds: float) -> float:
        """Return how many messages a second get through when as many as `OUTSTANDING` are always open."""
        self._closed = OUTSTANDING
        await asyncio.sleep(WARM_UP_S)
        before, began_s = self.ended, time.monotonic()
        await asyncio.sleep(seconds)
        rate = (self.ended - before) / (time.monotonic() - began_s)
        self._closed = 0
        return rate

    async def settle(self, timeout_s: float) -> bool:
        """Send nothing and wait until nothing is open; tell whether that was so in time."""
        rate, self.rate = self.rate, 0.0
        until_s = time.monotonic() + timeout_s
        while self._books.open and time.monotonic() < until_s:  # noqa: ASYNC110 - `run` empties it
            await asyncio.sleep(0.02)
        self.rate = rate
        return not self._books.open

    def reconnect(self) -> int:
        """Open every direct connection anew, as after the daemon's end; return how many messages went with them."""
        lost = sum(client.close("daemon gone") for client in self.direct)
        self.direct = [ChaosClient(self._context, self._address, self._books) for _ in range(DIRECT)]
        self._cancel_next.clear()
        return lost

    def close(self) -> None:
        """Close everything; what is open stays open in the books."""
        for client in (*self.direct, *self.proxied, *self.others):
            client.close(None)


def quantile(values: list[float], share: float) -> float:
    """Return that quantile of the values, 0 where there are none."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] if values else 0.0

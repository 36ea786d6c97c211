"""The traffic: one client at each daemon, messages at a steady rate, and what became of each.

Rules:
- The rate is kept whatever the answers do, so that a slow ring is not spared by those who measure it.
- A client whose daemon was killed moves to the next one around the ring. What it had open then is counted apart: its
  daemon had it, and is gone with it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from ring_app.plan import CAPABILITY, Plan, cosine, node_of, unit_vector
from router_daemon.client import Client
from router_daemon.errors import ConnectionLost, RouterError

TTL_MS: Final = 5_000
BODY: Final = bytes(64)


@dataclass
class Answer:
    """One answered message: when it was sent (seconds from the start), how long it took, how well it suits."""

    sent_s: float
    seconds: float
    alignment: float


@dataclass
class Ledger:
    """What became of all messages.

    Attributes:
        sent: in all; each is exactly one of what follows.
        answers: those with a result. errors: those with an ERROR of the protocol, by code.
        cut_off: open at the killed daemon when it ended. unanswered: nothing came, and their daemon lived.
    """

    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    unanswered: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every message is in it once."""
        ended = len(self.answers) + self.errors.total() + self.cut_off + self.unanswered
        return ended == self.sent


class Load:
    """All clients. `addresses`: of the daemons' frontends, around the ring."""

    def __init__(self, plan: Plan, addresses: list[str], rate: float, seed: int) -> None:
        self.ledger = Ledger()
        self._plan = plan
        self._addresses = addresses
        self._rate = rate
        self._rng = random.Random(f"load {seed}")
        self._clients = [Client(address, ttl_ms=TTL_MS) for address in addresses]
        self._dead: set[int] = set()
        self._retired: list[Client] = []
        self._open: set[asyncio.Task[None]] = set()
        self._began_s = 0.0

    async def open(self) -> None:
        """Connect, and wait until each daemon answers."""
        for client in self._clients:
            await client.open()
        await asyncio.gather(*(client.ping() for client in self._clients))

    async def run(self, seconds: float) -> None:
        """Send for so long; messages arrive as a Poisson process."""
        self._began_s = due_s = time.monotonic()
        until_s = due_s + seconds
        while (due_s := due_s + self._rng.expovariate(self._rate)) < until_s:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            task = asyncio.ensure_future(self._send(self._rng.randrange(len(self._clients))))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def settle(self) -> None:
        """Wait until nothing is open: each message ends by the client's own clock at the latest."""
        if self._open:
            await asyncio.wait(self._open)

    async def move(self, node: int) -> None:
        """The daemon of a node is dead: its client goes to the next one."""
        self._dead.add(node)
        other = (node + 1) % len(self._addresses)
        self._retired.append(self._clients[node])
        client = self._clients[node] = Client(self._addresses[other], ttl_ms=TTL_MS)
        await client.open()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.close() for client in (*self._clients, *self._retired)))

    async def _send(self, at: int) -> None:
        ledger, client, query = self.ledger, self._clients[at], unit_vector(self._rng)
        ledger.sent += 1
        began_s = time.monotonic()
        try:
            reply = await client.send(CAPABILITY, BODY, embedding=query)
        except ConnectionLost:
            if at in self._dead and client is not self._clients[at]:
                ledger.cut_off += 1
            else:
                ledger.unanswered += 1
        except RouterError as error:
            ledger.errors[error.code] += 1
        else:
            ended_s = time.monotonic()
            key = self._plan.members[node_of(reply.backend)].embedding
            ledger.answers.append(Answer(began_s - self._began_s, ended_s - began_s, cosine(query, key)))

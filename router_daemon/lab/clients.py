"""Simulated clients: messages arrive when their time has come, whether or not earlier ones are answered.

Rules:
- All that a demand leaves to chance comes from one generator of its own, drawn per message in a fixed order: every
  policy meets the same messages at the same moments, so runs can be compared message by message.
- A client's way to its daemon takes no time: latency is counted from when the daemon reads the SEND to when it hands
  over the last answer.
- The first frame of a body is the message's number in the world; backends send back what they got, and the ledger
  compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import UNSET

from router_daemon.core.events import Cancel, CancelHeader, Request
from router_daemon.core.types import Peer
from router_daemon.lab.backends import WORK_BYTES
from router_daemon.lab.chance import chooser
from router_daemon.lab.ledger import Record
from router_daemon.lab.specs import Demand, weights
from router_daemon.lab.timeline import START_S, Timeline, whole

if TYPE_CHECKING:
    from router_daemon.lab.daemons import Daemon

_DRAWN: Final = ("ttl_ms", "heads", "mode", "idempotent", "first_ms", "idle_ms", "max_cost")

Sampler: TypeAlias = Callable[[], Any]


class Client:
    """One connection to one daemon."""

    def __init__(self, name: str, daemon: Daemon, *, delimited: bool) -> None:
        self.daemon = daemon
        self.delimited = delimited
        self._name = name
        self._connections = 0
        self._garbled = 0
        self.peer: Peer = b""
        self.open()

    def open(self) -> None:
        """Open a (new) connection."""
        self._connections += 1
        self.peer = f"{self._name}.{self._connections}".encode()
        self.daemon.know_client(self.peer, delimited=self.delimited)

    def leave(self, _: object = None) -> None:
        """Go away without a word, and come back as somebody else."""
        self.daemon.lose_client(self.peer)
        self.open()

    def garble(self) -> None:
        """Send what no decoder can read, but for its id."""
        self._garbled += 1
        self.daemon.read_garbled(self.peer, f"garbled-{self._garbled}")


class Source:
    """Sends what a `Demand` describes.

    Attributes:
        left: messages that are still to be sent.
    """

    def __init__(
        self,
        demand: Demand,
        clients: list[Client],
        timeline: Timeline,
        rng: Random,
        records: list[Record],
        works: list[float],
        exhausted: Callable[[], None],
        happened: Counter[str],
    ) -> None:
        self.clients = clients
        self._demand = demand
        self._timeline = timeline
        self._rng = rng
        self._records = records
        self._works = works
        self._exhausted = exhausted
        self._happened = happened
        self._times = _times(demand, rng)
        self._work = demand.work.sampler(rng)
        self._capability: Sampler = chooser(weights(demand.capability), rng)
        self._priority: Sampler = chooser(weights(demand.priority), rng)
        self._reply: Sampler = chooser(weights(demand.reply), rng)
        self._size: Sampler = chooser(weights(demand.size_bytes), rng)
        chances = {key: weights(getattr(demand, key)) for key in _DRAWN}
        self._drawn = [(key, chooser(chance, rng)) for key, chance in chances.items() if list(chance) != [None]]
        self._padding: dict[int, bytes] = {}
        self._next_work = 1.0
        self.left = True

    def start(self) -> None:
        """Have the first message come."""
        self._schedule()

    def _schedule(self) -> None:
        following = next(self._times, None)
        if following is None:
            self.left = False
            self._exhausted()
            return
        at_s, self._next_work = following
        self._timeline.at(max(self._timeline.now, START_S + at_s), self._send)

    def _send(self, _: object) -> None:
        demand, rng = self._demand, self._rng
        number = len(self._records)
        client = self.clients[0] if len(self.clients) == 1 else self.clients[rng.randrange(len(self.clients))]
        request = Request(number, self._capability(), self._priority(), reply=self._reply(), **demand.keys)
        for key, draw in self._drawn:
            value = draw()
            setattr(request, key, UNSET if value is None else value)
        self._works.append(self._next_work * self._work())
        record = Record(number, client.peer, client.daemon.index, request, self._body(number))
        self._records.append(record)
        client.daemon.read_send(record)
        if demand.cancels and rng.random() < demand.cancels:
            self._timeline.after(whole(rng.random() * demand.cancels_within_s), self._cancel, (client, record))
        if demand.repeats and rng.random() < demand.repeats:
            self._timeline.after(whole(rng.random() * demand.cancels_within_s), self._repeat, (client, record))
        self._schedule()

    def probe(self, client: Client) -> Record:
        """Send one more message, of the simplest kind, and return its record."""
        number = len(self._records)
        self._works.append(1.0)
        record = Record(number, client.peer, client.daemon.index, Request(number, self._capability()), _mark(number))
        self._records.append(record)
        client.daemon.read_send(record)
        return record

    def _cancel(self, unwanted: tuple[Client, Record]) -> None:
        client, record = unwanted
        if client.peer == record.connection and not client.delimited:  # the codec refuses a delimited CANCEL
            self._happened["cancel"] += record.ended_at is None
            client.daemon.take(Cancel(client.peer, False, CancelHeader(record.request.id)))

    def _repeat(self, repeated: tuple[Client, Record]) -> None:
        client, record = repeated
        if client.peer == record.connection and record.ended_at is None and client.daemon.read_again(record):
            self._happened["repeat"] += 1

    def _body(self, number: int) -> tuple[bytes, ...]:
        mark = _mark(number)
        size = self._size()
        if size <= WORK_BYTES:
            return mark
        padding = self._padding.get(size)
        if padding is None:
            padding = self._padding[size] = bytes(size - WORK_BYTES)
        return (*mark, padding)


def _mark(number: int) -> tuple[bytes, ...]:
    return (number.to_bytes(WORK_BYTES, "big"),)


def _times(demand: Demand, rng: Random) -> Iterator[tuple[float, float]]:
    """Yield the moment and the work of each message."""
    if demand.arrivals is None:
        yield from _poisson(demand, rng)
        return
    for place, arrival in enumerate(demand.arrivals):
        if demand.messages is not None and place >= demand.messages:
            return
        at_s, work = arrival if isinstance(arrival, tuple) else (arrival, 1.0)
        yield demand.starts_at_s + whole(at_s), work


def _poisson(demand: Demand, rng: Random) -> Iterator[tuple[float, float]]:
    """Yield the moments of a Poisson process whose rate changes in steps (thinning would draw more than it needs)."""
    steps = ((0.0, demand.rate_per_s),) if isinstance(demand.rate_per_s, float | int) else demand.rate_per_s
    at_s, step, left = 0.0, 0, demand.messages
    draw = rng.expovariate
    while left is None or left > 0:
        # The distance is drawn in units of the mean gap, and walked through the steps at their rates.
        gaps = draw(1.0)
        while True:
            rate = steps[step][1]
            end = steps[step + 1][0] if step + 1 < len(steps) else None
            if end is None or (rate > 0.0 and at_s + gaps / rate <= end):
                break
            gaps -= max(0.0, end - max(at_s, steps[step][0])) * rate
            at_s, step = max(at_s, end), step + 1
        if rate <= 0.0:
            return
        at_s += whole(gaps / rate)
        yield demand.starts_at_s + at_s, 1.0
        if left is not None:
            left -= 1

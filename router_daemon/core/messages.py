"""The records of what is under way: clients, their open messages, and the deliveries of each.

Rules:
- A message is open from its admission to its one last answer (`ended`). What it still hopes for are the deliveries
  with `out`; `Message.out` is their number.
- A delivery is open (`open`: it holds its place at the backend) until the backend answers it once, is lost, or time
  runs out; that may be long after its message has ended. Its outcome is counted once (`counted`).
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Any

from msgspec import Struct

from router_daemon.core.counts import CapabilityCounts
from router_daemon.core.events import Request
from router_daemon.core.registry import Backend
from router_daemon.core.types import Body, ClientId, Peer


class Client(Struct, eq=False):
    """One connection of a client, with its open messages by its own ids."""

    peer: Peer
    open: dict[ClientId, Message]

    def __repr__(self) -> str:
        return f"<Client {self.peer.hex()}: {len(self.open)} open>"


class Message(Struct, eq=False):
    """One SEND that was admitted.

    Attributes:
        number: counts admissions; orders messages by age.
        heads: how many different backends may get it in all.
        fan_out: they get it at once; else one after the other.
        reruns: it may have a second delivery after one that may have run.
        out: deliveries that may still answer.
        answered: some head has answered (with `reply: all` others may be out still).
        answering: the head whose stream has begun, with `reply` other than `all`.
        spent: it may have run and must not run again.
        line: its place in the waiting room, None while it does not wait.
        bucket: its place in a timer wheel.
    """

    number: int
    name: str
    client: Client
    delimited: bool
    request: Request
    body: Body
    accepted_at: float
    deadline: float
    heads: int
    fan_out: bool
    reruns: bool
    counts: CapabilityCounts
    deliveries: list[Delivery] = []
    out: int = 0
    answered: bool = False
    answering: Delivery | None = None
    rejected: bool = False
    spent: bool = False
    ended: bool = False
    reason: str = ""
    line: OrderedDict[Message, None] | None = None
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:  # the generated ones would follow message -> delivery -> message ...
        return f"<Message {self.name} of {self.client!r}>"

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))

    def tried(self) -> list[str]:
        """Names of the backends that count towards `heads`: all but those that did not begin."""
        return [delivery.backend.info.name for delivery in self.deliveries if not delivery.excused]

    def retry(self) -> bool:
        """Tell the client whether sending it again is safe: not where it may have run and may not run twice."""
        return self.reruns or all(delivery.unsent for delivery in self.deliveries)


class Delivery(Struct, eq=False):
    """One message sent to one head.

    Attributes:
        head: 1-based order in which heads were sent to.
        limit_at: when this head counts as timed out; `hard`: because the message says so (first_ms, idle_ms).
        first_part_at: when its stream began.
        parts: pieces passed on, the next one's `seq`.
        open: holds its place. out: may still answer. counted: its outcome is in the backend's counts.
        cancelled: it got a CANCEL. unsent: it never left the daemon.
        excused: it had not begun (busy, or unsent), so it does not count towards the message's heads.
    """

    id: int
    message: Message
    backend: Backend
    head: int
    sent_at: float
    limit_at: float = inf
    hard: bool = False
    first_part_at: float | None = None
    parts: int = 0
    open: bool = True
    out: bool = True
    counted: bool = False
    cancelled: bool = False
    unsent: bool = False
    excused: bool = False
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.id} of {self.message.name} to {self.backend.name!r}>"

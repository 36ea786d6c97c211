"""The records of what is under way: clients, their open messages, and the deliveries of each.

Rules:
- A message is open from its admission to its one last answer (`ended`). What it still hopes for are the deliveries
  with `out`; `Message.out` is their number.
- A delivery is open (`open`: it holds its place at the backend) until the backend answers it once, is lost, or time
  runs out; that may be long after its message has ended. Its outcome is counted once (`counted`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct

from router_daemon.core.backends import Backend
from router_daemon.core.counts import CapabilityCounts
from router_daemon.core.events import Request
from router_daemon.core.service import Service
from router_daemon.core.types import Body, ClientId, Peer

if TYPE_CHECKING:
    from router_daemon.core.entries import Decided
    from router_daemon.core.routes import Route

RATEABLE: Final = 1024
"""A client's answered SENDs that FEEDBACK may name (protocol: FEEDBACK)."""


@dataclass(slots=True, eq=False)
class Notes:
    """What is recorded of a message, for people: see `decisions`.

    Attributes:
        decisions: the first of them; decided: how many there were.
        waited_s: in the waiting room, its present stay there not included.
        risked: it was sent to find out about a backend; late_s: after how long the one that it would have gone to else
            is late. sampled: it is kept, whatever comes of it.
    """

    decisions: list[Decided]
    decided: int = 0
    waited_s: float = 0.0
    risked: bool = False
    late_s: float = inf
    sampled: bool = False


class Fate(Struct, gc=False):
    """How a delivery that was no success was counted, and when; `acked_at`: when its answer came after all."""

    outcome: str
    at: float
    acked_at: float | None = None


@dataclass(slots=True, eq=False)
class Client:
    """One connection of a client, with its open messages by its own ids.

    `messages` and `body_bytes` are what all its open messages come to, those with `reply: none` too. `trusted`: it is
    another daemon of the ring: no quotas, and it may name the backend. `answered`: the ids of its last SENDs that were
    answered, which FEEDBACK may name; `routes`: which routes the newest of them took, where there are several.
    """

    peer: Peer
    open: dict[ClientId, Message]
    messages: int = 0
    body_bytes: int = 0
    trusted: bool = False
    answered: deque[ClientId] = field(default_factory=partial(deque, maxlen=RATEABLE))
    routes: deque[Route] = field(default_factory=partial(deque, maxlen=RATEABLE))

    def __repr__(self) -> str:
        return f"<Client {self.peer.hex()}: {len(self.open)} open>"


class Message(Struct, eq=False):
    """One SEND that was admitted.

    Attributes:
        number: counts admissions; orders messages by age.
        size: bytes of the body.
        heads: how many different backends may get it in all.
        mode: `auto`, `fanout`, `hedge` or `single`.
        fan_out: its heads get it at once; else one after the other.
        special: a decision asks more than who is best: it goes to all heads, may not cost all, or names its backend.
        copies: it may run on several backends at once.
        reruns: it may have a second delivery after one that may have run.
        route: whose policy decides for it, and where its outcome is counted.
        out: deliveries that may still answer. excused: those that had not begun (many, where all say `busy` at once).
        answered: some head has answered while others are out still (`reply: all`).
        answering: the head whose stream has begun, with `reply` other than `all`.
        spent: it may have run and must not run again.
        hedge_at: when it gets a second head if the first has not answered.
        resume_at: when it is tried again at a backend that has failed it; inf while it is not backing off.
        again: it may go to backends that it has been at.
        notes: what is recorded of it; None for most, of which nothing is.
        line: its place in the waiting room, None while it does not wait. waits_since: since when; step_s: how long
            it waits for each step that its standing rises.
        stamp: of a delivery of another daemon: (attempts made before it, heads in all), as its backend is to be told.
        bucket: its place in a timer wheel.
    """

    number: int
    name: str
    client: Client
    delimited: bool
    request: Request
    body: Body
    size: int
    accepted_at: float
    deadline: float
    heads: int
    mode: str
    fan_out: bool
    special: bool
    copies: bool
    reruns: bool
    counts: CapabilityCounts
    route: Route
    deliveries: list[Delivery] = []
    out: int = 0
    excused: int = 0
    answered: bool = False
    answering: Delivery | None = None
    rejected: bool = False
    spent: bool = False
    ended: bool = False
    reason: str = ""
    hedge_at: float = inf
    resume_at: float = inf
    again: bool = False
    notes: Notes | None = None
    line: OrderedDict[Message, None] | None = None
    waits_since: float = 0.0
    step_s: float = inf
    stamp: tuple[int, int] | None = None
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:  # the generated ones would follow message -> delivery -> message ...
        return f"<Message {self.name} of {self.client!r}>"

    @property
    def named(self) -> bool:
        """It is for one backend and no other."""
        return self.request.backend is not UNSET

    def tried(self) -> list[Backend]:
        """Return the backends that count towards `heads`: all but those that did not begin."""
        deliveries = self.deliveries
        if self.excused == len(deliveries):
            return []
        return [delivery.backend for delivery in deliveries if not delivery.excused]

    @property
    def exploring(self) -> bool:
        """Its only head is one that it was sent to so as to find out about it."""
        deliveries, notes = self.deliveries, self.notes
        return notes is not None and notes.risked and len(deliveries) == 1 and deliveries[0].complete

    def noted(self) -> Notes:
        """Return the notes, begun where there are none."""
        notes = self.notes
        if notes is None:
            notes = self.notes = Notes([])
        return notes

    def check(self) -> None:
        """Assert what must hold while it is open."""
        assert not self.ended
        assert self.out == sum(delivery.out for delivery in self.deliveries)
        assert self.excused == sum(delivery.excused for delivery in self.deliveries)
        assert self.out > 0 or self.line is not None or self.resume_at < inf
        assert self.bucket is not None
        tried = [backend.name for backend in self.tried()]
        assert len(tried) <= self.heads
        assert len(set(tried)) == len(tried) or self.again

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
        service: what was measured of the backend for the capability, as charged with this delivery.
        work_s: the service expected of it when it was sent; share: of the latency expected then, what was not waiting.
        trial: it decides whether an ejected backend is let in again. complete: it may finish though another answered.
        fate: how it was counted, for people; None of one not counted yet, and of a success that ended its message.
    """

    id: int
    message: Message
    backend: Backend
    head: int
    sent_at: float
    service: Service
    work_s: float
    share: float
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
    trial: bool = False
    complete: bool = False
    fate: Fate | None = None
    bucket: dict[Any, None] | None = None

    def __repr__(self) -> str:
        return f"<Delivery {self.id} of {self.message.name} to {self.backend.name!r}>"

"""What comes into the broker; what goes out of it is in `actions`.

Rules:
- The headers are the wire's maps as typed structs: `wire` decodes into and encodes from these very classes, so there is
  one description of each command. Constraints live in the annotations; what a type cannot say, `wire` checks.
- A key that was not sent is `UNSET`, never None: on the wire nil is a wrong type, not an absence.
- An event wraps a header with what is not on the wire: which connection (`peer`), whether it uses the empty delimiter
  (`delimited`), and the body frames, which nobody here looks into.
- Plain mutable structs, because a frozen one costs several times as much to build, and four are built per message;
  unknown to the garbage collector (`Record`), which is less to allocate.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from router_daemon.core.types import (
    Body,
    Capability,
    Count,
    Embedding,
    Milliseconds,
    NonNegative,
    Peer,
    Ratio,
    Record,
    Side,
)

# --- headers of what comes in ---------------------------------------------------------------------------------------


class Resource(Struct, frozen=True, gc=False):
    """A resource that a message needs or a backend holds."""

    id: str
    bytes: Count


class Request(Record):
    """The header of SEND: what a client asks for. Policies see this."""

    id: Any  # ClientId; checked by `wire`, as msgspec cannot tell str from bytes in one union
    capability: Capability
    priority: Annotated[int, Meta(ge=1, le=4)] = 2
    ttl_ms: Milliseconds | UnsetType = UNSET
    heads: Annotated[int, Meta(ge=1, le=3)] | UnsetType = UNSET
    mode: Literal["auto", "fanout", "hedge", "single"] | UnsetType = UNSET
    reply: Literal["first", "all", "none"] = "first"
    idempotent: bool | UnsetType = UNSET
    embedding: Embedding | UnsetType = UNSET
    resources: list[Resource] | UnsetType = UNSET
    key: str | UnsetType = UNSET
    policy: str | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    budget: NonNegative | UnsetType = UNSET
    max_cost: NonNegative | UnsetType = UNSET
    first_ms: Milliseconds | UnsetType = UNSET
    idle_ms: Milliseconds | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET
    tracestate: str | UnsetType = UNSET
    durable: bool = False


class CancelHeader(Record):
    """The header of a client's CANCEL."""

    id: Any


class FeedbackHeader(Record):
    """The header of FEEDBACK."""

    id: Any
    score: Ratio


class EmptyHeader(Record):
    """The header of a command without keys."""


class Registration(Record):
    """The header of REGISTER: what a backend is."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    capabilities: Annotated[list[Capability], Meta(min_length=1, max_length=64)]
    slots: Annotated[int, Meta(ge=1)] = 1
    prefetch: Count = 0
    embedding: Embedding | UnsetType = UNSET
    cost: NonNegative | UnsetType = UNSET
    zone: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    session: Annotated[bytes, Meta(min_length=8, max_length=32)] | UnsetType = UNSET
    resources: list[Resource] | UnsetType = UNSET
    version: str | UnsetType = UNSET


class Revision(Record):
    """The header of UPDATE: the keys of a registration that change."""

    capabilities: Annotated[list[Capability], Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    slots: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    prefetch: Count | UnsetType = UNSET
    embedding: Embedding | UnsetType = UNSET
    cost: NonNegative | UnsetType = UNSET
    zone: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    session: Annotated[bytes, Meta(min_length=8, max_length=32)] | UnsetType = UNSET
    resources: list[Resource] | UnsetType = UNSET
    version: str | UnsetType = UNSET


class HeartbeatHeader(Record):
    """The header of a backend's HEARTBEAT; `queue`: deliveries waiting or running there, whoever sent them."""

    queue: Count | UnsetType = UNSET


class Timing(Record):
    """Where a delivery's time went, in microseconds, as its backend measured it."""

    queue: NonNegative | UnsetType = UNSET
    compute: NonNegative | UnsetType = UNSET
    splice: NonNegative | UnsetType = UNSET


class AckHeader(Record):
    """The header of ACK."""

    id: int
    queue: Count | UnsetType = UNSET
    quality: Ratio | UnsetType = UNSET
    cost: NonNegative | UnsetType = UNSET
    timing_us: Timing | UnsetType = UNSET


class NackHeader(Record):
    """The header of NACK."""

    id: int
    reason: str = ""
    code: Literal["failed", "busy", "rejected", "cancelled"] = "failed"
    retry_after_ms: Count | UnsetType = UNSET


class PartHeader(Record):
    """The header of a backend's PART."""

    id: int


# --- events ---------------------------------------------------------------------------------------------------------


class Inbound(Record):
    """What every command of a peer has: its connection, and whether it used the empty delimiter."""

    peer: Peer
    delimited: bool


class Send(Inbound):
    """A client's SEND."""

    header: Request
    body: Body = ()


class ForeignSend(Send):
    """A delivery of another daemon, to the backend named in the header.

    Attributes:
        name: of the message there. attempts: deliveries of it made before this one. heads: made in all by now.
    """

    name: str = ""
    attempts: int = 0
    heads: int = 1


class Cancel(Inbound):
    """A client's CANCEL."""

    header: CancelHeader


class Feedback(Inbound):
    """A client's FEEDBACK."""

    header: FeedbackHeader


class Ping(Inbound):
    """A client's PING."""

    header: EmptyHeader


class Register(Inbound):
    """A backend's REGISTER."""

    header: Registration


class Update(Inbound):
    """A backend's UPDATE."""

    header: Revision


class Heartbeat(Inbound):
    """A backend's HEARTBEAT."""

    header: HeartbeatHeader


class Ack(Inbound):
    """A backend's ACK."""

    header: AckHeader
    body: Body = ()


class Nack(Inbound):
    """A backend's NACK."""

    header: NackHeader


class Part(Inbound):
    """A backend's PART."""

    header: PartHeader
    body: Body = ()


class Drain(Inbound):
    """A backend's DRAIN."""

    header: EmptyHeader


class Unregister(Inbound):
    """A backend's UNREGISTER."""

    header: EmptyHeader


class Malformed(Record):
    """Frames that break the protocol. `id`: of the SEND or of the delivery, where it could be read; else None."""

    side: Side
    peer: Peer
    delimited: bool
    verb: str
    code: str
    detail: str
    id: Any = None


class Gone(Record):
    """The transport knows that this connection cannot be reached any more."""

    side: Side
    peer: Peer


class Undelivered(Record):
    """An action that never left the daemon, because its peer is gone or leaves too much unread (`full`).

    `action`: one of `actions.Action`, or a message of the ring.
    """

    action: Any
    full: bool


Event: TypeAlias = (
    Send
    | ForeignSend
    | Cancel
    | Feedback
    | Ping
    | Register
    | Update
    | Heartbeat
    | Ack
    | Nack
    | Part
    | Drain
    | Unregister
    | Malformed
    | Gone
    | Undelivered
)

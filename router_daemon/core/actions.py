"""What goes out of the broker: one class per command, each with the header that the wire carries.

Rules: as in `events`. `side` says which socket an action leaves by; a key that is not sent is `UNSET`.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

from msgspec import UNSET, UnsetType

from router_daemon.core.events import EmptyHeader
from router_daemon.core.types import Body, Embedding, Peer, Record, Side

# --- headers of what goes out ---------------------------------------------------------------------------------------


class ReplyHeader(Record):
    """The header of REPLY; `elapsed_ms` is the delivery latency of that head."""

    id: Any
    message: str
    backend: str
    head: int
    heads: int
    elapsed_ms: float
    last: bool = True


class PieceHeader(Record):
    """The header of PART to a client."""

    id: Any
    message: str
    backend: str
    head: int
    seq: int


class AcceptHeader(Record):
    """The header of ACCEPT."""

    id: Any
    message: str
    last: bool


class ErrorHeader(Record):
    """The header of ERROR, to either side."""

    id: Any
    code: str
    detail: str
    retry: bool | UnsetType = UNSET
    last: bool | UnsetType = UNSET
    message: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    head: int | UnsetType = UNSET


class PongHeader(Record):
    """The header of PONG."""

    version: str
    features: list[str]
    max_ttl_ms: int
    max_message_bytes: int
    max_heads: int


class RegisteredHeader(Record):
    """The header of REGISTERED."""

    name: str
    heartbeat_ms: int


class DeliverHeader(Record):
    """The header of DELIVER; `heads`: deliveries made so far, those sent at the same moment included."""

    id: int
    message: str
    capability: str
    priority: int
    ttl_ms: int
    attempt: int
    head: int
    heads: int
    embedding: Embedding | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET
    tracestate: str | UnsetType = UNSET


class CancelDeliveryHeader(Record):
    """The header of CANCEL to a backend."""

    id: int


# --- actions --------------------------------------------------------------------------------------------------------


class ToClient(Record):
    """An action whose frames go to a client."""

    side: ClassVar[Side] = Side.CLIENT
    peer: Peer
    delimited: bool


class ToBackend(Record):
    """An action whose frames go to a backend."""

    side: ClassVar[Side] = Side.BACKEND
    peer: Peer
    delimited: bool


class Reply(ToClient):
    """REPLY to a client."""

    header: ReplyHeader
    body: Body = ()


class Piece(ToClient):
    """PART to a client."""

    header: PieceHeader
    body: Body = ()


class Accept(ToClient):
    """ACCEPT to a client."""

    body: ClassVar[Body] = ()
    header: AcceptHeader


class Error(ToClient):
    """ERROR to a client."""

    body: ClassVar[Body] = ()
    header: ErrorHeader


class Pong(ToClient):
    """PONG to a client."""

    body: ClassVar[Body] = ()
    header: PongHeader


class Registered(ToBackend):
    """REGISTERED to a backend."""

    body: ClassVar[Body] = ()
    header: RegisteredHeader


class Deliver(ToBackend):
    """DELIVER to a backend."""

    header: DeliverHeader
    body: Body = ()


class CancelDelivery(ToBackend):
    """CANCEL to a backend."""

    body: ClassVar[Body] = ()
    header: CancelDeliveryHeader


class HeartbeatReply(ToBackend):
    """HEARTBEAT to a backend."""

    body: ClassVar[Body] = ()
    header: EmptyHeader


class Bye(ToBackend):
    """BYE to a backend: it is unregistered now."""

    body: ClassVar[Body] = ()
    header: EmptyHeader


class BackendError(ToBackend):
    """ERROR to a backend."""

    body: ClassVar[Body] = ()
    header: ErrorHeader


Action: TypeAlias = (
    Reply | Piece | Accept | Error | Pong | Registered | Deliver | CancelDelivery | HeartbeatReply | Bye | BackendError
)

"""What goes into a SEND and what comes out of it, as Python values. No state here.

Rules:
- What this client has to keep itself (the id, the time to live) is checked here, for of an id that the daemon cannot
  read there would never be an answer. All other keys are the daemon's to judge: a newer one may allow more.
- A key that is None is left out, so a wrapper may pass its own defaults through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict

from router_daemon.errors import RouterError, router_error
from router_daemon.sdk.link import Incoming, header_of

Id = int | str | bytes
Kind = Literal["first", "all", "none", "stream"]
ID_BYTES: Final = 64


class SendKeys(TypedDict, total=False):
    """The header keys of SEND, all optional; None leaves a key out. docs/protocol.md says what each does.

    Attributes:
        id: the caller's own (int, str or bytes up to 64 bytes); a counter gives one otherwise.
        priority: 1 low, 2 medium (the daemon's default), 3 high, 4 critical.
        ttl_ms: the answer is worth something for that long; the client's `ttl_ms` otherwise.
        heads: how many different backends may get the message in all, 1 to 3.
        mode: `auto`, `fanout`, `hedge` or `single`.
        reply: only ever what the method says already; `send_all()` and `post()` are the other two.
        idempotent: whether the message may run more than once.
        embedding: floats, a numpy array, or bytes of little-endian float32.
        resources: what the message needs: `{"id": str, "bytes": int}` each.
        key: the sticky key of rollouts.
        policy, backend: manual overrides.
        budget, max_cost: most that the message may cost.
        first_ms, idle_ms: most time to the first piece or answer, and between pieces.
        traceparent, tracestate: W3C trace context; `opentelemetry.propagate.inject` fills in a map with just these.
        durable: whether the message must be on stable storage before it is routed.
    """

    id: Id | None
    priority: int | None
    ttl_ms: int | None
    heads: int | None
    mode: str | None
    reply: str | None
    idempotent: bool | None
    embedding: Any
    resources: Sequence[Mapping[str, Any]] | None
    key: str | None
    policy: str | None
    backend: str | None
    budget: float | None
    max_cost: float | None
    first_ms: int | None
    idle_ms: int | None
    traceparent: str | None
    tracestate: str | None
    durable: bool | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of one backend.

    Attributes:
        body: the result's frames. The pieces of a stream are not in it: they came before.
        backend: who answered.
        head: which of the heads that was, in the order in which they were sent to, from 1.
        heads: deliveries made so far.
        elapsed_ms: the delivery latency of that head, measured by the daemon.
        message: the daemon's name for the message.
    """

    body: list[bytes]
    backend: str
    head: int
    heads: int
    elapsed_ms: float
    message: str

    @property
    def data(self) -> bytes:
        """Return the body as one run of bytes."""
        return b"".join(self.body)

    @classmethod
    def of(cls, message: Incoming) -> Reply:
        """Return the reply that a REPLY carries."""
        get = message.header.get
        return cls(
            body=message.body,
            backend=get("backend", ""),
            head=get("head", 1),
            heads=get("heads", 1),
            elapsed_ms=get("elapsed_ms", 0.0),
            message=get("message", ""),
        )


@dataclass(frozen=True, slots=True)
class Pong:
    """What a daemon says about itself: its version, its features, and the limits a message is held to."""

    version: str
    features: list[str]
    max_ttl_ms: int
    max_message_bytes: int
    max_heads: int

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> Pong:
        """Return the Pong that a PONG carries."""
        get = header.get
        return cls(
            version=get("version", ""),
            features=list(get("features") or ()),
            max_ttl_ms=get("max_ttl_ms", 0),
            max_message_bytes=get("max_message_bytes", 0),
            max_heads=get("max_heads", 0),
        )


def error_of(header: Mapping[str, Any]) -> RouterError:
    """Return the exception for the header of an ERROR."""
    return router_error(
        str(header.get("code", "internal")),
        str(header.get("detail", "")),
        retry=header.get("retry") is True,
        retry_after_ms=header.get("retry_after_ms"),
        message=header.get("message"),
        backend=header.get("backend"),
    )


def check_id(call_id: Any) -> Id:
    """Return `call_id` when the daemon can read it; of one that it cannot there would never be an answer.

    Raises:
        ValueError: no int, str or bytes; longer than 64 bytes; an int beyond 64 bits.
    """
    if isinstance(call_id, int) and not isinstance(call_id, bool) and -(2**63) <= call_id < 2**64:
        return call_id
    if isinstance(call_id, str) and len(call_id.encode()) <= ID_BYTES:
        return call_id
    if isinstance(call_id, bytes) and len(call_id) <= ID_BYTES:
        return call_id
    raise ValueError(f"an id must be an int of 64 bits, or str or bytes up to {ID_BYTES} bytes: {call_id!r}")


def check_ttl_ms(ttl_ms: Any) -> int:
    """Return `ttl_ms` when this client can keep time by it.

    Raises:
        ValueError: no int above 0.
    """
    if isinstance(ttl_ms, bool) or not isinstance(ttl_ms, int) or ttl_ms <= 0:
        raise ValueError(f"ttl_ms must be an int above 0, not {ttl_ms!r}")
    return ttl_ms


def send_header(kind: Kind, capability: str, keys: SendKeys, default_ttl_ms: int) -> dict[str, Any]:
    """Return the header of a SEND, with a ttl in any case; the caller adds an id where there is none.

    Raises:
        ValueError: an id, a ttl or a `reply` that will not do.
    """
    reply = "first" if kind == "stream" else kind
    header = header_of({**keys, "capability": capability}.items())
    if header.pop("reply", reply) != reply:
        raise ValueError("send() and stream() are reply 'first', send_all() is 'all', post() is 'none'")
    if reply != "first":
        header["reply"] = reply
    header["ttl_ms"] = check_ttl_ms(header.get("ttl_ms", default_ttl_ms))
    if "id" in header:
        check_id(header["id"])
    return header

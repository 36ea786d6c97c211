"""What the tests of the core share: the actions they expect, and a broker whose ranking they can foretell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET

from router_daemon.core import actions
from router_daemon.core.backends import Backend
from router_daemon.core.events import EmptyHeader, Malformed, Request
from router_daemon.core.ranking import Candidate, Ranking, first_free
from router_daemon.core.types import ClientId, Peer, Side
from router_daemon.testing import CLIENT, BrokerFixture

SESSION = b"session-1"
ASKED = Request(1, "c")
"""A message that says nothing but what it needs."""


class InOrder:
    """A policy that prefers whoever registered first."""

    name = "in_order"
    threshold = 0.0
    random_ties = False
    observe = None
    watch = None
    objection = None

    def score(self, capability: str, priority: int, backends: Sequence[Backend]) -> list[Candidate]:
        return [Candidate(backend, 1.0, {"order": 1.0}) for backend in backends]

    def pick(self, ranking: Ranking, request: Request, tried: Sequence[Backend], now: float) -> Candidate | None:
        return first_free(ranking.candidates, tried)

    def peek(self, ranking: Ranking, request: Request, now: float) -> Iterable[Candidate]:
        return ranking.candidates


def make_broker(*names: str, slots: int = 4, **settings: Any) -> BrokerFixture:
    """Return a broker with these backends for capability "c", preferred in this order; mode fanout unless said."""
    settings = {"mode": "fanout"} | settings
    fixture = BrokerFixture(policy=InOrder(), **settings)
    for name in names:
        fixture.register(name, "c", slots=slots)
    return fixture


def deliver(
    backend: str,
    delivery_id: int,
    *body: bytes,
    message: str = "m1",
    capability: str = "c",
    priority: int = 2,
    ttl_ms: int = 30_000,
    attempt: int = 1,
    heads: int | None = None,
    peer: Peer | None = None,
    **keys: Any,
) -> actions.Deliver:
    """DELIVER; `heads` is as many as were sent so far unless said."""
    heads = attempt if heads is None else heads
    header = actions.DeliverHeader(delivery_id, message, capability, priority, ttl_ms, attempt, attempt, heads, **keys)
    return actions.Deliver(backend.encode() if peer is None else peer, False, header, body)


def unwanted(backend: str, delivery_id: int) -> actions.CancelDelivery:
    """CANCEL to a backend."""
    return actions.CancelDelivery(backend.encode(), False, actions.CancelDeliveryHeader(delivery_id))


def reply(
    backend: str,
    *body: bytes,
    client_id: ClientId = 1,
    message: str = "m1",
    head: int = 1,
    heads: int | None = None,
    elapsed_ms: Any = 0.0,
    last: bool = True,
    peer: Peer = CLIENT,
    delimited: bool = False,
) -> actions.Reply:
    """REPLY."""
    heads = head if heads is None else heads
    header = actions.ReplyHeader(client_id, message, backend, head, heads, elapsed_ms, last)
    return actions.Reply(peer, delimited, header, body)


def piece(
    backend: str,
    seq: int,
    *body: bytes,
    client_id: ClientId = 1,
    message: str = "m1",
    head: int = 1,
    peer: Peer = CLIENT,
) -> actions.Piece:
    """PART to a client."""
    return actions.Piece(peer, False, actions.PieceHeader(client_id, message, backend, head, seq), body)


def accept(client_id: ClientId = 1, message: str = "m1", *, peer: Peer = CLIENT) -> actions.Accept:
    """ACCEPT, the last word of a message with `reply: none`."""
    return actions.Accept(peer, False, actions.AcceptHeader(client_id, message, last=True))


def error(
    code: str,
    detail: str,
    *,
    client_id: ClientId | None = 1,
    retry: bool = True,
    last: bool = True,
    message: str | None = "m1",
    peer: Peer = CLIENT,
    delimited: bool = False,
    **keys: Any,
) -> actions.Error:
    """ERROR to a client."""
    name = UNSET if message is None else message
    header = actions.ErrorHeader(client_id, code, detail, retry=retry, last=last, message=name, **keys)
    return actions.Error(peer, delimited, header)


def fault(
    peer: Peer, code: str, detail: str, *, delivery_id: int | None = None, retry: bool = False, delimited: bool = False
) -> actions.BackendError:
    """ERROR to a backend."""
    return actions.BackendError(peer, delimited, actions.ErrorHeader(delivery_id, code, detail, retry=retry))


def registered(name: str, *, peer: Peer | None = None, heartbeat_ms: int = 1000) -> actions.Registered:
    """REGISTERED."""
    header = actions.RegisteredHeader(name, heartbeat_ms)
    return actions.Registered(name.encode() if peer is None else peer, False, header)


def bye(name: str, *, peer: Peer | None = None) -> actions.Bye:
    """BYE."""
    return actions.Bye(name.encode() if peer is None else peer, False, EmptyHeader())


def beat(peer: Peer) -> actions.HeartbeatReply:
    """HEARTBEAT to a backend."""
    return actions.HeartbeatReply(peer, False, EmptyHeader())


def malformed(
    peer: Peer, verb: str, found: Any = None, *, side: Side = Side.BACKEND, code: str = "bad_header"
) -> Malformed:
    """Frames that break the protocol."""
    return Malformed(side, peer, False, verb, code, "what is wrong", found)


def outcomes(fixture: BrokerFixture, capability: str = "c") -> dict[str, int]:
    """Return how the messages of a capability ended, as far as any did."""
    counts = fixture.broker.counts.capabilities[capability].outcomes
    return {outcome: count for outcome, count in counts.items() if count}


def delivery_outcomes(fixture: BrokerFixture, backend: str) -> dict[str, int]:
    """Return how a backend's deliveries ended, as far as any did."""
    counts = fixture.broker.counts.backends[backend].outcomes
    return {outcome: count for outcome, count in counts.items() if count}


def success_after(*oks: bool, start: float = 0.9, alpha: float = 0.05) -> float:
    """Return the moving average of successes after these outcomes, by the definition."""
    for ok in oks:
        start = alpha * ok + (1 - alpha) * start
    return start

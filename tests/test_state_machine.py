"""A broker under whatever its peers may do, step by step: its own invariants, and a ledger kept from the outside.

ROUTER_DAEMON_FUZZ=long looks twenty times as hard, and elsewhere (`fuzzing`). A failure prints the steps and a blob
that replays them.
"""

from __future__ import annotations

from typing import Any

import pytest
from fuzzing import PATIENCE_S, look
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from ledger import Ledger, Sending
from msgspec import UNSET

from router_daemon.core import events
from router_daemon.core.actions import Action, Deliver, Error, Piece, Reply
from router_daemon.core.events import EmptyHeader, Event
from router_daemon.core.settings import (
    EjectionSettings,
    ExplorationSettings,
    HedgeSettings,
    RetrySettings,
    RingAttentionSettings,
    WaitingSettings,
)
from router_daemon.core.types import Peer, Side
from router_daemon.policies.base import NAMES
from router_daemon.testing import BrokerFixture

pytestmark = pytest.mark.timeout(PATIENCE_S)

PICK = st.integers(0, 10_000)
CAPABILITIES = ("c", "d")
OFFERS = st.lists(st.sampled_from(CAPABILITIES), min_size=1, max_size=2)
SESSIONS = st.sampled_from((UNSET, b"session-1", b"session-2"))
COSTS = st.sampled_from((UNSET, UNSET, UNSET, UNSET, 0.0, 1.0, 3.0))
EMBEDDINGS: tuple[Any, ...] = ([1.0, 0.5], [-1.0, 0.5], [0.0, 0.0], [1.0, 2.0, 3.0], b"")
HEARTBEAT_S = 1.0


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(UNSET) | values


SEND_KEYS = st.fixed_dictionaries(
    {
        "priority": st.integers(1, 4),
        "ttl_ms": maybe(st.sampled_from((1, 60, 400, 2_000, 10_000))),
        "heads": maybe(st.integers(1, 3)),
        "mode": maybe(st.sampled_from(("auto", "hedge", "fanout", "single"))),
        "max_cost": st.sampled_from((UNSET, UNSET, UNSET, 0.0, 1.5)),
        "reply": st.sampled_from(("first", "first", "first", "all", "none")),
        "idempotent": maybe(st.booleans()),
        "first_ms": maybe(st.sampled_from((50, 1_500))),
        "idle_ms": maybe(st.sampled_from((50, 1_500))),
        "embedding": maybe(st.sampled_from(EMBEDDINGS)),
    }
)

PARTS = st.fixed_dictionaries(
    {
        "retry": st.builds(RetrySettings, start=st.sampled_from((0.0, 3.0, 100.0)), same_backend=st.booleans()),
        "hedge": st.builds(HedgeSettings, share=st.sampled_from((0.0, 1.0)), samples=st.sampled_from((2, 16))),
        "ejection": st.builds(EjectionSettings, failures=st.sampled_from((0, 1, 2, 5))),
        "waiting": st.builds(
            WaitingSettings, longest=st.sampled_from((0.25, 1.0)), reserve=st.sampled_from((0.0, 0.4))
        ),
        "ring_attention": st.builds(
            RingAttentionSettings,
            without_embedding=st.sampled_from(("attention", "refuse")),
            scaling=st.sampled_from(("unit", "raw")),
        ),
        "exploration": st.builds(ExplorationSettings, share=st.sampled_from((0.0, 0.5)), slow_start=st.booleans()),
    }
)
"""The sections of the settings that are about routing; small numbers, so that a few messages meet them."""


def answer_event(peer: Peer, number: int, how: str, pick: int) -> Event:
    """Return the event of an ACK, a NACK of that code, or a malformed answer."""
    if how == "ack":
        queue, cost = (UNSET, 0, 1, 4)[pick % 4], (UNSET, UNSET, 0.0, 0.5, 4.0)[pick % 5]
        return events.Ack(peer, False, events.AckHeader(number, queue=queue, cost=cost), (b"done",))
    if how == "malformed":
        return events.Malformed(Side.BACKEND, peer, False, "ACK", "bad_header", "wrong", number)
    pause: Any = (UNSET, 0, 20, 2_000)[pick % 4]
    return events.Nack(peer, False, events.NackHeader(number, "why", how, pause))  # type: ignore[arg-type]


class Peers(RuleBasedStateMachine):
    """Two clients, four names of backends, and a clock."""

    @initialize(
        policy=st.sampled_from(NAMES),
        mode=st.sampled_from(("auto", "auto", "hedge", "fanout", "single")),
        heads=st.integers(1, 3),
        unsaid=st.sampled_from(("copies", "retries", "never")),
        queue=st.sampled_from((0, 2, 100)),
        require=st.booleans(),
        timeout_s=st.sampled_from((None, 0.2)),
        cache_s=st.sampled_from((0.0, 30.0)),
        parts=PARTS,
        there=st.lists(st.tuples(OFFERS, st.integers(1, 3), SESSIONS, COSTS), min_size=1, max_size=4),
    )
    def begin(
        self,
        policy: str,
        mode: str,
        heads: int,
        unsaid: str,
        queue: int,
        require: bool,
        timeout_s: float | None,
        cache_s: float,
        parts: dict[str, Any],
        there: list[tuple[list[str], int, Any, Any]],
    ) -> None:
        self.fixture = BrokerFixture(
            policy=policy,
            mode=mode,
            heads=heads,
            unsaid_idempotent=unsaid,
            queue_messages=queue,
            require_capability=require,
            attempt_timeout_s=timeout_s,
            cache_ttl_s=cache_s,
            heartbeat_s=HEARTBEAT_S,
            open_messages=12,
            backends=4,
            label_values=2,
            **parts,
        )
        self.ledger = Ledger(self.fixture)
        self.clients: list[Peer] = [b"client-0", b"client-1"]
        self.backends: list[Peer] = []
        self.said: list[Action] = []
        self.peers = 0
        for name, (offers, slots, session, cost) in zip("abcd", there, strict=False):
            self.register(-1, name, offers, slots, 0, session, cost, anew=True)

    def new_peer(self) -> Peer:
        self.peers += 1
        return f"peer-{self.peers}".encode()

    def do(self, event: Event) -> list[Action]:
        made = self.fixture.handle(event)
        self.ledger.made(made)
        self.said += [action for action in made if isinstance(action, Piece | Reply | Error)]
        del self.said[:-5]
        return made

    # --- clients ---

    @rule(
        pick=PICK,
        client_id=st.sampled_from((1, 2, 3, "x", b"y")),
        capability=st.sampled_from(("c", "c", "c", "d", "d", "never offered")),
        keys=SEND_KEYS,
        delimited=st.sampled_from((False, False, False, True)),
    )
    def send(self, pick: int, client_id: Any, capability: str, keys: dict[str, Any], delimited: bool) -> None:
        peer = self.clients[pick % 2]
        request = events.Request(client_id, capability, **keys)
        self.ledger.sent(peer, request)
        self.do(events.Send(peer, delimited, request, (b"body",)))

    @rule(pick=PICK, client_ids=st.lists(st.integers(10, 14), min_size=2, max_size=4), keys=SEND_KEYS)
    def send_several(self, pick: int, client_ids: list[int], keys: dict[str, Any]) -> None:
        for client_id in client_ids:
            self.send(pick, client_id, "c", keys, delimited=False)

    @rule(pick=PICK, client_id=st.sampled_from((1, 2, 3, "x", 10, None)), how=st.sampled_from(("malformed", "cancel")))
    def send_something_else(self, pick: int, client_id: Any, how: str) -> None:
        peer = self.clients[pick % 2]
        if how == "cancel":
            self.do(events.Cancel(peer, False, events.CancelHeader(client_id)))
            return
        if client_id is not None:
            self.ledger.malformed(peer, client_id)
        self.do(events.Malformed(Side.CLIENT, peer, False, "SEND", "bad_header", "wrong", client_id))

    @rule(pick=PICK, how=st.sampled_from(("gone", "cannot be reached", "full", "full")))
    def client_does_not_read(self, pick: int, how: str) -> None:
        """The connection ends, or the last thing said to it cannot be handed over."""
        if how == "gone":
            self.client_goes(self.clients[pick % 2])
        elif self.said:
            action = self.said.pop(pick % len(self.said))
            self.do(events.Undelivered(action, how == "full"))
            if how != "full":
                self.client_goes(action.peer)

    def client_goes(self, peer: Peer) -> None:
        self.clients = [self.new_peer() if mine == peer else mine for mine in self.clients]
        self.ledger.client_gone(peer)
        assert not any(action.peer == peer for action in self.do(events.Gone(Side.CLIENT, peer)))

    # --- backends ---

    @rule(
        pick=PICK,
        name=st.sampled_from("abcde"),
        offers=OFFERS,
        slots=st.integers(1, 2),
        prefetch=st.integers(0, 1),
        session=SESSIONS,
        cost=COSTS,
        anew=st.booleans(),
    )
    def register(
        self, pick: int, name: str, offers: list[str], slots: int, prefetch: int, session: Any, cost: Any, anew: bool
    ) -> None:
        if anew or not self.backends:
            self.backends.append(self.new_peer())
            pick = -1
        peer = self.backends[pick % len(self.backends)] if pick >= 0 else self.backends[-1]
        header = events.Registration(name, offers, slots=slots, prefetch=prefetch, session=session, cost=cost)
        header.embedding = (UNSET, *EMBEDDINGS)[(ord(name) + slots) % (1 + len(EMBEDDINGS))]
        self.ledger.asked[peer, name] = header
        self.do(events.Register(peer, False, header))

    @precondition(lambda self: self.backends)
    @rule(
        pick=PICK,
        how=st.sampled_from(("update", "update", "update", "stray", "stray", "drain", "unregister", "gone")),
        offers=maybe(OFFERS),
        slots=maybe(st.integers(1, 3)),
        embedding=maybe(st.sampled_from(EMBEDDINGS)),
    )
    def backend_changes(self, pick: int, how: str, offers: Any, slots: Any, embedding: Any) -> None:
        peer = self.backends[pick % len(self.backends)]
        if how == "update":
            self.update(peer, offers, slots, embedding)
        elif how == "drain":
            self.do(events.Drain(peer, False, EmptyHeader()))
        elif how == "unregister":
            self.do(events.Unregister(peer, False, EmptyHeader()))
        elif how == "gone":
            self.backends.remove(peer)
            self.do(events.Gone(Side.BACKEND, peer))
        else:
            self.answer_what_is_not_open_there(peer, pick)

    def update(self, peer: Peer, offers: Any, slots: Any, embedding: Any) -> None:
        backend = self.fixture.broker.registry.by_peer.get(peer)
        if backend is not None:
            old = self.ledger.infos[backend.name]
            self.ledger.asked[peer, backend.name] = events.Registration(
                old.name,
                old.capabilities if offers is UNSET else offers,
                slots=old.slots if slots is UNSET else slots,
                prefetch=old.prefetch,
                session=old.session,
                cost=old.cost,
            )
        self.do(events.Update(peer, False, events.Revision(capabilities=offers, slots=slots, embedding=embedding)))

    def answer_what_is_not_open_there(self, peer: Peer, pick: int) -> None:
        numbers = [0, *(n for n, s in self.ledger.sendings.items() if s.backend is None or s.backend.peer != peer)]
        number = numbers[pick % len(numbers)]
        strays: list[Event] = [
            events.Ack(peer, False, events.AckHeader(number)),
            events.Nack(peer, False, events.NackHeader(number)),
            events.Part(peer, False, events.PartHeader(number)),
            events.Malformed(Side.BACKEND, peer, False, "ACK", "bad_header", "wrong", number),
        ]
        for stray in strays:
            assert not any(isinstance(action, Reply | Piece | Deliver) for action in self.do(stray))

    @precondition(lambda self: self.ledger.sendings)
    @rule(
        pick=PICK,
        how=st.sampled_from(("ack", "part", "failed", "busy", "rejected", "cancelled", "malformed", "unsent")),
    )
    def answer(self, pick: int, how: str) -> None:
        self.settle(pick, how)

    @precondition(lambda self: self.ledger.sendings)
    @rule(picks=st.lists(st.tuples(PICK, st.sampled_from(("ack", "part", "failed"))), min_size=1, max_size=4))
    def answer_several(self, picks: list[tuple[int, str]]) -> None:
        for pick, how in picks:
            if self.ledger.sendings:
                self.settle(pick, how)

    def settle(self, pick: int, how: str) -> None:
        open_now = list(self.ledger.sendings.values())
        sending = open_now[pick % len(open_now)]
        assert sending.backend is not None
        peer, number = sending.backend.peer, sending.action.header.id
        if how == "part":
            self.ledger.streamed(sending)
            self.do(events.Part(peer, False, events.PartHeader(number), (b"piece",)))
        elif how == "unsent":
            self.never_leaves(sending, full=bool(pick % 2))
        else:
            self.ledger.answered(sending, how)
            self.do(answer_event(peer, number, how, pick))

    def never_leaves(self, sending: Sending, *, full: bool) -> None:
        self.ledger.answered(sending, "undelivered")
        self.do(events.Undelivered(sending.action, full))
        if not full:
            self.do(events.Gone(Side.BACKEND, sending.action.peer))

    # --- time ---

    @precondition(lambda self: self.backends)
    @rule(pick=PICK, queue=st.integers(0, 6))
    def backend_reports(self, pick: int, queue: int) -> None:
        """What a backend has to do from others is not this broker's, and takes no place."""
        peer = self.backends[pick % len(self.backends)]
        self.do(events.Heartbeat(peer, False, events.HeartbeatHeader(queue=queue)))

    @rule(name=st.sampled_from("abcd"), drained=st.booleans())
    def a_person_drains(self, name: str, drained: bool) -> None:
        self.fixture.broker.members.set_drained(name, drained, self.fixture.clock.now)
        self.fixture.broker.check()

    @rule(seconds=st.sampled_from((0.001, 0.03, 0.06, 0.25, 0.6, 1.2, 3.1, 31.0)))
    def time_passes(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.until(self.fixture.clock.now + 1.0)
            for backend in list(self.fixture.broker.registry.by_name.values()):
                self.do(events.Heartbeat(backend.peer, False, events.HeartbeatHeader()))
        self.until(self.fixture.clock.now + seconds % 1.0)

    @rule(seconds=st.sampled_from((0.5, 1.0, 2.9, 3.1, 700.0)), late=st.sampled_from((True, True, False)))
    def something_is_wrong_with_time(self, seconds: float, late: bool) -> None:
        """Backends fall silent, or the loop is late: events are handled before the timers that are due."""
        if late:
            self.fixture.clock.advance(seconds / 100.0 if seconds < 5 else 0.04)
        else:
            self.until(self.fixture.clock.now + seconds)

    def until(self, moment: float) -> None:
        """Let time pass, one wake-up after the other."""
        fixture = self.fixture
        while (due := fixture.broker.next_deadline()) is not None and due <= moment:
            self.ledger.made(fixture.advance(max(0.0, due - fixture.clock.now)))
        self.ledger.made(fixture.advance(max(0.0, moment - fixture.clock.now)))
        self.ledger.on_time()

    def teardown(self) -> None:
        if not hasattr(self, "fixture"):
            return
        self.ledger.made(self.fixture.stop())
        self.ledger.closed()


def test_a_head_that_timed_out_streams_to_a_client_that_gets_no_pieces() -> None:
    """The ledger took its message for forgotten: it waits no longer, and nothing is said to who takes one answer."""
    peers = Peers()
    parts = {"retry": RetrySettings(), "waiting": WaitingSettings(longest=1.0, reserve=0.0)}
    there = [(["c"], 1, UNSET, UNSET), (["c"], 1, UNSET, UNSET)]
    peers.begin("paper", "single", 2, "copies", 100, True, None, 0.0, parts, there)
    peers.send(0, 1, "c", {}, delimited=False)
    peers.send(0, 2, "c", {"first_ms": 50}, delimited=True)
    peers.time_passes(0.06)
    assert peers.fixture.broker.dispatcher.waiting.size == 1
    peers.settle(1, "part")
    assert peers.fixture.broker.dispatcher.waiting.size == 0
    peers.settle(1, "ack")
    peers.teardown()


Peers.TestCase.settings = look(200, stateful_step_count=40)
TestPeers = Peers.TestCase

"""A broker under whatever its peers may do, step by step: its own invariants, and a ledger kept from the outside.

ROUTER_DAEMON_FUZZ=long looks a hundred times as hard. A failure prints the steps and a blob that replays them.
"""

from __future__ import annotations

from typing import Any

from fuzzing import look
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from ledger import Ledger, Sending
from msgspec import UNSET

from router_daemon.core import events
from router_daemon.core.actions import Action, Deliver, Error, Piece, Reply
from router_daemon.core.events import EmptyHeader, Event
from router_daemon.core.types import Peer, Side
from router_daemon.policies.base import NAMES
from router_daemon.testing import BrokerFixture

PICK = st.integers(0, 10_000)
CAPABILITIES = ("c", "d")
OFFERS = st.lists(st.sampled_from(CAPABILITIES), min_size=1, max_size=2)
SESSIONS = st.sampled_from((UNSET, b"session-1", b"session-2"))
HEARTBEAT_S = 1.0


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(UNSET) | values


class Peers(RuleBasedStateMachine):
    """Two clients, four names of backends, and a clock."""

    @initialize(
        policy=st.sampled_from(NAMES),
        mode=st.sampled_from(("fanout", "single")),
        heads=st.integers(1, 3),
        unsaid=st.sampled_from(("copies", "retries", "never")),
        queue=st.sampled_from((0, 2, 100)),
        require=st.booleans(),
        timeout_s=st.sampled_from((None, 0.2)),
        cache_s=st.sampled_from((0.0, 30.0)),
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
            backends=3,
            label_values=2,
        )
        self.ledger = Ledger(self.fixture)
        self.clients: list[Peer] = [b"client-0", b"client-1"]
        self.backends: list[Peer] = []
        self.pieces: list[Action] = []
        self.peers = 0

    def new_peer(self) -> Peer:
        self.peers += 1
        return f"peer-{self.peers}".encode()

    def do(self, event: Event) -> list[Action]:
        made = self.fixture.handle(event)
        self.ledger.made(made)
        self.pieces += [action for action in made if isinstance(action, Piece | Reply | Error)]
        del self.pieces[:-5]
        return made

    def sending(self, pick: int) -> Sending | None:
        open_now = list(self.ledger.sendings.values())
        return open_now[pick % len(open_now)] if open_now else None

    # --- clients ---

    @rule(
        pick=PICK,
        client_id=st.sampled_from((1, "x", b"y")),
        capability=st.sampled_from((*CAPABILITIES, "c", "never offered")),
        keys=st.fixed_dictionaries(
            {
                "priority": st.integers(1, 4),
                "ttl_ms": maybe(st.sampled_from((1, 60, 400, 2_000, 10_000))),
                "heads": maybe(st.integers(1, 3)),
                "mode": maybe(st.sampled_from(("fanout", "single"))),
                "reply": st.sampled_from(("first", "first", "all", "none")),
                "idempotent": maybe(st.booleans()),
                "first_ms": maybe(st.sampled_from((50, 1_500))),
                "idle_ms": maybe(st.sampled_from((50, 1_500))),
            }
        ),
        delimited=st.sampled_from((False, False, True)),
    )
    def send(self, pick: int, client_id: Any, capability: str, keys: dict[str, Any], delimited: bool) -> None:
        peer = self.clients[pick % 2]
        request = events.Request(client_id, capability, **keys)
        self.ledger.sent(peer, request)
        self.do(events.Send(peer, delimited, request, (b"body",)))

    @rule(pick=PICK, client_id=st.sampled_from((1, "x", None)))
    def send_malformed(self, pick: int, client_id: Any) -> None:
        peer = self.clients[pick % 2]
        if client_id is not None:
            self.ledger.malformed(peer, client_id)
        self.do(events.Malformed(Side.CLIENT, peer, False, "SEND", "bad_header", "wrong", client_id))

    @rule(pick=PICK, client_id=st.sampled_from((1, "x", b"y", "unknown")))
    def cancel(self, pick: int, client_id: Any) -> None:
        self.do(events.Cancel(self.clients[pick % 2], False, events.CancelHeader(client_id)))

    @rule(pick=PICK)
    def client_goes(self, pick: int) -> None:
        peer = self.clients[pick % 2]
        self.clients[pick % 2] = self.new_peer()
        self.ledger.client_gone(peer)
        for action in self.do(events.Gone(Side.CLIENT, peer)):
            assert action.peer != peer

    @precondition(lambda self: self.pieces)
    @rule(pick=PICK, full=st.booleans())
    def an_answer_cannot_be_handed_over(self, pick: int, full: bool) -> None:
        action = self.pieces.pop(pick % len(self.pieces))
        self.do(events.Undelivered(action, full))
        if not full:
            self.clients = [self.new_peer() if peer == action.peer else peer for peer in self.clients]
            self.ledger.client_gone(action.peer)
            self.do(events.Gone(Side.CLIENT, action.peer))

    # --- backends ---

    @rule(
        pick=PICK,
        name=st.sampled_from("abcd"),
        offers=OFFERS,
        slots=st.integers(1, 2),
        prefetch=st.integers(0, 1),
        session=SESSIONS,
        anew=st.booleans(),
    )
    def register(
        self, pick: int, name: str, offers: list[str], slots: int, prefetch: int, session: Any, anew: bool
    ) -> None:
        if anew or not self.backends:
            self.backends.append(self.new_peer())
            pick = -1
        peer = self.backends[pick % len(self.backends)] if pick >= 0 else self.backends[-1]
        header = events.Registration(name, offers, slots=slots, prefetch=prefetch, session=session)
        self.ledger.asked[peer, name] = header
        self.do(events.Register(peer, False, header))

    @precondition(lambda self: self.backends)
    @rule(pick=PICK, offers=maybe(OFFERS), slots=maybe(st.integers(1, 3)))
    def update(self, pick: int, offers: Any, slots: Any) -> None:
        peer = self.backends[pick % len(self.backends)]
        backend = self.fixture.broker.registry.by_peer.get(peer)
        if backend is not None:
            old = self.ledger.infos[backend.name]
            self.ledger.asked[peer, backend.name] = events.Registration(
                old.name,
                old.capabilities if offers is UNSET else offers,
                slots=old.slots if slots is UNSET else slots,
                prefetch=old.prefetch,
                session=old.session,
            )
        self.do(events.Update(peer, False, events.Revision(capabilities=offers, slots=slots)))

    @precondition(lambda self: self.backends)
    @rule(pick=PICK, how=st.sampled_from((events.Drain, events.Unregister, events.Heartbeat, events.Heartbeat)))
    def say(self, pick: int, how: Any) -> None:
        peer = self.backends[pick % len(self.backends)]
        header = events.HeartbeatHeader() if how is events.Heartbeat else EmptyHeader()
        self.do(how(peer, False, header))

    @rule()
    def all_beat(self) -> None:
        for backend in list(self.fixture.broker.registry.by_name.values()):
            self.do(events.Heartbeat(backend.peer, False, events.HeartbeatHeader()))

    @precondition(lambda self: self.backends)
    @rule(pick=PICK)
    def backend_goes(self, pick: int) -> None:
        self.do(events.Gone(Side.BACKEND, self.backends.pop(pick % len(self.backends))))

    @precondition(lambda self: self.ledger.sendings)
    @rule(
        pick=PICK,
        how=st.sampled_from(
            ("ack", "ack", "ack", "failed", "busy", "rejected", "cancelled", "malformed", "part", "part")
        ),
        retry_after_ms=maybe(st.sampled_from((0, 20, 2_000))),
    )
    def answer(self, pick: int, how: str, retry_after_ms: Any) -> None:
        sending = self.sending(pick)
        assert sending is not None
        assert sending.backend is not None
        peer, number = sending.backend.peer, sending.action.header.id
        event: Event
        if how == "part":
            event = events.Part(peer, False, events.PartHeader(number), (b"piece",))
        else:
            self.ledger.answered(sending, how)
            if how == "ack":
                event = events.Ack(peer, False, events.AckHeader(number), (b"done",))
            elif how == "malformed":
                event = events.Malformed(Side.BACKEND, peer, False, "ACK", "bad_header", "wrong", number)
            else:
                header = events.NackHeader(number, "why", how, retry_after_ms)  # type: ignore[arg-type]
                event = events.Nack(peer, False, header)
        self.do(event)

    @precondition(lambda self: self.backends)
    @rule(pick=PICK, number=PICK, how=st.sampled_from(("ack", "nack", "part", "malformed")))
    def answer_what_is_not_ours(self, pick: int, number: int, how: str) -> None:
        peer = self.backends[pick % len(self.backends)]
        sending = self.ledger.sendings.get(number)
        if sending is not None and sending.backend is not None and sending.backend.peer == peer:
            number = 0
        event: Event
        if how == "ack":
            event = events.Ack(peer, False, events.AckHeader(number))
        elif how == "nack":
            event = events.Nack(peer, False, events.NackHeader(number))
        elif how == "part":
            event = events.Part(peer, False, events.PartHeader(number))
        else:
            event = events.Malformed(Side.BACKEND, peer, False, "ACK", "bad_header", "wrong", number)
        assert not any(isinstance(action, Reply | Piece | Deliver) for action in self.do(event))

    @precondition(lambda self: self.ledger.sendings)
    @rule(pick=PICK, full=st.booleans())
    def a_delivery_never_leaves(self, pick: int, full: bool) -> None:
        sending = self.sending(pick)
        assert sending is not None
        assert sending.backend is not None
        if sending.action.peer != sending.backend.peer:
            return
        self.ledger.answered(sending, "undelivered")
        self.do(events.Undelivered(sending.action, full))
        if not full:
            self.do(events.Gone(Side.BACKEND, sending.action.peer))

    # --- time ---

    @rule(seconds=st.sampled_from((0.001, 0.03, 0.06, 0.25, 0.6, 1.2, 3.1, 31.0)))
    def time_passes(self, seconds: float) -> None:
        fixture = self.fixture
        until = fixture.clock.now + seconds
        while (due := fixture.broker.next_deadline()) is not None and due <= until:
            self.ledger.made(fixture.advance(max(0.0, due - fixture.clock.now)))
        self.ledger.made(fixture.advance(until - fixture.clock.now))
        self.ledger.on_time()

    @rule(seconds=st.sampled_from((0.005, 0.04)))
    def the_loop_is_late(self, seconds: float) -> None:
        """Time passes, and events are handled before the timers that are due."""
        self.fixture.clock.advance(seconds)

    def teardown(self) -> None:
        if not hasattr(self, "fixture"):
            return
        self.ledger.made(self.fixture.stop())
        self.ledger.closed()


Peers.TestCase.settings = look(100, stateful_step_count=40)
TestPeers = Peers.TestCase

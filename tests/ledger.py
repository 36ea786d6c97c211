"""What a broker promises, kept from the outside: a ledger of what went in and what came out, as its peers saw it.

It knows the protocol and nothing of how the broker keeps its books. It asks the registry who is there, what it costs
and how many deliveries it may have, and the dispatcher which messages back off before they go to the same backend again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from msgspec import UNSET

from router_daemon.core.actions import Accept, Action, CancelDelivery, Deliver, Error, Piece, Registered, Reply
from router_daemon.core.backends import Backend
from router_daemon.core.events import Registration, Request
from router_daemon.core.types import Peer
from router_daemon.core.waiting import CRITICAL
from router_daemon.testing import INSTANCE, BrokerFixture

GRACE_S = 0.1
TICK_S = 0.051
NOT_BEGUN = ("busy", "undelivered")


@dataclass
class Sent:
    """One SEND that has not had its last answer."""

    request: Request
    name: str | None
    deadline: float
    heads: int = 0
    mode: str = ""
    copies: bool = True
    reruns: bool = True
    been_everywhere: bool = False
    streaming: int | None = None
    pieces: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    answered: set[int] = field(default_factory=set)


@dataclass
class Sending:
    """One DELIVER; `outcome` is empty until it was answered or lost."""

    action: Deliver
    name: str
    backend: Backend | None
    expires: float
    outcome: str = ""
    cancelled: bool = False


class Ledger:
    """Told of every SEND and every answer before the broker is, and of all that the broker makes of it."""

    def __init__(self, fixture: BrokerFixture) -> None:
        self.fixture = fixture
        self.open: dict[tuple[Peer, Any], Sent] = {}
        self._named: dict[str, Sent] = {}
        self.sendings: dict[int, Sending] = {}
        self.ever: dict[int, Sending] = {}
        self.history: dict[str, list[Sending]] = defaultdict(list)
        self.finished: set[str] = set()
        self.asked: dict[tuple[Peer, str], Registration] = {}
        self.infos: dict[str, Registration] = {}
        self.accepted = 0
        self._taken: tuple[Peer, Any] | None = None
        self._newest = 0
        self._fresh = ""
        self._step: list[Sending] = []
        self._series: dict[int, Any] = {}

    # --- what goes in ---

    def sent(self, peer: Peer, request: Request) -> None:
        """A SEND is about to be handled."""
        if (peer, request.id) in self.open:
            self._taken = (peer, request.id)
            return
        self.accepted += 1
        self._fresh = f"{INSTANCE}{self.accepted:x}"
        settings = self.fixture.settings
        ttl_ms = settings.default_ttl_ms if request.ttl_ms is UNSET else min(request.ttl_ms, settings.max_ttl_ms)
        unsaid, said = settings.unsaid_idempotent, request.idempotent
        mode = settings.mode if request.mode is UNSET else request.mode
        self.open[peer, request.id] = self._named[f"{INSTANCE}{self.accepted:x}"] = Sent(
            request,
            f"{INSTANCE}{self.accepted:x}",
            self.fixture.clock.now + ttl_ms / 1000.0,
            settings.heads if request.heads is UNSET else min(request.heads, settings.heads),
            mode=mode,
            copies=request.reply == "all" or (mode != "single" and (unsaid == "copies" if said is UNSET else said)),
            reruns=unsaid != "never" if said is UNSET else said,
        )

    def malformed(self, peer: Peer, client_id: Any) -> None:
        """A malformed SEND with a readable id is about to be handled."""
        if (peer, client_id) in self.open:
            self._taken = (peer, client_id)
        else:
            self.open[peer, client_id] = Sent(Request(client_id, "-"), None, self.fixture.clock.now)

    def client_gone(self, peer: Peer) -> None:
        """Nothing more may be said to this connection."""
        self.open = {key: sent for key, sent in self.open.items() if key[0] != peer}

    def answered(self, sending: Sending, outcome: str) -> None:
        """A backend is about to answer a delivery, or it turned out never to have left."""
        sending.outcome = outcome
        del self.sendings[sending.action.header.id]

    def streamed(self, sending: Sending) -> None:
        """A backend is about to send a piece: the first head to do so is the one that streams, if only one may.

        Not all are told of pieces: a client behind an empty delimiter gets none.
        """
        sent, header = self._named[sending.action.header.message], sending.action.header
        if sent.request.reply != "all" and sent.streaming is None:
            sent.streaming = header.head

    # --- what comes out ---

    def made(self, actions: Iterable[Action]) -> None:
        """Check what the broker made of one step."""
        self._part_with_lost()
        self._step = []
        for action in actions:
            if isinstance(action, Deliver):
                self._delivered(action)
            elif isinstance(action, CancelDelivery):
                sending = self.ever.get(action.header.id)
                assert sending is not None
                assert not sending.cancelled, "cancelled twice"
                sending.cancelled = True
            elif isinstance(action, Registered):
                self.infos[action.header.name] = self.asked[action.peer, action.header.name]
            elif isinstance(action, Reply | Piece | Accept | Error):
                self._said(action)
        assert self._taken is None, f"no duplicate_id for {self._taken}"
        self._compare_counts()
        self._check_first_heads()
        self._check_those_who_wait()

    def on_time(self) -> None:
        """Assert that nobody has waited for longer than promised, at a moment at which no timer is late."""
        now = self.fixture.clock.now
        for key, sent in self.open.items():
            assert now < sent.deadline + GRACE_S, f"no last answer for {key}: {sent}"
        silence_s = 3 * self.fixture.settings.heartbeat_s
        for backend in self.fixture.broker.registry.by_name.values():
            assert now < backend.last_seen + silence_s + TICK_S, f"{backend.name} is silent"

    def closed(self) -> None:
        """Assert that nothing is open any more, as after `stop`."""
        assert self.open == {}
        assert self.fixture.broker.open_messages == 0
        assert self.fixture.broker.dispatcher.waiting.size == 0

    def _said(self, action: Reply | Piece | Accept | Error) -> None:
        header = action.header
        if header.id is None:
            assert isinstance(action, Error)
            assert action.header.last is False
            return
        key = (action.peer, header.id)
        if isinstance(action, Error) and action.header.code == "duplicate_id":
            assert self._taken == key, f"{key} was not taken"
            assert action.header.last is False
            self._taken = None
            return
        sent = self.open.get(key)
        assert sent is not None, f"{key} has had its last answer: {action}"
        if header.message is not UNSET:
            assert header.message not in self.finished, f"{header.message} has ended: {action}"
            assert sent.name == header.message, f"{sent.name} became {header.message}"
        if isinstance(action, Piece):
            self._piece(sent, action)
        elif isinstance(action, Reply):
            self._replied(sent, action)
        if not isinstance(action, Piece) and action.header.last:
            del self.open[key]
            if sent.name is not None and not isinstance(action, Accept):
                self.finished.add(sent.name)

    def _piece(self, sent: Sent, action: Piece) -> None:
        header = action.header
        assert sent.request.reply != "none"
        assert header.seq == sent.pieces[header.head], "a stream has a gap"
        sent.pieces[header.head] += 1
        if sent.request.reply == "first":
            assert sent.streaming in (None, header.head), "two heads stream"
            sent.streaming = header.head
        head = self.history[header.message][header.head - 1]
        assert head.backend is not None
        assert head.backend.name == header.backend

    def _replied(self, sent: Sent, action: Reply) -> None:
        header = action.header
        assert header.head not in sent.answered, "a head has answered twice"
        sent.answered.add(header.head)
        assert sent.streaming in (None, header.head), "another head than the streaming one answers"
        assert header.heads == len(self.history[header.message])
        assert header.elapsed_ms >= 0
        head = self.history[header.message][header.head - 1]
        assert head.backend is not None
        assert (head.backend.name, head.outcome) == (header.backend, "ack")
        if sent.request.reply == "first":
            assert header.last

    def _delivered(self, action: Deliver) -> None:
        header = action.header
        assert self._newest < header.id < 2**53, "delivery ids rise"
        self._newest = header.id
        assert header.message not in self.finished, f"{header.message} has ended"
        sent = self._named[header.message]
        assert header.capability == sent.request.capability
        assert 1 <= header.ttl_ms <= (sent.deadline - self.fixture.clock.now) * 1000 + 1
        history = self.history[header.message]
        assert (header.attempt, header.head) == (len(history) + 1, len(history) + 1)
        assert header.heads >= header.head
        backend = self.fixture.broker.registry.by_peer.get(action.peer)
        if backend is None:  # lost in the very step that sent to it
            history.append(Sending(action, "", None, 0.0, "lost"))
            return
        self._may_be_sent(sent, backend, history)
        self._may_cost(sent, backend, history)
        expires = sent.deadline + 3 * self.fixture.settings.heartbeat_s
        sending = self.sendings[header.id] = self.ever[header.id] = Sending(action, backend.name, backend, expires)
        history.append(sending)
        self._step.append(sending)
        info = self.infos[backend.name]
        open_there = sum(other.backend is backend for other in self.sendings.values())
        assert open_there <= info.slots + info.prefetch, f"{open_there} deliveries at {backend.name}"

    def _may_be_sent(self, sent: Sent, backend: Backend, history: list[Sending]) -> None:
        if self.fixture.settings.require_capability:
            assert sent.request.capability in self.infos[backend.name].capabilities
        assert not backend.draining
        begun = _begun(history)
        if backend.name in begun:
            assert sent.mode in ("auto", "hedge"), "the same head twice"
            assert sent.been_everywhere, "the same head twice, though there was another"
            assert self.fixture.settings.retry.same_backend
        assert len(begun) < sent.heads, "more heads than permitted"
        if not sent.copies:
            assert all(earlier.outcome or earlier.cancelled for earlier in history), "two heads at once"
        if not sent.reruns:
            assert begun == [], "what may not run twice was sent twice"

    def _may_cost(self, sent: Sent, backend: Backend, history: list[Sending]) -> None:
        """Assert that a backend is not too dear, for the message or beside its first head."""
        cost = backend.cost or 0.0
        if sent.request.max_cost is not UNSET:
            assert cost <= sent.request.max_cost, f"{backend.name} costs {cost}"
        earlier = [sending for sending in history if sending not in self._step]
        if earlier and (first := history[0].backend) is not None and self._costs_something(sent):
            most = float("inf") if first.cost is None else self.fixture.settings.extra_cost_ratio * first.cost
            assert cost <= most, f"{backend.name} costs {cost}"
        out = [sending for sending in earlier if not sending.outcome and not sending.cancelled]
        if out and sent.mode in ("auto", "hedge") and sent.request.reply != "all":
            open_there = sum(other.backend is backend for other in self.sendings.values())
            assert open_there < self.infos[backend.name].slots, "a hedge to somebody who has enough to do"
            assert sent.request.mode == "hedge" or self.fixture.settings.hedge.share, "a hedge that nobody asked for"

    def _check_first_heads(self) -> None:
        """Assert what holds when a message has just been sent: copies only where idle, and the reserve is kept."""
        heads = [sending for sending in self._step if sending.action.header.message == self._fresh]
        fresh, self._fresh = self._fresh, ""
        if not heads:
            return
        sent = self._named[fresh]
        if len(heads) > 1 and sent.mode == "auto" and sent.request.reply != "all":
            assert not self._costs_something(sent), "copies of what costs something"
            members = self._able(sent)
            busy = sum(len(backend.open) for backend in members) - len(heads)
            slots = sum(self.infos[backend.name].slots for backend in members)
            assert busy < self.fixture.settings.auto_idle * slots, "copies though others are at work"
        on_trial = any(sending.backend is not None and sending.backend.ejected for sending in heads)
        if on_trial:
            assert sent.reruns
            assert sent.heads > 1
        if sent.request.priority < CRITICAL and not on_trial:
            assert self._free(sent) >= self._reserve(sent), "a place that is kept for critical messages"

    def _able(self, sent: Sent) -> list[Backend]:
        """Return who may get a message, whatever it costs."""
        return [
            backend
            for backend in self.fixture.broker.registry.by_name.values()
            if not backend.draining
            and (not self.fixture.settings.require_capability or sent.request.capability in backend.info.capabilities)
        ]

    def _costs_something(self, sent: Sent) -> bool:
        return any(backend.cost is not None for backend in self._able(sent))

    def _free(self, sent: Sent) -> int:
        return sum(max(0, backend.limit - len(backend.open)) for backend in self._able(sent))

    def _reserve(self, sent: Sent) -> int:
        """Return how many places only critical messages may take: floor(share * places)."""
        infos = [self.infos[backend.name] for backend in self._able(sent)]
        return int(self.fixture.settings.waiting.reserve * sum(info.slots + info.prefetch for info in infos))

    def _part_with_lost(self) -> None:
        there = list(self.fixture.broker.registry.by_name.values())
        for number, sending in list(self.sendings.items()):
            if sending.backend is None or sending.backend not in there:
                self.answered(sending, "lost")
            elif number not in sending.backend.open:
                assert self.fixture.clock.now >= sending.expires, f"delivery {number} was given up"
                self.answered(sending, "unanswered")

    def _check_those_who_wait(self) -> None:
        """Assert that whoever is not being worked on waits for somebody who is there and has no room, or backs off."""
        broker = self.fixture.broker
        pausing = {message.name for message in broker.dispatcher.messages if message.resume_at < inf}
        busy = {s.action.header.message for s in self.sendings.values() if not s.cancelled or self._streams(s)}
        assert not busy & pausing, "it is worked on, and backs off all the same"
        for name in pausing:
            self._named[name].been_everywhere = True
            assert len(_begun(self.history[name])) < self._named[name].heads, f"{name} has been everywhere it may"
        idle = [sent for sent in self.open.values() if sent.name is not None and sent.name not in busy]
        waiting = [sent for sent in idle if sent.name not in pausing]
        assert len(waiting) <= broker.dispatcher.waiting.size, f"nobody works on {waiting}, and it does not wait"
        for sent in idle:
            assert sent.name is not None
            begun = _begun(self.history[sent.name])
            able = [backend for backend in self._able(sent) if self._affordable(sent, backend)]
            untried = [backend for backend in able if backend.name not in begun]
            if sent.name not in pausing and self.fixture.settings.require_capability:
                self._waits_for_good_reason(sent, able if sent.been_everywhere else untried)

    def _waits_for_good_reason(self, sent: Sent, hopes: list[Backend]) -> None:
        """Assert that those whom a message waits for are there, and full but for what is kept for critical ones."""
        assert hopes or self._costs_something(sent), f"{sent.name} waits for nobody"  # costs change with every ACK
        free = [backend.name for backend in hopes if len(backend.open) < backend.limit]
        kept = sent.request.priority < CRITICAL and self._free(sent) <= self._reserve(sent)
        assert kept or not free, f"{sent.name} waits though {free} have room"

    def _affordable(self, sent: Sent, backend: Backend) -> bool:
        cost, limit = backend.cost or 0.0, sent.request.max_cost
        history = self.history[sent.name or ""]
        first = history[0].backend if history else None
        dear = first is not None and cost > self.fixture.settings.extra_cost_ratio * (first.cost or 0.0)
        return (limit is UNSET or cost <= limit) and not (dear and self._costs_something(sent))

    def _streams(self, sending: Sending) -> bool:
        """Tell whether a head that timed out, and so got a CANCEL, began to stream after all."""
        header = sending.action.header
        return self._named[header.message].streaming == header.head

    def _compare_counts(self) -> None:
        """Assert that every SEND is counted as ended or is in flight, over all series there ever were."""
        broker = self.fixture.broker
        for series in broker.counts.capabilities.values():
            self._series[id(series)] = series
        ended = sum(sum(series.outcomes.values()) for series in self._series.values())
        assert self.accepted == ended + broker.open_messages, "sent = answered + in flight"


def _begun(history: list[Sending]) -> list[str]:
    """Return the backends that a message was sent to, but for those that did not begin with it."""
    return [earlier.name for earlier in history if earlier.outcome not in NOT_BEGUN]

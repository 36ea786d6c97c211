"""The client side of the broker: who asks, what is admitted, what is refused before anybody is looked for.

Rules:
- Every SEND with a readable id ends in exactly one message with `last: true`: here where it is refused, in `dispatch`
  where it is opened. A SEND with a taken id gets `duplicate_id` with `last: false`, whatever else is wrong with it.
- A client exists from its first SEND until the transport says that its connection is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from router_daemon.core.actions import Accept, Action, Error, ErrorHeader, Piece, Pong, PongHeader, Reply
from router_daemon.core.counts import UNKNOWN, CapabilityCounts, Counts
from router_daemon.core.dispatch import Dispatcher
from router_daemon.core.events import Cancel, Feedback, ForeignSend, Inbound, Malformed, Ping, Request, Send
from router_daemon.core.messages import Client, Message
from router_daemon.core.overrides import Overrides
from router_daemon.core.quotas import check_accounts, excess, retry_after_ms
from router_daemon.core.registry import Registry
from router_daemon.core.routing import Routes
from router_daemon.core.settings import Settings
from router_daemon.core.types import Peer
from router_daemon.errors import RETRY

FEATURES: Final = ["auto", "fanout", "hedge", "single", "stream", "reply_all", "reply_none"]
_CLIENT_FAULTS: Final = frozenset({"forbidden", "bad_frames", "bad_header"})
_SAID: Final = {True: (True, True), False: (False, False)}
"""What `idempotent` allows: several copies at once; a second run after a failure, a loss or a timeout."""
_UNSAID: Final = {"copies": (True, True), "retries": (False, True), "never": (False, False)}
_TAKEN: Final = "a message of this id is open"
_OUR_FAULT: Final = "a fault of the daemon"


class Clients:
    """The clients by connection; `instance` is the prefix of every `message`."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        dispatcher: Dispatcher,
        routes: Routes,
        overrides: Overrides,
        counts: Counts,
        emit: Callable[[Action], None],
        instance: str,
    ) -> None:
        self._registry = registry
        self._dispatcher = dispatcher
        self._routes = routes
        self._overrides = overrides
        self._override_of = overrides.in_force
        self._counts = counts
        self._emit = emit
        self._name = instance.replace("%", "%%") + "%x"  # a third cheaper to fill in than an f-string
        self._number = 0
        self._uncounted = CapabilityCounts(UNKNOWN)
        self._by_peer: dict[Peer, Client] = {}
        self.draining = False
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over other settings, and the routes as they are now; what is open stays as it was admitted."""
        self._settings = settings
        self._stable = self._routes.stable
        self._rollout = self._routes.rollout
        self._unsaid = _UNSAID[settings.unsaid_idempotent]
        self._default_ttl_ms = settings.default_ttl_ms
        self._max_ttl_ms = settings.max_ttl_ms
        self._mode = settings.mode
        self._heads = settings.heads
        self._open_messages = settings.open_messages
        self._client_messages = settings.client_messages
        self._client_bytes = settings.client_bytes

    def send(self, event: Send, now: float) -> None:
        """SEND: refuse it, or hand it to the dispatcher."""
        request = event.header
        client = self._by_peer.get(event.peer)
        if client is None:
            client = self._by_peer[event.peer] = Client(event.peer, {})
        if request.id in client.open:
            self._error(event, "duplicate_id", _TAKEN, request.id, last=False)
            return
        if client.messages >= self._client_messages or client.body_bytes >= self._client_bytes:
            self._over_quota(event, client, now)
            return
        message = self._admit(event, client, now)
        refusal = self._refusal(event, message)
        if refusal is None:
            if self._override_of:
                self._override(message, now)
            self._dispatcher.submit(message, now)
        else:
            self._refuse(message, *refusal)

    def send_foreign(self, event: ForeignSend, now: float) -> None:
        """A delivery of another daemon, which has no quota and sees to it that no id is taken twice."""
        client = self._by_peer.get(event.peer)
        if client is None:
            client = self._by_peer[event.peer] = Client(event.peer, {}, trusted=True)
        message = self._admit(event, client, now)
        message.name = event.name
        message.stamp = (event.attempts, event.heads)
        refusal = self._refusal(event, message)
        if refusal is None:
            self._dispatcher.submit(message, now)
        else:
            self._refuse(message, *refusal)

    def _refuse(self, message: Message, code: str, detail: str) -> None:
        """Answer a message that is not opened, and count why."""
        request = message.request
        message.counts = self._counts.capability(
            request.capability, offered=self._registry.was_offered(request.capability)
        )
        if code in _CLIENT_FAULTS:
            self._counts.protocol_errors[code] += 1
        elif code == "overloaded":
            message.counts.refusals["open_messages"] += 1
        self._dispatcher.refuse(message, code, detail)

    def _admit(self, event: Send, client: Client, now: float) -> Message:
        """Return the message, with what the configuration adds to what the client said."""
        request, body = event.header, event.body
        copies, reruns = self._unsaid if request.idempotent is UNSET else _SAID[request.idempotent]
        ttl_ms, most_ms = request.ttl_ms, self._max_ttl_ms
        if ttl_ms is UNSET:
            ttl_ms = self._default_ttl_ms
        elif ttl_ms > most_ms:
            ttl_ms = most_ms
        mode = self._mode if request.mode is UNSET else request.mode
        fan_out = request.reply == "all" or (copies and mode == "fanout")
        number = self._number = self._number + 1
        name = self._name % number
        return Message(
            number,
            name,
            client,
            event.delimited,
            request,
            body,
            len(body[0]) if len(body) == 1 else sum(map(len, body)),
            now,
            now + ttl_ms / 1000.0,
            self._heads if request.heads is UNSET else min(request.heads, self._heads),
            mode,
            fan_out,
            fan_out or request.max_cost is not UNSET,
            copies,
            reruns,
            self._uncounted,
            self._stable if self._rollout is None else self._rollout.assign(request, name),
        )

    def _over_quota(self, event: Send, client: Client, now: float) -> None:
        """Refuse a SEND of a client that has enough open already; nothing is made of it but the answer."""
        request = event.header
        cause, detail = excess(client, self._settings)
        counts = self._counts.capability(request.capability, offered=self._registry.was_offered(request.capability))
        counts.outcomes["overloaded"] += 1
        counts.refusals[cause] += 1
        header = ErrorHeader(
            request.id, "overloaded", detail, retry=True, last=True, retry_after_ms=retry_after_ms(client, now)
        )
        self._emit(Error(event.peer, event.delimited, header))

    def probe(self, request: Request, now: float) -> tuple[Message, tuple[str, str] | None]:
        """Return a message as a SEND would make it, and what it would be refused for, without admitting it."""
        number = self._number
        event = Send(b"", False, request, ())
        message = self._admit(event, Client(b"", {}), now)
        self._number = number
        return message, self._refusal(event, message)

    def _refusal(self, event: Send, message: Message) -> tuple[str, str] | None:
        """Return code and detail where the message may not be opened, whoever is there."""
        request = event.header
        if request.durable or request.policy is not UNSET or request.backend is not UNSET:
            refusal = self._asked_for(message)
            if refusal is not None:
                return refusal
        if request.reply == "all":
            if event.delimited:
                return "bad_frames", "reply: all needs a peer that takes several answers (no empty delimiter)"
            if request.mode in ("single", "hedge") or not message.reruns:
                return (
                    "bad_header",
                    "reply: all sends to several at once: no single, no hedge, no idempotent: false",
                )
        if self.draining:
            return "draining", "the daemon is about to exit"
        if len(self._dispatcher.messages) >= self._open_messages:
            return "overloaded", f"{self._open_messages} messages are open, and no more are allowed"
        return self._bind(message) if request.backend is not UNSET else None

    def _asked_for(self, message: Message) -> tuple[str, str] | None:
        """Do what a message says of its way, or say why not: the one place where that is decided."""
        request, trusted = message.request, message.client.trusted
        if request.durable:
            return "forbidden", "durable is not offered by this daemon"
        if message.named and not (trusted or self._settings.backend_override):
            return "forbidden", "naming a backend is not allowed by this daemon"
        if request.policy is UNSET:
            return None
        if not (trusted or self._settings.policy_override):
            return "forbidden", "naming a policy is not allowed by this daemon"
        route = self._routes.named(request.policy)
        if route is None and trusted:  # the ring may be of two minds for a while
            route = self._stable
        if route is None:
            return "unknown_policy", f"there is no route and no policy {request.policy!r}"
        message.route = route
        return None

    def _override(self, message: Message, now: float) -> None:
        """Give a message to the backend that a person has named for its capability, where it is there."""
        name = self._overrides.backend(message.request.capability, now)
        if name is None or message.named or name not in self._registry.by_name:
            return
        message.request.backend = name
        if self._dispatcher.chooser.named(message) is None:
            message.request.backend = UNSET
        else:
            self._overrides.applied += 1
            self._bind(message)

    def _bind(self, message: Message) -> tuple[str, str] | None:
        """Give a message to the backend that it names and to no other, once; or say why it cannot have it."""
        message.heads, message.mode, message.fan_out, message.special = 1, "single", False, True
        name = message.request.backend
        if name not in self._registry.by_name:
            return "unknown_backend", f"no backend {name!r} is registered"
        if self._dispatcher.chooser.named(message) is None:
            return "no_backend", f"{name!r} drains, costs too much or does not offer {message.request.capability}"
        return None

    def cancel(self, event: Cancel, now: float) -> None:
        """CANCEL: an open message ends; of any other nothing is said."""
        message = self._open(event.peer, event.header.id)
        if message is not None:
            message.reason = "cancelled by the client"
            self._dispatcher.fail(message, "cancelled", now)

    def feedback(self, event: Feedback, now: float) -> None:  # noqa: ARG002 - one shape for all
        """FEEDBACK: counted for the route that the newest answered SEND of that id took; of any other id, ignored."""
        client, request_id = self._by_peer.get(event.peer), event.header.id
        newest_first = [] if client is None else list(reversed(client.answered))
        if client is None or request_id not in newest_first:
            self._counts.feedback_ignored += 1
            return
        ago = newest_first.index(request_id)
        taken = client.routes[-1 - ago] if ago < len(client.routes) else self._stable
        taken.rate(event.header.score)

    def ping(self, event: Ping, now: float) -> None:  # noqa: ARG002 - one shape for all
        """PING: what this daemon is."""
        settings = self._settings
        features = FEATURES + ["policy"] * settings.policy_override + ["backend"] * settings.backend_override
        header = PongHeader(settings.version, features, settings.max_ttl_ms, settings.max_message_bytes, settings.heads)
        self._emit(Pong(event.peer, event.delimited, header))

    def gone(self, peer: Peer, now: float) -> None:
        """The connection cannot be reached: what it waits for is cancelled."""
        client = self._by_peer.pop(peer, None)
        if client is not None:
            for message in list(client.open.values()):
                self._dispatcher.end(message, "client_gone", now)

    def piece_lost(self, action: Piece, now: float) -> None:
        """End a message whose stream would have a gap."""
        message = self._open(action.peer, action.header.id)
        if message is not None and message.name == action.header.message:
            message.reason = "the client reads too slowly for this stream"
            self._dispatcher.fail(message, "overloaded", now)

    def malformed(self, event: Malformed) -> None:
        """Answer frames that break the protocol; with a readable id that is the message's last answer."""
        if event.id is not None and self._open(event.peer, event.id) is not None:
            self._error(event, "duplicate_id", _TAKEN, event.id, last=False)
        else:
            self._error(event, event.code, event.detail, event.id, last=event.id is not None)

    def abandon(self, event: Send, said: list[Action], now: float) -> None:
        """End a SEND that a fault of ours left in an unknown state; `said`: what came of it before the fault.

        One whose id another open message has gets nothing: that message's last answer is still to come.
        """
        messages = reversed(self._dispatcher.messages)
        message = next((each for each in messages if each.request is event.header), None)
        if any(_is_last_answer(action, event) for action in said):
            if message is not None:
                self._dispatcher.end(message, "internal", now)
        elif message is not None and event.header.reply != "none":
            self.give_up(message, now)
        elif self._open(event.peer, event.header.id) is None:
            self._error(event, "internal", _OUR_FAULT, event.header.id, last=True)
            if message is not None:
                self._dispatcher.end(message, "internal", now)

    def give_up(self, message: Message, now: float) -> None:
        """End a message that a fault of ours has left without a next step."""
        message.reason = _OUR_FAULT
        self._dispatcher.fail(message, "internal", now)

    def check(self) -> None:
        """Assert that the clients' tables and the dispatcher's agree."""
        answered = [m for m in self._dispatcher.messages if m.request.reply != "none"]
        assert all(message.client.open[message.request.id] is message for message in answered)
        assert sum(len(client.open) for client in self._by_peer.values()) == len(answered)
        check_accounts(self._by_peer.values(), self._dispatcher.messages)

    def _open(self, peer: Peer, client_id: Any) -> Message | None:
        client = self._by_peer.get(peer)
        return None if client is None else client.open.get(client_id)

    def _error(self, event: Inbound | Malformed, code: str, detail: str, client_id: Any, *, last: bool) -> None:
        self._counts.protocol_errors[code] += 1
        header = ErrorHeader(client_id, code, detail, retry=RETRY[code], last=last)
        self._emit(Error(event.peer, event.delimited, header))


def _is_last_answer(action: Action, event: Send) -> bool:
    return (
        isinstance(action, Reply | Accept | Error)
        and action.peer == event.peer
        and action.header.id == event.header.id
        and action.header.last is True
    )

"""What is played against a backend that is registered: deliveries of all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router_daemon.conform.backend_play import FIRST_ID, BackendPlay, Delivery
from router_daemon.conform.bodies import BIG, EMPTY, MANY, NONE, SMALL, UNKNOWN_KEYS
from router_daemon.conform.encodings import wide
from router_daemon.conform.messages import shown, shown_body
from router_daemon.conform.play import Scenario, Script

BIGGEST_ID: Final = 2**53 - 1
MOST_AT_ONCE: Final = 16
LONG_WORK_MS: Final = 1_500
CANCELLED_WORK_MS: Final = 4_000
QUIET_S: Final = 0.3
"""For how long nothing may come, where nothing may come."""


def echoed(play: BackendPlay, ident: str, body: Sequence[bytes]) -> Script[None]:
    """Deliver a body, which must come back."""
    yield from play.registered()
    yield from came_back(play, ident, play.deliver("echo", body))


def came_back(play: BackendPlay, ident: str, delivery: Delivery) -> Script[None]:
    """Require an ACK with the very body of its DELIVER."""
    answer = yield from play.answer(ident, delivery)
    play.require(ident, answer.verb == "ACK", f"ACK of delivery {delivery.id}", answer)
    same = answer.body == tuple(delivery.body)
    received = f"{shown_body(answer.body)}\n{shown(answer.frames)}"
    play.require(ident, same, f"ACK with {shown_body(delivery.body)}", received)


def frames(play: BackendPlay) -> Script[None]:
    """As many frames as may be."""
    yield from echoed(play, "body-frames", MANY)


def empty(play: BackendPlay) -> Script[None]:
    """No frame, then an empty one."""
    yield from echoed(play, "body-empty", NONE)
    yield from echoed(play, "body-empty", EMPTY)


def big(play: BackendPlay) -> Script[None]:
    """Megabytes."""
    yield from echoed(play, "body-big", BIG)


def big_id(play: BackendPlay) -> Script[None]:
    """The largest id that there can be."""
    yield from play.registered()
    header = play.header("any", BIGGEST_ID)
    delivery = play.opened(header, SMALL)
    play.tell("DELIVER", header, SMALL)
    yield from play.answer("big-id", delivery)
    play.book.passed("big-id")


def wide_encoding(play: BackendPlay) -> Script[None]:
    """A header whose every size and number takes the most bytes."""
    yield from play.registered()
    header = play.header("any")
    delivery = play.opened(header, SMALL)
    play.tell_frames((b"CAR1.DELIVER", wide(header), *SMALL))
    yield from play.answer("wide-encoding", delivery)
    play.book.passed("wide-encoding")


def unknown_keys(play: BackendPlay) -> Script[None]:
    """Keys of a later version, before and after those that are known."""
    yield from play.registered()
    header = {**UNKNOWN_KEYS, **play.header("any"), "traceparent": "00-0-0-01", "x_last": True}
    delivery = play.opened(header, SMALL)
    play.tell("DELIVER", header, SMALL)
    yield from play.answer("unknown-keys", delivery)
    play.book.passed("unknown-keys")


def unknown_commands(play: BackendPlay) -> Script[None]:
    """A command of a later version, and one of another protocol version; then work as always."""
    yield from play.registered()
    play.tell("X_LATER", {"id": FIRST_ID - 1, **UNKNOWN_KEYS}, SMALL)
    yield from play.answer("unknown-commands", play.deliver("any", SMALL))
    play.book.passed("unknown-commands")
    other = play.header("any")
    play.unwanted[other["id"]] = "other-version"
    play.tell("DELIVER", other, SMALL, version="CAR2.")
    yield from play.answer("other-version", play.deliver("any", SMALL))
    yield from play.pause(QUIET_S, "other-version")
    play.book.passed("other-version")


def full_house(play: BackendPlay) -> Script[None]:
    """As many deliveries as it has places."""
    yield from play.registered()
    places = play.registration.get("slots", 1) + play.registration.get("prefetch", 0)
    opened = [play.deliver("any", (b"%d" % number,)) for number in range(min(places, MOST_AT_ONCE))]
    for delivery in opened:
        yield from play.answer("full-house", delivery)
    play.book.passed("full-house")


def stream(play: BackendPlay) -> Script[None]:
    """Pieces, then their end."""
    yield from play.registered()
    pieces = tuple(b"piece %d" % number for number in range(20))
    delivery = play.deliver("stream", pieces)
    answer = yield from play.answer("stream", delivery)
    play.require("stream", answer.verb == "ACK", "ACK at the end of the stream", answer)
    found = [frame for part in delivery.parts for frame in part]
    whole = found == list(pieces) and len(delivery.parts) == len(pieces) and answer.body == ()
    received = f"{len(delivery.parts)} PARTs, together {shown_body(found)}, and ACK with {shown_body(answer.body)}"
    play.require(
        "stream", whole, f"{len(pieces)} PARTs, together {shown_body(pieces)}, and ACK without a body", received
    )
    yield from play.pause(QUIET_S, "stream")


def refused(play: BackendPlay, ident: str, role: str, code: str) -> Script[None]:
    """Deliver what must end in a NACK of that code."""
    yield from play.registered()
    answer = yield from play.answer(ident, play.deliver(role, SMALL))
    found = answer.header.get("code", "failed")
    play.check(ident, answer.verb == "NACK" and found == code, f"NACK with code {code!r}", answer)


def failed(play: BackendPlay) -> Script[None]:
    """Work that fails."""
    yield from refused(play, "nack-failed", "fail", "failed")


def rejected(play: BackendPlay) -> Script[None]:
    """A message at fault."""
    yield from refused(play, "nack-rejected", "reject", "rejected")


def long_work(play: BackendPlay) -> Script[None]:
    """Work that takes longer than three heartbeats may."""
    yield from play.registered()
    play.offers("slow")
    play.pulse = "heartbeat-at-work"
    try:
        delivery = play.deliver("slow", (b"%d" % LONG_WORK_MS,))
        yield from play.answer("heartbeat-at-work", delivery)
        play.book.passed("heartbeat-at-work")
    finally:
        play.pulse = "heartbeat"


def cancelled(play: BackendPlay) -> Script[None]:
    """CANCEL of what is at work, of what is answered, of what never was."""
    yield from play.registered()
    delivery = play.deliver("slow", (b"%d" % CANCELLED_WORK_MS,))
    yield from play.pause(QUIET_S, "cancel")
    play.tell("CANCEL", {"id": delivery.id})
    answer = yield from play.answer("cancel", delivery, CANCELLED_WORK_MS / 1000 + play.timeout_s)
    code = answer.header.get("code", "failed")
    good = answer.verb == "ACK" or code == "cancelled"
    play.check("cancel", good, "ACK, or NACK with code 'cancelled'", answer)


def cancelled_late(play: BackendPlay) -> Script[None]:
    """CANCEL that comes too late, or is about nothing; then work as always."""
    yield from play.registered()
    delivery = play.deliver("any", SMALL)
    yield from play.answer("cancel-late", delivery)
    for ident in (delivery.id, FIRST_ID - 1):  # answered; never delivered
        play.unwanted[ident] = "cancel-late"
        play.tell("CANCEL", {"id": ident})
    yield from play.pause(QUIET_S, "cancel-late")
    yield from play.answer("cancel-late", play.deliver("any", SMALL))
    play.book.passed("cancel-late")


WORK: Final[Sequence[Scenario[BackendPlay]]] = (
    Scenario("empty", ("body-empty", "answer-id", "one-answer", "answer-header"), empty),
    Scenario("frames", ("body-frames",), frames),
    Scenario("big", ("body-big",), big),
    Scenario("big id", ("big-id",), big_id),
    Scenario("wide encoding", ("wide-encoding",), wide_encoding),
    Scenario("unknown keys", ("unknown-keys",), unknown_keys),
    Scenario("unknown commands", ("unknown-commands", "other-version"), unknown_commands),
    Scenario("full house", ("full-house", "answer-id", "one-answer", "answer-header"), full_house),
    Scenario("stream", ("stream",), stream),
    Scenario("failed", ("nack-failed",), failed),
    Scenario("rejected", ("nack-rejected",), rejected),
    Scenario("long work", ("heartbeat-at-work",), long_work),
    Scenario("cancelled", ("cancel",), cancelled),
    Scenario("cancelled late", ("cancel-late",), cancelled_late),
)

"""What is played against a backend: how it comes, stays, and comes back. Its work is in `backend_work`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router_daemon.conform.backend_play import HEARTBEAT_MS, BackendPlay
from router_daemon.conform.backend_work import WORK
from router_daemon.conform.bodies import NONE, SMALL, UNKNOWN_KEYS
from router_daemon.conform.messages import Message
from router_daemon.conform.play import Broken, Ended, Restart, Scenario, Script, Terminate, Unseen

RETRY_S: Final = (0.5, 2.5)
"""When a REGISTER that was refused may come again: about a second later."""
UNANSWERED_S: Final = 3.0
LATE_S: Final = 2.0
"""How late a timer of the backend may be."""
WATCHED_BEATS: Final = 4
DRAIN_WORK_MS: Final = 700


def is_register(message: Message) -> bool:
    """Tell whether it is a REGISTER that the daemon can read."""
    return message.verb == "REGISTER" and message.fault is None


def come(play: BackendPlay) -> Script[None]:
    """Refuse the first REGISTER, be silent at the second, take the third."""
    play.mood = "refuse"
    first = yield from play.expect("register-first", "REGISTER", lambda message: message.verb == "REGISTER")
    if not is_register(first):
        play.mood = "accept"
        raise Broken("register-header")
    play.mood = "mute"
    second = yield from play.expect("name-taken", "REGISTER again", is_register, RETRY_S[1])
    waited_s = second.at - first.at
    expected = f"REGISTER again a second later (from {RETRY_S[0]:g} to {RETRY_S[1]:g} s)"
    play.check("name-taken", waited_s >= RETRY_S[0], expected, f"again after {waited_s * 1000:.0f} ms")

    def elsewhere(message: Message) -> bool:
        return is_register(message) and message.peer != second.peer

    seconds = UNANSWERED_S + LATE_S
    try:
        third = yield from play.expect("register-unanswered", "REGISTER over a new connection", elsewhere, seconds)
        play.book.passed("register-unanswered")
        play.accept(third)
    finally:
        play.mood = "accept"


def beat(play: BackendPlay) -> Script[None]:
    """Watch the heartbeats of a backend that has nothing to do."""
    yield from play.registered()
    seconds = WATCHED_BEATS * HEARTBEAT_MS / 1000
    found = yield from play.pause(seconds, "heartbeat")
    count = sum(message.verb == "HEARTBEAT" for message in found)
    expected = f"some {WATCHED_BEATS} HEARTBEATs in {seconds:g} s"
    play.check("heartbeat", count >= WATCHED_BEATS // 2, expected, f"{count} HEARTBEATs")


def err(play: BackendPlay) -> Script[None]:
    """Complain about nothing in particular: the backend goes on."""
    yield from play.registered()
    text = {"id": None, "code": "x_later", "detail": "conform: only a test", "retry": False}
    play.tell("ERROR", text | UNKNOWN_KEYS)
    delivery = play.deliver("any", SMALL)
    yield from play.answer("errors", delivery)
    play.book.passed("errors")


def forgotten(play: BackendPlay) -> Script[None]:
    """Know the backend no more, while it works on something where it can."""
    yield from play.registered()
    working_s = 1.0
    slow = play.capability("slow")
    if slow is not None:
        play.deliver("slow", (b"%d" % (working_s * 1000),))
        yield from play.pause(0.1, "not-registered")
    play.forget()
    yield from play.expect("not-registered", "REGISTER after ERROR not_registered", is_register)
    play.book.passed("not-registered")
    if slow is None:
        play.offers("slow")
    yield from play.pause(working_s + 0.5, "drop-unfinished")
    play.book.passed("drop-unfinished")


def said_good_bye(play: BackendPlay) -> Script[None]:
    """Leave as a daemon does that exits, and be there again."""
    yield from play.registered()
    play.tell("BYE", {})
    play.forget()
    yield from play.expect("bye", "REGISTER after BYE", is_register)
    play.book.passed("bye")


def silent(play: BackendPlay) -> Script[None]:
    """Answer nothing any more, over a connection that stands."""
    yield from play.registered()
    assert play.peer is not None
    before = play.peer.peer
    play.mood = "mute"

    def elsewhere(message: Message) -> bool:
        return is_register(message) and message.peer != before

    try:
        again = yield from play.expect("silence", "REGISTER over a new connection", elsewhere)
        play.book.passed("silence")
        play.accept(again)
    finally:
        play.mood = "accept"


def started_again(play: BackendPlay) -> Script[None]:
    """Be a daemon that was killed and started again."""
    yield from play.registered()
    play.forget()
    play.act(Restart())
    yield from play.expect("restart", "REGISTER with the daemon that was started again", is_register)
    delivery = play.deliver("any", NONE)
    yield from play.answer("restart", delivery)
    play.book.passed("restart")


def drained(play: BackendPlay) -> Script[None]:
    """Have the program end while it works: what is open is finished between DRAIN and BYE."""
    if not play.can_end:
        raise Unseen("--run, so that the program can be told to end")
    yield from play.registered()
    body = (b"%d" % DRAIN_WORK_MS,)
    delivery = play.deliver("slow" if play.capability("slow") else "any", body)
    yield from play.pause(0.1, "drain")
    play.act(Terminate())
    said: list[str] = []
    until = play.now + play.timeout_s
    try:
        while play.now < until:
            said += [message.verb for message in (yield from play.collect(until, lambda _: True))]
    except Ended:
        pass
    if "DRAIN" not in said:
        raise Unseen("a program that says DRAIN when it gets SIGTERM")
    play.check("drain", delivery.answer is not None, f"ACK or NACK of delivery {delivery.id} before the end", "nothing")


SCENARIOS: Final[Sequence[Scenario[BackendPlay]]] = (
    Scenario(
        "come",
        (
            *("routing-id", "register-first", "register-header", "name-taken", "register-unanswered", "session"),
            *("same-name", "commands"),
        ),
        come,
    ),
    Scenario("beat", ("heartbeat", "heartbeat-header"), beat),
    *WORK,
    Scenario("err", ("errors",), err),
    Scenario("forgotten", ("not-registered", "drop-unfinished", "session", "same-name"), forgotten),
    Scenario("said good-bye", ("bye",), said_good_bye),
    Scenario("silent", ("silence",), silent),
    Scenario("started again", ("restart",), started_again),
    Scenario("drained", ("drain",), drained),
)

"""What is played against a client: errors, cancellation, a daemon that is silent, one that is started again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from router_daemon.conform.bodies import SMALL
from router_daemon.conform.client_checks import WORK
from router_daemon.conform.client_play import ClientPlay, Outcome, is_send
from router_daemon.conform.messages import Message, shown
from router_daemon.conform.play import Scenario, Script

QUIET_S: Final = 0.3
RETRY_AFTER_MS: Final = 600
EARLY_MS: Final = 25
"""How much too early a timer may go off, by its rounding."""
SHORT_TTL_MS: Final = 700
GRACE_MS: Final = 100
"""How long after its time to live a daemon may take to say so."""
OWN_CLOCK_MS: Final = 1_000
LATE_S: Final = 1.5
"""How late a client may be with giving up."""


def is_work(message: Message) -> bool:
    """Tell whether it is a SEND of a task, and not one that asks for the next."""
    return is_send(message) and message.header["capability"] == WORK


def refused(play: ClientPlay, ident: str, code: str, **extra: Any) -> Script[None]:
    """Answer with an ERROR that is final: its user is told the code, and nothing is sent again."""
    yield from play.task("send", SMALL)
    sent = yield from play.sent(ident)
    play.error(sent, code, **extra)
    next_one = yield from play.expect(ident, "what came of the task", is_send)
    play.require("no-retry", not is_work(next_one), f"no second SEND after {code!r} with retry: false", next_one)
    play.book.passed("no-retry")
    yield from play.ends(ident, "error", (code.encode(),))
    play.book.passed(ident)


def error(play: ClientPlay) -> Script[None]:
    """A code of today."""
    yield from refused(play, "error", "rejected", message="conform")


def unknown_code(play: ClientPlay) -> Script[None]:
    """A code of a later version."""
    yield from refused(play, "unknown-code", "x_later")


def retry(play: ClientPlay) -> Script[None]:
    """An ERROR that may be tried again, later."""
    yield from play.task("retry", SMALL)
    sent = yield from play.sent("retry-after")
    play.error(sent, "overloaded", retry=True, retry_after_ms=RETRY_AFTER_MS)
    refused_at = play.now
    again = yield from play.sent("retry-after", "a second SEND")
    waited_ms = (again.at - refused_at) * 1000
    expected = f"a second SEND after {RETRY_AFTER_MS} ms or more"
    early = waited_ms < RETRY_AFTER_MS - EARLY_MS
    play.check("retry-after", not early, expected, f"after {waited_ms:.0f} ms:\n{shown(again.frames)}")
    play.reply(again, SMALL)
    yield from play.ends("retry-after", "reply", SMALL)


def complaint(play: ClientPlay) -> Script[None]:
    """An ERROR about something that was no SEND, while one is open."""
    yield from play.task("send", SMALL)
    sent = yield from play.sent("complaint")
    play.several(sent)
    about = {"id": None, "code": "bad_header", "detail": "conform: only a test", "retry": False, "last": False}
    play.say(sent, "ERROR", about)
    yield from play.pause(QUIET_S, "complaint")
    play.reply(sent, SMALL)
    yield from play.ends("complaint", "reply", SMALL)
    play.book.passed("complaint")


def broken_stream(play: ClientPlay) -> Script[None]:
    """Pieces, then an ERROR."""
    yield from play.task("stream", SMALL)
    sent = yield from play.sent("stream-error")
    play.several(sent)
    for seq in range(2):
        play.part(sent, seq, (b"piece",))
    play.error(sent, "failed", message="conform")
    yield from play.ends("stream-error", "error", (b"failed",))
    play.book.passed("stream-error")


def cancelled(play: ClientPlay) -> Script[None]:
    """CANCEL, answered by ERROR."""
    sent = yield from _cancels(play, "cancel")
    play.error(sent, "cancelled", message="conform")
    yield from play.ends("cancel", "error", (b"cancelled",))
    play.book.passed("cancel")


def crossed(play: ClientPlay) -> Script[None]:
    """CANCEL that the answer crosses: no ERROR comes then."""
    sent = yield from _cancels(play, "cancel-crossed")
    play.reply(sent, SMALL)
    outcome = yield from play.outcome("cancel-crossed")
    good = outcome.word == "reply" or (outcome.word == "error" and outcome.rest == (b"cancelled",))
    expected = "the client to say: 'reply', or 'error' with cancelled"
    play.check("cancel-crossed", good, expected, f"{outcome}\n{shown(outcome.asked.frames)}")


def silent(play: ClientPlay) -> Script[None]:
    """No answer until the client gives up, then one that is too late."""
    yield from play.task("send", SMALL, ttl_ms=SHORT_TTL_MS)
    sent = yield from play.sent("gives-up")
    outcome = yield from play.outcome("gives-up", (SHORT_TTL_MS + OWN_CLOCK_MS) / 1000 + LATE_S)
    _gave_up(play, sent, outcome)
    if not sent.delimited:
        play.reply(sent, (b"too late",))
    yield from play.task("send", SMALL)
    play.reply((yield from play.sent("foreign-answer")), SMALL)
    yield from play.ends("foreign-answer", "reply", SMALL)


def started_again(play: ClientPlay) -> Script[None]:
    """A daemon that was killed with a SEND open, and started again."""
    yield from play.task("send", SMALL, ttl_ms=SHORT_TTL_MS)
    yield from play.sent("restart")
    play.restart()
    outcome = yield from play.outcome("restart")
    expected = "the client to say that the SEND was lost, or failed"
    play.require("restart", outcome.word in ("lost", "error"), expected, str(outcome))
    yield from play.task("send", SMALL)
    play.reply((yield from play.sent("restart")), SMALL)
    yield from play.ends("restart", "reply", SMALL)
    play.book.passed("restart")


def end(play: ClientPlay) -> Script[None]:
    """Tell the client that there is nothing more."""
    yield from play.task("end")


def _cancels(play: ClientPlay, ident: str) -> Script[Message]:
    """Return a SEND that its client has cancelled."""
    yield from play.task("cancel", SMALL)
    sent = yield from play.sent(ident)
    play.several(sent)
    said = yield from play.expect(ident, f"CANCEL of id {sent.id!r}", lambda message: message.verb == "CANCEL")
    same = said.fault is None and (type(said.id), said.id) == (type(sent.id), sent.id)
    play.require(ident, same, f"CANCEL of id {sent.id!r}", said)
    return sent


def _gave_up(play: ClientPlay, sent: Message, outcome: Outcome) -> None:
    took_ms = (outcome.asked.at - sent.at) * 1000
    early_ms = SHORT_TTL_MS + GRACE_MS - EARLY_MS
    good = outcome.word == "lost" and took_ms >= early_ms
    expected = f"the client to say: 'lost', at some {SHORT_TTL_MS + OWN_CLOCK_MS} ms (ttl_ms {SHORT_TTL_MS} + 1 s)"
    play.check("gives-up", good, expected, f"after {took_ms:.0f} ms {outcome}")


FAULTS: Final[Sequence[Scenario[ClientPlay]]] = (
    Scenario("error", ("error", "no-retry"), error),
    Scenario("unknown code", ("unknown-code", "no-retry"), unknown_code),
    Scenario("retry", ("retry-after",), retry),
    Scenario("complaint", ("complaint",), complaint),
    Scenario("broken stream", ("stream-error",), broken_stream),
    Scenario("cancelled", ("cancel", "other-header"), cancelled),
    Scenario("crossed", ("cancel-crossed",), crossed),
    Scenario("silent", ("gives-up", "foreign-answer"), silent),
    Scenario("started again", ("restart",), started_again),
    Scenario("end", (), end),
)

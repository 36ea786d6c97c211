"""What is played against a client: tasks, and the answers to what it sends. What goes wrong is in `client_faults`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router_daemon.conform.bodies import BIG, EMPTY, MANY, NONE, SMALL, UNKNOWN_KEYS
from router_daemon.conform.client_faults import FAULTS
from router_daemon.conform.client_play import ClientPlay, is_send
from router_daemon.conform.messages import Message, shown, shown_body
from router_daemon.conform.play import Scenario, Script

ODD_TTL_MS: Final = 12_345
QUIET_S: Final = 0.3
MOST_FRAMES: Final = 62


def come(play: ClientPlay) -> Script[None]:
    """Wait for the first SEND."""
    yield from play.expect("send-header", "a SEND", is_send)
    yield from play.ask()


def ping(play: ClientPlay) -> Script[None]:
    """PING, PONG."""
    yield from play.task("ping")
    said = yield from play.expect("ping", "PING", lambda message: message.verb in ("PING", "SEND"))
    outcome = yield from play.outcome("ping")
    play.require("ping", said.verb == "PING", "PING", said)
    play.judge_outcome("ping", outcome, "pong", ())
    play.book.passed("ping")


def there_and_back(play: ClientPlay, ident: str, body: Sequence[bytes], **keys: object) -> Script[Message]:
    """Have a body sent, and another one with the frames the other way round taken."""
    yield from play.task("send", body, **keys)
    sent = yield from play.sent(ident)
    received = f"{shown_body(sent.body)}\n{shown(sent.frames)}"
    play.require(ident, sent.body == tuple(body), f"SEND with {shown_body(body)}", received)
    play.reply(sent, tuple(reversed(body)))
    yield from play.ends(ident, "reply", tuple(reversed(body)))
    play.book.passed(ident)
    return sent


def keys(play: ClientPlay) -> Script[None]:
    """A SEND with keys that its user says."""
    sent = yield from there_and_back(play, "send-keys", SMALL, ttl_ms=ODD_TTL_MS, priority=3, idempotent=False)
    ttl_ms = sent.header.get("ttl_ms", 0)
    good = sent.header.get("priority") == 3 and sent.header.get("idempotent") is False
    near = ODD_TTL_MS - 1_000 <= ttl_ms <= ODD_TTL_MS  # what it waited there may be taken off
    expected = f"SEND with ttl_ms {ODD_TTL_MS}, priority 3, idempotent false"
    play.check("send-keys", good and near, expected, sent)


def frames(play: ClientPlay) -> Script[None]:
    """As many frames as may be, with what a task has beside them."""
    yield from there_and_back(play, "body-frames", MANY[:MOST_FRAMES])


def empty(play: ClientPlay) -> Script[None]:
    """No frame, then an empty one."""
    yield from there_and_back(play, "body-empty", NONE)
    yield from there_and_back(play, "body-empty", EMPTY)


def big(play: ClientPlay) -> Script[None]:
    """Megabytes."""
    yield from there_and_back(play, "body-big", BIG)


def wide_encoding(play: ClientPlay) -> Script[None]:
    """A REPLY whose every size and number takes the most bytes."""
    yield from play.task("send", SMALL)
    play.reply_wide((yield from play.sent("wide-encoding")), SMALL)
    yield from play.ends("wide-encoding", "reply", SMALL)
    play.book.passed("wide-encoding")


def unknown_keys(play: ClientPlay) -> Script[None]:
    """A REPLY with keys of a later version."""
    yield from play.task("send", SMALL)
    play.reply((yield from play.sent("unknown-keys")), SMALL, **UNKNOWN_KEYS)
    yield from play.ends("unknown-keys", "reply", SMALL)
    play.book.passed("unknown-keys")


def unknown_commands(play: ClientPlay) -> Script[None]:
    """Commands of a later version, and of another protocol version, before the answer."""
    for ident, verb, version in (("unknown-commands", "X_LATER", "CAR1."), ("other-version", "REPLY", "CAR2.")):
        yield from play.task("send", SMALL)
        sent = yield from play.sent(ident)
        play.several(sent)
        play.say(sent, verb, play.reply_header(sent), (b"not this",), version=version)
        yield from play.pause(QUIET_S, ident)
        play.reply(sent, SMALL)
        yield from play.ends(ident, "reply", SMALL)
        play.book.passed(ident)


def foreign_answer(play: ClientPlay) -> Script[None]:
    """A REPLY of an id that is not open, before the answer."""
    yield from play.task("send", SMALL)
    sent = yield from play.sent("foreign-answer")
    play.several(sent)
    foreign = {"id": "conform, of nobody"}
    play.say(sent, "PART", {**play.reply_header(sent), **foreign, "seq": 0}, (b"not this",))
    play.say(sent, "REPLY", play.reply_header(sent) | foreign, (b"not this",))
    yield from play.pause(QUIET_S, "foreign-answer")
    play.reply(sent, SMALL)
    yield from play.ends("foreign-answer", "reply", SMALL)
    play.book.passed("foreign-answer")


def after_last(play: ClientPlay) -> Script[None]:
    """A second and a third last message; then another SEND."""
    yield from play.task("send", SMALL)
    sent = yield from play.sent("after-last")
    play.several(sent)
    play.reply(sent, SMALL)
    play.reply(sent, (b"a second answer",))
    play.error(sent, "failed")
    yield from play.ends("after-last", "reply", SMALL)
    yield from there_and_back(play, "after-last", (b"as always",))


def pair(play: ClientPlay) -> Script[None]:
    """Two SENDs at once, answered the other way round."""
    yield from play.task("pair")
    first = yield from play.sent("answers-by-id")
    second = yield from play.sent("answers-by-id", "a second SEND before the answer to the first")
    play.reply(second, second.body)
    play.reply(first, first.body)
    outcome = yield from play.outcome("answers-by-id")
    play.judge_outcome("answers-by-id", outcome, "pair", (b"1", b"2"))
    play.book.passed("answers-by-id")


def stream(play: ClientPlay) -> Script[None]:
    """Pieces, some of several frames, then their end."""
    yield from play.task("stream", SMALL)
    sent = yield from play.sent("stream")
    play.several(sent)
    pieces = [(b"piece %d" % number,) * (1 + number % 3) for number in range(20)]
    for seq, piece in enumerate(pieces):
        play.part(sent, seq, piece)
    play.reply(sent)
    whole = tuple(frame for piece in pieces for frame in piece)
    yield from play.ends("stream", "reply", whole)
    play.book.passed("stream")


def post(play: ClientPlay) -> Script[None]:
    """A SEND that wants no answer."""
    yield from play.task("post", SMALL)
    sent = yield from play.sent("accept")
    play.require("accept", sent.header.get("reply") == "none", "SEND with `reply: none`", sent)
    play.say(sent, "ACCEPT", {"id": sent.id, "message": "conform", "last": True})
    play.settle(sent)
    yield from play.ends("accept", "accept", ())
    play.book.passed("accept")


def reply_all(play: ClientPlay) -> Script[None]:
    """An answer of each of two heads, one of them an ERROR."""
    yield from play.task("all", SMALL, heads=2)
    sent = yield from play.sent("reply-all")
    play.several(sent)
    play.require("reply-all", sent.header.get("reply") == "all", "SEND with `reply: all`", sent)
    play.say(sent, "REPLY", play.reply_header(sent) | {"heads": 2, "last": False}, (b"from the first",))
    early = yield from play.pause(QUIET_S, "reply-all")
    play.require("reply-all", not early, "nothing before the last answer", early[0] if early else "")
    play.error(sent, "failed", backend="conform-2", head=2, message="conform")
    outcome = yield from play.outcome("reply-all")
    play.judge_outcome("reply-all", outcome, "all", (b"reply", b"failed"))
    play.book.passed("reply-all")


def feedback(play: ClientPlay) -> Script[None]:
    """FEEDBACK after a REPLY."""
    yield from play.task("feedback", SMALL)
    sent = yield from play.sent("feedback")
    play.several(sent)
    play.reply(sent, SMALL)
    said = yield from play.expect("feedback", "FEEDBACK", lambda message: message.verb == "FEEDBACK")
    play.check("feedback", said.fault is None and said.id == sent.id, f"FEEDBACK about id {sent.id!r}", said)
    yield from play.ask()


SCENARIOS: Final[Sequence[Scenario[ClientPlay]]] = (
    Scenario("come", ("routing-id", "send-header", "commands", "id-unique"), come),
    Scenario("keys", ("send-keys",), keys),
    Scenario("empty", ("body-empty",), empty),
    Scenario("frames", ("body-frames",), frames),
    Scenario("big", ("body-big",), big),
    Scenario("wide encoding", ("wide-encoding",), wide_encoding),
    Scenario("unknown keys", ("unknown-keys",), unknown_keys),
    Scenario("unknown commands", ("unknown-commands", "other-version"), unknown_commands),
    Scenario("foreign answer", ("foreign-answer",), foreign_answer),
    Scenario("after last", ("after-last",), after_last),
    Scenario("ping", ("ping", "other-header"), ping),
    Scenario("pair", ("answers-by-id", "id-unique"), pair),
    Scenario("stream", ("stream",), stream),
    Scenario("post", ("accept",), post),
    Scenario("reply all", ("reply-all",), reply_all),
    Scenario("feedback", ("feedback", "other-header"), feedback),
    *FAULTS,
)

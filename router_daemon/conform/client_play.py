"""The daemon, as a client sees it: answers PING, keeps the books of SENDs, and gives tasks.

Rules:
- A SEND of capability `conform.task` brings what came of the last task and asks for the next one. Its REPLY has the
  task as body: a verb, a map of SEND's keys, then the frames of the body to send.
- SENDs that belong to no task get their own body back, so that any client can be watched.
- What must hold all the time is judged here: sound headers, ids that are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from router_daemon.conform.checks import Book
from router_daemon.conform.client_checks import ASKING, CHECKS, TASK, WORK, doing
from router_daemon.conform.encodings import wide
from router_daemon.conform.messages import Message, shown, shown_body
from router_daemon.conform.play import Broken, Ended, Play, Restart, Script, Send, Unseen
from router_daemon.core.types import Side

TTL_MS: Final = 20_000
PONG: Final = {
    "version": "conform",
    "features": ["auto", "fanout", "hedge", "single", "stream", "reply_all", "reply_none"],
    "max_ttl_ms": 300_000,
    "max_message_bytes": 16 * 1024 * 1024,
    "max_heads": 3,
}


class Outcome:
    """What a client says has come of a task: a word, and what goes with it.

    Attributes:
        word: `reply`, `error`, `lost`, `accept`, `pong`, `unsupported`, ...
        rest: the frames after it: of a reply the body, of an error its code.
        asked: the SEND that said so.
    """

    def __init__(self, asked: Message) -> None:
        self.asked = asked
        self.word = asked.body[0].decode("latin-1") if asked.body else ""
        self.rest = tuple(asked.body[1:])

    def __str__(self) -> str:
        return f"the client said: {self.word!r} with {shown_body(self.rest)}"


class ClientPlay(Play):
    """The daemon's frontend, played against one client.

    Attributes:
        asked: the SEND of `conform.task` that waits for its REPLY.
    """

    def __init__(self, book: Book, timeout_s: float, *, can_end: bool) -> None:
        super().__init__(book, Side.CLIENT, timeout_s, can_end=can_end)
        self.asked: Message | None = None
        self._open: set[Any] = set()
        self._heard = 0
        self._verb = ""

    def judge(self, message: Message) -> None:
        """Hold a message of the client against what always holds, and answer what belongs to no script."""
        self._heard += 1
        ours = len(message.peer) == 5 and message.peer[0] == 0
        self.check("routing-id", ours, "a connection without a routing id of its own", f"id {message.peer.hex()}")
        kinds = {"SEND": "send-header", "CANCEL": "other-header", "FEEDBACK": "other-header", "PING": "other-header"}
        known = kinds.get(message.verb, "commands")
        if message.fault is not None:
            code, detail = message.fault
            self.check(known, False, f"no {code}: {detail}", message)
            about = {"id": None, "code": code, "detail": detail, "retry": False, "last": False}
            self.say(message, "ERROR", about)
            return
        self.book.passed(known)
        self.book.passed("commands")
        if message.verb == "SEND":
            self._on_send(message)
        elif message.verb == "PING":
            self.say(message, "PONG", PONG)

    def ask(self) -> Script[Message]:
        """Return the SEND that asks for the next task; without one nothing more can be seen."""
        until = self.now + self.timeout_s
        while self.asked is None:
            if self.now >= until:
                what = "it asked for no further task" if self._verb else f"it asked for no task: see {ASKING}"
                raise Ended(f"{what} within {self.timeout_s:g} s")
            yield until
        return self.asked

    def task(self, verb: str, body: Sequence[bytes] = (), **keys: Any) -> Script[None]:
        """Give the next task: what to do, with which keys of SEND, and with which body."""
        asked = yield from self.ask()
        self.asked, self._verb = None, verb
        header = {"capability": WORK, "ttl_ms": TTL_MS, **keys}
        self.reply(asked, (verb.encode(), msgspec.msgpack.encode(header), *body))

    def sent(self, ident: str, expected: str = "the SEND of the task") -> Script[Message]:
        """Return the SEND that the task asked for."""
        found = yield from self.expect(ident, expected, is_send)
        if found.header["capability"] != TASK:
            return found
        self._supported(found)
        self.book.failed(ident, expected, str(Outcome(found)))
        raise Broken(ident)

    def outcome(self, ident: str, within_s: float | None = None) -> Script[Outcome]:
        """Return what the client says has come of the task."""

        def wanted(message: Message) -> bool:
            return is_send(message) and message.header["capability"] == TASK

        found = self.asked  # it may have come while a script let time pass
        if found is None:
            found = yield from self.expect(ident, "what came of the task", wanted, within_s)
        self._supported(found)
        return Outcome(found)

    def several(self, sent: Message) -> None:
        """Leave out what takes more than one message for a SEND, where the peer takes only one for each."""
        if sent.delimited:
            self.error(sent, "cancelled")
            raise Unseen("a client that does not use the empty delimiter")

    def restart(self) -> None:
        """Be a daemon that was killed and started again: nothing is known of what was open."""
        self._open.clear()
        self.asked = None
        self.act(Restart())

    def reply(self, to: Message, body: Sequence[bytes] = (), **extra: Any) -> None:
        """Answer a SEND as one backend; the last message unless said otherwise."""
        self.say(to, "REPLY", self.reply_header(to) | extra, body)
        self.settle(to)

    def reply_wide(self, to: Message, body: Sequence[bytes]) -> None:
        """Answer a SEND with a header in the widest encodings."""
        frames = (b"CAR1.REPLY", wide(self.reply_header(to)), *body)
        self.act(Send(to.peer, (b"", *frames) if to.delimited else frames))
        self.settle(to)

    def error(self, to: Message, code: str, **extra: Any) -> None:
        """End a SEND with an ERROR; the last message unless said otherwise."""
        about = {"id": to.id, "code": code, "detail": "conform: only a test", "retry": False, "last": True}
        self.say(to, "ERROR", about | extra)
        self.settle(to)

    def part(self, to: Message, seq: int, body: Sequence[bytes], **extra: Any) -> None:
        """Send a piece of a stream."""
        header = {"id": to.id, "message": "conform", "backend": "conform", "head": 1, "seq": seq}
        self.say(to, "PART", header | extra, body)

    def settle(self, to: Message) -> None:
        """Note that a SEND has its last message."""
        self._open.discard(key_of(to.id))

    def reply_header(self, to: Message) -> dict[str, Any]:
        """Return the header of a REPLY."""
        return {
            "id": to.id,
            "message": "conform",
            "backend": "conform",
            "head": 1,
            "heads": 1,
            "elapsed_ms": 1.5,
            "last": True,
        }

    def judge_outcome(self, ident: str, outcome: Outcome, word: str, rest: Sequence[bytes]) -> None:
        """Require that the client says it got just that."""
        good = outcome.word == word and outcome.rest == tuple(rest)
        expected = f"the client to say: {word!r} with {shown_body(rest)}"
        self.require(ident, good, expected, f"{outcome}\n{shown(outcome.asked.frames)}")

    def ends(self, ident: str, word: str, rest: Sequence[bytes]) -> Script[None]:
        """Wait for what the client says it got, and require that it is just that."""
        self.judge_outcome(ident, (yield from self.outcome(ident)), word, rest)

    def _supported(self, asked: Message) -> None:
        if Outcome(asked).word == "unsupported":
            raise Unseen(doing(self._verb))

    def _on_send(self, message: Message) -> None:
        key = key_of(message.id)
        self.check("id-unique", key not in self._open, "an id that is not open", message)
        self._open.add(key)
        if message.header["capability"] == TASK:
            self.asked = message
        elif self.asked is not None or not self._verb:
            self.reply(message, message.body)  # of a client that sends by itself


def is_send(message: Message) -> bool:
    """Tell whether it is a SEND that the daemon can read."""
    return message.verb == "SEND" and message.fault is None


def key_of(ident: Any) -> tuple[type, Any]:
    """Return an id so that 1, "1" and b"1" differ."""
    return type(ident), ident


def client_play(timeout_s: float, *, can_end: bool) -> ClientPlay:
    """Return a play against a client, with an empty book."""
    return ClientPlay(Book(CHECKS), timeout_s, can_end=can_end)

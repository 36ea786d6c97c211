"""A play: scripts one after the other, and what is judged all the time. Messages and time in, actions out.

Rules:
- A script is a generator. It yields the moment until which it waits and gets the next message, or None at that moment.
- Every message is judged by the standing rules before the script sees it, so a script waits only for what it is about.
- What a script waits for in vain fails a check and ends the script (`Broken`); the next one begins. Where the program
  has ended, nothing else can be seen (`Ended`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, Self, TypeAlias, TypeVar

from router_daemon.conform.checks import Book
from router_daemon.conform.messages import Message, Reader, pack, shown
from router_daemon.core.types import Side

KEPT_MESSAGES: Final = 256
"""Of what comes while a script waits."""

T = TypeVar("T")
P = TypeVar("P", bound="Play")
Script: TypeAlias = Generator[float, Message | None, T]


class Send(NamedTuple):
    """Frames to a connection."""

    peer: bytes
    frames: tuple[bytes, ...]


class Restart(NamedTuple):
    """Close the socket with all its connections, and listen at the same address again."""


class Terminate(NamedTuple):
    """Ask the program to end, as an operator would: SIGTERM."""


Action: TypeAlias = Send | Restart | Terminate


class Broken(Exception):  # noqa: N818 - it ends a script, and is no error of ours
    """A check has failed, and what follows in its script stands on it."""


class Unseen(Exception):  # noqa: N818
    """What a script is about cannot be seen with this program; the text says what would show it."""


class Ended(Exception):  # noqa: N818
    """The program under test has ended, or does nothing more; the text says so."""


class Scenario(NamedTuple, Generic[P]):
    """A script with the ids of the checks that it decides."""

    name: str
    checks: tuple[str, ...]
    script: Callable[[P], Script[None]]


def chosen(scenarios: Iterable[Scenario[P]], only: frozenset[str]) -> list[Scenario[P]]:
    """Return the scripts that decide some of these checks, and those that decide none; all where no check is named."""
    return [each for each in scenarios if not only or not each.checks or not only.isdisjoint(each.checks)]


class Play(ABC):
    """One side of the protocol against one program.

    Args:
        book: where verdicts go.
        side: the socket that is played.
        timeout_s: how long is waited for what has to come, where the protocol sets no time.
        can_end: whether `Terminate` reaches the program.

    Attributes:
        now: seconds, monotonic; moved by whoever calls.
        deadline: when `on_time` has something to do.
        scene: the name of the script that is played.
        finished: the last script is over.
        broke_off: how the program ended, where it did so by a fault of its own before the last script was over.
    """

    def __init__(self, book: Book, side: Side, timeout_s: float, *, can_end: bool) -> None:
        self.book: Final = book
        self.timeout_s: Final = timeout_s
        self.can_end: Final = can_end
        self.now = 0.0
        self.deadline = math.inf
        self.scene = ""
        self.finished = False
        self.broke_off = ""
        self._reader = Reader(side)
        self._actions: list[Action] = []
        self._ended: str | None = None
        self._script: Script[None] | None = None

    @abstractmethod
    def judge(self, message: Message) -> None:
        """Hold a message against what is asked for all the time, and answer what needs no script."""

    def start(self, scenarios: Iterable[Scenario[Self]], now: float) -> list[Action]:
        """Begin with the first script."""
        self.now = now
        self._script = self._perform(list(scenarios))
        self._resume(next)
        return self._taken()

    def on_message(self, frames: Sequence[bytes], now: float) -> list[Action]:
        """Take what came to the socket: the connection, then the peer's frames."""
        self.now = now
        message = self._reader.read(frames, now)
        self.judge(message)
        self._resume(lambda script: script.send(message))
        return self._taken()

    def on_time(self, now: float) -> list[Action]:
        """Do what is due."""
        self.now = now
        if now >= self.deadline:
            self._resume(lambda script: script.send(None))
        return self._taken()

    def on_exit(self, code: int, now: float) -> list[Action]:
        """Take the news that the program under test has ended: its exit code, below zero the signal that killed it."""
        text = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self.now, self._ended = now, text
        self._resume(lambda script: script.throw(Ended(f"the program has ended, {text}")))
        return self._taken()

    # --- for scripts ---

    def act(self, action: Action) -> None:
        """Have something done, in order."""
        self._actions.append(action)

    def say(self, to: Message, verb: str, header: dict[str, Any], body: Sequence[bytes] = (), **how: str) -> None:
        """Send a message to whoever sent `to`, with its delimiter."""
        frames = pack(verb, header, body, **how)
        self.act(Send(to.peer, (b"", *frames) if to.delimited else tuple(frames)))

    def check(self, ident: str, good: bool, expected: str, received: Message | str) -> bool:
        """Give a verdict; returns whether it is a good one."""
        if good:
            self.book.passed(ident)
        else:
            self.book.failed(ident, expected, received if isinstance(received, str) else shown(received.frames))
        return good

    def require(self, ident: str, good: bool, expected: str, received: Message | str) -> None:
        """Give a verdict, and end the script where it is a bad one."""
        if not self.check(ident, good, expected, received):
            raise Broken(ident)

    def pause(self, seconds: float, ident: str) -> Script[list[Message]]:
        """Let time pass, for a check that a program fails by ending; returns what came meanwhile."""
        try:
            return (yield from self.collect(self.now + seconds, lambda _: False))
        except Ended as ended:
            self.book.failed(ident, "a program that goes on", str(ended))
            raise

    def collect(self, until: float, last: Callable[[Message], bool]) -> Script[list[Message]]:
        """Return what comes until a moment, or until a message that is the last one; of a flood the latest of it."""
        found: deque[Message] = deque(maxlen=KEPT_MESSAGES)
        while self.now < until:
            message = yield until
            if message is not None:
                found.append(message)
                if last(message):
                    break
        return list(found)

    def expect(
        self, ident: str, expected: str, wanted: Callable[[Message], bool], within_s: float | None = None
    ) -> Script[Message]:
        """Return the first message that is wanted; none in time fails the check and ends the script."""
        seconds = self.timeout_s if within_s is None else within_s
        expected = f"{expected} within {seconds:g} s"
        try:
            found = yield from self.collect(self.now + seconds, wanted)
        except Ended as ended:
            self.book.failed(ident, expected, str(ended))
            raise
        if found and wanted(found[-1]):
            return found[-1]
        self.book.failed(ident, expected, _what_came(found))
        raise Broken(ident)

    # --- inside ---

    def _perform(self, scenarios: Sequence[Scenario[Self]]) -> Script[None]:
        for at, scenario in enumerate(scenarios):
            self.scene = scenario.name
            try:
                yield from scenario.script(self)
            except Unseen as unseen:
                self._leave_out(scenario, f"would be shown by {unseen}")
            except Broken as broken:
                self._leave_out(scenario, f"{broken} failed before it")
            except Ended as ended:
                self._break_off(scenarios[at:], str(ended))
                return

    def _break_off(self, left: Sequence[Scenario[Self]], how: str) -> None:
        for scenario in left:
            self._leave_out(scenario, f"nothing could be seen any more: {how}")
        if self._ended not in (None, "exit code 0"):
            self.broke_off = how

    def _leave_out(self, scenario: Scenario[Any], why: str) -> None:
        for ident in scenario.checks:
            self.book.unseen(ident, why)

    def _resume(self, step: Callable[[Script[None]], float]) -> None:
        """Go on with the script, and with the next ones as far as they go without waiting."""
        if self.finished:
            return
        assert self._script is not None
        try:
            self.deadline = step(self._script)
            if self._ended is not None and self.deadline > self.now:
                self.deadline = self._script.throw(Ended(f"the program has ended, {self._ended}"))
        except StopIteration:
            self.finished, self.deadline = True, math.inf

    def _taken(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions


def _what_came(found: Sequence[Message]) -> str:
    """Return what came instead: the verbs, and the last message whole."""
    if not found:
        return "nothing"
    verbs = ", ".join(message.verb or "?" for message in found[-8:])
    return f"{len(found)} messages ({verbs}), the last one:\n{shown(found[-1].frames)}"

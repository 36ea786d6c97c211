"""The waiting room: messages whose backends are all full, by priority, then age, bounded in number and bytes.

Rules:
- Who comes next is who has the highest standing, and among equals the oldest. Standing is the priority, and one step
  more, up to the one below critical, for each `step_s` that a message has waited: a quarter of its time to live, or a
  few services where that is shorter. By quarters alone, low priorities took 99th percentiles of a quarter of the time
  to live at a load of 0.85; so, three messages of different priority take turns, and critical ones still go first.
- One line per (capability, priority), split by whether any candidate may serve any message of it (`plain`): of a plain
  line its first is enough to look at; of the others the first few whom the backend suits are, since each may have
  tried another backend, may not go to all, or names the one that it is for.
- In a full room the newcomer takes the place of the youngest of the lowest priority below its own; a share of the room
  is for critical messages alone.
- A line is an `OrderedDict`: leaving from anywhere (expiry, cancel) and looking at either end are immediate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from math import floor
from typing import Final, TypeAlias

from msgspec import UNSET

from router_daemon.core.messages import Message
from router_daemon.core.pools import Pool

LOOK_AT: Final = 32
LOOK_THROUGH: Final = 1024
"""Of a line of messages that may not go to all so many are asked whether the backend suits them, and of those whom it
suits the first `LOOK_AT` may come: a few that nobody can serve must not keep the others waiting."""
CRITICAL: Final = 4
Line: TypeAlias = OrderedDict[Message, None]


class _Lines:
    """The lines of one capability, by priority; index 0 of each pair the plain one."""

    __slots__ = ("of", "size")

    def __init__(self) -> None:
        self.of: list[tuple[Line, Line]] = [(OrderedDict(), OrderedDict()) for _ in range(CRITICAL + 1)]
        self.size = 0


class WaitingRoom:
    """Messages that wait for a place.

    Args:
        max_messages, max_bytes: the most there can be, of messages and of their bodies.
        reserve: the share of both that only critical messages may fill.

    Attributes:
        size: how many wait. bytes: the size of their bodies.
        by_priority: how many wait of each priority (index 0 unused). named: how many wait for one backend and no other.
    """

    def __init__(self, max_messages: int, max_bytes: int, reserve: float) -> None:
        self.configure(max_messages, max_bytes, reserve)
        self._lines: dict[str, _Lines] = {}
        self.size = 0
        self.bytes = 0
        self.named = 0
        self.by_priority = [0] * (CRITICAL + 1)

    def configure(self, max_messages: int, max_bytes: int, reserve: float) -> None:
        """Set the limits; who waits already stays, even beyond them."""
        self._max = (max_messages, max_bytes)
        self._max_common = (max_messages - share_of(reserve, max_messages), max_bytes - share_of(reserve, max_bytes))

    def is_roomy(self, message: Message) -> bool:
        """Tell whether with a message the room is at most half full."""
        most, most_bytes = self._max_common
        return 2 * (self.size + 1) <= most and 2 * (self.bytes + message.size) <= most_bytes

    def displaced_by(self, message: Message) -> list[Message] | None:
        """Return who has to leave for a message to come in, mostly nobody; None where it cannot."""
        priority = message.request.priority
        most, most_bytes = self._max if priority == CRITICAL else self._max_common
        over, over_bytes = self.size + 1 - most, self.bytes + message.size - most_bytes
        leaving: list[Message] = []
        if over <= 0 and over_bytes <= 0:
            return leaving
        for lower in range(1, priority):
            for victim in self._youngest(lower) if self.by_priority[lower] else ():
                leaving.append(victim)
                over -= 1
                over_bytes -= victim.size
                if over <= 0 and over_bytes <= 0:
                    return leaving
        return None

    def add(self, message: Message, step_s: float, now: float) -> None:
        """Let a message wait, for which there is room; its standing rises every `step_s`."""
        request = message.request
        lines = self._lines.get(request.capability)
        if lines is None:
            lines = self._lines[request.capability] = _Lines()
        named = message.named
        message.line = lines.of[request.priority][0 if is_plain(message) else 1]
        message.line[message] = None
        message.waits_since = now
        message.step_s = step_s
        lines.size += 1
        self.size += 1
        self.named += named
        self.by_priority[request.priority] += 1
        self.bytes += message.size

    def remove(self, message: Message) -> None:
        """Take a message out, where it waits."""
        if message.line is not None:
            capability = message.request.capability
            del message.line[message]
            message.line = None
            lines = self._lines[capability]
            lines.size -= 1
            if not lines.size:
                del self._lines[capability]
            self.size -= 1
            self.named -= message.named
            self.by_priority[message.request.priority] -= 1
            self.bytes -= message.size

    def ahead(self, capability: str, priority: int) -> int:
        """Return how many wait for the capability with that priority or a higher one."""
        lines = self._lines.get(capability)
        return 0 if lines is None else sum(len(a) + len(b) for a, b in lines.of[priority:])

    def groups(self) -> Iterator[tuple[str, int, bool, list[Message]]]:
        """Yield (capability, priority, plain, messages) of every line that somebody stands in, as a copy."""
        for capability, lines in list(self._lines.items()):
            for priority, pair in enumerate(lines.of):
                for line, plain in zip(pair, (True, False), strict=True):
                    if line:
                        yield capability, priority, plain, list(line)

    def next_for(
        self, capabilities: Iterable[str] | None, now: float, suits: Callable[[Message], bool]
    ) -> list[Message]:
        """Return who may come next, first first.

        Args:
            capabilities: of whom; None: of any capability.
            now: seconds.
            suits: whether the backend that has room is one for a message that may not go to all.
        """
        first: list[Message] = []
        for capability in self._lines if capabilities is None else capabilities:
            lines = self._lines.get(capability)
            if lines is not None:
                for plain, others in lines.of:
                    if plain:
                        first.append(next(iter(plain)))
                    if others:
                        first.extend(islice(filter(suits, islice(others, LOOK_THROUGH)), LOOK_AT))
        if len(first) > 1:
            first.sort(key=lambda message: (-standing(message, now), message.number))
        return first

    def check(self) -> None:
        """Assert that the sums are those of the lines."""
        messages = [message for *_, line in self.groups() for message in line]
        assert self.size == len(messages)
        assert self.bytes == sum(message.size for message in messages)
        assert self.named == sum(message.named for message in messages)
        assert self.by_priority == [sum(m.request.priority == p for m in messages) for p in range(CRITICAL + 1)]
        assert all(lines.size == sum(len(a) + len(b) for a, b in lines.of) for lines in self._lines.values())
        assert all(not m.ended and not m.out and m.line is not None for m in messages)

    def _youngest(self, priority: int) -> Iterator[Message]:
        """Yield the messages of a priority, youngest first, looking no further than is asked for."""
        lines = [reversed(line) for of in self._lines.values() for line in of.of[priority] if line]
        return merge(*lines, key=lambda message: -message.number)


def is_plain(message: Message) -> bool:
    """Tell whether a message that waits may go to any candidate."""
    return not message.deliveries and message.request.max_cost is UNSET and not message.named


def note_reserve(message: Message, pool: Pool) -> None:
    """Note that a message may wait only because of the reserve: who makes more room than that need not suit it."""
    if pool.free <= pool.reserved and not is_plain(message):
        pool.passed_over = True


def share_of(share: float, whole: int) -> int:
    """Return floor(share * whole), by the decimals of the share: 0.57 of 100 is 57, though 0.57 * 100 is less."""
    return floor(share * whole * (1.0 + 1e-12))


def standing(message: Message, now: float) -> int:
    """Return the priority that a message has by now; only who began critical is ever critical."""
    priority = message.request.priority
    if priority == CRITICAL:
        return priority
    risen = priority + int((now - message.waits_since) / message.step_s)
    return risen if risen < CRITICAL else CRITICAL - 1

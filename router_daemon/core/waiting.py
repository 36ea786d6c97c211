"""The waiting room: messages whose backends are all full, in the order of their age, bounded in number and bytes.

Rules:
- One line per (capability, priority), split by whether a message has been tried already: any candidate may serve any
  message of a fresh line, so its first one is enough to look at; of a line of retries the first few are looked at,
  because each may have tried another backend.
- A line is an `OrderedDict`: leaving from anywhere (expiry, cancel) and looking at the first are both immediate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter
from typing import TypeAlias

from router_daemon.core.messages import Message

LOOK_AT = 32
_AGE = attrgetter("number")

Key: TypeAlias = tuple[str, int, bool]
"""Capability, priority, fresh."""


class WaitingRoom:
    """Messages that wait for a place.

    Attributes:
        size: how many wait.
        bytes: the size of their bodies.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lines: dict[Key, OrderedDict[Message, None]] = {}
        self.size = 0
        self.bytes = 0

    def add(self, message: Message) -> bool:
        """Let a message wait; False where there is no room for it."""
        size = message.size
        if self.size >= self._max_messages or self.bytes + size > self._max_bytes:
            return False
        key = (message.request.capability, message.request.priority, not message.deliveries)
        message.line = self._lines.setdefault(key, OrderedDict())
        message.line[message] = None
        self.size += 1
        self.bytes += size
        return True

    def remove(self, message: Message) -> None:
        """Take a message out, where it waits."""
        if message.line is not None:
            del message.line[message]
            message.line = None
            self.size -= 1
            self.bytes -= message.size

    def lines(self) -> Iterator[tuple[Key, list[Message]]]:
        """Yield every line that somebody stands in, as a copy."""
        for key in [key for key, line in self._lines.items() if not line]:
            del self._lines[key]
        for key, line in list(self._lines.items()):
            yield key, list(line)

    def next_for(self, capabilities: list[str] | None) -> list[Message]:
        """Return who may come next, oldest first; `capabilities` None: of any capability."""
        able = None if capabilities is None else frozenset(capabilities)
        first: list[Message] = []
        for (capability, _, fresh), line in self._lines.items():
            if line and (able is None or capability in able):
                first.extend(islice(line, 1 if fresh else LOOK_AT))
        first.sort(key=_AGE)
        return first

    def check(self) -> None:
        """Assert that the sums are those of the lines."""
        messages = [message for line in self._lines.values() for message in line]
        assert self.size == len(messages)
        assert self.bytes == sum(message.size for message in messages)
        assert all(not m.ended and not m.out and m.line is not None for m in messages)

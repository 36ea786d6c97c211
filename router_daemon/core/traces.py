"""Which messages are traced, under which ids, and what is handed on of them when they end.

Rules:
- Nothing is remembered while a message is open: its trace and the ids of its spans follow from its name, its numbers
  and a secret of the process. So the same is found when a delivery leaves and when the message has ended.
- A context of the client decides by its sampled flag (W3C Trace Context, 3.2.2.5), whatever the ratio; the ratio is
  for messages without one. A trace begun here has an id made of the message's name, which is the same on every daemon
  of a ring, and is sampled by its lower 64 bits, as OpenTelemetry's TraceIdRatioBased does: so all daemons with one
  ratio agree.
- A context that is malformed is none, as the standard has it.
- `Traced` takes the place of the recorder of decisions where tracing is on. Where it is off nothing here runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import inf
from typing import Final, NamedTuple

from msgspec import UNSET, UnsetType

from router_daemon.core.choosing import Chooser
from router_daemon.core.decisions import Decisions
from router_daemon.core.entries import Entry
from router_daemon.core.messages import Message
from router_daemon.core.ranking import Candidate, Ranking
from router_daemon.core.settings import Settings

ID_BITS: Final = 64
SAMPLED: Final = 1
_CONTEXT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Trace(NamedTuple):
    """The trace that a message is part of, and is recorded for.

    Attributes:
        id: 16 bytes. parent: the span that it comes from, None for a trace that begins here. flags: as they came.
    """

    id: int
    parent: int | None
    flags: int


class Sampling:
    """Says of each message whether it is traced, and names its spans.

    Args:
        ratio: 0 to 1, of the messages that bring no context.
        secret: 8 random bytes of this process, so that no two processes make the same ids.
    """

    def __init__(self, ratio: float, secret: bytes) -> None:
        self._below = round(ratio * (1 << ID_BITS))
        self._secret = secret
        self._mask = int.from_bytes(secret, "big")

    def trace(self, message: str, traceparent: str | UnsetType | None) -> Trace | None:
        """Return the trace of a message by its name and its context; None: it is not recorded."""
        if isinstance(traceparent, str):
            given = parse(traceparent)
            if given is not None:
                return given if given.flags & SAMPLED else None
        if not self._below:
            return None
        made = int.from_bytes(blake2b(message.encode(), digest_size=16).digest(), "big")
        return Trace(made, None, SAMPLED) if made & ((1 << ID_BITS) - 1) < self._below else None

    def delivery(self, number: int) -> int:
        """Return the id of a delivery's span: its number, which is unique here, made so everywhere."""
        return (number ^ self._mask) or 1

    def span(self, number: int, place: int) -> int:
        """Return the id of the message's span (0), or of its decisions' (1, 2, ...), by the message's number."""
        digest = blake2b(f"{number} {place}".encode(), digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "big") or 1


def parse(traceparent: str) -> Trace | None:
    """Return what a traceparent says; None where it is malformed (W3C Trace Context, 3.2)."""
    found = _CONTEXT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(parent, 16):
        return None
    return Trace(int(trace, 16), int(parent, 16), int(flags, 16))


def written(trace: Trace, span: int) -> str:
    """Return the traceparent of what is done under a span."""
    return f"00-{trace.id:032x}-{span:016x}-{trace.flags:02x}"


class Ended(NamedTuple):
    """A traced message that has ended; `tracestate` as it came."""

    trace: Trace
    entry: Entry
    tracestate: str


class Traced(Decisions):
    """The recorder of decisions that also hands on the traced messages, whatever else is kept of them.

    Args:
        settings: of the recorder.
        sampling: which are traced.
        hand_on: takes each once it has ended; must not wait, nor raise.
    """

    __slots__ = ("_hand_on", "_own_sample_at", "_sampling")

    def __init__(self, settings: Settings, sampling: Sampling, hand_on: Callable[[Ended], None]) -> None:
        self._sampling = sampling
        self._hand_on = hand_on
        super().__init__(settings)

    def configure(self, settings: Settings) -> None:
        """Take over other settings; every message is to be noted, since any may be traced."""
        super().configure(settings)
        self._own_sample_at, self.sample_at = self.sample_at, -inf

    def note(
        self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], chooser: Chooser, kind: str, now: float
    ) -> None:
        """Record what would be recorded anyway, and have a traced message come to `close`."""
        if kind != "first":
            super().note(message, ranking, chosen, chooser, kind, now)
            return
        if now >= self._own_sample_at or message.request.priority == self.critical:
            self.sample_at = self._own_sample_at
            super().note(message, ranking, chosen, chooser, kind, now)
            self._own_sample_at, self.sample_at = self.sample_at, -inf
        if self._trace_of(message) is not None:
            message.noted()

    def close(self, message: Message, outcome: str, now: float) -> None:
        """Keep it where it is to be kept, and hand it on where it is traced."""
        super().close(message, outcome, now)
        self._pass(message, outcome, now)

    def refused(self, message: Message, code: str) -> None:
        """Keep or pass over a message that was not opened, and hand it on where it is traced."""
        super().refused(message, code)
        self._pass(message, code, message.accepted_at)

    def _pass(self, message: Message, outcome: str, now: float) -> None:
        trace = self._trace_of(message)
        if trace is not None:
            state = message.request.tracestate
            entry = self._entry(message, "traced", outcome, now)
            self._hand_on(Ended(trace, entry, "" if state is UNSET or trace.parent is None else state))

    def _trace_of(self, message: Message) -> Trace | None:
        return self._sampling.trace(message.name, message.request.traceparent)

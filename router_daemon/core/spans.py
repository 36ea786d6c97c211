"""The spans of a message that has ended: of itself, of its decisions, of its deliveries. Plain data.

Rules:
- Times are those of the core's clock.
- They are made of what is kept of any message (`entries`), so that nothing is measured for them.
- A decision's span is the time in which somebody was wanted: from the message's coming (or the end of the head before)
  until it was sent. That is the wait for a place, or the pause before a retry; choosing itself takes microseconds.
- Both decisions and deliveries are children of the message's span; a delivery links to the decision that made it.
- A delivery that was cancelled, or is out still, ends with its message: what its backend does then has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final, TypeAlias

from router_daemon.core.counts import FAILURE_CAUSES
from router_daemon.core.entries import Decided, Entry, Sent
from router_daemon.core.traces import Ended, Sampling
from router_daemon.core.types import Record

Attribute: TypeAlias = str | bool | int | float
NO_FAULT: Final = frozenset({"answered", "cancelled", "client_gone"})
"""How a message may end without an error of anybody's."""


class Span(Record):
    """One span.

    Attributes:
        name: `router.message`, `router.decision` or `router.delivery`.
        kind: `server` (somebody asked us), `internal`, `client` (we asked somebody).
        id, parent: of spans; parent is None where the trace begins.
        start, end: seconds.
        link: the span of the decision, of a delivery.
        error: what went wrong, "" for nothing.
    """

    name: str
    kind: str
    id: int
    parent: int | None
    start: float
    end: float
    attributes: dict[str, Attribute | list[str]]
    link: int | None = None
    error: str = ""


def spans_of(ended: Ended, sampling: Sampling) -> list[Span]:
    """Return all spans of a message, its own first."""
    trace, entry, _ = ended
    own = sampling.span(entry.number, 0)
    spans = [_message(entry, own, trace.parent)]
    groups = [list(group) for _, group in groupby(entry.deliveries, key=lambda sent: sent.sent_at)]
    before: list[Sent] = []
    for place, group in enumerate(groups or [[]], 1):
        decision = sampling.span(entry.number, place)
        spans.append(_decision(entry, group, before, decision, own))
        spans += [_delivery(entry, sent, sampling.delivery(sent.id), own, decision) for sent in group]
        before += group
    return spans


def _common(entry: Entry) -> dict[str, Attribute | list[str]]:
    return {
        "router.message": entry.name,
        "router.capability": entry.capability,
        "router.priority": entry.priority,
        "router.mode": entry.done,
        "router.route": entry.route,
    }


def _message(entry: Entry, own: int, parent: int | None) -> Span:
    attributes = _common(entry) | {
        "router.policy": entry.policy,
        "router.outcome": entry.outcome,
        "router.mode_asked": entry.mode,
        "router.reply": entry.reply,
        "router.body_bytes": entry.bytes,
        "router.waited_ms": entry.waited_s * 1000.0,
        "router.deliveries": entry.sent,
    }
    error = "" if entry.outcome in NO_FAULT else entry.reason or entry.outcome
    if error:
        attributes["error.type"] = entry.outcome
    return Span("router.message", "server", own, parent, entry.accepted_at, entry.ended_at, attributes, None, error)


def _decision(entry: Entry, group: list[Sent], before: list[Sent], own: int, parent: int) -> Span:
    at = group[0].sent_at if group else entry.ended_at
    kind = _kind(entry, at, before)
    recorded = next((decided for decided in entry.decisions if decided.at == at), None)
    attributes = _common(entry) | {"router.decision": kind, "router.policy": entry.policy}
    attributes["router.backends"] = [sent.backend for sent in group]
    if recorded is not None:
        attributes |= _recorded(recorded)
    start = entry.accepted_at
    if before:
        start = at if kind == "hedge" else max(_ends(before, at), default=at)
    return Span("router.decision", "internal", own, parent, start, at, attributes)


def _kind(entry: Entry, at: float, before: list[Sent]) -> str:
    """Return why somebody was chosen, as `Decided.kind` has it."""
    if not before:
        return "served" if entry.waited_s > 0.0 else "first"
    out = any(_end_of(sent) is None or _end_of(sent) > at for sent in before)  # type: ignore[operator]
    return "hedge" if out else "retry"


def _recorded(decided: Decided) -> dict[str, Attribute]:
    """Return what a decision had before it, where that was recorded."""
    return {
        "router.policy": decided.policy,
        "router.candidates": decided.candidates,
        "router.cache": decided.cache,
        "router.free_places": decided.free,
        "router.places": decided.places,
    }


def _ends(sent: list[Sent], until: float) -> Iterator[float]:
    return (end for each in sent if (end := _end_of(each)) is not None and end <= until)


def _end_of(sent: Sent) -> float | None:
    """Return when it was known what came of a delivery; None of one that was out still when its message ended."""
    return sent.settled_at if sent.settled_at is not None else sent.acked_at


def _delivery(entry: Entry, sent: Sent, own: int, parent: int, decision: int) -> Span:
    outcome = sent.outcome or ("cancelled" if sent.cancelled else "out")
    attributes = _common(entry) | {
        "router.backend": sent.backend,
        "router.outcome": outcome,
        "router.delivery": sent.id,
        "router.attempt": sent.head,
        "router.answered": sent.answered,
        "router.trial": sent.trial,
        "router.parts": sent.parts,
    }
    if sent.first_part_at is not None:
        attributes["router.first_part_ms"] = (sent.first_part_at - sent.sent_at) * 1000.0
    error = outcome if outcome in FAILURE_CAUSES else ""
    if error:
        attributes["error.type"] = outcome
    end = _end_of(sent)
    return Span(
        "router.delivery",
        "client",
        own,
        parent,
        sent.sent_at,
        entry.ended_at if end is None else end,
        attributes,
        decision,
        error,
    )

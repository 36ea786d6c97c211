"""What people are told of decisions: one message in full, or many in a line each, as plain data for JSON.

Rules:
- Pure reading. The core has only a clock of its own: `wall` is what the shell's calendar says at `now`.
- Times within a message are in milliseconds since it was taken in.
- What is exact is said: `terms` of a decision is `compared` (read at that moment, as the policy compared them),
  `ranking` (the policy goes by its ranking, which is told as it was), `named` (nobody was compared: the message names
  its backend), or `unrecorded`. Where the first decision is
  unrecorded, `nearest` names the message of the same capability and priority whose recorded decision was closest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from router_daemon.core.decisions import TEXT_CHARS
from router_daemon.core.entries import Decided, Entry, Row, Sent
from router_daemon.core.types import ClientId

if TYPE_CHECKING:
    from router_daemon.core.broker import Broker

MOST_MATCHES: Final = 20
VERDICTS: Final = {
    "ranked": "others were better",
    "slower": "a full one is faster by far: it waits for that",
    "tried": "it had been tried",
    "dear": "it costs too much",
    "threshold": "score not over the threshold",
    "full": "all its places were taken",
    "ejected": "ejected",
    "paused": "it got nothing for a while: paused, or draining",
    "disconnected": "disconnected: its session might come back",
    "reserved": "the places left were for critical messages",
    "busy": "not idle: a hedge is for who surely has nothing else to do",
    "unseen": "not among those the policy looked at",
}


class Wanted(Struct):
    """What entries are looked for; None: whatever it is. `ended_since`: by the core's clock."""

    capability: str | None = None
    outcome: str | None = None
    backend: str | None = None
    route: str | None = None
    kept: str | None = None
    ended_since: float | None = None


def why(broker: Broker, text: str, now: float, wall: float) -> list[dict[str, Any]]:
    """Return everything kept of the messages that a text names, the latest first, at most `MOST_MATCHES`.

    Args:
        broker: asked, not changed.
        text: a `message`, a trace id, or a client's own id: text as it is, an integer in decimal or after 0x, bytes in
            hexadecimal.
        now: seconds, of the core's clock.
        wall: seconds since 1970, at the same moment.
    """
    forms = _forms(text)
    found = []
    for entry in (*_open_ones(broker, text, forms, now), *broker.decisions.shelf):
        if _is_named(entry.name, entry.id, entry.traceparent, text, forms):
            found.append(_told(broker, entry, now, wall))
            if len(found) == MOST_MATCHES:
                break
    return found


def search(broker: Broker, wanted: Wanted, limit: int, now: float, wall: float) -> dict[str, Any]:
    """Return how many entries there are and a line for each that is wanted, the latest first."""
    shelf = broker.decisions.shelf
    rows = []
    for entry in shelf:
        if wanted.ended_since is not None and entry.ended_at < wanted.ended_since:
            break
        if _is_wanted(entry, wanted):
            rows.append(_summary(entry, now, wall))
            if len(rows) == limit:
                break
    return {
        "entries": shelf.entries,
        "bytes": shelf.bytes,
        "kept": dict(shelf.kept),
        "passed_over": shelf.passed_over,
        "decisions": rows,
    }


def nothing(broker: Broker, text: str, now: float) -> str:
    """Return why there may be nothing to tell of a message."""
    shelf = broker.decisions.shelf
    if not shelf.entries:
        return f"nothing is kept of {text!r}: there is no entry (why.entries is 0, or nothing has ended yet)"
    oldest_s = now - min(entry.ended_at for entry in shelf)
    return (
        f"nothing is kept of {text!r}: it was never here, went well and was not sampled, was one of a flood of "
        f"refusals, or gave way to others ({shelf.entries} entries, the oldest of {oldest_s:.0f} s ago)"
    )


# --- which ---


def _forms(text: str) -> set[ClientId]:
    """Return every client's id that a text may stand for."""
    forms: set[ClientId] = {text[:TEXT_CHARS], text.encode(errors="surrogateescape")[:TEXT_CHARS]}
    digits = text.removeprefix("0x")
    with contextlib.suppress(ValueError):
        forms.add(bytes.fromhex(digits)[:TEXT_CHARS])
    for base in (10, 16):
        if base == 10 or digits != text:
            with contextlib.suppress(ValueError):
                forms.add(int(text, base))
    return forms


def _is_named(name: str, identity: ClientId, traceparent: str | None, text: str, forms: set[ClientId]) -> bool:
    if name == text or (identity if isinstance(identity, int) else identity[:TEXT_CHARS]) in forms:
        return True
    return traceparent is not None and (traceparent == text or traceparent.split("-")[1:2] == [text])


def _open_ones(broker: Broker, text: str, forms: set[ClientId], now: float) -> Iterator[Entry]:
    for message in broker.dispatcher.messages:
        request = message.request
        trace = request.traceparent if isinstance(request.traceparent, str) else None
        if _is_named(message.name, request.id, trace, text, forms):
            yield broker.decisions.of_open(message, now)


def _is_wanted(entry: Entry, wanted: Wanted) -> bool:
    return (
        (wanted.capability is None or entry.capability == wanted.capability)
        and (wanted.outcome is None or entry.outcome == wanted.outcome)
        and (wanted.route is None or entry.route == wanted.route)
        and (wanted.kept is None or entry.kept == wanted.kept)
        and (wanted.backend is None or any(sent.backend == wanted.backend for sent in entry.deliveries))
    )


def _nearest(broker: Broker, entry: Entry) -> dict[str, Any] | None:
    """Return the first decision recorded with its terms that was made closest to this message's."""
    found, least_s = None, 0.0
    for other in broker.decisions.shelf:
        alike = other.capability == entry.capability and other.priority == entry.priority
        if alike and other is not entry and _is_recorded(other):
            off_s = other.accepted_at - entry.accepted_at
            if found is None or abs(off_s) < abs(least_s):
                found, least_s = other, off_s
    return None if found is None else {"message": found.name, "later_ms": least_s * 1000.0}


def _is_recorded(entry: Entry) -> bool:
    return any(decided.kind == "first" and decided.rows for decided in entry.decisions)


# --- what ---


def _summary(entry: Entry, now: float, wall: float) -> dict[str, Any]:
    return {
        "message": entry.name,
        **_identity(entry.id),
        "trace_id": entry.trace_id,
        "at": wall - (now - entry.accepted_at),
        "ago_s": now - entry.accepted_at,
        "capability": entry.capability,
        "priority": entry.priority,
        "kept": entry.kept,
        "route": entry.route,
        "policy": entry.policy,
        "outcome": entry.outcome,
        "reason": entry.reason or None,
        "took_ms": (entry.ended_at - entry.accepted_at) * 1000.0,
        "waited_ms": entry.waited_s * 1000.0,
        "backends": [sent.backend for sent in entry.deliveries],
        "answered_by": next((sent.backend for sent in entry.deliveries if sent.answered), None),
    }


def _told(broker: Broker, entry: Entry, now: float, wall: float) -> dict[str, Any]:
    start = entry.accepted_at
    return {
        **_summary(entry, now, wall),
        "client": entry.client.hex(),
        "traceparent": entry.traceparent,
        "mode": {"asked": entry.asked, "as": entry.mode, "done": entry.done},
        "reply": entry.reply,
        "heads": entry.heads,
        "ttl_ms": entry.ttl_s * 1000.0,
        "max_cost": entry.max_cost,
        "named": entry.named,
        "body_bytes": entry.bytes,
        "risked": entry.risked,
        "nearest": None if _is_recorded(entry) else _nearest(broker, entry),
        "decisions": [_decision(decided, entry) for decided in entry.decisions],
        "decisions_left_out": entry.decided - len(entry.decisions),
        "deliveries": [_delivery(sent, start) for sent in entry.deliveries],
        "deliveries_left_out": entry.sent - len(entry.deliveries),
    }


def _identity(identity: ClientId) -> dict[str, Any]:
    """Return a client's id as JSON can say it, and what it is."""
    if isinstance(identity, bytes):
        return {"id": identity.hex(), "id_kind": "bytes"}
    return {"id": identity, "id_kind": "integer" if isinstance(identity, int) else "text"}


def _decision(decided: Decided, entry: Entry) -> dict[str, Any]:
    rows = decided.seen()
    terms = "unrecorded" if not rows else "compared" if decided.live else "ranking"
    if entry.named is not None:
        terms = "named"
    return {
        "kind": decided.kind,
        "after_ms": (decided.at - entry.accepted_at) * 1000.0,
        "policy": decided.policy,
        "threshold": decided.threshold,
        "cache": decided.cache,
        "ranking_age_ms": (decided.at - decided.ranked_at) * 1000.0,
        "terms": terms,
        "pool": {
            "free": decided.free,
            "places": decided.places,
            "reserved": decided.reserved,
            "busy": decided.busy,
            "slots": decided.slots,
            "reference_ms": decided.reference_s * 1000.0,
        },
        "backends": decided.candidates,
        "candidates": [_row(row, decided, entry) for row in rows],
    }


def _row(row: Row, decided: Decided, entry: Entry) -> dict[str, Any]:
    return {
        "backend": row.backend,
        "head": row.head or None,
        "reason": _reason(row, decided, entry),
        "score": row.score,
        "terms": dict(zip(decided.terms, row.values, strict=False)),
        "in_flight": row.open,
        "free": row.free,
        "other": row.other,
        "cost": row.cost,
        "service_ms": row.service_s * 1000.0,
        "expected_wait_ms": row.wait_s * 1000.0,
        "expected_ms": row.expected_s * 1000.0,
        "success_ratio": row.success,
        "samples": row.samples,
    }


def _reason(row: Row, decided: Decided, entry: Entry) -> str:
    if not row.head:
        tie = row.verdict == "ranked" and any(row.score == other.score for other in decided.seen() if other.head == 1)
        return "as good as the first head, and drawn after it" if tie else VERDICTS[row.verdict]
    if entry.named is not None:
        return "the message names it"
    if decided.kind == "hedge":
        return "hedge: the first head was late"
    if entry.risked and decided.kind in ("first", "served") and row.head == max(r.head for r in decided.seen()):
        return f"head {row.head} to find out about it: on trial, or unused for long"
    return f"head {row.head} by rank"


def _delivery(sent: Sent, start: float) -> dict[str, Any]:
    def after_ms(at: float | None) -> float | None:
        return None if at is None else (at - start) * 1000.0

    ended = sent.acked_at if sent.acked_at is not None else sent.settled_at
    latency_at = sent.first_part_at if sent.first_part_at is not None else ended
    return {
        "delivery": sent.id,
        "backend": sent.backend,
        "head": sent.head,
        "sent_ms": after_ms(sent.sent_at),
        "first_part_ms": after_ms(sent.first_part_at),
        "settled_ms": after_ms(sent.settled_at),
        "answered_late_ms": after_ms(sent.acked_at),
        "outcome": sent.outcome or ("cancelled" if sent.cancelled else "out"),
        "latency_ms": None if latency_at is None else (latency_at - sent.sent_at) * 1000.0,
        "parts": sent.parts,
        "trial": sent.trial,
        "answered": sent.answered,
        "expected": {"service_ms": sent.work_s * 1000.0, "work_share": sent.share},
        "queue": sent.queue,
    }

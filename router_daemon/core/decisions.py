"""Why a message went where it went: what is recorded of decisions, with the numbers they were made by.

Rules:
- Always kept are messages that failed, were refused, cancelled, slow, critical, or had a further head; of the others
  one every so often (`sample_every_s`), so that what it costs does not rise with the rate, and little traffic is kept
  whole. Nothing is drawn for that, and nothing that is decided depends on it.
- Terms are read when the decision is made, before anything of it takes effect, or they are not told at all. Those of
  all candidates are read for messages that are sampled or critical, and for every decision after the first (a retry, a
  hedge): all known beforehand, and of each kind at most one every `FURTHER_EVERY_S`, since reading costs more than
  deciding. Of the first decision of a message that only turns out to be worth keeping there is what its deliveries were
  charged with: exact, but of the chosen backends alone.
- A refusal has no terms, and its answer says why: of a flood, one every `FURTHER_EVERY_S` is kept for each code.
- Who decided is read from the ranking: the policy of the message's route, or who stood in for it. Of a policy that
  fails to account for its choice the terms of the ranking are told; that fault is counted, and opens no breaker, or
  recording would change what is decided.
- Time to an answer is that to the ACK, of a stream to its first PART. It is slow beyond `slow_s`, or beyond
  `slow_times` reference latencies of its capability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, TypeAlias

from msgspec import UNSET

from router_daemon.core.backends import Backend
from router_daemon.core.choosing import Chooser
from router_daemon.core.entries import Decided, Entry, Sent, Shelf
from router_daemon.core.events import Request
from router_daemon.core.messages import Delivery, Message
from router_daemon.core.ranking import NOBODY, Account, Candidate, Ranking
from router_daemon.core.settings import Settings
from router_daemon.core.waiting import CRITICAL

MOST_ROWS: Final = 64
MOST_DECISIONS: Final = 8
MOST_DELIVERIES: Final = 16
"""Of one message: NACKs `busy` allow any number of deliveries. Further ones are counted, and not told."""
TEXT_CHARS: Final = 512
FURTHER_EVERY_S: Final = 0.001
"""What is kept beyond samples so costs 3 % of a core at most, where a flood would have it cost more than the work."""
SCATTER: Final = 2654435761
"""Knuth's multiplicative hash (2^32 over the golden ratio): a fixed pace would fall in with another one."""


Accounting = Callable[[Ranking, Request, Sequence[Backend], float], Account]
"""A policy's `account`, which a policy may have beside what `Policy` asks for: told the same as `pick` was just before,
it returns what `pick` compared, and changes nothing. Of a policy without one, the terms of the ranking are told."""
_Compared: TypeAlias = tuple[bool, tuple[str, ...], list[tuple[Any, ...]]]


class Decisions:
    """The recorder.

    Attributes:
        shelf: what is kept.
        sample_at: the next message from this time on is sampled.
        critical: messages of this priority are always recorded.
        slow_s, slow_times: see the module's rules.
    """

    __slots__ = ("_every_s", "_next", "_on", "critical", "sample_at", "shelf", "slow_s", "slow_times")

    def __init__(self, settings: Settings) -> None:
        self._next: dict[str, float] = {}  # kind of decision or code of a refusal -> when the next one is due
        self.shelf = Shelf()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take over other settings; what is kept stays, as far as there is room."""
        why = settings.why
        on = self._on = why.entries > 0
        self._every_s = why.sample_every_s
        self.shelf.configure(why.entries, why.bytes)
        self.sample_at = -inf if on else inf
        self.critical = CRITICAL if on else CRITICAL + 1
        self.slow_s = why.slow_s if on and why.slow_s is not None else inf
        self.slow_times = why.slow_times if on and why.slow_times else inf

    # --- while a message is open ---

    def note(
        self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], chooser: Chooser, kind: str, now: float
    ) -> None:
        """Record a decision that was just made and has had no effect yet."""
        if not self._on:
            return
        notes = message.noted()
        if kind == "first" and now >= self.sample_at:
            if self._every_s:  # so long on average
                self.sample_at = now + self._every_s * (0.5 + (message.number * SCATTER >> 16) % 1024 / 1024.0)
            notes.sampled = due = True
        else:
            due = notes.sampled or now >= self._next.get(kind, -inf)
        if due:
            self._next[kind] = now + FURTHER_EVERY_S
        elif kind == "first":
            return
        notes.decided += 1
        if notes.decided <= MOST_DECISIONS:
            notes.decisions.append(self._decided(message, ranking, chosen, chooser, kind, now, due=due))

    def _decided(
        self,
        message: Message,
        ranking: Ranking,
        chosen: Sequence[Candidate],
        chooser: Chooser,
        kind: str,
        now: float,
        *,
        due: bool,
    ) -> Decided:
        pool, policy = ranking.pool, ranking.policy
        told: _Compared = (hasattr(policy, "account"), (), [])
        if due:
            told = self._compared(message, ranking, chosen, chooser, kind, now)
        live, names, rows = told
        return Decided(
            now,
            kind,
            message.route.maker_of(ranking).rankings.state_of(ranking),
            ranking.made_at,
            policy.name,
            policy.threshold,
            live,
            names,
            len(ranking.candidates),
            pool.free,
            pool.places,
            pool.reserved,
            pool.busy,
            pool.slots,
            pool.reference_s,
            rows,
        )

    def _compared(
        self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], chooser: Chooser, kind: str, now: float
    ) -> _Compared:
        """Return whether the terms are the policy's own account, their names, and a `Row` of whoever was there."""
        pool, request = ranking.pool, message.request
        account: Accounting | None = getattr(ranking.policy, "account", None)
        tried = chooser.tried(message)
        if message.named:
            return account is not None, (), _only_named(message, ranking, chosen, tried)
        able = chooser.among(message, ranking, hedge=kind == "hedge")
        compared = NOBODY
        if pool.free > pool.reserved or (pool.free and request.priority == CRITICAL):
            told = None if account is None else _told(account, message, able, tried, now)
            if told is None:
                account = None
            compared = _as_ranked(able, tried) if told is None else told
        verdict = "slower" if not chosen and pool.full and hasattr(ranking.policy, "holds") else "ranked"
        rows = [_row(candidate, verdict, score, values) for candidate, score, values in compared[1]]
        if len(rows) < len(ranking.scored):
            _add_others(rows, ranking, able, tried, chosen, kind)
        for head, candidate in enumerate(chosen, 1):
            seen = [*tried, *(other.backend for other in chosen[: head - 1])]
            again = _told(account, message, able, seen, now) if head > 1 and account is not None else compared
            _mark(rows, head, candidate, again or NOBODY)
        if len(rows) > MOST_ROWS:
            rows = sorted(rows, key=lambda row: not row[1])[:MOST_ROWS]
        return account is not None, compared[0], rows

    # --- when it ends ---

    def close(self, message: Message, outcome: str, now: float) -> None:
        """Keep a message that has ended, while its deliveries are there still, where it is one to be kept."""
        if not self._on:
            return
        kind = self._kind(message, outcome, now)
        if kind is not None:
            self.shelf.put(self._entry(message, kind, outcome, now))

    def refused(self, message: Message, code: str) -> None:
        """Keep a message that was not opened; of a flood of refusals with one code, one every `FURTHER_EVERY_S`."""
        if not self._on:
            return
        now = message.accepted_at
        if now < self._next.get(code, -inf):
            self.shelf.passed_over += 1
            return
        self._next[code] = now + FURTHER_EVERY_S
        self.shelf.put(self._entry(message, "refused", code, now))

    def of_open(self, message: Message, now: float) -> Entry:
        """Return what would be kept of a message that is open."""
        return self._entry(message, "open", "open", now)

    def _kind(self, message: Message, outcome: str, now: float) -> str | None:
        if outcome != "answered":
            return "cancelled" if outcome in ("cancelled", "client_gone") else "failed"
        if message.request.priority == self.critical:
            return "critical"
        if self._is_slow(message, now):
            return "slow"
        notes = message.notes
        if notes is None or not notes.decisions:
            return None
        again = any(decided.kind in ("retry", "hedge") for decided in notes.decisions)
        return "retried" if again else "sampled"

    def _is_slow(self, message: Message, now: float) -> bool:
        delivery = _answering(message) or message.deliveries[0]
        began = delivery.first_part_at
        seconds = (now if began is None else began) - message.accepted_at
        return seconds > self.slow_s or seconds > self.slow_times * delivery.service.pool.reference_s

    def _entry(self, message: Message, kind: str, outcome: str, now: float) -> Entry:
        request, deliveries, notes = message.request, message.deliveries, message.notes
        trace, identity = request.traceparent, request.id
        answering = _answering(message) if outcome == "answered" else None
        waited_s = now - message.waits_since if message.line is not None else 0.0
        return Entry(
            kind,
            message.number,
            message.name,
            message.client.peer,
            identity if isinstance(identity, int) else identity[:TEXT_CHARS],
            None if trace is UNSET else trace[:TEXT_CHARS],
            request.capability,
            request.priority,
            None if request.mode is UNSET else request.mode,
            message.mode,
            _done(message),
            request.reply,
            message.heads,
            message.deadline - message.accepted_at,
            None if request.max_cost is UNSET else request.max_cost,
            None if request.backend is UNSET else request.backend[:TEXT_CHARS],
            message.size,
            message.accepted_at,
            now,
            outcome,
            message.reason[:TEXT_CHARS],
            waited_s if notes is None else notes.waited_s + waited_s,
            notes is not None and notes.risked,
            message.route.name,
            message.route.policy.name,
            len(deliveries),
            0 if notes is None else notes.decided,
            [_sent(delivery, now, delivery is answering) for delivery in deliveries[:MOST_DELIVERIES]],
            [] if notes is None else notes.decisions.copy(),
        )


def _told(
    account: Accounting, message: Message, ranking: Ranking, tried: Sequence[Backend], now: float
) -> Account | None:
    """Return what a policy says that it compared; None where it fails to, which must cost nobody the message."""
    try:
        names, compared = account(ranking, message.request, tried, now)
        return tuple(names), [(candidate, score, tuple(values)) for candidate, score, values in compared]
    except Exception as fault:  # noqa: BLE001 - whatever a policy raises
        message.route.maker_of(ranking).failed_aside("account", fault)
        return None


def _row(candidate: Candidate, verdict: str, score: float | None, values: tuple[float, ...]) -> tuple[Any, ...]:
    backend, service = candidate.backend, candidate.service
    return (  # in the order of `Row`
        backend.info.name,
        0,
        verdict,
        score,
        values,
        len(backend.open),
        backend.free,
        backend.other,
        backend.cost if service.pool.costly else None,
        service.expected_s,
        service.wait_s,
        service.service_s,
        service.success,
        service.samples,
    )


def _as_ranked(ranking: Ranking, tried: Sequence[Backend]) -> Account:
    """Return the terms of the ranking, of those with room: what they are chosen by, or all that is known of it."""
    looked = [c for c in ranking.candidates if c.backend.free > 0 and c.backend not in tried]
    names = tuple(looked[0].terms) if looked else ()
    return names, [(c, c.score, tuple(c.terms.values())) for c in looked]


def _only_named(
    message: Message, ranking: Ranking, chosen: Sequence[Candidate], tried: Sequence[Backend]
) -> list[tuple[Any, ...]]:
    """Return the one backend that a message names, where it is there: nobody else was looked at."""
    if chosen:
        rows = [_row(chosen[0], "chosen", None, ())]
        _mark(rows, 1, chosen[0], NOBODY)
        return rows
    name = message.request.backend
    there = [candidate for candidate in ranking.scored if candidate.backend.info.name == name]
    return [_row(candidate, _obstacle(candidate.backend, tried) or "reserved", None, ()) for candidate in there]


def _add_others(
    rows: list[tuple[Any, ...]],
    ranking: Ranking,
    able: Ranking,
    tried: Sequence[Backend],
    chosen: Sequence[Candidate],
    kind: str,
) -> None:
    """Add those who were not compared, the chosen first, as far as there is room."""
    there = {row[0] for row in rows}
    candidates, may = set(map(id, ranking.candidates)), set(map(id, able.candidates))
    forbids = "busy" if kind == "hedge" else "dear"
    for candidate in (*chosen, *ranking.scored):
        if len(rows) >= MOST_ROWS:
            return
        name = candidate.backend.info.name
        if name not in there:
            there.add(name)
            verdict = _obstacle(candidate.backend, tried)
            if id(candidate) not in candidates:
                verdict = "threshold"
            elif verdict is None and id(candidate) not in may:
                verdict = forbids
            elif verdict is None:
                verdict = "reserved" if ranking.pool.free <= ranking.pool.reserved else "unseen"
            rows.append(_row(candidate, verdict, None, ()))


def _obstacle(backend: Backend, tried: Sequence[Backend]) -> str | None:
    """Return what stood against any message's going there, or against this one's, which has been there."""
    if backend in tried:
        return "tried"
    if not backend.connected:
        return "disconnected"
    if backend.ejected:
        return "ejected"
    if backend.limit == 0:
        return "paused"
    return "full" if backend.free <= 0 else None


def _mark(rows: list[tuple[Any, ...]], head: int, candidate: Candidate, compared: Account) -> None:
    """Make a head of a row, with the score it was chosen by: earlier heads were not compared with it any more."""
    name = candidate.backend.info.name
    place = next((n for n, row in enumerate(rows) if row[0] == name), None)
    if place is None:
        return
    score, values = next(((score, values) for other, score, values in compared[1] if other is candidate), (None, ()))
    rows[place] = (name, head, "chosen", score, values, *rows[place][5:])


def _answering(message: Message) -> Delivery | None:
    """Return the delivery whose answer ended the message, with `reply` other than `all`."""
    if message.request.reply == "all":
        return None
    for delivery in message.deliveries:
        fate = delivery.fate
        if (delivery.counted and fate is None) or (fate is not None and fate.acked_at is not None):
            return delivery
    return None


def _sent(delivery: Delivery, now: float, answered: bool) -> Sent:
    backend, fate = delivery.backend, delivery.fate
    acked = fate is None and delivery.counted
    return Sent(
        delivery.id,
        backend.info.name,
        delivery.head,
        delivery.sent_at,
        delivery.first_part_at,
        fate.at if fate is not None else now if acked else None,  # the last answer is the end of the message
        None if fate is None else fate.acked_at,
        fate.outcome if fate is not None else "acked" if acked else "",
        delivery.parts,
        delivery.cancelled,
        delivery.trial,
        answered,
        delivery.work_s,
        delivery.share,
        backend.queue,
    )


def _done(message: Message) -> str:
    """Return what came of the mode: `none`, `single`, `fanout`, or `hedge` where a second head was asked."""
    if not message.deliveries:
        return "none"
    if message.fan_out:
        return "fanout"
    decisions = () if message.notes is None else message.notes.decisions
    return "hedge" if any(decided.kind == "hedge" for decided in decisions) else "single"

"""Whether a message waits for a full backend though another one has room: where that is the sooner answer by far.

Rules:
- The policy says whether, and for how long in all (`MayHold`); of one that does not, no message waits while somebody
  has room. After that time who has room gets it, so nobody starves behind those who come first.
- Nobody is held for nothing: not where a new message would wait too long for its time to live, or the waiting room is
  half full; not one that names its backend, or is to find out about one.
- Who is held is looked at again whenever a place becomes free, as all who wait; and, since who is waited for may hang,
  when the first of them has waited for long enough, by one timer for the whole capability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import TypeAlias

from router_daemon.core.choosing import Chooser
from router_daemon.core.messages import Message
from router_daemon.core.ranking import Candidate, NonsenseError, Ranking
from router_daemon.core.timers import Timers
from router_daemon.core.waiting import WaitingRoom

MayHold: TypeAlias = Callable[[Ranking, Candidate], bool]
"""A policy's `may_hold`: whether `holds` is worth asking after this choice. Under load that is after most, so it has to
be quick. A policy may have both beside what `Policy` asks for; they change nothing.

`holds(ranking, choice, tried, ahead, now)`, told whom the policy has just picked, the backends tried, how many messages
wait before this one, and the time, returns for how many seconds the message may wait in all for a full backend instead;
None: not at all."""


class Holding:
    """Asks the policy, and sees to it that whoever is held is looked at again."""

    def __init__(self, chooser: Chooser, waiting: WaitingRoom, timers: Timers) -> None:
        self._chooser = chooser
        self._waiting = waiting
        self._timers = timers

    def holds(self, message: Message, ranking: Ranking, chosen: Sequence[Candidate], now: float) -> bool:
        """Tell whether a message waits rather than go to who was just chosen, and see that it is looked at again.

        To be asked where some backend of the capability is full (`Pool.full`); else the answer is no.
        """
        left_s = self.left_s(message, ranking, chosen[0], now)
        if left_s is None:
            return False
        if message.line is None:
            message.counts.holds += 1
        pool, due = ranking.pool, now + left_s
        if pool.bucket is None or due < pool.held_until:
            pool.held_until = due
            self._timers.schedule(pool, due, now)
        return True

    def left_s(self, message: Message, ranking: Ranking, choice: Candidate, now: float) -> float | None:
        """Return for how much longer a message may wait, not go to who was just chosen for it; None: not at all."""
        may: MayHold | None = getattr(ranking.policy, "may_hold", None)
        if may is None:
            return None
        try:
            if not may(ranking, choice):
                return None
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises: there is a choice
            message.route.stumbled(fault, now)
            return None
        if message.named or choice.backend.ejected:
            return None
        if not message.deliveries and message.notes is not None and message.notes.risked:
            return None
        new = message.line is None
        if new and not self._waiting.is_roomy(message):
            return None
        able, tried, request = self._chooser.affordable(message, ranking), self._chooser.tried(message), message.request
        ahead = self._waiting.ahead(request.capability, request.priority) if new else 0
        try:
            wait_s: float | None = ranking.policy.holds(able, choice, tried, ahead, now)  # type: ignore[attr-defined]
            if wait_s is not None and not 0.0 <= wait_s < inf:
                raise NonsenseError("holds returned no time")
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises: there is a choice
            message.route.stumbled(fault, now)
            return None
        if wait_s is None:
            return None
        if not new:
            wait_s -= now - message.waits_since
        elif not message.deliveries and self._chooser.forecast(message, ranking, ahead, now)[1]:
            return None
        return wait_s if wait_s > 0.0 else None

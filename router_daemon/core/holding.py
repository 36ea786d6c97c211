"""Whether a message waits for a full backend though another one has room: where that is the sooner answer by far.

Rules:
- The policy says whether (`Holds`); of one that does not, no message waits while somebody has room.
- Nobody is held for nothing: not where a new message would wait too long for its time to live, or would have to make
  room to wait; not one that names its backend, or is to find out about one.
- Who is held is looked at again whenever a place becomes free, as all who wait; and, since who is waited for may hang,
  after the time that the policy gave, by one timer for the whole capability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from router_daemon.core.backends import Backend
from router_daemon.core.choosing import Chooser
from router_daemon.core.messages import Message
from router_daemon.core.ranking import Candidate, Ranking
from router_daemon.core.timers import Timers
from router_daemon.core.waiting import WaitingRoom

Holds: TypeAlias = Callable[[Ranking, Candidate, Sequence[Backend], int, float], "float | None"]
"""A policy's `holds`, which a policy may have beside what `Policy` asks for: told whom it has just picked, the backends
tried, how many messages wait before this one, and the time, it returns for how many seconds the message may wait for a
full backend instead; None: not at all. It changes nothing."""
FREELY: Final[list[Message]] = []
"""Whom a message has to displace that may wait."""


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
        wait_s = self.wait_s(message, ranking, chosen[0], now)
        if wait_s is None:
            return False
        if message.line is None:
            message.counts.holds += 1
        if ranking.pool.bucket is None:
            self._timers.schedule(ranking.pool, now + wait_s, now)
        return True

    def wait_s(self, message: Message, ranking: Ranking, choice: Candidate, now: float) -> float | None:
        """Return for how long a message may wait rather than go to who was just chosen; None: not at all."""
        ask: Holds | None = getattr(ranking.policy, "holds", None)
        if ask is None or message.named or choice.backend.ejected:
            return None
        if message.notes is not None and message.notes.risked:
            return None
        able, tried = self._chooser.affordable(message, ranking), self._chooser.tried(message)
        new = message.line is None
        request = message.request
        ahead = self._waiting.ahead(request.capability, request.priority) if new else 0
        try:
            wait_s = ask(able, choice, tried, ahead, now)
        except Exception as fault:  # noqa: BLE001 - whatever a policy raises: there is a choice
            message.route.stumbled(fault, now)
            return None
        if wait_s is not None and new:
            too_long = not message.deliveries and self._chooser.forecast(message, ranking, ahead, now)[1]
            if too_long or self._waiting.displaced_by(message) != FREELY:
                return None
        return wait_s

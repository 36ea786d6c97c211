"""What has happened to the daemon that a person should see: a bounded list, the same for the page, the log and metrics.

Rules:
- What is noted is what rooms tell as news, by the words that the log has; nothing is noted for a message.
- A kind is one of `KINDS`, read off how the news begins, so that a page can pick a mark for it. What begins with none
  of them is `other`, and shown with its words.
- Of each kind the last `MOST_OF_A_KIND` are kept: a backend that comes and goes all night pushes out its own kind only.
- Ids rise by one from a number that the shell gives. Where that is above all of an earlier process, who asks for what
  came after an id need not know that there was a restart.
"""

from __future__ import annotations

from collections import Counter, deque
from heapq import merge
from itertools import islice
from typing import Any, Final

from msgspec import Struct

MOST_OF_A_KIND: Final = 100
MOST_AT_ONCE: Final = 500
MOST_CHARACTERS: Final = 1_000
OTHER: Final = "other"
KINDS: Final = {
    "daemon started": "daemon_started",
    "reloaded": "reload_ok",
    "reload refused": "reload_failed",
    "rollout stage": "rollout_stage",
    "rollout stopped": "rollout_stopped",
    "rollout rolled back": "rollout_rolled_back",
    "rollout done": "rollout_done",
    "route to be retired": "route_retire",
    "route's policy": "route_fault",
    "route's breaker has opened": "route_breaker_opened",
    "route's breaker has closed": "route_breaker_closed",
    "override set": "override_set",
    "override ended": "override_ended",
    "backend joined": "backend_joined",
    "backend left": "backend_left",
    "backend lost": "backend_lost",
    "backend ejected": "backend_ejected",
    "backend let in again": "backend_let_in",
    "backend has version": "backend_version",
    "backend drained": "backend_drained",
    "backend undrained": "backend_undrained",
    "link up": "link_up",
    "link down": "link_down",
}
"""How news begin, and their kind."""


class Happening(Struct, frozen=True):
    """Something that has happened.

    Attributes:
        id: rising. at: seconds since 1970. kind: one of `KINDS`, or `OTHER`.
        name: of the route, backend, capability or daemon that it is about, "" for none.
        text: a sentence for people; names in it come from peers.
    """

    id: int
    at: float
    kind: str
    name: str
    text: str


class Chronicle:
    """The list.

    Args:
        first_id: of the first happening.

    Attributes:
        last: the newest id ever given; `first_id` - 1 before the first.
        counts: how often each kind has happened, ever.
    """

    def __init__(self, first_id: int = 1) -> None:
        self._first = first_id
        self.last = first_id - 1
        self.counts: Counter[str] = Counter()
        self._kept: dict[str, deque[Happening]] = {}

    def note(self, at: float, what: str, name: str = "", detail: str = "") -> Happening:
        """Keep something; `what`: in the words of the news, which are the text where there is no `detail`."""
        kind = kind_of(what)
        self.last += 1
        self.counts[kind] += 1
        happening = Happening(self.last, at, kind, name, (detail or what)[:MOST_CHARACTERS])
        self._kept.setdefault(kind, deque(maxlen=MOST_OF_A_KIND)).append(happening)
        return happening

    def since(self, after: int = 0, limit: int = MOST_AT_ONCE) -> list[Happening]:
        """Return those with an id above `after`, the oldest first; of more than `limit`, the newest."""
        newest_first = merge(*(reversed(kept) for kept in self._kept.values()), key=_id, reverse=True)
        found = [each for each in islice(newest_first, max(0, limit)) if each.id > after]
        return found[::-1]

    def view(self, after: int = 0, limit: int = MOST_AT_ONCE) -> dict[str, Any]:
        """Return the same as plain data for JSON, what to ask for next, and how many are left out."""
        found = self.since(after, limit)
        there = max(0, self.last - max(after, self._first - 1))
        return {
            "events": [
                {"id": each.id, "at": each.at, "kind": each.kind, "name": each.name, "text": each.text}
                for each in found
            ],
            "last": max(self.last, after),
            "left_out": there - len(found),
        }


def kind_of(what: str) -> str:
    """Return the kind of news that say this."""
    return next((kind for begin, kind in KINDS.items() if what.startswith(begin)), OTHER)


def _id(happening: Happening) -> int:
    return happening.id

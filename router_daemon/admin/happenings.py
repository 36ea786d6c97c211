"""What has happened that a person should see: read off what is so now and what was so at the last look.

Rules:
- Nobody is asked to tell: a look compares, so that nothing costs a message anything. What began and ended between two
  looks (at most `moments` apart) is not seen.
- The last `MOST_KEPT` are kept; of a look at most `MOST_AT_ONCE` of a kind, and how many more there were.
- Ids rise by one, so that whoever has seen the last one asks for what came after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec import UNSET, Struct

from router_daemon.core.backends import Backend
from router_daemon.core.broker import Broker
from router_daemon.core.operating import Operator

MOST_KEPT: Final = 200
MOST_AT_ONCE: Final = 20
_ACTS: Final = {"override": "override_set", "end override": "override_ended", "reload": "reload_ok"}
_ROLLOUT: Final = {
    "rollout stage": "rollout_stage",
    "rollout stopped": "rollout_stopped",
    "rollout rolled back": "rollout_rolled_back",
    "rollout done": "rollout_done",
    "route to be retired": "route_retire",
}


class Happening(Struct, frozen=True):
    """One event: rising id, when (seconds since 1970), kind, of whom, and a sentence; names in it come from peers."""

    id: int
    at: float
    kind: str
    name: str
    text: str


class _Seen(Struct, frozen=True):
    """What was so of one backend."""

    version: str | None
    ejected: bool
    connected: bool
    draining: bool


class Happenings:
    """Compares, and keeps what it finds.

    Args:
        broker: looked at. operator: whose acts count.

    Attributes:
        last: the newest id, 0 before the first.
    """

    def __init__(self, broker: Broker, operator: Operator) -> None:
        self._broker = broker
        self._operator = operator
        self._kept: deque[Happening] = deque(maxlen=MOST_KEPT)
        self.last = 0
        self._backends: dict[str, _Seen] | None = None
        self._open_breakers: set[str] = set()
        self._said = operator.said
        self._told = 0

    def since(self, after: int = 0) -> list[Happening]:
        """Return those with an id above `after`, the oldest first."""
        return [happening for happening in self._kept if happening.id > after]

    def reloaded(self, at: float, text: str, *, well: bool) -> None:
        """Note a reload, of which nothing else can be seen afterwards."""
        self._note(at, "reload_ok" if well else "reload_failed", "", text)

    def look(self, now: float, at: float) -> None:
        """Compare with the last look; `at`: seconds since 1970, at `now`. The first look finds who is there unnoted."""
        found = [*self._of_backends(), *self._of_breakers()]
        by_kind: dict[str, int] = {}
        for kind, name, text in found:
            by_kind[kind] = by_kind.get(kind, 0) + 1
            if by_kind[kind] <= MOST_AT_ONCE:
                self._note(at, kind, name, text)
        for kind, count in by_kind.items():
            if count > MOST_AT_ONCE:
                self._note(at, kind, "", f"and {count - MOST_AT_ONCE} more at the same time")
        for when, kind, name, text in sorted([*self._of_people(), *self._of_rollout(now, at)]):
            self._note(when, kind, name, text)

    def _note(self, at: float, kind: str, name: str, text: str) -> None:
        self.last += 1
        self._kept.append(Happening(self.last, at, kind, name, text))

    def _of_backends(self) -> Iterator[tuple[str, str, str]]:
        before, by_name = self._backends, self._broker.registry.by_name
        self._backends = {name: _seen(backend) for name, backend in by_name.items()}
        if before is None:
            return
        for name in before.keys() - by_name.keys():
            was = before[name]
            kind = "backend_left" if was.draining else "backend_lost"
            yield kind, name, f"{name} left" if was.draining else f"{name} is no longer registered"
        for name, seen in self._backends.items():
            yield from _changes(name, before.get(name), seen)

    def _of_breakers(self) -> Iterator[tuple[str, str, str]]:
        still = {name for name, route in self._broker.routes.by_name.items() if route.opened_at is not None}
        for name in sorted(still - self._open_breakers):
            yield "route_breaker_opened", name, f"the fallback decides for route {name}"
        for name in sorted(self._open_breakers - still):
            yield "route_breaker_closed", name, f"route {name} decides again"
        self._open_breakers = still

    def _of_people(self) -> Iterator[tuple[float, str, str, str]]:
        new, self._said = self._operator.said - self._said, self._operator.said
        for act in _last(self._operator.acts, new):
            if act.what in _ACTS:
                yield act.at, _ACTS[act.what], "", f"{act.what}: {act.detail} (by {act.by})"

    def _of_rollout(self, now: float, at: float) -> Iterator[tuple[float, str, str, str]]:
        rollout = self._broker.routes.rollout
        if rollout is None:
            self._told = 0
            return
        new, self._told = max(0, rollout.told - self._told), rollout.told
        for each in _last(rollout.history, new):
            kind = _ROLLOUT.get(each.what, "other")
            yield at - (now - each.at), kind, each.route, f"{each.what}: {each.detail}"


def _seen(backend: Backend) -> _Seen:
    version = None if backend.info.version is UNSET else backend.info.version
    return _Seen(version, backend.ejected, backend.connected, backend.draining)


def _changes(name: str, was: _Seen | None, seen: _Seen) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, sentence) for what is another way than it was."""
    if was is None:
        yield "backend_joined", name, f"{name} joined"
        return
    if seen.version != was.version:
        yield "backend_version", name, f"{name} has version {seen.version}, before {was.version}"
    if seen.ejected and not was.ejected:
        yield "backend_ejected", name, f"{name} fails and gets nothing for a while"
    if was.ejected and not seen.ejected:
        yield "backend_let_in", name, f"{name} was let in again"
    if was.connected and not seen.connected:
        yield "backend_lost", name, f"{name}: the connection is gone, its session may come back"


def _last(of: deque[Any], count: int) -> Iterable[Any]:
    return list(of)[-count:] if count > 0 else ()

"""Which routes are to be retired, and why, in a sentence: named for people, and left as they are.

Rules:
- `stopped` and `replaced` are said by the rollout: the candidate that the guard has stopped, and stable once a
  candidate at 100 % is done.
- `success` and `p99`: the route is worse than stable by more than the rollout's margins (stable itself: worse than a
  control group on a baseline of its own), by the guard's e-values. A candidate at work is left to the guard.
- `unused`: no share of the messages is the route's, and either nothing can take it, or none did for a window while
  there were `min_answers` others.
- The statistics: both sides count over one window, that of the rollout, and where none is at work one that begins anew
  after `window_s`. E-values may be looked at at any time. Looks at the i-th route held against another and in the j-th
  window looked at need log(2 / (alpha / (i (i + 1) j (j + 1)))), which spends alpha = 1 - confidence, a second one
  beside the guard's, over all routes and windows in the life of a process: with probability 1 - alpha at least, no
  route is ever named that is within the margins.
- That holds where messages are assigned by hash. A route which has no share gets the messages that name it; what
  differs may then be the messages, and the sentence says so.
- Who was named for being worse stays so until it, or what it was held against, is another policy, or it is the
  candidate at work: nobody looks every minute.
- Looked at once a minute, with the house.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from router_daemon.core.comparison import Comparison
from router_daemon.core.guard import Side, naming_needed
from router_daemon.core.rollout import ROLLED_BACK, Rollout
from router_daemon.core.routes import Route
from router_daemon.core.settings import RolloutSettings

if TYPE_CHECKING:
    from router_daemon.core.routing import Routes

CAUSES: Final = ("stopped", "replaced", "success", "p99", "unused")


class Named(Struct, frozen=True):
    """A route that is to be retired: by which of `CAUSES`, and why in a sentence."""

    route: str
    cause: str
    why: str

    def view(self) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        return {"route": self.route, "cause": self.cause, "why": self.why}


class _Use(Struct, frozen=True):
    """When a route's messages were last seen to grow: to how many, and how many all routes' were then."""

    own: int
    all: int
    at: float


class Retirement:
    """Names routes."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._placed = 0
        self._window: Side | None = None
        self._windows = 0
        self._worse: dict[str, Named] = {}
        self._uses: dict[str, _Use] = {}
        self._unused: dict[str, Named] = {}

    def named(self, rollout: Rollout | None) -> list[Named]:
        """Return every route that is to be retired, once for each cause."""
        said = [] if rollout is None else [Named(*each) for each in rollout.to_be_retired()]
        return [*said, *self._named()]

    def forget(self, names: Collection[str]) -> None:
        """Drop what was said of routes that are others by now, or are no more."""
        for table in (self._places, self._worse, self._uses, self._unused):
            for name in table.keys() & set(names):
                del table[name]

    def review(self, routes: Routes, settings: RolloutSettings, now: float, *, askable: bool) -> list[Named]:
        """Look at all routes, and return those that are named for the first time.

        Args:
            routes: of the broker.
            settings: what is allowed, and for how long one waits.
            now: seconds.
            askable: messages may name a route.
        """
        if len(routes.by_name) < 2:
            self._unused.clear()
            return []
        before = {(each.route, each.cause) for each in self._named()}
        self._count_windows(routes, settings, now)
        self._compare(routes, settings)
        self._look_for_unused(routes, settings, now, askable)
        return [each for each in self._named() if (each.route, each.cause) not in before]

    def _named(self) -> list[Named]:
        return [*self._worse.values(), *self._unused.values()]

    # --- worse ---

    def _count_windows(self, routes: Routes, settings: RolloutSettings, now: float) -> None:
        """Begin a window where no rollout does so, and note whether this is another one than at the last look."""
        tallies = [route.tally for route in routes.by_name.values() if route.tally is not None]
        rollout, stable = routes.rollout, routes.stable.tally
        if rollout is None or rollout.state == ROLLED_BACK:
            side = None if stable is None else stable.side
            over = side is None or (now - side.began_at >= settings.window_s and side.answers >= settings.min_answers)
            if over or any(tally.side is None for tally in tallies):
                for tally in tallies:
                    tally.side = Side(now)
        if stable is not None and stable.side is not self._window:
            self._window = stable.side
            self._windows += 1

    def _compare(self, routes: Routes, settings: RolloutSettings) -> None:
        rollout = routes.rollout
        if rollout is not None and rollout.state != ROLLED_BACK:
            self._worse.pop(rollout.candidate.name, None)
        for route, comparison in _comparisons(routes, settings):
            if route.name in self._worse or not (comparison.mine.answers and comparison.reference.answers):
                continue
            if route.name not in self._places:
                self._placed += 1
                self._places[route.name] = self._placed
            needed = naming_needed(settings.confidence, self._windows, self._places[route.name])
            verdict = comparison.verdict(needed)
            if verdict is not None:
                by_name = rollout is None or not rollout.shares().get(route.name)
                caveat = "; only messages that name it take it, so what differs may be those" if by_name else ""
                self._worse[route.name] = Named(route.name, verdict.of, verdict.detail + caveat)

    # --- unused ---

    def _look_for_unused(self, routes: Routes, settings: RolloutSettings, now: float, askable: bool) -> None:
        counts = {name: _ended(route) for name, route in routes.by_name.items()}
        everything = sum(counts.values())
        self._unused.clear()
        for name, own in counts.items():
            use = self._uses.get(name)
            if use is None or use.own != own:
                use = self._uses[name] = _Use(own, everything, now)
            if name == routes.stable.name or (routes.rollout is not None and routes.rollout.shares().get(name)):
                continue
            others = everything - use.all
            if (reason := _unreachable(routes.rollout, name, askable)) is not None:
                self._unused[name] = Named(name, "unused", reason)
            elif now - use.at >= settings.window_s and others >= settings.min_answers:
                why = f"none of {others} messages took it in {(now - use.at) / 60.0:.0f} minutes"
                self._unused[name] = Named(name, "unused", f"{why}; {_standing(routes.rollout, name)}")


def _comparisons(routes: Routes, settings: RolloutSettings) -> Iterator[tuple[Route, Comparison]]:
    """Yield what is held against what: each route against stable, and stable against a baseline."""
    rollout, stable = routes.rollout, routes.stable
    reference = _side(stable) if rollout is None else rollout.reference()
    for route in routes.by_name.values():
        mine = _side(route)
        if route is stable:
            baseline = None if rollout is None else rollout.baseline
            against = None if baseline is None else _side(baseline)
            if baseline is not None and mine is not None and against is not None:
                yield route, Comparison(mine, against, settings, baseline.name)
        elif not _is_guarded(route, rollout) and mine is not None and reference is not None:
            yield route, Comparison(mine, reference, settings)


def _is_guarded(route: Route, rollout: Rollout | None) -> bool:
    """Tell whether the route is the candidate, which the guard looks at, or the control group."""
    if rollout is None:
        return False
    return route is rollout.control or (route is rollout.candidate and rollout.state != ROLLED_BACK)


def _side(route: Route) -> Side | None:
    return None if route.tally is None else route.tally.side


def _ended(route: Route) -> int:
    return 0 if route.tally is None else sum(route.tally.outcomes.values())


def _standing(rollout: Rollout | None, name: str) -> str:
    """Return why a route has no share."""
    if rollout is None:
        return "there is no rollout"
    if name != rollout.candidate.name:
        return "the rollout does not refer to it"
    return f"rolled back: {rollout.reason}" if rollout.state == ROLLED_BACK else "the rollout gives it 0 %"


def _unreachable(rollout: Rollout | None, name: str, askable: bool) -> str | None:
    """Return why no message can take a route; None where one can, or will again."""
    if askable or (rollout is not None and any(route.name == name for route in rollout.routes())):
        return None
    return f"{_standing(rollout, name)}, and messages may not name it (routing.allow_policy)"

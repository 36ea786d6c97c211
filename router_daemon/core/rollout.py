"""A rollout: which messages try a candidate route, when it gets more of them, and when it gets none.

Rules:
- A message's place in [0, 1) is a hash of the rollout's name and its `key`, else its trace id, else its own name. The
  candidate has the places from 0 to percent, the control group the last ones, stable what is between: so a key stays
  where it is as percent rises, the control group never changes, and every daemon and process says the same.
- The guard compares the candidate with stable over one window, see `guard`. A window begins with each change of
  percent, and after `window_s`; window j may stop a harmless candidate with probability alpha / (j (j + 1)), alpha =
  1 - confidence, which is alpha for all of them together, half for success and half for p99.
- A stage ends after its time *and* enough answers on both sides *and* "worse by more than allowed" rejected, for
  success and for p99; else it stays, and `missing` says for what.
- After a verdict, or with the candidate's breaker open, the candidate gets nothing more until a person says `resume`.
- At 100 % the candidate is compared with the control group, where that is as stable is.
- Overrides send all new messages of a capability to one backend for a time, as if each had named it; while that backend
  is not there they have no effect, as they must lose nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

from msgspec import UNSET, Struct

from router_daemon.core.comparison import Comparison, Verdict
from router_daemon.core.events import Request
from router_daemon.core.guard import Evidence, Side, alarm_needed, fine_needed
from router_daemon.core.routes import Route
from router_daemon.core.settings import RolloutSettings
from router_daemon.core.tally import Tally

RUNNING: Final = "running"
ROLLED_BACK: Final = "rolled back"
DONE: Final = "done"
TICK_S: Final = 0.25
"""How often the guard looks: a verdict takes effect at once."""
MOST_EVENTS: Final = 256
MOST_FALLBACKS: Final = 0.01
"""Of the candidate's messages, what the fallback may have decided: more says nothing of its own policy."""
FORMAT: Final = 1
_HASH_BYTES: Final = 7
_PLACES: Final = float(1 << 8 * _HASH_BYTES)
"""56 bits over it is below 1 in every float."""


class Happened(Struct, frozen=True):
    """Something that a person should know: when (seconds, the broker's clock), what, of which route, and why."""

    at: float
    what: str
    route: str
    detail: str


class Rollout:
    """The state of one rollout.

    Args:
        settings: see `RolloutSettings`.
        stable, candidate, control: the routes; control None: no control group.
        twin: the control group's route is as stable's, so that both are one side of the comparison.
        everyone: returns all routes, of which each counts in the same window; None: those of the rollout.

    Attributes:
        name: what keys are hashed with.
        state: `running`, `rolled back` or `done`. reason: why it was rolled back.
        percent: the candidate's, while it runs. stage: how many stages have been begun.
        history: of what happened, the newest last; news: the same, for the shell to log and clear. told: how often
            something happened, ever.
        verdicts: how often the guard stopped the candidate, by what.
        elsewhere: it is rolled back as another daemon said so.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        stable: Route,
        candidate: Route,
        control: Route | None,
        *,
        twin: bool = True,
        everyone: Callable[[], Iterable[Route]] | None = None,
    ) -> None:
        self.settings = settings
        self.stable, self.candidate, self.control = stable, candidate, control
        self._twin = twin
        self._everyone = everyone or self.routes
        self.name = settings.name or candidate.name
        self._salt = blake2b(f"{self.name}\0".encode(), digest_size=_HASH_BYTES)
        self.state = RUNNING
        self.reason = ""
        self.elsewhere = False
        self.percent = settings.first_percent
        self.began_at = 0.0
        self.windows = 0
        self.window_at = 0.0
        self.history: deque[Happened] = deque(maxlen=MOST_EVENTS)
        self.news: list[Happened] = []
        self.told = 0
        self.verdicts = {"success": 0, "p99": 0, "policy": 0}
        self._retired: dict[str, tuple[str, str]] = {}
        self._restored = False
        for route in self.routes():
            route.tally = route.tally or Tally()
            route.tally.side = Side(0.0)
        self._share()

    def routes(self) -> Iterator[Route]:
        """Yield stable, candidate and control."""
        yield self.stable
        yield self.candidate
        if self.control is not None:
            yield self.control

    # --- who takes which ---

    def assign(self, request: Request, name: str) -> Route:
        """Return the route of a message; `name`: its own, where nothing else says whom it belongs to."""
        place = self.place(request, name)
        if place < self._below:
            return self.candidate
        return self.stable if place < self._control_from or self.control is None else self.control

    def place(self, request: Request, name: str) -> float:
        """Return where a message stands, evenly spread over [0, 1)."""
        digest = self._salt.copy()
        digest.update(self._belongs_to(request, name).encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest(), "big") / _PLACES

    def _belongs_to(self, request: Request, name: str) -> str:
        sticky = self.settings.sticky
        if sticky == "key" and request.key is not UNSET:
            return f"k{request.key}"
        if sticky != "message" and request.traceparent is not UNSET:
            fields = request.traceparent.split("-", 3)  # W3C: version-trace-span-flags
            if len(fields) == 4 and len(fields[1]) == 32:
                return f"t{fields[1]}"
        return f"m{name}"

    def _share(self) -> None:
        """Set the bounds between the routes."""
        control = self.settings.control_percent / 100.0 if self.control is not None else 0.0
        self._control_from = 1.0 - control
        self._below = min(self.percent / 100.0, self._control_from) if self.state != ROLLED_BACK else 0.0

    def shares(self) -> dict[str, float]:
        """Return which part of the messages each route gets, in percent."""
        shares = {self.stable.name: self._control_from - self._below, self.candidate.name: self._below}
        if self.control is not None:
            shares[self.control.name] = 1.0 - self._control_from
        return {name: 100.0 * share for name, share in shares.items()}

    # --- what happens by itself ---

    def begin(self, now: float) -> None:
        """Begin the first stage, or go on with a restored one."""
        if not self._restored:
            self.began_at = now
            self._new_window(now)

    def tick(self, now: float) -> None:
        """Look: stop the candidate, or let it have more, or begin another window."""
        if self.state == ROLLED_BACK:
            return
        if self.candidate.opened_at is not None:
            self._stop("policy", "the candidate's breaker is open", now)
            return
        verdict = self.verdict()
        if verdict is not None:
            self._stop(verdict.of, verdict.detail, now)
            return
        if self.state == RUNNING and not any(self.missing(now)):
            self._end_stage(now)
        elif now - self.window_at >= self.settings.window_s and self._enough():
            self._new_window(now)

    def _stop(self, cause: str, detail: str, now: float) -> None:
        self.verdicts[cause] += 1
        self._tell("rollout stopped", self.candidate, detail, now)
        self._roll_back(detail, now)
        self._retire(self.candidate, "stopped", detail, now)

    def _roll_back(self, reason: str, now: float, *, elsewhere: bool = False) -> None:
        self.state, self.reason, self.elsewhere = ROLLED_BACK, reason, elsewhere
        self._share()
        self._new_window(now)

    def _end_stage(self, now: float) -> None:
        further = [stage for stage in self.settings.stages if stage > self.percent]
        if further:
            self._go_to(further[0], "the stage before has ended well", now)
            return
        self.state = DONE
        self._tell("rollout done", self.candidate, f"no worse than stable at {self.percent:g} %", now)
        if self.percent >= 100.0:
            self._retire(self.stable, "replaced", self._successor(), now)

    def _go_to(self, percent: float, why: str, now: float) -> None:
        self.percent = percent
        self.state, self.reason, self.began_at = RUNNING, "", now
        self._retired.clear()
        self._share()
        self._new_window(now)
        self._tell("rollout stage", self.candidate, f"{percent:g} % of the messages: {why}", now)

    def _new_window(self, now: float) -> None:
        self.windows += 1
        self.window_at = now
        for route in self._everyone():
            if route.tally is not None:
                route.tally.side = Side(now)

    def _tell(self, what: str, route: Route, detail: str, now: float) -> None:
        happened = Happened(now, what, route.name, detail)
        self.history.append(happened)
        self.news.append(happened)
        self.told += 1

    def _retire(self, route: Route, cause: str, why: str, now: float) -> None:
        if route.name not in self._retired:
            self._retired[route.name] = (cause, why)
            self._tell("route to be retired", route, why, now)

    def _successor(self) -> str:
        return f"{self.candidate.name} has taken its place"

    def to_be_retired(self) -> list[tuple[str, str, str]]:
        """Return which of its routes are: name, `stopped` or `replaced`, and why."""
        return [(name, *why) for name, why in sorted(self._retired.items())]

    # --- the guard ---

    def sides(self) -> tuple[Side, Side]:
        """Return what was counted of the candidate and of what it is compared with, in this window."""
        return _side(self.candidate), self.reference()

    def reference(self) -> Side:
        """Return what was counted of what others are compared with: stable, its twin, or who is left at 100 %."""
        reference = _side(self.stable)
        if self.control is not None and (self._twin or self._below >= self._control_from):
            return reference.plus(_side(self.control)) if self._twin else _side(self.control)
        return reference

    @property
    def baseline(self) -> Route | None:
        """The control group's route, where it is another one than stable's."""
        return None if self._twin else self.control

    def comparison(self) -> Comparison:
        """Return the candidate, and what it is held against."""
        return Comparison(*self.sides(), self.settings)

    def evidence(self) -> dict[str, Evidence]:
        """Return log e-values, of success and of p99."""
        return self.comparison().evidence()

    def verdict(self) -> Verdict | None:
        """Return why the candidate is to be stopped; None while nothing says so."""
        return self.comparison().verdict(alarm_needed(self.settings.confidence, self.windows))

    def _enough(self) -> bool:
        return all(side.answers >= self.settings.min_answers for side in self.sides())

    def missing(self, now: float) -> Iterator[str]:
        """Yield, for people, what the stage waits for."""
        settings, comparison = self.settings, self.comparison()
        left_s = settings.stage_s - (now - self.began_at)
        if left_s > 0.0:
            yield f"{left_s:.0f} s of the stage's time"
        for side, whose in zip(comparison[:2], (self.candidate.name, "stable"), strict=True):
            if side.answers < settings.min_answers:
                yield f"{settings.min_answers - side.answers} answers of {whose} in this window"
        for of, (_, fine) in comparison.evidence().items():
            if fine < fine_needed(settings.confidence):
                yield f"proof that {of} is not worse: {comparison.words(of)}"
        if (share := self._fallbacks()) > MOST_FALLBACKS:
            yield f"decisions of the candidate's own policy: the fallback made {share:.1%} of them"

    def _fallbacks(self) -> float:
        tally = self.candidate.tally
        messages = sum(tally.outcomes.values()) if tally is not None else 0
        return sum(self.candidate.fallbacks.values()) / messages if messages else 0.0

    # --- what people say ---

    def advance(self, now: float) -> None:
        """Go to the next stage though the present one has not ended."""
        further = [stage for stage in self.settings.stages if stage > self.percent]
        self._go_to(further[0] if further else self.percent, "a person says so", now)

    def set_percent(self, percent: float, now: float) -> None:
        """Give the candidate this share; further stages are those above it.

        Raises:
            ValueError: not from 0 to 100.
        """
        if not 0.0 <= percent <= 100.0:
            raise ValueError(f"percent must be from 0 to 100, got {percent:g}")
        self._go_to(percent, "a person says so", now)

    def roll_back(self, now: float, why: str = "a person says so") -> None:
        """Give all that the candidate has to stable."""
        self._tell("rollout rolled back", self.candidate, why, now)
        self._roll_back(why, now)

    def stop_elsewhere(self, daemon: str, now: float) -> None:
        """Roll back as another daemon has stopped the rollout of this name."""
        why = f"daemon {daemon} has stopped it"
        self._tell("rollout rolled back", self.candidate, why, now)
        self._roll_back(why, now, elsewhere=True)

    def resume(self, now: float) -> None:
        """Begin again, at the first stage, after it was stopped or rolled back."""
        self.candidate.close()
        self._go_to(self.settings.stages[0] if self.settings.stages else self.percent, "resumed by a person", now)

    # --- over a restart ---

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return what must survive a restart, as plain data with ages instead of times."""
        return {
            "format": FORMAT,
            "name": self.name,
            "candidate": self.candidate.name,
            "state": self.state,
            "reason": self.reason,
            "elsewhere": self.elsewhere,
            "percent": self.percent,
            "stage_age_s": now - self.began_at,
            "windows": self.windows,
            "verdicts": dict(self.verdicts),
            "retired": sorted(self._retired),
            "history": self._told(now),
        }

    def restore(self, kept: dict[str, Any], now: float) -> bool:
        """Go on as an earlier process left off, with a new window; False where that was another rollout."""
        if (kept.get("format"), kept.get("name"), kept.get("candidate")) != (FORMAT, self.name, self.candidate.name):
            return False
        self.state, self.reason, self.percent = kept["state"], kept["reason"], kept["percent"]
        self.elsewhere = kept.get("elsewhere", False)
        self.began_at = now - kept["stage_age_s"]
        self.windows = kept["windows"]
        self.verdicts.update(kept["verdicts"])
        for name in kept["retired"]:
            stopped = name == self.candidate.name
            self._retired[name] = ("stopped", self.reason) if stopped else ("replaced", self._successor())
        for each in kept.get("history", ()):
            self.history.append(Happened(now - each["age_s"], each["what"], each["route"], each["detail"]))
        self._restored = True
        self._share()
        self._new_window(now)
        return True

    # --- for people ---

    def view(self, now: float) -> dict[str, Any]:
        """Return it as plain data for JSON."""
        comparison = self.comparison()
        mine, reference = comparison[:2]
        compared = {
            of: {"worse": found.worse, "fine": found.fine, "what": comparison.words(of)}
            for of, found in comparison.evidence().items()
        }
        return {
            "name": self.name,
            "state": self.state,
            "reason": self.reason or None,
            "candidate": self.candidate.name,
            "percent": self.shares(),
            "stages": list(self.settings.stages),
            "stage_s": now - self.began_at,
            "missing": list(self.missing(now)) if self.state == RUNNING else [],
            "window": {
                "number": self.windows,
                "age_s": now - _side(self.stable).began_at,
                "answers": {self.candidate.name: mine.answers, "stable": reference.answers},
                "log_e_values": compared,
                "stops_at": alarm_needed(self.settings.confidence, self.windows),
                "may_go_on_at": fine_needed(self.settings.confidence),
            },
            "verdicts": dict(self.verdicts),
            "to_be_retired": sorted(self._retired),
            "history": self._told(now),
        }

    def _told(self, now: float) -> list[dict[str, Any]]:
        return [
            {"age_s": now - each.at, "what": each.what, "route": each.route, "detail": each.detail}
            for each in self.history
        ]


def _side(route: Route) -> Side:
    assert route.tally is not None
    assert route.tally.side is not None
    return route.tally.side

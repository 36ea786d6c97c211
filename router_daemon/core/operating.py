"""What people may say to a running broker: the rollout's rollback, resume, advance, percent; overrides; drains.

Rules:
- What makes no sense now is refused with one sentence, and changes nothing. A rollout that was rolled back gets no
  share by `advance` or `percent`: only `resume` says that somebody has looked at why.
- Saying twice that the rollout is rolled back is as good as once: two people may be on call.
- While it is held (a file says so), the rollout is rolled back and nothing else; when the hold ends it stays so until
  somebody resumes it.
- What was said is remembered: when, what, in which words, by whom. The memory is bounded.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from router_daemon.core.broker import Broker
from router_daemon.core.rollout import ROLLED_BACK, RUNNING, Rollout

MOST_ACTS: Final = 256
MOST_KINDS: Final = 32
OTHER: Final = "other"
NOBODY: Final = "a person says so"


class Refused(Exception):  # noqa: N818 - a refusal, with the sentence that says why
    """It makes no sense now."""


class Act(Struct, frozen=True):
    """Something that was said: when (seconds since 1970), what, its details, and by whom."""

    at: float
    what: str
    detail: str
    by: str


class Operator:
    """Does what people say.

    Args:
        broker: whose rollout and overrides they speak of.

    Attributes:
        held: why the rollout may not go on, "" where it may.
        acts: what was said, the newest last. said: how often something was, ever.
        counts: the same by what, in this process; beyond `MOST_KINDS` under `OTHER`.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.held = ""
        self.acts: deque[Act] = deque(maxlen=MOST_ACTS)
        self.said = 0
        self.counts: Counter[str] = Counter()
        self._seen: Rollout | None = None
        self._rollouts = 0

    def roll_back(self, now: float, why: str = NOBODY) -> str:
        """Give all that the candidate has to stable, and return what was done in words.

        Raises:
            Refused: there is no rollout.
        """
        rollout = self._rollout()
        if rollout.state == ROLLED_BACK:
            return f"{rollout.candidate.name} had been rolled back already: {rollout.reason}"
        rollout.roll_back(now, why)
        return why

    def resume(self, now: float) -> str:
        """Begin the rollout again, at its first stage.

        Raises:
            Refused: there is none, it is held, or it has not been stopped.
        """
        rollout = self._free()
        if rollout.state == RUNNING:
            raise Refused(f"the rollout is running, at {rollout.percent:g} %: there is nothing to resume")
        rollout.resume(now)
        return f"at {rollout.percent:g} %"

    def advance(self, now: float) -> str:
        """Go to the next stage.

        Raises:
            Refused: there is no rollout or no further stage, or it is held or rolled back.
        """
        rollout = self._going()
        if all(stage <= rollout.percent for stage in rollout.settings.stages):
            raise Refused(f"{rollout.percent:g} % is the last stage")
        rollout.advance(now)
        return f"to {rollout.percent:g} %"

    def set_percent(self, percent: float, now: float) -> str:
        """Give the candidate this share.

        Raises:
            Refused: there is no rollout, or it is held or rolled back.
            ValueError: not from 0 to 100.
        """
        self._going().set_percent(percent, now)
        return f"to {percent:g} %"

    def override(self, capability: str, backend: str, for_s: float, now: float) -> str:
        """Send a capability's new messages to one backend for so long.

        Raises:
            Refused: that backend is not there, drains or cannot do it, so that it would have no effect now.
            ValueError: of the time or the number of overrides.
        """
        found = self._broker.registry.by_name.get(backend)
        if found is None:
            raise Refused(f"no backend {backend!r} is registered")
        if found.draining:
            raise Refused(f"backend {backend!r} {'drains' if found.leaving else 'is drained: undrain it first'}")
        if self._broker.settings.require_capability and capability not in found.info.capabilities:
            raise Refused(f"backend {backend!r} does not offer {capability!r}")
        self._broker.overrides.set(capability, backend, for_s, now)
        return f"{capability} to {backend} for {for_s:g} s"

    def end_override(self, capability: str) -> str:
        """End the override of a capability.

        Raises:
            Refused: there is none.
        """
        if not self._broker.overrides.clear(capability):
            raise Refused(f"there is no override for {capability!r}")
        return capability

    def drain(self, name: str, now: float) -> str:
        """Send a backend nothing new, and whoever comes back under its name, until `undrain`.

        Raises:
            Refused: nobody of that name is there, or was in the last ten minutes.
            ValueError: of the number of those drained.
        """
        registry = self._broker.registry
        if not (name in registry.by_name or name in registry.remembered() or name in registry.drains.since):
            raise Refused(f"no backend {name!r} is registered")
        return name if self._broker.members.set_drained(name, True, now) else f"{name} had been drained already"

    def undrain(self, name: str, now: float) -> str:
        """Let a backend have messages again.

        Raises:
            Refused: nobody has drained it; what drains by itself, only its own REGISTER can bring back.
        """
        if not self._broker.members.set_drained(name, False, now):
            raise Refused(f"backend {name!r} is not drained by anybody")
        return name

    def hold(self, why: str, now: float) -> bool:
        """Keep the rollout rolled back from now on, and tell whether that is new; said again and again while it lasts.

        "" ends the hold, and changes nothing else.
        """
        new, self.held = why != self.held, why
        if new and why:
            self._count("rollback_file")
        rollout = self._broker.routes.rollout
        if why and rollout is not None and rollout.state != ROLLED_BACK:
            rollout.roll_back(now, why)
        return new

    def remember(self, act: Act) -> None:
        """Keep what was said."""
        self.acts.append(act)
        self.said += 1
        self._count(act.what.replace(" ", "_"))

    def recall(self, acts: Iterable[Act]) -> None:
        """Take in what was said to an earlier process."""
        self.acts.extend(acts)

    def _count(self, what: str) -> None:
        self.counts[what if what in self.counts or len(self.counts) < MOST_KINDS else OTHER] += 1

    def revision(self) -> tuple[int, ...]:
        """Return numbers of which one differs after each change that must outlive a restart."""
        rollout, overrides = self._broker.routes.rollout, self._broker.overrides
        if rollout is not self._seen:  # another one may have happened to count as far
            self._seen, self._rollouts = rollout, self._rollouts + 1
        told = (0, 0) if rollout is None else (rollout.told, rollout.windows)
        return (self._rollouts, *told, overrides.changes, self._broker.registry.drains.changes, self.said)

    def view(self) -> dict[str, Any]:
        """Return what /routes shows of it, as plain data for JSON."""
        return {
            "held": self.held or None,
            "acts": [{"at": act.at, "what": act.what, "detail": act.detail, "by": act.by} for act in self.acts],
        }

    def _rollout(self) -> Rollout:
        rollout = self._broker.routes.rollout
        if rollout is None:
            raise Refused("there is no rollout: rollout.candidate names none")
        return rollout

    def _free(self) -> Rollout:
        rollout = self._rollout()
        if self.held:
            raise Refused(f"the rollout is held back: {self.held}")
        return rollout

    def _going(self) -> Rollout:
        rollout = self._free()
        if rollout.state == ROLLED_BACK:
            raise Refused(f"the rollout is rolled back ({rollout.reason}): resume it first")
        return rollout

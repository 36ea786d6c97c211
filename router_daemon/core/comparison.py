"""One side held against another by the guard's e-values, and in words."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from router_daemon.core.guard import Evidence, Side, p99_evidence, success_evidence
from router_daemon.core.settings import RolloutSettings


class Verdict(Struct, frozen=True):
    """What was found: worse by `success` or by `p99`, with log e-value and threshold."""

    of: str
    evidence: float
    needed: float
    detail: str


class Comparison(NamedTuple):
    """A side, and what it is held against, under what is allowed; `than`: the name of the latter."""

    mine: Side
    reference: Side
    settings: RolloutSettings
    than: str = "stable"

    def evidence(self) -> dict[str, Evidence]:
        """Return log e-values, of success and of p99."""
        return {
            "success": success_evidence(self.mine, self.reference, self.settings.max_success_drop),
            "p99": p99_evidence(self.mine, self.reference, self.settings.max_p99_ratio),
        }

    def verdict(self, needed: float) -> Verdict | None:
        """Return by what it is worse; None while there is less evidence than `needed`."""
        for of, (worse, _) in self.evidence().items():
            if worse >= needed:
                return Verdict(of, worse, needed, f"{self.words(of)} (log e-value {worse:.1f} of {needed:.1f})")
        return None

    def words(self, of: str) -> str:
        """Return the figures that are compared."""
        mine, other, settings = self.mine, self.reference, self.settings
        if of == "success":
            return (
                f"success {_percent(mine.success)} of {mine.answers} answers, {self.than} {_percent(other.success)} of "
                f"{other.answers}; {settings.max_success_drop:.2%} less is allowed"
            )
        return (
            f"p99 {_ms(mine.p99_s)} of {mine.answered} answers, {self.than} {_ms(other.p99_s)} of {other.answered}; "
            f"{settings.max_p99_ratio:g} times as much is allowed"
        )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"


def _ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000.0:.3g} ms"

"""What is checked, and what came of it.

Rules:
- A check has an id that stays, and a sentence of docs/protocol.md that it stands on, word for word (a test looks).
- The first failure of a check is its verdict, whatever comes later: what is wrong once is wrong.
- What nobody did is *not seen*, never passed; the finding then says what would show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

Verdict = Literal["pass", "fail", "not seen"]


class Check(NamedTuple):
    """One thing that a peer has to do.

    Attributes:
        id: its name, which never changes.
        title: what a peer that passes does, in a few words.
        section: the heading of docs/protocol.md under which the sentence stands.
        quote: the sentence.
        shown_by: what a program has to do or offer so that this can be seen.
    """

    id: str
    title: str
    section: str
    quote: str
    shown_by: str = "a longer run, without --only"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check.

    Attributes:
        expected: and received: of a failure, for a person; each may have several lines.
        note: what there is to say beside: why it was not seen.
    """

    check: Check
    verdict: Verdict
    expected: str = ""
    received: str = ""
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the finding as JSON has it."""
        check = self.check
        about = {"id": check.id, "verdict": self.verdict, "title": check.title}
        source = {"section": check.section, "quote": check.quote}
        return about | source | {"expected": self.expected, "received": self.received, "note": self.note}


class Book:
    """The verdict on each check so far.

    Args:
        checks: those that there are, in the order in which they are shown.
    """

    def __init__(self, checks: Iterable[Check]) -> None:
        self._checks: Final = {check.id: check for check in checks}
        self._failed: dict[str, Finding] = {}
        self._passed: set[str] = set()
        self._unseen: dict[str, str] = {}

    def __iter__(self) -> Iterator[Finding]:
        return map(self.finding, self._checks)

    def passed(self, ident: str) -> None:
        """Note that the peer did what this check asks for."""
        assert ident in self._checks, ident
        self._passed.add(ident)

    def failed(self, ident: str, expected: str, received: str) -> None:
        """Note what the peer did instead; only the first time counts."""
        check = self._checks[ident]
        self._failed.setdefault(ident, Finding(check, "fail", expected, received))

    def unseen(self, ident: str, why: str) -> None:
        """Note why a check could not be made, should it stay so."""
        assert ident in self._checks, ident
        self._unseen.setdefault(ident, why)

    def decided(self, ident: str) -> bool:
        """Tell whether there is a verdict."""
        return ident in self._failed or ident in self._passed

    def finding(self, ident: str) -> Finding:
        """Return what came of a check."""
        check = self._checks[ident]
        if (failure := self._failed.get(ident)) is not None:
            return failure
        if ident in self._passed:
            return Finding(check, "pass")
        return Finding(check, "not seen", note=self._unseen.get(ident, f"would be shown by {check.shown_by}"))

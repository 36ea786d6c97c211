"""The ledger of the driver: every SEND, what became of it, and whatever must not happen.

Rules:
- A message is open until its one last answer, or until the driver gives it up and says why (`give_up`). What the ledger
  balances is an identity of counts, so it is checked against a third number, how many ids were given out.
- Ids are given out in order and never twice: an answer to one that is not open is an answer too many. Only what a
  client gave up as lost may still be answered, once: it is booked anew.
- Accounts are kept for each life of the daemon (from its start to its end) and each capability, since the daemon's own
  books begin anew with each life.
- Whether an answer was late is judged by when the driver had last looked and it was not there yet, so that a late look
  of the driver's is not the daemon's fault. Time in which the daemon could not run (`paused`) is added; that it had no
  processor is known a little later, so answers that may be late are judged in the end.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

PROMISE_S: Final = 0.1
"""What docs/protocol.md promises: the last answer by ttl_ms + 100 ms after the daemon read the SEND."""
FATES: Final = (
    "answered",
    "failed",
    "refused",
    "expired",
    "cancelled",
    "client gone",
    "daemon gone",
    "lost",
    "open",
)
_FATE_OF: Final = {
    "answered": "answered",
    "accepted": "answered",
    "failed": "failed",
    "rejected": "failed",
    "internal": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
GIVEN_UP: Final = ("client gone", "daemon gone", "lost")


def fate(outcome: str) -> str:
    """Return the column of the ledger for an outcome: an error code, or how the driver calls it."""
    return outcome if outcome in GIVEN_UP or outcome == "open" else _FATE_OF.get(outcome, "refused")


def _outcome(verb: str, header: dict[str, Any]) -> str:
    return {"REPLY": "answered", "ACCEPT": "accepted"}.get(verb) or str(header.get("code"))


class Account:
    """The messages of one capability in one life of the daemon, by outcome."""

    def __init__(self) -> None:
        self.sent = 0
        self.outcomes: Counter[str] = Counter()

    def by_fate(self) -> dict[str, int]:
        """Return the counts in the ledger's columns; what is neither answered nor given up is open."""
        found = dict.fromkeys(FATES, 0)
        for outcome, count in self.outcomes.items():
            found[fate(outcome)] += count
        found["open"] = self.sent - sum(self.outcomes.values())
        return found


class Window:
    """Messages that are watched as a group: how many of them were answered in time."""

    def __init__(self) -> None:
        self.offered = 0
        self.answered = 0
        self.latencies_s: list[float] = []

    @property
    def goodput(self) -> float:
        """Return the share that was answered."""
        return self.answered / self.offered if self.offered else 1.0


class Entry:
    """One SEND without its last answer; `timed`: nothing but the daemon can delay its answer."""

    __slots__ = ("account", "sent_s", "timed", "ttl_s", "window")

    def __init__(self, account: Account, sent_s: float, ttl_s: float, window: Window | None, *, timed: bool) -> None:
        self.account = account
        self.sent_s = sent_s
        self.ttl_s = ttl_s
        self.window = window
        self.timed = timed


class Books:
    """All accounts, all open messages, and every fault found; `slack_s` is what the machine may add to a promise."""

    def __init__(self, slack_s: float) -> None:
        self.slack_s = slack_s
        self.lives: list[dict[str, Account]] = [{}]
        self.open: dict[int, Entry] = {}
        self.issued = self.unsent_ids = 0
        self.faults: list[str] = []
        self.late = self.excused = 0
        self.twice = 0
        self.worst_late_s = float("-inf")
        self.timed = 0
        self.window: Window | None = None
        self._lost: dict[int, Account] = {}
        self._pauses: list[tuple[float, float]] = []
        self._suspects: list[tuple[str, float, float, float]] = []

    def new_life(self) -> None:
        """Another daemon process answers from now on."""
        self.lives.append({})

    def account(self, capability: str) -> Account:
        """Return the account of a capability in the present life."""
        return self.lives[-1].setdefault(capability, Account())

    def sent(self, capability: str, ttl_s: float, now_s: float, *, timed: bool, watched: bool = False) -> int:
        """Note a SEND and return the id for it."""
        self.issued += 1
        account = self.account(capability)
        account.sent += 1
        window = self.window if watched else None
        if window is not None:
            window.offered += 1
        self.open[self.issued] = Entry(account, now_s, ttl_s, window, timed=timed)
        return self.issued

    def unsent(self, ident: int) -> None:
        """Take back a SEND that the socket did not take."""
        entry = self.open.pop(ident)
        entry.account.sent -= 1
        self.unsent_ids += 1
        if entry.window is not None:
            entry.window.offered -= 1

    def answer(self, ident: Any, verb: str, header: dict[str, Any], now_s: float, looked_s: float) -> bool:
        """Note a message of the daemon's about a SEND and return whether that one has ended.

        Args:
            ident: the id in it.
            verb: REPLY, ERROR, ACCEPT or PART.
            header: its header.
            now_s: when it was read.
            looked_s: when its socket had last been found empty.
        """
        entry = self.open.get(ident)
        if entry is None and ident in self._lost and header.get("last"):
            self._found(ident, verb, header)
            return True
        if entry is None:
            self.twice += 1
            self.fault(f"an answer too many: {verb} for {ident!r}: {header}")
            return True
        if not header.get("last"):
            return False
        del self.open[ident]
        outcome = _outcome(verb, header)
        entry.account.outcomes[outcome] += 1
        if entry.timed:
            self._time(ident, entry, outcome, looked_s)
        if entry.window is not None and outcome == "answered" and now_s - entry.sent_s <= entry.ttl_s + self.slack_s:
            entry.window.answered += 1
            entry.window.latencies_s.append(now_s - entry.sent_s)
        return True

    def give_up(self, ident: int, why: str) -> None:
        """End a message that will get no answer, for a reason of `GIVEN_UP`."""
        assert why in GIVEN_UP, why
        entry = self.open.pop(ident)
        entry.account.outcomes[why] += 1
        if why == "lost":
            self._lost[ident] = entry.account

    def _found(self, ident: int, verb: str, header: dict[str, Any]) -> None:
        """Book anew what was given up as lost and has an answer after all: its SEND had waited for a connection."""
        account = self._lost.pop(ident)
        account.outcomes["lost"] -= 1
        account.outcomes[_outcome(verb, header)] += 1

    def adopt(self, report: dict[str, Any]) -> None:
        """Take over the ledger of a client that kept its own: sent, outcomes, open, twice, deaf."""
        account = self.account(report["capability"])
        self.issued += report["sent"]
        account.sent += report["sent"]
        account.outcomes.update(report["outcomes"])
        self.twice += report["twice"]
        if report["twice"]:
            self.fault(f"{report['twice']} answers too many to the one that flooded")
        if report["deaf"]:
            account.outcomes["client gone"] += report["open"]
        else:
            account.outcomes["lost"] += report["open"]  # the daemon must say the same: it read too slowly

    def paused(self, from_s: float, to_s: float) -> None:
        """Note that the daemon was kept from running then: stopped, dead, or without a processor."""
        self._pauses.append((from_s, to_s))

    def fault(self, text: str) -> None:
        """Note what must not happen; only the first ones are kept in words."""
        if len(self.faults) < 50:
            self.faults.append(text)

    def _time(self, ident: int, entry: Entry, outcome: str, looked_s: float) -> None:
        self.timed += 1
        due_s = entry.sent_s + entry.ttl_s + PROMISE_S
        if looked_s > due_s:
            self._suspects.append((f"{ident}: {outcome}", entry.sent_s, due_s, looked_s))
        else:
            self.worst_late_s = max(self.worst_late_s, looked_s - due_s)

    def judge(self) -> None:
        """Tell which suspects were late although the daemon could run; those it could not help are `excused`."""
        for what, sent_s, due_s, looked_s in self._suspects:
            paused_s = math.fsum(max(0.0, min(to, looked_s) - max(start, sent_s)) for start, to in self._pauses)
            late_s = looked_s - due_s - paused_s
            self.worst_late_s = max(self.worst_late_s, late_s)
            if late_s > self.slack_s:
                self.late += 1
                self.fault(f"{what} came {late_s * 1000:.0f} ms after ttl + 100 ms")
            elif looked_s - due_s > self.slack_s:
                self.excused += 1
        self._suspects.clear()

    def totals(self) -> dict[str, Account]:
        """Return the accounts over all lives."""
        found: dict[str, Account] = {}
        for life in self.lives:
            for capability, account in life.items():
                total = found.setdefault(capability, Account())
                total.sent += account.sent
                total.outcomes.update(account.outcomes)
        return found

    def by_fate(self) -> Counter[str]:
        """Return the ledger's bottom line: how many were sent, and what became of them."""
        line: Counter[str] = Counter()
        for account in self.totals().values():
            line["sent"] += account.sent
            line.update(account.by_fate())
        return line

    def check(self) -> list[str]:
        """Return what is wrong with the driver's side; nothing, if every message has ended exactly once."""
        self.judge()
        line = self.by_fate()
        wrong = []
        if line["sent"] != self.issued - self.unsent_ids:
            wrong.append(f"{self.issued - self.unsent_ids} ids were used and {line['sent']} SENDs booked")
        if line["open"] != len(self.open):
            wrong.append(f"{line['open']} messages are open by their accounts and {len(self.open)} by name")
        if self.open:
            wrong.append(f"{len(self.open)} messages have no last answer, the first is {next(iter(self.open))}")
        if self.twice:
            wrong.append(f"{self.twice} answers to messages that had their last one, or never were")
        if self.late:
            wrong.append(
                f"{self.late} of {self.timed} answers came later than ttl + 100 ms + {self.slack_s * 1e3:.0f} ms"
            )
        return wrong

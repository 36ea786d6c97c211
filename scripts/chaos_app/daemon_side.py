"""The daemon's own books, read off /metrics, against the driver's.

Rules:
- A life of the daemon that ended quietly (nothing open, then read) must agree exactly where the driver knows exactly
  what was read; of one that was killed or drained the last page is from a moment before its end: a lower bound.
- What the driver cannot know is named: clients behind the proxy (`proxied`), those that flood and do not read (`deaf`).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import aiohttp

from chaos_app.books import Account

TIMEOUT_S: Final = 5.0
EXACT: Final = ("work", "oneway", "all", "bulk", "leaving", "flood")
"""Whose every SEND the daemon must have read."""
ALIKE: Final = ("work",)
"""Whose every answer arrives, under the outcome that the daemon counts."""
READ_SLOWLY: Final = ("bulk", "flood")
"""Of whose answers some may be dropped as unread: those, and as many as the daemon says."""
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Page:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for line in text.splitlines():
            match = _SAMPLE.match(line)
            if match is not None:
                self._samples[match[1], frozenset(_LABEL.findall(match[2] or ""))] = float(match[3])

    def value(self, name: str, **labels: str) -> float:
        """Return one sample, 0 where there is none."""
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def by(self, name: str, label: str, **labels: str) -> Counter[str]:
        """Return the samples of a name with these labels, by another label."""
        found: Counter[str] = Counter()
        for (sample, having), value in self._samples.items():
            those = dict(having)
            if sample == name and label in those and labels.items() <= those.items():
                found[those[label]] += int(value)
        return found

    def outcomes(self, capability: str) -> Counter[str]:
        """Return how that capability's messages ended."""
        return +self.by("router_messages_total", "outcome", capability=capability)


async def scrape(admin: str) -> Page | None:
    """Return the page as it is now, None where nobody answers."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"http://{admin}/metrics") as reply:
            return Page(await reply.text())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def compare(accounts: dict[str, Account], page: Page, *, quiet: bool) -> list[str]:
    """Return where the daemon's books of one life and the driver's contradict each other."""
    wrong = _compare_quiet(accounts, page) if quiet else []
    for capability, account in accounts.items():
        if capability == "proxied":  # what these send may be read by a later daemon than it was sent to
            continue
        read = page.outcomes(capability)
        if read.total() > account.sent:
            wrong.append(f"{capability}: {account.sent} SENDs, and the daemon ended {read.total()}")
        if capability in ALIKE:
            gone = account.outcomes["daemon gone"]
            wrong += [
                f"{capability}: the daemon ended {count} as {outcome}, {account.outcomes[outcome]} arrived"
                for outcome, count in read.items()
                if count > account.outcomes[outcome] + gone
            ]
    return wrong


def compare_proxied(lives: list[dict[str, Account]], pages: list[Page]) -> list[str]:
    """Return what contradicts over all lives: nothing is read twice, and no answer came from nowhere."""
    sent = sum(accounts["proxied"].sent for accounts in lives if "proxied" in accounts)
    read = sum(page.outcomes("proxied").total() + page.outcomes("unknown").total() for page in pages)
    return [f"proxied: {sent} SENDs, and the daemons ended {read}"] if read > sent else []


def _compare_quiet(accounts: dict[str, Account], page: Page) -> list[str]:
    wrong = [
        f"{name} is {page.value(name):.0f} with nothing open"
        for name in ("router_messages_in_flight", "router_messages_waiting")
        if page.value(name)
    ]
    wrong += [
        f"{capability}: the daemon ended {read[outcome]} as {outcome}, and {count} arrived"
        for capability in READ_SLOWLY
        for read in [page.outcomes(capability)]
        for outcome, count in _answers(accounts.get(capability, Account())).items()
        if count > read[outcome]
    ]
    for capability in EXACT:
        account, read = accounts.get(capability, Account()), page.outcomes(capability)
        if read.total() != account.sent:
            wrong.append(f"{capability}: {account.sent} SENDs, and the daemon ended {read.total()}")
        if capability in ALIKE and read != +_answers(account):
            wrong.append(f"{capability}: the daemon ended {dict(read)}, and {dict(account.outcomes)} arrived")
    return wrong + _compare_lost(accounts, page)


def _compare_lost(accounts: dict[str, Account], page: Page) -> list[str]:
    """Check that exactly those answers are missing that the daemon says it could not hand over."""
    unread = page.value("router_lost_answers_total", cause="unread")
    gone = page.value("router_lost_answers_total", cause="gone")
    missing = sum(accounts.get(name, Account()).outcomes["lost"] for name in READ_SLOWLY)
    deaf = page.outcomes("deaf").total()
    left = sum(accounts.get(name, Account()).sent for name in ("proxied", "leaving", "deaf"))
    wrong = []
    if not missing <= unread <= missing + deaf:
        wrong.append(f"{missing} answers are missing, and the daemon lost {unread:.0f} as unread ({deaf} to the deaf)")
    if gone > left:
        wrong.append(f"the daemon lost {gone:.0f} answers as gone, and only {left} could be")
    return wrong


def _answers(account: Account) -> Counter[str]:
    return Counter({outcome: count for outcome, count in account.outcomes.items() if outcome != "lost"})

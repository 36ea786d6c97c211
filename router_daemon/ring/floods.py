"""What every daemon tells all the others: its links, its backends. Taken in where it is new, and kept to be told again.

Rules:
- Of two reports the one with the larger (instance, seq) is the newer; an older one is not even passed on, so nothing
  circles. A new instance is another process: what was known of the one before is dropped.
- Nobody is believed for longer than `forget_s` after his last report. What is told again to a new neighbour says how
  old it is, so that two who tell each other of somebody gone do not keep him alive.
- A roster holds once all of its pages have come; until then the one before does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from router_daemon.ring.counts import RingCounts
from router_daemon.ring.messages import LinksHeader, Listed, ProfilesHeader, Report, RosterHeader
from router_daemon.ring.settings import RingSettings


@dataclass(slots=True, eq=False)
class Known:
    """What is known of one other daemon.

    Attributes:
        links, links_seq, heard_at: its last LINKS, and when that was said.
        roster: its backends by name; None before the first whole ROSTER. roster_seq, pages: of the last one.
        coming_seq, coming: a ROSTER of which pages are missing.
        profiles_seq: of the last PROFILES. reports: what they came to, by backend.
    """

    name: str
    instance: int
    heard_at: float
    links: dict[str, int] = field(default_factory=dict)
    links_seq: int = -1
    roster: dict[str, Listed] | None = None
    roster_seq: int = -1
    pages: list[RosterHeader] = field(default_factory=list)
    coming_seq: int = -1
    coming: dict[int, RosterHeader] = field(default_factory=dict)
    profiles_seq: int = -1
    reports: dict[str, Report] = field(default_factory=dict)


class Floods:
    """The other daemons by name.

    Attributes:
        replaced: names whose process is another one since somebody last emptied this.
        rival: the largest instance of another process that goes by our name, and when it was last heard; (0, 0.0).
    """

    def __init__(self, settings: RingSettings, counts: RingCounts) -> None:
        self._settings = settings
        self._counts = counts
        self.known: dict[str, Known] = {}
        self.replaced: list[str] = []
        self.rival: tuple[int, float] = (0, 0.0)

    def take_links(self, header: LinksHeader, now: float) -> bool:
        """Take in LINKS; tell whether they are news."""
        known = self._find(header, now - header.age_ms / 1000.0, now)
        if known is None or header.seq <= known.links_seq:
            return False
        known.links_seq, known.links = header.seq, header.links
        known.heard_at = max(known.heard_at, now - header.age_ms / 1000.0)
        return True

    def take_roster(self, header: RosterHeader, now: float) -> tuple[bool, bool]:
        """Take in a page of a ROSTER; tell whether it is news, and whether the roster is now whole."""
        known = self._find(header, now - header.age_ms / 1000.0, now)
        if known is None or header.seq <= known.roster_seq or header.seq < known.coming_seq:
            return False, False
        if header.seq > known.coming_seq:
            known.coming_seq = header.seq
            known.coming.clear()
        if header.page in known.coming or header.page >= header.pages:
            return False, False
        known.coming[header.page] = header
        if len(known.coming) < header.pages:
            return True, False
        known.pages = [known.coming[page] for page in sorted(known.coming)]
        known.roster_seq = header.seq
        known.coming.clear()
        listed = [backend for page in known.pages for backend in page.backends]
        self._counts.ignored += max(0, len(listed) - self._settings.max_backends)
        known.roster = {backend.name: backend for backend in listed[: self._settings.max_backends]}
        for name in known.reports.keys() - known.roster.keys():
            del known.reports[name]
        return True, True

    def take_profiles(self, header: ProfilesHeader, now: float) -> bool:
        """Take note of PROFILES; tell whether they are news."""
        known = self._find(header, now, now)
        if known is None or header.seq <= known.profiles_seq:
            return False
        known.profiles_seq = header.seq
        if known.roster is not None:
            known.reports.update((name, report) for name, report in header.backends.items() if name in known.roster)
        return True

    def forget_old(self, now: float) -> list[str]:
        """Drop who has not been heard of for long, and return the names."""
        old = [name for name, known in self.known.items() if now - known.heard_at > self._settings.forget_s]
        for name in old:
            del self.known[name]
        return old

    def forget_rival(self, now: float) -> bool:
        """Forget the process that goes by our name, where it has not been heard of for long; tell whether it is so."""
        if now - self.rival[1] <= self._settings.forget_s:
            return False
        self.rival = (0, 0.0)
        return True

    def all(self, now: float) -> Iterator[LinksHeader | RosterHeader]:
        """Yield everything that is known, for a new neighbour."""
        for known in self.known.values():
            age_ms = int(max(0.0, now - known.heard_at) * 1000.0)
            if known.links_seq >= 0:
                yield LinksHeader(known.name, known.instance, known.links_seq, known.links, age_ms)
            for page in known.pages:
                copied = (known.name, known.instance, page.seq, page.page, page.pages, page.backends)
                yield RosterHeader(*copied, age_ms, page.stopped)

    def _find(self, header: LinksHeader | RosterHeader | ProfilesHeader, heard_at: float, now: float) -> Known | None:
        """Return what is known of who reports, begun where nothing was; None where the report is not to be believed."""
        name, instance = header.origin, header.instance
        if name == self._settings.name:
            if instance >= self.rival[0]:
                self.rival = (instance, max(heard_at, self.rival[1]))
            return None
        if now - heard_at > self._settings.forget_s:
            return None
        known = self.known.get(name)
        if known is not None and known.instance == instance:
            return known
        if known is not None and known.instance > instance:
            return None
        if known is None and len(self.known) >= self._settings.max_daemons:
            self._counts.ignored += 1
            return None
        if known is not None:
            self.replaced.append(name)
        known = self.known[name] = Known(name, instance, heard_at)
        return known

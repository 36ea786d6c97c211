"""What this daemon tells the others of itself: LINKS, ROSTER and PROFILES, made from what the broker knows.

Rules:
- A report is made when something has changed, and every `refresh_s` anyway: what a full connection has dropped is
  repaired by the next one, not missed. A roster of many pages is told again the less often: a page each `refresh_s`.
- Of backends, only our own are told; those of other daemons are told by these.
- What is long goes in pages of about `page_bytes`, well below the limit of a header; a backend whose registration alone
  is too long for one is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from msgspec import UNSET
from msgspec.msgpack import encode

from router_daemon.core.backends import Backend
from router_daemon.core.memory import record_of
from router_daemon.core.registry import Registry
from router_daemon.core.types import Peer, RingPeer
from router_daemon.ring.abroad import listing
from router_daemon.ring.counts import RingCounts
from router_daemon.ring.home import Home
from router_daemon.ring.links import Links
from router_daemon.ring.messages import (
    NAMES,
    Flooded,
    LinksHeader,
    Listed,
    Profiles,
    ProfilesHeader,
    Report,
    Roster,
    RosterHeader,
)
from router_daemon.ring.messages import Links as LinksMessage
from router_daemon.ring.settings import RingSettings
from router_daemon.ring.stops import Stops

LONGEST_ENTRY_BYTES: Final = 60_000


class Telling:
    """Makes the reports.

    Attributes:
        seq: of the last report. pages: the last ROSTER.
    """

    def __init__(
        self,
        settings: RingSettings,
        instance: int,
        registry: Registry,
        home: Home,
        links: Links,
        stops: Stops,
        counts: RingCounts,
        emit: Callable[[Any], None],
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._registry = registry
        self._home = home
        self._links = links
        self._stops = stops
        self._counts = counts
        self._emit = emit
        self.seq = 0
        self.pages: list[RosterHeader] = []
        self._refreshes = 0
        self._listed: list[Listed] = []
        self._stopped: dict[str, int] = {}
        self._told: dict[str, tuple[Any, ...]] = {}

    # --- to whom ---

    def flood(self, message: Flooded, source: Peer | None = None) -> None:
        """Send a report to every neighbour but the one whom it came from."""
        for link in self._links.others(source):
            self._counts.flooded += 1
            self._emit(type(message)(link.peer, message.header))  # type: ignore[arg-type]

    def tell_links(self) -> None:
        """Tell all of our links."""
        self.seq += 1
        header = LinksHeader(self._settings.name, self._instance, self.seq, self._links.told())
        self.flood(LinksMessage(b"", header))

    def tell_roster(self, *, draining: bool, refresh: bool = False) -> None:
        """Tell all of our backends, where these are others than last told; or again, where that is due."""
        self._refreshes += refresh
        anyway = self._refreshes >= len(self.pages)
        for page in self.roster(draining=draining, anyway=refresh and anyway):
            self.flood(Roster(b"", page))

    def tell_stops(self, *, draining: bool) -> None:
        """Tell all that a rollout was stopped here, or is so no longer, where the last ROSTER does not say so."""
        if self._stops.told() != self._stopped:
            self.tell_roster(draining=draining)

    def tell_profiles(self, now: float, *, everything: bool = False) -> None:
        """Tell all what was measured of our backends."""
        for header in self.profiles(now, everything=everything) if self._links.neighbours() else ():
            self.flood(Profiles(b"", header))

    def introduce(self, peer: Peer, known: Iterable[LinksHeader | RosterHeader]) -> None:
        """Tell a new neighbour all that is known, and our own backends."""
        for header in (*known, *self.pages):
            kind = LinksMessage if isinstance(header, LinksHeader) else Roster
            self._emit(kind(peer, header))  # type: ignore[arg-type]

    # --- what ---

    def roster(self, *, draining: bool, anyway: bool) -> list[RosterHeader]:
        """Return the pages of ROSTER; none where nothing has changed since the last time, unless told `anyway`."""
        listed = [listing(backend, draining=draining) for backend in self._own()]
        if self.pages and listed == self._listed and self._stops.told() == self._stopped and not anyway:
            return []
        self._listed, self._stopped = listed, self._stops.told()
        self._refreshes = 0
        self.seq += 1
        parts = list(self._parts(listed))
        name, instance, seq = self._settings.name, self._instance, self.seq
        self.pages = [RosterHeader(name, instance, seq, page, len(parts), part) for page, part in enumerate(parts)]
        if self._stopped:
            self.pages[0].stopped = self._stopped
        return self.pages

    def profiles(self, now: float, *, everything: bool) -> list[ProfilesHeader]:
        """Return PROFILES of the backends of which something has changed, or of all."""
        found: list[ProfilesHeader] = []
        part: dict[str, Report] = {}
        size = 0
        told: dict[str, tuple[Any, ...]] = {}
        self._home.count_waiting()
        for backend in self._own():
            name, profile = backend.name, backend.profile
            up = backend.connected and now >= backend.paused_until
            queue = self._home.queue(name)
            state = told[name] = (queue, up, profile.success, profile.cost, backend.version)
            if not everything and self._told.get(name) == state:
                continue
            services = record_of(backend, now).services
            cost = UNSET if profile.cost is None else profile.cost
            report = part[name] = Report(queue, profile.success, services, up=up, cost=cost)
            size += 100 + sum(100 + len(capability) for capability in report.services)
            if size >= self._settings.page_bytes or len(part) == NAMES:
                found.append(self._profiles(part))
                part, size = {}, 0
        self._told = told
        if part:
            found.append(self._profiles(part))
        return found

    def _profiles(self, part: dict[str, Report]) -> ProfilesHeader:
        self.seq += 1
        return ProfilesHeader(self._settings.name, self._instance, self.seq, part)

    def _own(self) -> Iterator[Backend]:
        return (backend for backend in self._registry.by_name.values() if type(backend.peer) is not RingPeer)

    def _parts(self, listed: list[Listed]) -> Iterator[list[Listed]]:
        """Yield the backends page by page, at least one page, as nobody is told, too, by a page."""
        page: list[Listed] = []
        size = 0
        for backend in listed:
            bytes_here = len(encode(backend))
            if bytes_here > LONGEST_ENTRY_BYTES:
                self._counts.ignored += 1
                continue
            if page and (size + bytes_here > self._settings.page_bytes or len(page) == NAMES):
                yield page
                page, size = [], 0
            page.append(backend)
            size += bytes_here
        yield page

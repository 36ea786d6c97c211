"""Links to neighbours: who is at the other end, how long a round trip takes, whether it still answers.

Rules:
- The daemon that dialled says HELLO first; the other answers with its own. Then both measure: ECHO, every `echo_s`.
- A link is up from its first answer on, and down after `lost_after` echoes without one, or with its connection. One
  that is down is still asked, and is up again when it answers.
- Two connections to one neighbour are one link: the older one that is up carries everything, so that order is kept.
- Of two daemons of one name the newer process is believed: the older one may be what is left of a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import UNSET

from router_daemon.core.types import Peer
from router_daemon.errors import RETRY
from router_daemon.ring.counts import RingCounts
from router_daemon.ring.messages import (
    Echo,
    Echoed,
    EchoHeader,
    Hello,
    HelloHeader,
    Message,
    Opened,
    RingBye,
    RingError,
    RingErrorHeader,
)
from router_daemon.ring.settings import RingSettings

ECHOES_KEPT: Final = 8
CODES: Final = frozenset((*RETRY, "wrong_ring", "not_greeted"))
"""What an ERROR may say; anything else is counted as `other`."""
HELLO_AGAIN_S: Final = 1.0
"""A HELLO without an answer, or refused, is said again after this: the name may have become free."""
LEAST_CHANGE_S: Final = 0.0001
LEAST_CHANGE: Final = 0.25
"""A round trip time that differs by less than either from what was told is told as before: else all daemons of a ring
would work out all ways anew all the time. One that differs by more is told at the next refresh."""


@dataclass(slots=True, eq=False)
class Link:
    """One connection to another daemon.

    Attributes:
        name, instance: who is at the other end; "" before its HELLO.
        rtt_s: smoothed round trip time; None before the first. told_s: as last told to the ring.
        unanswered: echoes in a row. lost: too many of them. refused: why it is not used, "" where it is.
    """

    peer: Peer
    dialled: bool
    address: str
    greeted_at: float = 0.0
    name: str = ""
    instance: int = 0
    version: str = ""
    rtt_s: float | None = None
    told_s: float = 0.0
    unanswered: int = 0
    lost: bool = False
    refused: str = ""
    echoes: dict[int, float] = field(default_factory=dict)

    @property
    def greeted(self) -> bool:
        """Its other end is known, and may speak."""
        return bool(self.name) and not self.refused

    @property
    def up(self) -> bool:
        """It may be used."""
        return self.greeted and self.rtt_s is not None and not self.lost


class Links:
    """All connections; `emit` takes what is to be sent.

    Attributes:
        changed: a link has come up or gone down since somebody last set this to False.
        fresh: links that came up since somebody last emptied this.
        news: (what, name of the daemon).
    """

    def __init__(
        self,
        settings: RingSettings,
        instance: int,
        version: str,
        counts: RingCounts,
        emit: Callable[[Message], None],
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._version = version
        self._counts = counts
        self._emit = emit
        self._seq = 0
        self.by_peer: dict[Peer, Link] = {}
        self._in_use: dict[str, Link] | None = None
        self.changed = False
        self.fresh: list[Link] = []
        self.news: list[tuple[str, str]] = []

    # --- connections ---

    def opened(self, event: Opened, now: float) -> None:
        """A connection that we dialled is up: say who we are."""
        self.gone(event.peer)
        link = self.by_peer[event.peer] = Link(event.peer, True, event.address)
        self._greet(link, now)

    def gone(self, peer: Peer) -> None:
        """A connection has ended."""
        link = self.by_peer.pop(peer, None)
        if link is not None and link.up:
            self._went_down(link)

    def unreachable(self, peer: Peer) -> None:
        """Something could not be sent as the connection is gone; whether that is so the transport is about to say."""
        link = self.by_peer.get(peer)
        if link is not None and link.up:
            self._went_down(link)
            link.lost = True

    def greeted(self, handle: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
        """Return a handler for what only a neighbour that has said HELLO may say; another one is told so."""

        def guarded(message: Any, now: float) -> None:
            link = self.by_peer.get(message.peer)
            if link is not None and link.greeted:
                handle(message, now)
            elif link is None or not link.refused:
                self.refuse(message.peer, "not_greeted", "HELLO first")

        return guarded

    def refuse(self, peer: Peer, code: str, detail: str) -> None:
        """Tell a neighbour what is wrong."""
        self._counts.errors[code] += 1
        self._emit(RingError(peer, RingErrorHeader(code, detail)))

    def _greet(self, link: Link, now: float) -> None:
        link.greeted_at = now
        settings = self._settings
        header = HelloHeader(settings.name, settings.ring, self._instance, self._version, settings.address or UNSET)
        self._emit(Hello(link.peer, header))

    # --- what neighbours say ---

    def hello(self, message: Hello, now: float) -> None:
        """HELLO: take a neighbour, or refuse it."""
        header, peer = message.header, message.peer
        link = self.by_peer.get(peer)
        if link is None:
            if len(self.by_peer) >= 4 * self._settings.max_daemons:
                self.refuse(peer, "overloaded", "too many links")
                return
            link = self.by_peer[peer] = Link(peer, False, "")
        code, detail = self._obstacle(link, header)
        if code:
            self._close(link, code)
            self.refuse(peer, code, detail)
            return
        if (link.name, link.instance) != (header.name, header.instance):
            if link.up:
                self._went_down(link)
            link.name, link.instance, link.rtt_s, link.lost = header.name, header.instance, None, False
            link.echoes.clear()
        link.version, link.refused = header.version, ""
        if header.address is not UNSET and not link.dialled:
            link.address = header.address
        if not link.dialled:
            self._greet(link, now)
        self._measure(link, now)

    def _obstacle(self, link: Link, header: HelloHeader) -> tuple[str, str]:
        """Return code and detail of what keeps a neighbour out; "" where nothing does."""
        settings = self._settings
        if header.ring != settings.ring:
            return "wrong_ring", f"this is ring {settings.ring!r}, not {header.ring!r}"
        if header.name == settings.name:
            return "name_taken", f"this daemon is {settings.name!r}"
        for other in list(self.by_peer.values()):
            if other is link or other.name != header.name or other.instance == header.instance or other.refused:
                continue
            if other.instance > header.instance and other.up:
                return "name_taken", f"a newer process is {header.name!r}"
            self._close(other, "name_taken")
            self.refuse(other.peer, "name_taken", f"a newer process is {header.name!r}")
        return "", ""

    def _close(self, link: Link, code: str) -> None:
        """Do not use a connection any more."""
        self._in_use = None
        if link.up:
            self._went_down(link)
        if link.refused != code:
            self.news.append((f"link refused: {code}", link.name or link.address))
        link.refused, link.rtt_s = code, None

    def echo(self, message: Echo) -> None:
        """ECHO: answer."""
        self._emit(Echoed(message.peer, EchoHeader(message.header.seq)))

    def echoed(self, message: Echoed, now: float) -> None:
        """ECHOED: new = old + alpha (sample - old); the first one is the estimate."""
        link = self.by_peer[message.peer]
        sent_at = link.echoes.pop(message.header.seq, None)
        if sent_at is None:
            return
        was_up, sample_s = link.up, now - sent_at
        link.rtt_s = sample_s if link.rtt_s is None else link.rtt_s + self._settings.rtt_alpha * (sample_s - link.rtt_s)
        link.unanswered, link.lost = 0, False
        if not was_up:
            self.changed = True
            self._in_use = None
            self.fresh.append(link)
            self.news.append(("link up", link.name))

    def error(self, message: RingError) -> None:
        """ERROR: after some there is nothing more to say on this connection, for now."""
        code = message.header.code
        self._counts.errors[code if code in CODES else "other"] += 1
        link = self.by_peer.get(message.peer)
        if link is not None and code in ("wrong_ring", "name_taken", "unsupported_version"):
            self._close(link, code)

    def bye(self, message: RingBye) -> None:
        """BYE: the other end leaves."""
        link = self.by_peer.get(message.peer)
        if link is not None:
            self._close(link, "left")

    # --- time ---

    def tick(self, now: float) -> None:
        """Measure every link, and see which ones do not answer."""
        for link in list(self.by_peer.values()):
            if link.greeted:
                self._measure(link, now)
            elif link.dialled and now - link.greeted_at >= HELLO_AGAIN_S:
                self._greet(link, now)

    def _measure(self, link: Link, now: float) -> None:
        if link.echoes:
            link.unanswered += 1
            if link.unanswered >= self._settings.lost_after and link.up:
                self._went_down(link)
                link.lost = True
        while len(link.echoes) >= ECHOES_KEPT:
            del link.echoes[next(iter(link.echoes))]
        self._seq += 1
        link.echoes[self._seq] = now
        self._emit(Echo(link.peer, EchoHeader(self._seq)))

    def _went_down(self, link: Link) -> None:
        self.changed = True
        self._in_use = None
        self._counts.links_lost += 1
        self.news.append(("link down", link.name))

    # --- who is there ---

    def neighbours(self) -> dict[str, Link]:
        """Return the link in use to each neighbour, by name, in the order in which they came."""
        if self._in_use is None:
            found: dict[str, Link] = {}
            for link in self.by_peer.values():
                if link.up:
                    found.setdefault(link.name, link)
            self._in_use = found
        return self._in_use

    def told(self) -> dict[str, int]:
        """Return what is to be told of the links that are up: by neighbour, the round trip time in microseconds."""
        links = self.neighbours()
        for link in links.values():
            rtt_s = link.rtt_s or 0.0
            if not link.told_s or abs(rtt_s - link.told_s) > max(LEAST_CHANGE_S, LEAST_CHANGE * link.told_s):
                link.told_s = rtt_s
        return {name: max(1, round(link.told_s * 1e6)) for name, link in links.items()}

    def others(self, but: Peer | None = None) -> Iterator[Link]:
        """Yield the link in use to each neighbour but the one of a connection."""
        source = self.by_peer.get(but) if but is not None else None
        for name, link in self.neighbours().items():
            if source is None or source.name != name:
                yield link

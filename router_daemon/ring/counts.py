"""What the ring counts, for `metrics` to read: plain integers."""

from __future__ import annotations

from collections import Counter
from typing import Final

MOST_HOPS: Final = 16
"""Links of one way that are told apart."""
RESULTS: Final = ("ack", "failed", "busy", "rejected", "cancelled", "gone", "unreachable", "lost")


class RingCounts:
    """See the module.

    Attributes:
        forwarded: deliveries to backends of other daemons. resent: of them, so many again, as they had not arrived.
        results: how they ended: `ack`, a code of RESULT, or `lost` with their daemon.
        taken: deliveries of other daemons, begun here. duplicates: that came again.
        relayed: messages passed on between others. undeliverable: that could not be, by verb.
        hops: of FORWARDs that came here, by the number of links (index 0 unused, the last: and more).
        gaps: streams that lost a piece. strays: RESULTs for what is not open. asked: ASKs sent.
        flooded: LINKS, ROSTER and PROFILES sent, passed on ones too.
        links_lost: links that went down. errors: faults of neighbours, by code.
        ignored: of backends and daemons that others told of: those over a limit.
    """

    __slots__ = (
        "asked",
        "duplicates",
        "errors",
        "flooded",
        "forwarded",
        "gaps",
        "hops",
        "ignored",
        "links_lost",
        "relayed",
        "resent",
        "results",
        "strays",
        "taken",
        "undeliverable",
    )

    def __init__(self) -> None:
        self.forwarded = self.resent = self.taken = self.duplicates = self.relayed = 0
        self.gaps = self.strays = self.asked = self.flooded = self.links_lost = self.ignored = 0
        self.results = dict.fromkeys(RESULTS, 0)
        self.undeliverable: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.hops = [0] * (MOST_HOPS + 1)

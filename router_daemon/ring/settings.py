"""What the ring is told once, at start: frozen, validated by `router_daemon.config`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RingSettings:
    """One daemon's place in a ring; times in seconds.

    Attributes:
        name: of this daemon, unique in the ring, without a slash.
        ring: the ring's name; daemons of another one are refused, so that two rings cannot grow together by a mistake.
        neighbours: addresses that are dialled, for people to see; the transport dials.
        address: where this daemon listens for links, for people; "" where it does not.
        echo_s: every so often each link is measured: often enough that a lost link costs less than a second,
        lost_after: after so many echoes without an answer, as one late answer is no loss.
        rtt_alpha: weight of a new round trip time, as in TCP (RFC 6298).
        profiles_s: every so often what was measured is told, where it has changed.
        refresh_s: every so often it is told anyway, as what a full connection has dropped is not missed by anybody.
        forget_s: who has not been heard of for so long is forgotten: a few refreshes.
        roster_s: changes of the backends within so short a time are told together.
        ask_s: the home is asked for what became of a delivery that is older than this, again and again.
        max_hops: a message that has gone over so many links is given up.
        max_daemons: in the ring; what others say of further ones is ignored.
        max_backends: of one other daemon; further ones are ignored.
        page_bytes: of a ROSTER or PROFILES, about; well under the limit of a header.
        keep_s: answers are kept so long, to be said again: longer than a lost link goes unnoticed and ASK takes.
        keep_results, keep_bytes: and at most so many, of so many bytes.
        remember: so many deliveries are remembered by number, so that none is begun twice.
    """

    name: str
    ring: str = "ring"
    neighbours: tuple[str, ...] = ()
    address: str = ""
    echo_s: float = 0.25
    lost_after: int = 3
    rtt_alpha: float = 0.125
    profiles_s: float = 0.5
    refresh_s: float = 2.0
    forget_s: float = 10.0
    roster_s: float = 0.05
    ask_s: float = 1.0
    max_hops: int = 16
    max_daemons: int = 256
    max_backends: int = 1024
    page_bytes: int = 32_768
    keep_s: float = 10.0
    keep_results: int = 10_000
    keep_bytes: int = 67_108_864
    remember: int = 100_000

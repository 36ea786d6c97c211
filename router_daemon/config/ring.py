"""The section of the ring of daemons: who this one is there, where it listens, whom it dials, how soon it gives up.

Rules: as in `sections`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from router_daemon.config import addresses
from router_daemon.config.base import Section
from router_daemon.config.sections import ENDPOINT_SCHEMA, Endpoints
from router_daemon.config.text import Rule

MOST_NEIGHBOURS: Final = 64
_NAME: Final = "[A-Za-z0-9._-]{1,64}"
_NAME_RULE: Final = "1 to 64 letters, digits, dots, dashes or underscores"


def _neighbours(value: Any) -> tuple[str, ...]:
    """Return the addresses, each one that can be connected to, and none twice."""
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError("must be a list of addresses")
    checked = tuple(map(addresses.check_endpoint, value))
    if any(addresses.reachable(text) != text for text in checked):  # "every interface" is nobody's address
        raise ValueError("must be addresses to connect to")
    if len(set(checked)) < len(checked) or len(checked) > MOST_NEIGHBOURS:
        raise ValueError("must each be there once")
    return checked


Neighbours = Annotated[
    tuple[str, ...],
    Rule(f"a list of up to {MOST_NEIGHBOURS} different addresses, tcp://HOST:PORT or ipc://PATH"),
    BeforeValidator(_neighbours),
    WithJsonSchema({"type": "array", "items": ENDPOINT_SCHEMA, "maxItems": MOST_NEIGHBOURS, "uniqueItems": True}),
]
Name = Annotated[str, Rule(_NAME_RULE), Field(pattern=f"^{_NAME}$")]
NameOrNone = Annotated[str, Rule(f'{_NAME_RULE}, or "" for no ring'), Field(pattern=f"^({_NAME})?$")]


class RingSection(Section):
    """The ring: daemons that know each other's backends and pass messages on to them; see docs/ring.md."""

    name: NameOrNone = Field(
        default="",
        description='What this daemon is called among the others, unique there; "" for a daemon of its own, which '
        "opens no socket for others. Its backends are known to the others as NAME/BACKEND.",
    )
    ring: Name = Field(
        default="ring",
        description="What the ring is called. A daemon that says another name is not let in, so that two rings of one "
        "network do not grow together by a wrong address.",
    )
    listen: Endpoints = Field(
        default="tcp://127.0.0.1:5572",
        description="Address, or list of addresses, that neighbours connect to. A port of its own, for daemons trust "
        "each other; the default is reachable from this machine only.",
    )
    neighbours: Neighbours = Field(
        default=(),
        description="Addresses of other daemons to keep a connection to. One of two neighbours has to name the other; "
        "both may. Every daemon needs two, or the end of one cuts the ring.",
    )
    echo_ms: int = Field(
        default=250,
        ge=10,
        le=60_000,
        description="How often, in milliseconds, each link is measured. Messages take the way that is shortest by "
        "these measurements; four a second notice a lost link within a second.",
    )
    lost_after: int = Field(
        default=3,
        ge=1,
        le=100,
        description="So many measurements without an answer, and a link is lost: messages go around it.",
    )
    profiles_ms: int = Field(
        default=500,
        ge=10,
        le=60_000,
        description="How often, in milliseconds, daemons tell each other what they have measured of their backends.",
    )
    max_hops: int = Field(
        default=16,
        ge=1,
        le=255,
        description="The most links that a message may pass on its way to a backend. A ring of 24 daemons without "
        "shortcuts needs 12.",
    )
    max_daemons: int = Field(
        default=256,
        ge=1,
        le=4096,
        description="The most daemons of a ring; what others say of further ones is passed over.",
    )
    max_backends: int = Field(
        default=1024,
        ge=1,
        le=100_000,
        description="The most backends of one other daemon; further ones are passed over.",
    )
    keep_results: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="The most answers to other daemons that are kept for a while, to be said again where one was lost "
        "with a link.",
    )
    keep_bytes: int = Field(
        default=67_108_864,
        ge=0,
        le=1 << 40,
        description="The most bytes of such answers. One that is lost and not kept any more fails its delivery.",
    )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return what to listen on, whether one address was given or a list."""
        return (self.listen,) if isinstance(self.listen, str) else self.listen

"""The section of the ring of daemons: who this one is there, where it listens, whom it dials, how soon it gives up.

Rules: as in `sections`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from router_daemon.config import addresses
from router_daemon.config.base import Section
from router_daemon.config.sections import ENDPOINT_SCHEMA, Endpoints
from router_daemon.config.text import Rule

MOST_NEIGHBOURS: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_NAME_RULE: Final = "1 to 32 letters, digits, dots, dashes or underscores"


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"must be {_NAME_RULE}")
    return text


def _name_or_none(text: str) -> str:
    return _name(text) if text else text


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
Name = Annotated[str, Rule(_NAME_RULE), AfterValidator(_name)]
NameOrNone = Annotated[str, Rule(f'{_NAME_RULE}, or "" for no ring'), AfterValidator(_name_or_none)]


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

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return what to listen on, whether one address was given or a list."""
        return (self.listen,) if isinstance(self.listen, str) else self.listen

"""Who may write: a bearer token, or loopback; and never a page of another site in somebody's browser.

Rules:
- Where the admin room is not on loopback, writes need a token; where none is configured there, nobody may write.
- On loopback they need one only if one is configured: whoever has an account on this machine can reach the backend
  socket there, too, which is worth more, and on-call should not look for a token in the night.
- A browser on this machine reaches loopback for any page it shows. So what a page can send without being asked (another
  content type than JSON) is refused, and so is what says that another site's page sent it (Origin, Sec-Fetch-Site), or
  was sent to a name that is not this machine's (Host: a name may be made to point to loopback after the page was read).
- Tokens are compared in constant time.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Final, NamedTuple

from router_daemon.config.addresses import split_host_port

JSON: Final = "application/json"
_OWN_SITE: Final = frozenset({"", "same-origin", "none"})


class Objection(NamedTuple):
    """Why a request may not write: an HTTP status and a sentence."""

    status: int
    why: str


class Gate:
    """Looks at the headers of what wants to write.

    Args:
        bind: HOST:PORT of the admin room.
        token: "" for none.
    """

    def __init__(self, bind: str, token: str) -> None:
        self._host = bind.rpartition(":")[0].lower()
        self._loopback = is_loopback(self._host)
        self._token = token.encode()

    def objection(self, headers: Mapping[str, str], content_type: str | None) -> Objection | None:
        """Return why this must not write, None where it may; `content_type`: None where a request has no body."""
        if not self._token and not self._loopback:
            return Objection(403, "writes need a token where admin.bind is not loopback, and no admin.token is set")
        if self._token and not self._knows_it(headers.get("Authorization", "")):
            return Objection(401, "the token is missing or wrong: Authorization: Bearer TOKEN")
        foreign = self._foreign(headers)
        if foreign:
            return Objection(403, foreign)
        if content_type not in (None, JSON):
            return Objection(415, f"Content-Type must be {JSON}")
        return None

    def _knows_it(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self._token) and scheme.lower() == "bearer"

    def _foreign(self, headers: Mapping[str, str]) -> str:
        """Return how one sees that a page of another site sent it, "" where nothing says so."""
        host, origin = headers.get("Host", ""), headers.get("Origin")
        if headers.get("Sec-Fetch-Site", "") not in _OWN_SITE:
            return "pages of other sites may not write (Sec-Fetch-Site)"
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return "pages of other sites may not write (Origin)"
        if not self._token and not self._is_this_machine(host):
            return "without a token, Host must be this machine's loopback"
        return ""

    def _is_this_machine(self, host: str) -> bool:
        try:
            name = split_host_port(host)[0].lower()
        except ValueError:  # without a port: 80
            name = host.lower()
        return name == self._host or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Tell whether a host as in HOST:PORT is this machine's loopback for certain."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False

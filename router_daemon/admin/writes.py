"""Who may change something over HTTP: a process of this machine that says that it sends JSON.

A page in a browser of this machine could be made to POST here, but not with this content type: for that the browser
asks first (CORS), and is answered no.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from aiohttp import web

JSON: Final = "application/json"


def objection(request: web.Request) -> tuple[str, int] | None:
    """Return why a write is refused, and the HTTP status that says so; None where it may be done."""
    if not _is_loopback(request.remote):
        return "only processes of the daemon's own machine may change something: ask over loopback", 403
    if request.content_type != JSON:
        return f"the content type must be {JSON}", 415
    return None


def _is_loopback(address: str | None) -> bool:
    try:
        ip = ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback

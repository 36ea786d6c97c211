"""The page's files, read once at the start, and what a browser may do with them.

Rules:
- The page may load and ask nothing but what this server has: no other host, no inline script or style, no frame around
  it, and no text that becomes markup (Trusted Types). Names of backends and messages come from whoever sends them.
- Only files that are there at the start are served, so no path is ever made of what a browser asks.
- They are asked for again with each visit (`no-cache`) and sent only where they have changed (`ETag`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web

HERE: Final = Path(__file__).parent / "page"
INDEX: Final = "index.html"
TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Asset(NamedTuple):
    """A file as it is sent."""

    body: bytes
    type: str
    etag: str


class Assets:
    """The files under a directory, by their path in it."""

    def __init__(self, directory: Path = HERE) -> None:
        self._by_path = {
            path.relative_to(directory).as_posix(): _asset(path)
            for path in sorted(directory.rglob("*"))
            if path.suffix in TYPES
        }

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Open the paths under /page/."""
        router.add_get("/page/{path:.+}", self._get)

    def index(self, request: web.Request) -> web.Response:
        """Return the page itself."""
        response = self._answer(request, INDEX)
        response.headers["Vary"] = "Accept"
        return response

    async def _get(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["path"])

    def _answer(self, request: web.Request, path: str) -> web.Response:
        asset = self._by_path.get(path)
        if asset is None:
            raise web.HTTPNotFound(text="the page has no such file\n")
        headers = HEADERS | {"ETag": f'"{asset.etag}"'}
        if any(tag.value == asset.etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.body, content_type=asset.type, charset="utf-8", headers=headers)


def wants_page(accept: str) -> bool:
    """Tell whether who sends this `Accept` is a browser that shows pages; everybody else gets JSON."""
    return "text/html" in accept.lower()


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:32])

"""What `./scripts/docs` does once everything is installed: builds the documentation site, strictly, and shows it.

Rules:
- Any warning is an error: a link or an anchor that leads nowhere, a page that is missing or in no navigation.
- No built page may ask another server for anything: the documents are read where there is no internet, and nobody
  should be told who reads them. Links to elsewhere, which a person follows, are none of that.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
OUT: Final = ROOT / "build/docs"
FAILED: Final = 1
STRICT: Final = ("--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env")
LOADING: Final = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "video": ("src", "poster"),
    "audio": ("src",),
    "form": ("action",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
    "link": ("href",),
}
"""Tag -> attributes by which a page loads something (or sends something)."""
ELSEWHERE: Final = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
IN_STYLES: Final = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
FOR_PEOPLE: Final = {"canonical", "author", "license", "help"}
"""Relations of <link> that nothing is loaded for."""


class Loads(HTMLParser):
    """Collects what a page loads from elsewhere, into `found`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        given = dict(attrs)
        if tag == "link" and given.get("rel") in FOR_PEOPLE:
            return
        values = [given.get(name) or "" for name in LOADING.get(tag, ())]
        self.found += [f"<{tag}> {value}" for value in values if ELSEWHERE.match(value)]
        self.found += IN_STYLES.findall(given.get("style") or "")


def loaded_from_elsewhere(page: Path) -> list[str]:
    """Return what one file of the site (HTML, SVG, CSS) would load from another server."""
    text = page.read_text(errors="replace")
    if page.suffix == ".css":
        return IN_STYLES.findall(text)
    parser = Loads()
    parser.feed(text)
    return parser.found + [
        found for style in re.findall(r"(?s)<style.*?</style>", text) for found in IN_STYLES.findall(style)
    ]


def outside_requests(site: Path) -> Iterator[str]:
    """Yield a line for each thing that the site would load from another server."""
    for page in sorted(path for path in site.rglob("*") if path.suffix in {".html", ".css", ".svg"}):
        for found in loaded_from_elsewhere(page):
            yield f"{page.relative_to(site)} loads {found}"


def build(out: Path) -> int:
    """Build the site into a directory; return the exit code."""
    command = [sys.executable, "-P", "-m", "sphinx", "--quiet", *STRICT, "--builder", "html"]
    built = subprocess.run([*command, str(ROOT / "docs"), str(out)], cwd=ROOT, check=False)
    if built.returncode != 0:
        return FAILED
    if found := list(outside_requests(out)):
        print("\n".join(found), file=sys.stderr)
        return FAILED
    print(f"{out / 'index.html'}")
    return 0


def serve(out: Path, port: int) -> None:
    """Show the site on this machine until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser("scripts/docs", description="Builds the documentation site.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where to (default: build/docs)")
    parser.add_argument("--serve", action="store_true", help="show it on 127.0.0.1 afterwards")
    parser.add_argument("--port", type=int, default=8000, help="where to show it (default: 8000; 0: any free one)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Build, and show what was built; return the exit code."""
    options = parse(arguments)
    code = build(options.out)
    if code == 0 and options.serve:
        serve(options.out, options.port)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

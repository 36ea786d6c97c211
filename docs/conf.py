"""The documentation site: which pages there are, in which order, and how they are built. Sphinx reads this file.

Rules:
- The pages are plain Markdown that reads as well in a repository browser; what only the site needs stands here.
- Every page is in `NAVIGATION`. One that is missing there, or that is there and does not exist, fails the build.
- A built page asks no other server for anything: no fonts, no scripts, no pictures (`scripts/build_docs.py` looks).

`./scripts/docs` builds it; ARCHITECTURE.md, "Dependencies", says why these tools.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAVIGATION = {
    "Guides": [
        "guides/first-backend",
        "guides/language-models",
        "guides/sidecar",
        "guides/migration",
    ],
    "Running it": [
        "operations",
        "runbook",
        "monitoring",
        "deploy",
        "page",
        "top-and-bench",
        "why",
        "rollout",
        "ring",
    ],
    "The protocol": [
        "protocol",
        "conform",
        "examples/javascript/README",
    ],
    "How it decides": [
        "routing-policies",
        "compare",
        "papers",
    ],
    "How it was tried": [
        "simulator",
        "benchmarks",
        "chaos",
    ],
}
"""Caption -> pages, without their ending."""
COMING: set[str] = set()
"""Pages that are being written: for as long as they are not there they are left out, and links to them are text."""

project = "router-daemon"
author = "the authors of router-daemon"
release = version = re.findall(r'__version__ = "(.+)"', (HERE.parent / "router_daemon/__init__.py").read_text())[0]

extensions = ["myst_parser"]
myst_heading_anchors = 6
highlight_language = "none"  # of blocks that do not say
nitpicky = True
smartquotes = False  # "--config" is no dash

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
exclude_patterns = ["examples/*/node_modules"]
html_static_path: list[str] = []


def missing() -> set[str]:
    """Return the pages that are still to come."""
    return {name for name in COMING if not (HERE / f"{name}.md").exists()}


def pages() -> dict[str, list[str]]:
    """Return the navigation without the pages that are still to come."""
    left_out = missing()
    return {caption: [name for name in names if name not in left_out] for caption, names in NAVIGATION.items()}


def adapt(_app: Any, page: str, source: list[str]) -> None:
    """Append the navigation to the site's first page, where it would be noise to whoever reads that file."""
    for name in missing():
        source[0] = re.sub(rf"\[([^]]*)\]\((?:\.\./)*{name}\.md(?:#[^)]*)?\)", r"\1", source[0])
    if page == "index":
        for caption, names in pages().items():
            source[0] += "\n".join(["\n```{toctree}", f":caption: {caption}", ":hidden:", "", *names, "```\n"])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", adapt)

"""Figures as PNG and SVG, and the two kinds of picture that the papers have. Needs matplotlib (extra `lab`).

Rules:
- The same numbers make the same bytes: no date, no version, ids from a fixed salt.
- A picture stands on a page of either shade: the one inlined in HTML has no background, and what is black in it takes
  the colour of the text around it. The files are black on white.
"""

from __future__ import annotations

import io
import re
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from router_daemon.lab.papers.content import Figure

DPI: Final = 130


def png(figure: Figure) -> bytes:
    """Return the picture as PNG, black on white."""
    return _saved(figure, "png", {"Software": None}, transparent=False)


def svg(figure: Figure) -> bytes:
    """Return the picture as SVG, black on white."""
    return _saved(figure, "svg", {"Date": None, "Creator": None}, transparent=False)


def inline_svg(figure: Figure) -> str:
    """Return the picture as an element for a page: coloured by it, and with ids that no other picture has."""
    text = _saved(figure, "svg", {"Date": None, "Creator": None}, transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("#000000", "currentColor")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{figure.name}-", text)


def _saved(figure: Figure, kind: str, metadata: dict[str, None], *, transparent: bool) -> bytes:
    out = io.BytesIO()
    with mpl.rc_context(
        {
            "svg.hashsalt": "router-daemon",
            "svg.fonttype": "path",
            "font.size": 9.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "legend.frameon": False,
        }
    ):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas.add_subplot())
        canvas.savefig(out, format=kind, dpi=DPI, metadata=metadata, transparent=transparent)
    return out.getvalue()

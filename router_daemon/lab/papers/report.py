"""A reproduction as files: report.md, report.html, a CSV of every part, a PNG and an SVG of every figure.

Rules:
- The same report makes the same bytes, wherever and whenever it is written.
- Without matplotlib there are no pictures, and the reports show the numbers in their place.
- Nothing is written here: who calls decides where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router_daemon.lab.papers.content import Figure, Report
from router_daemon.lab.papers.page import html
from router_daemon.lab.papers.text import csv_text, markdown


@dataclass(frozen=True, slots=True)
class Painter:
    """What turns figures into pictures."""

    png: Callable[[Figure], bytes]
    svg: Callable[[Figure], bytes]
    inline: Callable[[Figure], str]


def painter() -> Painter:
    """Return the painter.

    Raises:
        ModuleNotFoundError: matplotlib (extra `lab`) is not installed.
    """
    from router_daemon.lab.papers import pictures  # noqa: PLC0415 - the one import that needs the extra

    return Painter(pictures.png, pictures.svg, pictures.inline_svg)


def files(report: Report, paint: Painter | None) -> Mapping[str, bytes]:
    """Return the content of each file by its name.

    Args:
        report: what they say.
        paint: None: without pictures.

    Raises:
        ValueError: two parts have the same name.
    """
    names = [part.name for part in report.parts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"parts of the same name: {', '.join(sorted(twice))}")
    made: dict[str, bytes] = {}
    inlined: dict[str, str] = {}
    for part in report.parts:
        made[f"{part.name}.csv"] = csv_text(part).encode()
        if isinstance(part, Figure) and paint is not None:
            made[f"{part.name}.png"] = paint.png(part)
            made[f"{part.name}.svg"] = paint.svg(part)
            inlined[part.name] = paint.inline(part)
    made["report.md"] = markdown(report, pictures=paint is not None).encode()
    made["report.html"] = html(report, inlined).encode()
    return made

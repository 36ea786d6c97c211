"""A report as one page of HTML: nothing is fetched, nothing runs; it fits a phone, and a dark or a light screen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from router_daemon.lab.papers.content import Cell, Claim, Figure, Report, Table, Verdict
from router_daemon.lab.papers.text import number

VERDICTS: Final[Mapping[Verdict, str]] = {
    "follows": "yes",
    "does not follow": "no",
    "not stated": "open",
    "ours": "ours",
}
"""Each verdict and its class in the style sheet."""

STYLE: Final = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c1e21; --soft: #5c6470; --line: #d8dce2; --tint: #f4f6f8;
  --yes: #0a7a50; --no: #b3261e; --open: #8a5a00; --ours: #0067a8; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e4e7ea; --soft: #9aa4af; --line: #343a41;
  --tint: #1d2126; --yes: #4cc38a; --no: #ff8a80; --open: #e0b050; --ours: #6cb8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
a { color: var(--ours); }
code { font-size: .9em; background: var(--tint); padding: .1em .3em; border-radius: 3px; }
nav ol { columns: 17rem; column-gap: 2.5rem; padding-left: 1.4rem; font-size: .95rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { border-bottom-width: 2px; }
tbody tr:nth-child(even) { background: var(--tint); }
th, td:not(.number) { min-width: 5.5rem; }
td.number { text-align: right; white-space: nowrap; }
.note { color: var(--soft); font-size: .92rem; }
figure { margin: 0; }
figure svg { width: 100%; max-width: 46rem; height: auto; fill: currentColor; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .92rem; }
.claim { border-left: 4px solid var(--line); padding: .1rem 0 .1rem .8rem; margin: 1rem 0; }
.claim p { margin: .2rem 0; }
.claim .where { color: var(--soft); font-size: .88rem; }
.verdict { font-weight: 600; }
.claim.yes { border-color: var(--yes); } .yes .verdict { color: var(--yes); }
.claim.no { border-color: var(--no); } .no .verdict { color: var(--no); }
.claim.open { border-color: var(--open); } .open .verdict { color: var(--open); }
.claim.ours { border-color: var(--ours); } .ours .verdict { color: var(--ours); }
"""


def html(report: Report, pictures: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        report: what it says.
        pictures: by the figure's name, an SVG element; of a figure without one the numbers are shown.
    """
    return "\n".join(_page(report, pictures)) + "\n"


def _page(report: Report, pictures: Mapping[str, str]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield f"<h1>{_inline(report.title)}</h1>"
    yield from _paragraphs(report.intro)
    yield from _table(("setting", "value"), [(name, number(value)) for name, value in report.settings.items()])
    yield from _contents(report)
    if report.claims:
        yield '<h2 id="claims">What follows and what does not</h2>'
        yield f"<p>{_counts(report.claims)}</p>"
        for claim in report.claims:
            yield from _claim(claim)
    for part in report.parts:
        yield f'<section id="{escape(part.name)}">\n<h2>{_inline(part.title)}</h2>'
        yield from _part(part, pictures)
        yield "</section>"
    yield "</body>\n</html>"


def _contents(report: Report) -> Iterator[str]:
    yield "<nav><ol>"
    if report.claims:
        yield '<li><a href="#claims">What follows and what does not</a></li>'
    for part in report.parts:
        yield f'<li><a href="#{escape(part.name)}">{_inline(part.title)}</a></li>'
    yield "</ol></nav>"


def _counts(claims: Sequence[Claim]) -> str:
    verdicts = [claim.verdict for claim in claims]
    return escape(", ".join(f"{verdicts.count(kind)} {kind}" for kind in VERDICTS if kind in verdicts)) + "."


def _claim(claim: Claim) -> Iterator[str]:
    yield f'<div class="claim {VERDICTS[claim.verdict]}">'
    yield f'<p><span class="verdict">{claim.verdict}</span> <span class="where">{_inline(claim.where)}</span></p>'
    yield f"<p>{_inline(claim.text)}</p>"
    yield f'<p class="note">{_inline(claim.found)}</p>\n</div>'


def _part(part: Table | Figure, pictures: Mapping[str, str]) -> Iterator[str]:
    if isinstance(part, Figure) and part.name in pictures:
        yield f'<figure role="img" aria-label="{escape(part.title)}">{pictures[part.name]}</figure>'
        yield from _paragraphs(part.note, "note")
        yield "<details><summary>its numbers</summary>"
        yield from _table(part.columns, part.rows)
        yield "</details>"
    else:
        yield from _table(part.columns, part.rows)
        yield from _paragraphs(part.note, "note")


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
    yield '<div class="wide"><table>'
    yield f"<thead><tr>{''.join(f'<th>{_inline(column)}</th>' for column in columns)}</tr></thead>\n<tbody>"
    for row in rows:
        yield f"<tr>{''.join(map(_cell, row))}</tr>"
    yield "</tbody></table></div>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{_inline(cell)}</td>"
    return f'<td class="number">{number(cell)}</td>'


def _paragraphs(text: str, kind: str = "") -> Iterator[str]:
    opening = f'<p class="{kind}">' if kind else "<p>"
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph:
            yield f"{opening}{_inline(paragraph)}</p>"


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))

"""`lab.papers.report`: what a reproduction is written as, and `router-daemon reproduce`, which writes it."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest
from matplotlib.axes import Axes
from typer.testing import CliRunner

from router_daemon.cli import app
from router_daemon.lab.papers.content import Claim, Figure, Report, Table
from router_daemon.lab.papers.drawing import Bars, Line, bars, lines
from router_daemon.lab.papers.registry import PAPERS
from router_daemon.lab.papers.report import files, painter
from router_daemon.lab.papers.running import Options, Progress
from router_daemon.lab.papers.text import number


def draw_bars(axes: Axes) -> None:
    rows = [Bars("one", [0.4, 1.0], [0.1, 0.0]), Bars("two", [None, 0.9])]
    bars(axes, ["rr", "ca"], rows, "hit", printed=[None, 1.0])


def draw_lines(axes: Axes) -> None:
    lines(axes, [Line("hits", [1.0, 30.0], [0.1, 0.9], [0.1, 0.1])], "time to live, s", "share", log=True)


REPORT: Final = Report(
    "some-paper",
    "Some <paper>",
    "With `code`.\n\nAnd a second paragraph & more.",
    {"runs": 5, "messages": 30_000},
    (
        Table(
            "table-1",
            "Table I",
            ("variant", "latency, ms"),
            (("a|b", 1 / 3), ("<i>", None), ("nan", math.nan)),
            "Note.",
        ),
        Figure("figure-1", "Figure 1", draw_bars, ("variant", "hit"), (("rr", 0.4), ("ca", 1.0))),
        Figure("figure-2", "Figure 2", draw_lines, ("s", "share"), ((1.0, 0.1), (30.0, 0.9))),
    ),
    (
        Claim("Table I", "It is fast.", "does not follow", "It is not."),
        Claim("Figure 1", "It hits.", "follows", "Yes."),
    ),
)


class Page(HTMLParser):
    """What a page is made of; asserts that every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag != "meta":
            self.open.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.links += [value for key in ("href", "src", "xlink:href") if (value := known.get(key))]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_each_part_has_its_files() -> None:
    assert set(files(REPORT, painter())) == {
        *("report.md", "report.html", "table-1.csv", "figure-1.csv", "figure-2.csv"),
        *("figure-1.png", "figure-1.svg", "figure-2.png", "figure-2.svg"),
    }


def test_the_same_report_makes_the_same_bytes() -> None:
    assert files(REPORT, painter()) == files(REPORT, painter())


def test_the_page_asks_nobody_for_anything_and_its_ids_are_its_own() -> None:
    made = files(REPORT, painter())
    page = Page(made["report.html"].decode())
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(rb"url\((?!#)|@import|<script|<link|<img", made["report.html"])
    assert re.search(rb"prefers-color-scheme: dark", made["report.html"])


def test_what_is_said_is_on_the_page_as_text() -> None:
    text = Page(files(REPORT, painter())["report.html"].decode()).text
    for said in (
        "Some <paper>",
        "And a second paragraph & more.",
        "<i>",
        "a|b",
        "0.3333",
        "1 follows, 1 does not follow.",
    ):
        assert said in text, said


def test_markdown_has_a_row_for_each_row() -> None:
    text = files(REPORT, painter())["report.md"].decode()
    for line in ("| a\\|b | 0.3333 |", "| nan |  |", "| messages | 30000 |", "![Figure 1](figure-1.png)"):
        assert f"\n{line}\n" in text, line
    assert "| Table I | It is fast. | **does not follow** | It is not. |" in text


def test_numbers_are_in_full_in_csv() -> None:
    rows = list(csv.reader(io.StringIO(files(REPORT, None)["table-1.csv"].decode())))
    assert rows == [["variant", "latency, ms"], ["a|b", str(1 / 3)], ["<i>", ""], ["nan", ""]]


def test_without_pictures_the_numbers_stand_there() -> None:
    made = files(REPORT, None)
    assert not [name for name in made if name.endswith(("png", "svg"))]
    assert "| ca | 1 |" in made["report.md"].decode()
    assert "figure-1.png" not in made["report.md"].decode()
    assert "<svg" not in made["report.html"].decode()


def test_two_parts_of_one_name_would_overwrite_each_other() -> None:
    twice = Report("x", "x", "", {}, (REPORT.parts[0], REPORT.parts[0]))
    with pytest.raises(ValueError, match="table-1"):
        files(twice, None)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        *((None, ""), ("text", "text"), (12, "12"), (0.0, "0"), (1.0, "1"), (0.99484, "0.9948"), (-2.29, "-2.29")),
        *((30_000.0, "30000"), (0.00012345, "0.0001234"), (0.00001, "1e-05"), (math.inf, "inf"), (123.456, "123.5")),
    ],
)
def test_numbers_have_four_figures(cell: float | str | None, text: str) -> None:
    assert number(cell) == text


# --- router-daemon reproduce ---


def made_up(options: Options, progress: Progress) -> Report:
    progress.start(2)
    numbers = options.each(progress, "squares", abs, [-1, options.seed])
    settings = {"runs": options.runs, "messages": options.size(500, 100)}
    return Report("made-up", "Made up", "", settings, [Table("t", "T", ("n",), [(n,) for n in numbers])], REPORT.claims)


@pytest.fixture
def _papers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have one paper that takes no time."""
    known = PAPERS.copy()
    PAPERS.clear()
    PAPERS["made-up"] = made_up
    yield
    PAPERS.clear()
    PAPERS.update(known)


@pytest.mark.usefixtures("_papers")
@pytest.mark.parametrize("which", ["made-up", "all"])
def test_a_paper_is_reproduced_into_a_directory_of_its_name(tmp_path: Path, which: str) -> None:
    arguments = ["reproduce", which, "--out", str(tmp_path / "new"), "--seed", "7", "--quick", "--jobs", "1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(r"\S+/new/made-up/report\.html: 1 does not follow, 1 follows; \d+ s\n", done.stdout)
    assert done.stderr == "made-up: squares (0 %)\n"
    assert (tmp_path / "new/made-up/t.csv").read_text() == "n\n1\n7\n"
    assert "| messages | 100 |" in (tmp_path / "new/made-up/report.md").read_text()


@pytest.mark.usefixtures("_papers")
def test_without_the_extra_there_are_no_pictures_but_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "router_daemon.lab.papers.pictures", None)
    monkeypatch.delattr("router_daemon.lab.papers.pictures", raising=False)
    done = CliRunner().invoke(app, ["reproduce", "made-up", "--out", str(tmp_path), "--jobs", "1"])
    assert done.exit_code == 0, done.stderr
    assert "no pictures: " in done.stdout
    assert "pip install 'router-daemon[lab]'" in done.stdout


def test_a_paper_that_there_is_not_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reproduce", "other", "--out", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no paper other; there are: cross-attention, ")


@pytest.mark.usefixtures("_papers")
def test_a_directory_that_cannot_be_made_is_told_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = CliRunner().invoke(app, ["reproduce", "made-up", "--out", str(tmp_path / "taken")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: --out: {tmp_path}/taken/made-up: Not a directory\n"


@pytest.mark.usefixtures("_papers")
def test_on_a_terminal_there_is_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    from router_daemon.cli.reproducing import reproduce

    reproduce("made-up", tmp_path, runs=1, messages=None, seed=1, quick=True, jobs=1)
    assert "made-up, squares" in terminal.getvalue()
    assert "100%" in terminal.getvalue()

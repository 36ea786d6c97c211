"""Guides, done as a new user does them: their blocks are read from the page and go through one terminal, in order.

Rules:
- Above each fenced block stands a comment that says what the block is. Pages do not show it:

      <!-- terminal -->            typed; every command in it must succeed
      <!-- terminal: exit 3 -->    typed; the last command must end with this code
      <!-- terminal: until -->     typed again until it prints what the next block shows
      <!-- output -->              what the block before it prints; `...` stands for anything, alone on a line for any lines
      <!-- file: NAME -->          saved under this name
      <!-- shown: WHY -->          only to be looked at

- The terminal is one bash in an empty directory, with `docs/` of the clone at hand. What a block starts in the
  background lives until it is killed or the guide is over.
- The default ports are replaced by free ones, in what is typed and saved as well as by the daemon's variables.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from command_line import environ
from conftest import free_port

REPOSITORY: Final = Path(__file__).resolve().parent.parent
STEP_S: Final = 60.0
"""The longest that one block may take."""
END_S: Final = 10.0
PORTS: Final = ("5570", "5571", "5572", "9575", "6555", "6570", "6571")
"""Those that pages speak of: the daemon's, and those of other programs."""
KINDS: Final = ("terminal", "output", "file", "shown")
FENCE: Final = re.compile(
    r"^(?:<!-- (?P<kind>\w+)(?:: (?P<detail>[^\n]*))? -->\n)?^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
JOB_ENDED: Final = re.compile(r"^\S+: line \d+: +\d+ (Killed|Terminated|Hangup)\b.*\n", re.MULTILINE)
DRIVER: Final = r"""
set -E
trap 'GUIDE_FAULT=$?' ERR
while IFS= read -r GUIDE_STEP; do
    GUIDE_FAULT=0
    source "$GUIDE_STEP" </dev/null >"$GUIDE_STEP.out" 2>&1
    echo "$? $GUIDE_FAULT"
done
"""


@dataclass
class Block:
    """One fenced block of a page, with what the comment above it says."""

    kind: str
    detail: str
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    text = page.read_text()
    return [
        Block(
            found["kind"] or "",
            found["detail"] or "",
            found["language"],
            found["text"],
            text.count("\n", 0, found.start("fence")) + 1,
        )
        for found in FENCE.finditer(text)
    ]


def matches(shown: str, printed: str) -> bool:
    """Tell whether what was printed is what a page shows; how much space is between words does not count."""
    pattern = ""
    for line in shown.rstrip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*"
            continue
        words = [r"[^\n]*".join(map(re.escape, word.split("..."))) for word in line.split()]
        pattern += r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n"
    return re.fullmatch(pattern or r"\n", printed.rstrip() + "\n") is not None


@dataclass
class Terminal:
    """A bash that is given blocks, one after the other."""

    directory: Path
    process: subprocess.Popen[str]
    ports: dict[str, str]
    steps: int = field(default=0)

    def adapted(self, text: str) -> str:
        """Return a text of the page with this run's ports in it."""
        for port, free in self.ports.items():
            text = re.sub(rf"\b(127\.0\.0\.1|localhost):{port}\b", rf"\1:{free}", text)
        return text

    def save(self, name: str, text: str) -> None:
        (self.directory / name).write_text(self.adapted(text))

    def type(self, text: str) -> tuple[int, int, str]:
        """Run a block; return its exit code, that of the last command in it that failed (else 0), and what it printed."""
        self.steps += 1
        step = self.directory.parent / f"step-{self.steps}.sh"
        step.write_text(self.adapted(text))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], STEP_S)
        printed = Path(f"{step}.out")
        assert ready, f"not done after {STEP_S} s:\n{text}\n{printed.read_text()[-2000:]}"
        code, fault = map(int, self.process.stdout.readline().split())
        return code, fault, JOB_ENDED.sub("", printed.read_text(errors="replace"))


@contextmanager
def terminal(directory: Path) -> Iterator[Terminal]:
    """Open a terminal whose commands live in a directory; end all that it has started."""
    home, programs = directory / "home", directory / "bin"
    home.mkdir()
    programs.mkdir()
    (home / "docs").symlink_to(REPOSITORY / "docs")
    for name, command in (("python", ""), ("router-daemon", " -m router_daemon")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        (programs / name).chmod(0o755)
    ports = {port: str(free_port()) for port in PORTS}
    process = subprocess.Popen(
        ["bash", "--norc", "-c", DRIVER],
        cwd=home,
        env=environ(
            HOME=str(home),
            PATH=f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            ROUTER_DAEMON__FRONTEND__BIND=f"tcp://127.0.0.1:{ports['5570']}",
            ROUTER_DAEMON__BACKEND__BIND=f"tcp://127.0.0.1:{ports['5571']}",
            ROUTER_DAEMON__ADMIN__BIND=f"127.0.0.1:{ports['9575']}",
            PYTHONUNBUFFERED="1",
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Terminal(home, process, ports)
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """End a terminal and all that it started: they are one group."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    deadline_s = time.monotonic() + END_S
    number = signal.SIGTERM
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
            if time.monotonic() > deadline_s:
                number = signal.SIGKILL
    process.wait()
    process.stdout.close()


def follow(page: Path, directory: Path, before: str = "") -> Path:
    """Do what a page says, from its first block to its last; return the directory in which it was done.

    Args:
        page: the document.
        directory: empty.
        before: typed first, where the page begins in a place that it does not set up itself.

    Raises:
        AssertionError: a command failed, or printed something else than the page shows.
    """
    steps = [block for block in blocks(page) if block.kind != "shown"]
    with terminal(directory) as typed:
        if before:
            _type(typed, Block("terminal", "", "sh", before, 0), None, f"before {page.name}")
        for block, following in zip(steps, [*steps[1:], None], strict=True):
            place = f"{page.name}:{block.line}"
            if block.kind == "file":
                typed.save(block.detail, block.text)
            elif block.kind == "terminal":
                shown = following.text if following is not None and following.kind == "output" else None
                _type(typed, block, typed.adapted(shown) if shown is not None else None, place)
        for log in sorted(typed.directory.glob("*.log")):
            assert "Traceback" not in log.read_text(), f"{page.name}: {log.name}:\n{log.read_text()[-2000:]}"
    return typed.directory


def _type(typed: Terminal, block: Block, shown: str | None, place: str) -> None:
    """Type one block, and assert that what follows is what the page says."""
    wanted = int(block.detail.removeprefix("exit ")) if block.detail.startswith("exit ") else 0
    deadline_s = time.monotonic() + STEP_S
    while True:
        code, fault, printed = typed.type(block.text)
        as_shown = shown is None or matches(shown, printed)
        if block.detail != "until" or (as_shown and fault == 0) or time.monotonic() > deadline_s:
            break
    said = f"{place}:\n{block.text}printed:\n{printed}"
    assert code == wanted, f"exit code {code}, not {wanted}, of {said}"
    assert wanted or fault == 0, f"a command ended with {fault} in {said}"
    assert as_shown, f"the page shows:\n{shown}{said}"

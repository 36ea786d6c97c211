"""Logging as a process shows it: one way for structlog and the standard library, for people and for machines."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from command_line import environ

from router_daemon.logs import printable

SCRIPT: Final = """
import logging, sys, warnings
import structlog
from router_daemon.logs import configure_logging

log = structlog.get_logger("early")
configure_logging(*sys.argv[1:])
log.info("ours", backend="b\\x1b[2J\\nfaked", ratio=float("nan"), count=3)
log.debug("detail")
logging.getLogger("asyncio").warning("slow by %d", 3, extra={"task": "x"})
logging.getLogger("aiohttp.access").info("a scrape")
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
print("for stdout")
"""


def run(*arguments: str, **extra: str) -> list[str]:
    """Return the lines that the script wrote to stderr."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environ(**extra), check=True)
    assert result.stdout == "for stdout\n"
    return result.stderr.splitlines()


def on_terminal(*arguments: str, **extra: str) -> str:
    """Return what the script wrote to a stderr that is a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SCRIPT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environ(**extra)) as process:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 65536):
                written += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    return written.decode()


def test_json_is_an_object_per_line_whoever_logs() -> None:
    entries: list[dict[str, Any]] = [json.loads(line, parse_constant=pytest.fail) for line in run("info", "json")]
    assert [(each["logger"], each["level"]) for each in entries] == [
        ("early", "info"),
        ("asyncio", "warning"),
        ("py.warnings", "warning"),
        ("early", "error"),
    ]
    ours, slow, _, broken = entries
    assert (ours["event"], ours["backend"], ours["ratio"], ours["count"]) == ("ours", "b\x1b[2J\nfaked", "nan", 3)
    assert (slow["event"], slow["task"]) == ("slow by 3", "x")
    assert broken["exception"].endswith("ZeroDivisionError: division by zero")
    for entry in entries:
        assert entry["time"].endswith("Z")
        assert abs(datetime.fromisoformat(entry["time"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_auto_is_json_where_stderr_is_no_terminal() -> None:
    assert json.loads(run("info", "auto")[0])["event"] == "ours"


def test_console_is_a_line_that_nobody_can_break_out_of() -> None:
    lines = run("info", "console")
    assert " [info     ] ours " in lines[0]
    assert "backend='b\\\\x1b[2J\\\\nfaked'" in lines[0] or "backend=b\\x1b[2J\\nfaked" in lines[0]
    assert "slow by 3" in lines[1]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "\x1b" not in "".join(lines)


def test_auto_is_console_on_a_terminal_with_colours_unless_unwanted() -> None:
    assert "\x1b[" in on_terminal("info", "auto")
    plain = on_terminal("info", "auto", NO_COLOR="1")
    assert "\x1b" not in plain
    assert " [info     ] ours " in plain


def test_the_level_is_the_least_that_is_written() -> None:
    events = [json.loads(line)["event"] for line in run("debug", "json")]
    assert {"detail", "a scrape"} <= set(events)
    assert [json.loads(line)["event"] for line in run("error", "json")] == ["broken"]
    assert run("critical", "json") == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü", "plain ü"),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("a\nb\r", "a\\nb\\r"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown

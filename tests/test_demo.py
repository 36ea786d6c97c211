"""Runs of the demo: it finds what is there, survives a killed backend and Ctrl-C, and leaves no process behind."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import psutil
import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PROCESSES: Final = 13  # one daemon, twelve backends
GONE_S: Final = 10.0
SEED: Final = 20240607

pytestmark = pytest.mark.slow


@contextmanager
def demo(*arguments: str, output: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """One run; whatever the test does, it is over at the end."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "demo_app", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output == subprocess.PIPE else output,
        env=environment,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()  # its children die with it
        process.wait(GONE_S)
        if process.stdout is not None:
            process.stdout.close()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """The output up to the first line with `wanted` in it."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(wanted, line):
            return "".join(seen)
    pytest.fail(f"no {wanted!r} in:\n{''.join(seen)}")


def finish(process: subprocess.Popen[str]) -> str:
    """The rest of the output, after asserting that the run ended well."""
    assert process.stdout is not None
    rest = process.stdout.read()
    assert process.wait(GONE_S) == 0, rest
    assert "Traceback" not in rest, rest
    return rest


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The daemon and the backends, while they run."""
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == PROCESSES
    return children


def assert_gone(children: list[psutil.Process]) -> None:
    """Nobody is left; one that only waits for its exit code to be read is gone, too."""
    _, alive = psutil.wait_procs(children, timeout=GONE_S)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_live_metrics_are_analysed_though_a_backend_is_killed() -> None:
    with demo("--seconds", "5", "--rollout", "c3") as process:
        started = read_until(process, "messages [1-9]")
        children = family(process)
        assert_page(started)
        found = re.search(r"Backends by pid: .*zscore-mad (\d+)", started)
        assert found is not None
        os.kill(int(found[1]), signal.SIGKILL)
        summary = finish(process)
    assert_gone(children)
    assert f"backend zscore-mad (pid {found[1]}) was lost, killed by SIGKILL" in summary
    assert "may be handed to up to three backends at once" in summary
    for series in ("cpu.percent", "memory.percent", "load.1min", "processes"):
        row = re.search(rf"^ *{re.escape(series)} +(\d+) +(\d+) +[\d.,]+", summary, re.MULTILINE)
        assert row is not None, summary
        assert int(row[1]) > 0
    sent, answered = counts(summary)
    assert answered > 0.9 * sent > 0


def assert_page(said: str) -> None:
    """The address that it says is the page's, and the daemon behind it has the rollout that was asked for."""
    found = re.search(r"See in a browser why messages go where they go: (http://\S+)", said)
    assert found is not None, said
    browser = urllib.request.Request(found[1], headers={"Accept": "text/html"})
    with (
        urllib.request.urlopen(browser, timeout=5) as page,
        urllib.request.urlopen(f"{found[1]}routes", timeout=5) as r,
    ):
        assert b"<title>router-daemon</title>" in page.read()
        assert json.load(r)["rollout"]["candidate"] == "candidate"


def counts(summary: str) -> tuple[int, int]:
    found = re.search(r"([\d,]+) messages sent, ([\d,]+) answered", summary)
    assert found is not None, summary
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def csv_with_a_spike(path: Path) -> None:
    """Ten hours of one sample a minute; at 05:00 something happens."""
    rng = random.Random(SEED)
    values = [50 + 5 * math.sin(minute / 40) + rng.gauss(0, 1) for minute in range(600)]
    values[300] = 777.0
    rows = [f"2024-03-01 {minute // 60:02}:{minute % 60:02}:00,{value}" for minute, value in enumerate(values)]
    path.write_text("\n".join(["timestamp,value", *rows, "2024-03-01 10:00:00,oops"]))


def test_a_csv_is_replayed_and_its_anomaly_found_alerted_and_handed_on(tmp_path: Path) -> None:
    csv_with_a_spike(tmp_path / "turbine.csv")
    picture = tmp_path / "demo.svg"
    with demo("--input", str(tmp_path / "turbine.csv"), "--seconds", "4", "--picture", str(picture)) as process:
        read_until(process, "Feeding turbine")
        children = family(process)
        summary = finish(process)
    assert_gone(children)
    assert re.search(r"^ *2024-03-01 05:00:00 +turbine +.* 777 +\d+\.\d", summary, re.MULTILINE), summary
    assert "RAISED turbine = 777 at 2024-03-01 05:00:00" in summary
    assert re.search(r"handed on: \d+ by (spool|syslog)", summary)
    assert "line 602: value 'oops'" in summary
    assert re.search(r"^ *turbine +\d+ +600 ", summary, re.MULTILINE), summary
    drawn = picture.read_text()
    ET.fromstring(drawn)
    assert "zscore-mad" in drawn
    assert "url(" not in re.sub(r"url\(#", "", drawn)


def test_in_a_terminal_there_is_a_live_table_and_ctrl_c_ends_it_with_the_summary() -> None:
    master, slave = os.openpty()
    try:
        with demo(output=slave) as process:
            os.close(slave)
            seen = read_terminal(master, "zscore-mad .* up ")
            children = family(process)
            process.send_signal(signal.SIGINT)
            seen += read_terminal(master, "Routing decisions")
            assert process.wait(GONE_S) == 0
        assert_gone(children)
    finally:
        os.close(master)
    assert "EWMA ms" in seen
    assert "Stopped by Ctrl-C" in seen


def read_terminal(master: int, wanted: str) -> str:
    """What appears on the terminal up to a match of `wanted`, without colours and cursor movements."""
    raw = b""
    while True:
        raw += os.read(master, 65536)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw.decode(errors="replace"))
        if re.search(wanted, text):
            return text


def test_the_processes_die_with_a_demo_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what a killed demo cannot remove
    with demo("--seconds", "50") as process:
        read_until(process, "Feeding")
        children = family(process)
        process.kill()
        assert_gone(children)


def test_a_wrong_input_is_said_in_one_line() -> None:
    with demo("--input", "/nowhere/at/all.csv") as process:
        assert process.stdout is not None
        assert process.stdout.read() == "demo: /nowhere/at/all.csv: No such file or directory\n"
        assert process.wait(GONE_S) == 2

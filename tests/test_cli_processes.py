"""The processes that long commands spread their runs over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

GONE_S = 30.0
COMMAND = """
import sys
from contextlib import ExitStack
from router_daemon.cli.processes import mapper

if __name__ == "__main__":
    with ExitStack() as stack:
        print(*mapper(stack, 2)(abs, [-1, -2]), flush=True)
        sys.stdin.read()
"""


def test_the_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND, encoding="utf-8")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, str(script)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1 2\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert workers
        _, alive = psutil.wait_procs(workers, GONE_S)
        assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []

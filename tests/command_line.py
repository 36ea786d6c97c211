"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner, Result

from router_daemon.cli import app

REPOSITORY: Final = Path(__file__).resolve().parent.parent


def environ(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of the daemon, with the package importable."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("ROUTER_DAEMON__")}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path} | extra


def invoke(*arguments: str, **options: Any) -> Result:
    """Run one command in this process."""
    result = CliRunner().invoke(app, list(arguments), prog_name="router-daemon", **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def process(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run one command in a process of its own."""
    command = [sys.executable, "-m", "router_daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ(**extra), timeout=30, check=False)

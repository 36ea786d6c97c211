"""What `./scripts/test` does once everything is installed: the linter, the formatter, the types, then the tests.

Rules:
- Every check runs, whatever an earlier one said, so that one run shows everything that is wrong.
- pytest comes last, in this process, and its closing line is the last line of all; what failed before it is named in
  its summary. The exit code is pytest's, or 1 where only an earlier check failed.
- Nothing is changed: the formatter only looks.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests"
SUPPORTED: Final = ("3.11", "3.12", "3.13")
STATIC: Final = (
    ("ruff check", ["ruff", "check", "."]),
    ("ruff format", ["ruff", "format", "--check", "."]),
    ("mypy", ["mypy"]),
)


class FailedBefore:
    """A pytest plugin: names in pytest's own summary what had failed before pytest began."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Called by pytest before its closing line."""
        if self._names:
            terminalreporter.section("checks before the tests", red=True)
            for name in self._names:
                terminalreporter.write_line(f"FAILED {name} (see above)", red=True)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of ours and the arguments for pytest."""
    parser = argparse.ArgumentParser(
        "scripts/test",
        usage="%(prog)s [--full] [--tests-only] [--all-pythons] [arguments of pytest]",
        description="Runs ruff check, ruff format --check, mypy and pytest.",
        allow_abbrev=False,
    )
    parser.add_argument("--full", action="store_true", help="fail, instead of skipping, where a tool is absent")
    parser.add_argument("--tests-only", action="store_true", help="run pytest alone")
    parser.add_argument("--all-pythons", action="store_true", help="run pytest under the other Pythons at hand, too")
    return parser.parse_known_args(arguments)


def announce(name: str, command: Sequence[str]) -> None:
    """Say what runs next."""
    print(f"--- {name}: {shlex.join(command)}", flush=True)


def passes(name: str, command: Sequence[str], **variables: str) -> bool:
    """Run one check and tell whether it passed."""
    announce(name, command)
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False).returncode == 0


def missing_tools() -> list[str]:
    """Return a line for each tool that a test names and that is absent."""
    sys.path.insert(0, str(TESTS))
    from tools import TOOLS, find_tool  # noqa: PLC0415 - of the tests; only now importable

    return [f"{name} is not installed ({source})" for name, source in TOOLS.items() if find_tool(name) is None]


def candidates(minor: str) -> Iterator[str]:
    """Yield where a Python of that version may be: on the PATH, then where pyenv keeps them."""
    if found := shutil.which(f"python{minor}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(pyenv.glob(f"versions/{minor}.*/bin/python"), reverse=True))


def runs(python: str, minor: str) -> bool:
    """Tell whether it is a working interpreter of that version, able to make environments (a shim may be neither)."""
    check = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != {minor!r})"
    return subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0


def other_pythons() -> dict[str, str]:
    """Return version -> interpreter, for each supported Python at hand but the one that runs this."""
    own = "{}.{}".format(*sys.version_info[:2])
    found = {}
    for minor in SUPPORTED:
        python = next((python for python in candidates(minor) if runs(python, minor)), None)
        if python is not None and minor != own:
            found[minor] = python
    return found


def main(arguments: Sequence[str]) -> int:
    """Run everything; return the exit code."""
    options, for_pytest = parse(arguments)
    if options.full:
        os.environ["ROUTER_DAEMON_FULL"] = "1"
        if missing := missing_tools():
            print("\n".join(missing), file=sys.stderr)
            return 1
    failed = []
    if not options.tests_only:
        failed += [name for name, command in STATIC if not passes(name, [sys.executable, "-m", *command])]
    others = other_pythons()
    if options.all_pythons:
        failed += [f"pytest, Python {minor}" for minor in others if not passes_under(minor, others[minor], for_pytest)]
    elif others and not options.tests_only:
        at_hand = ", ".join(f"{minor} ({python})" for minor, python in others.items())
        print(f"Other Pythons at hand: {at_hand}; --all-pythons runs the tests there, too.", flush=True)
    announce("pytest", ["pytest", *for_pytest])
    code = int(pytest.main(for_pytest, plugins=[FailedBefore(failed)]))
    return code or int(bool(failed))


def passes_under(minor: str, python: str, for_pytest: Sequence[str]) -> bool:
    """Run the tests under another Python, in an environment of its own inside this one."""
    home = str(Path(sys.prefix) / "pythons" / minor)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])  # for tools in here
    command = ["scripts/test", "--tests-only", *for_pytest]
    return passes(f"Python {minor}", command, VENV=home, PYTHON=python, PATH=path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

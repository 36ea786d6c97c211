"""What `./scripts/test` does once everything is installed: the linter, the formatter, the types and the tests.

Rules:
- Every check runs, whatever an earlier one said, so that one run shows everything that is wrong.
- The tests are spread over processes, one more than there are cores (pytest-xdist), and mypy runs beside them in what
  is left: many tests wait for what they have started. What mypy says is shown before the tests' own summary.
- pytest runs in this process, and its closing line is the last line of all; what else failed is named in its summary.
  The exit code is pytest's, or 1 where only another check failed.
- Nothing is changed: the formatter only looks.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
TESTS: Final = ROOT / "tests"
SUPPORTED: Final = ("3.11", "3.12", "3.13")
QUICK: Final = (("ruff check", ["ruff", "check", "."]), ("ruff format", ["ruff", "format", "--check", "."]))
BESIDE: Final = (("mypy", ["mypy"]),)
MOST_WORKERS: Final = 6
"""Each starts daemons of its own, and the longest tests take as long on any number of them."""
BESIDE_NICE: Final = 5


class Beside:
    """A check that runs while the tests do."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.command = command
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would fill; closed in `finish`
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, BESIDE_NICE)

    def finish(self) -> tuple[bool, str]:
        """Wait for its end; return whether it passed and what it said."""
        passed = self._process.wait() == 0
        with self._output:
            self._output.seek(0)
            return passed, self._output.read().decode(errors="replace").rstrip()


class OtherChecks:
    """A pytest plugin: ends pytest's own summary with what the other checks came to; and says how many workers."""

    def __init__(self, failed: Sequence[str], beside: Sequence[Beside]) -> None:
        self.failed = list(failed)
        self._beside = list(beside)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_auto_num_workers(self) -> int:
        """Called by pytest-xdist, where it is on."""
        return workers(cores())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Called by pytest before its closing line."""
        for name, said in self.finished():
            terminalreporter.section(name)
            terminalreporter.write_line(said)
        if self.failed:
            terminalreporter.section("checks other than the tests", red=True)
            for name in self.failed:
                terminalreporter.write_line(f"FAILED {name} (see above)", red=True)

    def finished(self) -> Iterator[tuple[str, str]]:
        """Wait for what runs beside the tests and has not been told yet; yield name and output of each."""
        while self._beside:
            check = self._beside.pop(0)
            passed, said = check.finish()
            if not passed:
                self.failed.append(check.name)
            yield check.name, said


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(cores: int) -> int:
    """Return how many processes run the tests: one more than cores, since tests wait for what they have started."""
    return min(cores + 1, MOST_WORKERS)


def spread(for_pytest: Sequence[str]) -> list[str]:
    """Return the arguments that spread the tests over workers, before those given, which may say otherwise."""
    on = not {"no:xdist", "-pno:xdist"}.intersection(for_pytest)
    return ["-n", "auto", "--dist", "worksteal", *for_pytest] if on else list(for_pytest)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of ours and the arguments for pytest."""
    parser = argparse.ArgumentParser(
        "scripts/test",
        usage="%(prog)s [--full] [--tests-only] [--all-pythons] [arguments of pytest]",
        description="Runs ruff check, ruff format --check, mypy and pytest, on every core (-n0: on one).",
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
    failed: list[str] = []
    beside: list[Beside] = []
    if not options.tests_only:
        failed += [name for name, command in QUICK if not passes(name, [sys.executable, "-m", *command])]
        beside += [start_beside(name, [sys.executable, "-m", *command]) for name, command in BESIDE]
    others = other_pythons()
    if options.all_pythons:
        failed += [f"pytest, Python {minor}" for minor in others if not passes_under(minor, others[minor], for_pytest)]
    elif others and not options.tests_only:
        at_hand = ", ".join(f"{minor} ({python})" for minor, python in others.items())
        print(f"Other Pythons at hand: {at_hand}; --all-pythons runs the tests there, too.", flush=True)
    return run_tests(spread(for_pytest), OtherChecks(failed, beside))


def start_beside(name: str, command: Sequence[str]) -> Beside:
    """Start a check that runs while the tests do."""
    announce(f"{name} (beside the tests)", command)
    return Beside(name, command)


def run_tests(for_pytest: Sequence[str], others: OtherChecks) -> int:
    """Run pytest, and return the exit code of everything."""
    announce("pytest", ["pytest", *for_pytest])
    code = int(pytest.main([*for_pytest], plugins=[others]))
    for name, said in others.finished():  # pytest did not get as far as its summary
        print(f"--- {name}:\n{said}", flush=True)
    return code or int(bool(others.failed))


def passes_under(minor: str, python: str, for_pytest: Sequence[str]) -> bool:
    """Run the tests under another Python, in an environment of its own inside this one."""
    home = str(Path(sys.prefix) / "pythons" / minor)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])  # for tools in here
    command = ["scripts/test", "--tests-only", *for_pytest]
    return passes(f"Python {minor}", command, VENV=home, PYTHON=python, PATH=path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

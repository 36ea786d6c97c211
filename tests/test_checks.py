"""`scripts/test`: what it makes and installs, what it runs, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import tools

REPOSITORY: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

import checks  # noqa: E402

ABSENT: Final = "no-such-program"


# --- tools that tests need ---


@pytest.fixture
def _absent_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.TOOLS, ABSENT, "from nowhere")


@pytest.mark.usefixtures("_absent_tool")
def test_an_absent_tool_skips_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUTER_DAEMON_FULL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"^no-such-program is not installed \(from nowhere\)$"):
        tools.require_tool(ABSENT)


@pytest.mark.usefixtures("_absent_tool")
def test_an_absent_tool_fails_its_test_in_the_full_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_DAEMON_FULL", "1")
    with pytest.raises(pytest.fail.Exception, match=r"^no-such-program is not installed \(from nowhere\)$"):
        tools.require_tool(ABSENT)


def test_a_tool_without_a_source_is_a_fault_of_its_test() -> None:
    with pytest.raises(KeyError):
        tools.require_tool(ABSENT)


@pytest.mark.usefixtures("_absent_tool")
def test_a_tool_may_stand_beside_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / ABSENT
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert tools.require_tool(ABSENT) == str(program)


# --- checks.py ---


def run(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run code that knows `checks`, with one passing test in `test_one.py` and no other checks."""
    (tmp_path / "test_one.py").write_text("def test_one() -> None:\n    pass\n")
    prologue = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'scripts')!r}); import checks\n"
    prologue += "checks.QUICK = checks.BESIDE = ()\n"
    env = {name: text for name, text in os.environ.items() if name not in {"ROUTER_DAEMON_FULL", "PYTEST_ADDOPTS"}}
    command = [sys.executable, "-P", "-c", prologue + script]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)


def main(*arguments: str) -> str:
    return f"sys.exit(checks.main({['-p', 'no:cacheprovider', *arguments, 'test_one.py']}))"


HERE: Final = main("-n0")
GOOD: Final = ["this"]
BAD: Final = ["antigravity.nothing"]


def test_the_last_line_is_pytest_s_and_the_tests_are_spread(tmp_path: Path) -> None:
    done = run("checks.cores = lambda: 3\n" + main(), tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in lines[-1]
    assert "created: 4/4 workers" in lines


def test_what_else_failed_is_named_and_decides_the_exit_code(tmp_path: Path) -> None:
    others = f"checks.QUICK = (('good', {GOOD}), ('bad', {BAD}))\nchecks.BESIDE = (('late', {BAD}), ('well', {GOOD}))\n"
    done = run(others + HERE, tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "1 passed" in lines[-1]
    failed = [line for line in lines if line.startswith("FAILED")]
    assert failed == ["FAILED bad (see above)", "FAILED late (see above)"]
    assert any("Error while finding module specification for 'antigravity.nothing'" in line for line in lines), (
        "of the one beside: stderr, too"
    )
    assert lines.count("Beautiful is better than ugly.") == 2, "what passed is shown, too"


def test_a_check_beside_the_tests_runs_while_they_do(tmp_path: Path) -> None:
    """It ends only once the test has begun, and the test only once it has."""
    (tmp_path / "beside.py").write_text(
        "word = open('begun').read()\nopen('there', 'w').write(word)\nprint('seen by both')\n"
    )
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "there")
    test = "def test_two():\n    open('begun', 'w').write('word')\n    assert open('there').read() == 'word'\n"
    (tmp_path / "test_two.py").write_text(test)
    script = "from pathlib import Path; checks.ROOT = Path(); checks.BESIDE = (('beside', ['beside']),)\n"
    done = run(script + main("-n0", "test_two.py"), tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in lines[-1]
    assert lines.count("seen by both") == 1


def test_a_check_beside_the_tests_is_told_though_pytest_cannot_begin(tmp_path: Path) -> None:
    done = run(f"checks.BESIDE = (('late', {BAD}),)\n" + main("--no-such-option"), tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Error while finding module specification for 'antigravity.nothing'" in done.stdout


def test_failing_tests_decide_the_exit_code(tmp_path: Path) -> None:
    done = run("open('test_one.py', 'a').write('    assert False\\n')\n" + HERE, tmp_path)
    assert done.returncode == 1
    assert "1 failed" in done.stdout.splitlines()[-1]


def test_without_xdist_the_tests_run_all_the_same(tmp_path: Path) -> None:
    done = run(main("-p", "no:xdist"), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout.splitlines()[-1]


def test_what_the_caller_says_of_workers_comes_last() -> None:
    assert checks.spread(["-n0", "-x"]) == ["-n", "auto", "--dist", "worksteal", "-n0", "-x"]


@pytest.mark.parametrize(("cores", "workers"), [(1, 2), (2, 3), (4, 5), (64, 6)])
def test_there_is_one_more_worker_than_cores_and_not_very_many(cores: int, workers: int) -> None:
    assert checks.workers(cores) == workers


def test_the_full_form_begins_with_everything_that_is_missing(tmp_path: Path) -> None:
    done = run(
        "import os; os.environ['PATH'] = '/nowhere'; sys.executable = '/nowhere/python'\n"
        "sys.exit(checks.main(['--full', 'test_one.py']))",
        tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{name} is not installed ({source})" for name, source in tools.TOOLS.items()]


def test_unknown_arguments_are_pytest_s() -> None:
    done = checks.parse(["--full", "-k", "name", "--exitfirst", "tests/test_wire.py"])
    assert done[1] == ["-k", "name", "--exitfirst", "tests/test_wire.py"]


# --- the shell around it ---


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Make what looks like a virtual environment; its interpreter writes down how it was called."""
    home = tmp_path / "venv"
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").touch()
    python = home / "bin/python"
    python.write_text(f'#!/bin/sh\ncase "$1" in -c) exec {sys.executable} "$@" ;; esac\necho "$@" >>{home}/calls\n')
    python.chmod(0o755)
    return home


def script(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: text for name, text in os.environ.items() if name != "PYTHON"} | {"VENV": str(home)} | variables
    command = [str(REPOSITORY / "scripts/test"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def calls(home: Path) -> list[str]:
    """Return how the interpreter was called since this was last asked."""
    found = (home / "calls").read_text().splitlines()
    (home / "calls").unlink()
    return found


def test_it_installs_once_and_again_when_the_project_file_changed(environment: Path) -> None:
    assert script(environment, "-k", "x").returncode == 0
    probe, install, run = calls(environment)
    assert probe.startswith("-m pip --version")
    assert install.startswith("-m pip install")
    assert install.endswith(f"--editable {REPOSITORY}[dev,demo]")
    assert run == "-P scripts/checks.py -k x"
    assert script(environment).returncode == 0
    assert calls(environment) == ["-P scripts/checks.py"]
    with (environment / "stamp-demo").open("a") as stamp:
        stamp.write("changed\n")
    assert script(environment).returncode == 0
    assert len(calls(environment)) == 3


def test_another_python_than_the_one_there_is_asked_for(environment: Path) -> None:
    assert script(environment, PYTHON=sys.executable).returncode == 0
    calls(environment)
    done = script(environment, PYTHON="/bin/false")
    assert done.returncode == 1
    assert done.stderr == "test: PYTHON=/bin/false is not Python 3.11 or newer.\n"


def test_it_clears_nothing_but_virtual_environments(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = script(tmp_path)
    assert (done.returncode, done.stderr) == (1, f"test: {tmp_path} is there and is no virtual environment.\n")
    assert (tmp_path / "precious").exists()

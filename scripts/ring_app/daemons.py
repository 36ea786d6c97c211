"""All daemons of the run: one process each, forked from this one, which has loaded the code once.

Rules:
- `python -m ring_app.daemons --parent PID CONFIG...`: one TOML file per daemon; its log stands beside it. What is
  printed is one JSON object: each file's process.
- A daemon is what `router-daemon run` is; nothing of it is replaced.
- The children die with this process, and this one with the driver.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from demo_app.guard import die_with

from router_daemon.config import load_config
from router_daemon.daemon import run
from router_daemon.logs import configure_logging


def main() -> None:
    """Start them and wait until all have ended; SIGTERM is passed on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("configs", type=Path, nargs="+")
    options = parser.parse_args()
    die_with(options.parent)
    children = {str(path): _start(path) for path in options.configs}
    living = set(children.values())

    def stop(*_: object) -> None:
        for pid in living:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    print(json.dumps(children), flush=True)
    while living:
        pid, _status = os.wait()
        living.discard(pid)


def _start(path: Path) -> int:
    """Fork one daemon and return its process."""
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _serve(path, parent)
    return pid


def _serve(path: Path, parent: int) -> NoReturn:
    code = 1
    try:
        die_with(parent)
        os.setsid()  # processors are shared among sessions: each daemon is to have its own part
        log = os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        config = load_config(path, {})
        configure_logging(config.log.level, config.log.format)
        code = run(config)
    finally:
        sys.stderr.flush()
        os._exit(code)  # not back into the parent's code, whatever happens


if __name__ == "__main__":
    main()

"""No process outlives the demo, not even one whose demo was killed with SIGKILL.

Rules:
- Linux: the kernel is asked to kill the process when its parent dies (`PR_SET_PDEATHSIG`). It survives `exec`, so the
  daemon is guarded without knowing: `python -m demo_app.guard PARENT_PID -- COMMAND...`.
- Anywhere else: a backend watches its standard input, whose other end only the demo holds (`watch_stdin`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def die_with(parent_pid: int) -> None:
    """Have this process killed when its parent, which must be `parent_pid`, is gone; end at once if it is already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit("the demo is gone already")


def watch_stdin() -> None:
    """End this process as soon as standard input ends: then nobody holds the other end any more."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def main(arguments: list[str]) -> None:
    parent_pid, separator, *command = arguments
    assert separator == "--"
    die_with(int(parent_pid))
    os.execv(command[0], command)  # noqa: S606 - the command is the demo's own


if __name__ == "__main__":
    main(sys.argv[1:])

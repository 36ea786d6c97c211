"""`python -m demo_app`: the demo."""

from __future__ import annotations

import sys

from demo_app import options


def run() -> int:
    chosen = options.parse(sys.argv[1:])
    try:
        from demo_app import main  # noqa: PLC0415 - --help must work before anything is installed

        return main.run(chosen)
    except KeyboardInterrupt:  # before the loop listens to it
        print("Stopped by Ctrl-C before the start.")
        return 0


if __name__ == "__main__":
    sys.exit(run())

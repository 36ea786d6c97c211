"""`python -m ring_app`, as `scripts/ring` calls it."""

import sys

from ring_app.main import main

if __name__ == "__main__":
    sys.exit(main())

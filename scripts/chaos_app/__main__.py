"""`python -m chaos_app`, as `scripts/chaos` calls it."""

import sys

from chaos_app.main import main

if __name__ == "__main__":
    sys.exit(main())

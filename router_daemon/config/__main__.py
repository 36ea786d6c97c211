"""`python -m router_daemon.config schema|toml`: what config/schema.json and config/router-daemon.toml hold."""

import sys

from router_daemon.config import main

sys.exit(main(sys.argv[1:]))

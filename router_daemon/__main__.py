"""`python -m router_daemon` is `router-daemon`."""

from router_daemon.cli import main

if __name__ == "__main__":
    main()

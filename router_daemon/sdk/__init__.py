"""What `router_daemon.client` and `router_daemon.backend` are made of; knows the protocol, not the daemon."""

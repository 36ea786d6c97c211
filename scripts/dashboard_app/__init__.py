"""Makes deploy/grafana/router-daemon.json."""

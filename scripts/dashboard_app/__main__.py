"""The Grafana dashboard of router-daemon: what an operator looks at, from the clients' view down to the process.

    PYTHONPATH=scripts python -m dashboard_app >deploy/grafana/router-daemon.json

Rules:
- The file is generated, so that fifty panels are alike and a changed label is one line here. A test compares it with
  what this prints, and another one asks a real Prometheus every query.
- The order is that of a search: what clients feel, then who causes it, then why.
- Everything follows the variables at the top; nothing names a job or an instance.
"""

from __future__ import annotations

import json
import sys

from dashboard_app.clients import decisions, overview, waiting
from dashboard_app.panels import BLUE, RED, SCHEMA, YELLOW, Json, event, placed, sources, variable
from dashboard_app.queries import AT, BY, JOB, VIA
from dashboard_app.work import backends, process, ring, routes


def text() -> str:
    """Return the dashboard as it stands in deploy/grafana."""
    return json.dumps(dashboard(), indent=1) + "\n"


def dashboard() -> Json:
    """Return the whole of it."""
    panels = [*overview(), *backends(), *routes(), *waiting(), *decisions(), *ring(), *process()]
    return {
        "title": "router-daemon",
        "uid": "router-daemon",
        "description": "Messages, backends, routes, limits, decisions, ring, process: see docs/monitoring.md",
        "tags": ["router-daemon"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                sources(),
                variable("job", "router_build_info", "job"),
                variable("instance", "router_build_info", "instance", JOB),
                variable("capability", "router_messages_total", "capability", AT),
                variable("backend", "router_backend_up", "backend", AT),
                variable("route", "router_route_breaker_open", "route", AT),
            ]
        },
        "annotations": {
            "list": [
                event(
                    "Alerts",
                    'ALERTS{alertname=~"RouterDaemon.*",alertstate="firing",job=~"$job|"}',
                    RED,
                    "{{alertname}}",
                    "{{severity}} {{instance}} {{capability}} {{backend}}",
                ),
                event(
                    "Starts",
                    f"changes(process_start_time_seconds{{{AT}}}[1m]) > 0 and on (job, instance) router_build_info",
                    BLUE,
                    "started",
                ),
                event(
                    "Rollout", f"changes(router_rollout_percent{{{VIA}}}[1m]) > 0", YELLOW, "share of {{route}} changed"
                ),
                event(
                    "Rollout stopped",
                    f"changes(router_rollout_stopped{{{AT}}}[1m]) > 0",
                    RED,
                    "rollout stopped or resumed",
                ),
                event(
                    "Backends ejected",
                    f"increase(router_backend_ejections_total{{{BY}}}[1m]) > 0",
                    YELLOW,
                    "{{backend}} ejected",
                ),
                event(
                    "Backends lost",
                    f"increase(router_backend_losses_total{{{BY}}}[1m]) > 0",
                    YELLOW,
                    "{{backend}} lost",
                ),
            ]
        },
        "links": [],
        "panels": placed(panels),
    }


if __name__ == "__main__":
    sys.stdout.write(text())

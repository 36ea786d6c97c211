"""What came of each route, and where the rollout stands -> Prometheus, as `metrics` does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import Metric

from router_daemon.core.broker import Broker
from router_daemon.core.counts import SECONDS
from router_daemon.core.rollout import ROLLED_BACK, Rollout
from router_daemon.core.routes import Route
from router_daemon.families import Series, counter, gauge, gauges, histogram, seen


class RouteSnapshot:
    """A consistent copy of what the routes of a broker count."""

    def __init__(self, broker: Broker) -> None:
        routes = broker.routes
        self.routes = [_route(route) for route in routes.by_name.values()]
        self.rollout = None if routes.rollout is None else _rollout(routes.rollout)
        self.feedback_ignored = broker.counts.feedback_ignored


def route_families(snapshot: RouteSnapshot) -> Iterator[Metric]:
    """Yield what came of each route; outcomes, times, deliveries and cost only where there are several."""
    routes = snapshot.routes
    yield counter(
        "router_route_messages",
        "Messages by the route that they took and how they ended; only where there are several routes.",
        ["route", "outcome"],
        (([r["name"], outcome], n) for r in routes for outcome, n in r["outcomes"].items()),
    )
    yield histogram(
        "router_route_seconds",
        "From reading a message to its answer, of those answered, by route.",
        ["route"],
        (([r["name"]], r["seconds"]) for r in routes if r["seconds"] is not None),
    )
    counters = (
        ("deliveries", "router_route_deliveries", "Deliveries made for the messages of a route."),
        ("cost", "router_route_cost", "What those deliveries cost, as told by backends, else as declared."),
        ("quality", "router_route_quality", "Sum of the scores from 0 to 1 that FEEDBACK and ACKs gave."),
        ("rated", "router_route_rated", "Number of those scores."),
    )
    for key, name, text in counters:
        yield counter(name, text, ["route"], (([r["name"]], r[key]) for r in routes if r[key] is not None))
    yield counter(
        "router_route_fallbacks",
        "Decisions that the fallback policy made for a route, by reason.",
        ["route", "reason"],
        (([r["name"], reason], n) for r in routes for reason, n in r["fallbacks"].items()),
    )
    yield counter(
        "router_route_faults",
        "What a route's policy did wrong: raised, nonsense, slow; told of something, or asked for its account, raised.",
        ["route", "kind"],
        (([r["name"], kind], n) for r in routes for kind, n in r["faults"].items()),
    )
    opened = ((r["name"], r["open"]) for r in routes)
    yield gauges("router_route_breaker_open", "1 while the fallback decides for a route.", "route", opened)
    yield counter(
        "router_feedback_ignored",
        "FEEDBACK about no answered message of its connection's last 1,024.",
        [],
        [([], snapshot.feedback_ignored)],
    )
    if snapshot.rollout is not None:
        shares = snapshot.rollout["shares"].items()
        yield gauges("router_rollout_percent", "Share of the messages that a route gets, in percent.", "route", shares)
        yield gauge("router_rollout_stopped", "1 while the candidate gets nothing.", snapshot.rollout["stopped"])
        yield counter(
            "router_rollout_verdicts",
            "How often the candidate was stopped, by what: success, p99, policy.",
            ["cause"],
            (([cause], n) for cause, n in snapshot.rollout["verdicts"].items()),
        )


def _route(route: Route) -> dict[str, Any]:
    """Return what is shown of a route; of the only one, what the capabilities' series do not say anyway."""
    tally = route.tally
    return {
        "name": route.name,
        "outcomes": {} if tally is None else seen(tally.outcomes),
        "seconds": None if tally is None else Series(tally.seconds.folded(SECONDS)),
        "deliveries": None if tally is None else tally.deliveries,
        "cost": None if tally is None else tally.cost,
        "fallbacks": {reason: count for reason, count in route.fallbacks.items() if count},
        "faults": dict(route.faults),
        "quality": route.quality,
        "rated": route.rated,
        "open": float(route.opened_at is not None),
    }


def _rollout(rollout: Rollout) -> dict[str, Any]:
    shares = rollout.shares()
    stopped = float(rollout.state == ROLLED_BACK)
    return {"shares": shares, "stopped": stopped, "verdicts": dict(rollout.verdicts)}

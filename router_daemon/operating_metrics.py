"""What people do, and what has happened -> Prometheus, as `metrics` does the rest: names and labels stand here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric

from router_daemon.config.loaded import Loaded
from router_daemon.core.broker import Broker
from router_daemon.core.chronicle import Chronicle
from router_daemon.core.operating import Operator
from router_daemon.families import counter, gauge


class Operations(NamedTuple):
    """What only a whole daemon has: who does what people say, what has happened, and the configuration."""

    operator: Operator
    chronicle: Chronicle
    loaded: Loaded | None


class OperatingSnapshot:
    """A consistent copy of what is counted of people and of what has happened."""

    def __init__(self, broker: Broker, now: float, operations: Operations | None) -> None:
        overrides = broker.overrides
        self.overrides = len(overrides.snapshot(now))
        self.overridden = overrides.applied
        self.to_be_retired = broker.routes.retirement.named(broker.routes.rollout)
        self.acts = {} if operations is None else dict(operations.operator.counts)
        self.events = {} if operations is None else dict(operations.chronicle.counts)
        loaded = None if operations is None else operations.loaded
        self.reloads = {} if loaded is None else dict(loaded.reloads)
        self.config = None if loaded is None else (loaded.at, float(loaded.hash), float(loaded.ok), loaded.waiting)


def operating_families(operating: OperatingSnapshot) -> Iterator[Metric]:
    """Yield what people and monitoring want to know of those who operate the daemon."""
    retire = GaugeMetricFamily(
        "router_route_to_be_retired",
        "1 for a route that is named for retirement, by cause; /routes says why.",
        labels=["route", "cause"],
    )
    for each in operating.to_be_retired:
        retire.add_metric([each.route, each.cause], 1.0)
    yield retire
    yield gauge("router_overrides", "Overrides in force.", operating.overrides)
    yield counter(
        "router_override_messages",
        "Messages that went where an override says.",
        [],
        [([], operating.overridden)],
    )
    by_label = (
        ("router_operator_acts", "What people have said to the routing, by what it was.", "act", operating.acts),
        ("router_events", "What has happened, by kind; /events/recent lists it.", "kind", operating.events),
        ("router_reloads", "Reloads of the configuration, by outcome.", "outcome", operating.reloads),
    )
    for name, text, label, counts in by_label:
        yield counter(name, text, [label], (([value], n) for value, n in counts.items()))
    if operating.config is not None:
        yield from _config(*operating.config)


def _config(at: float, number: float, ok: float, waiting: int) -> Iterator[Metric]:
    shown = (
        ("loaded_timestamp_seconds", "When the configuration in force was read, in seconds since 1970.", at),
        ("hash", "A number that daemons share whose configurations differ in addresses and names at most.", number),
        ("last_reload_ok", "0 where the last reload was refused.", ok),
        ("waiting_for_restart", "Keys of the configuration that need a restart to take effect.", waiting),
    )
    for name, text, value in shown:
        yield gauge(f"router_config_{name}", text, value)

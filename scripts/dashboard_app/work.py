"""Who does the work: backends, routes and their rollout, other daemons, the process."""

from __future__ import annotations

from dashboard_app.panels import RED, Json, graph, row, stat, table
from dashboard_app.queries import AT, BY, OF, VIA, W, mean, quantile, rate, ratio


def backends() -> list[Json]:
    """Return who does the work, and how well."""
    return [
        row("Backends"),
        table(
            "Backends now",
            "As the score sees them. up: 1 while it is connected; ejected: 1 while it gets nothing because it fails.",
            [
                ("up", f"min by (backend) (router_backend_up{{{BY}}})", "short"),
                ("ejected", f"max by (backend) (router_backend_ejected{{{BY}}})", "short"),
                ("in flight", f"sum by (backend) (router_backend_in_flight{{{BY}}})", "short"),
                ("latency", f"avg by (backend) (router_backend_latency_ewma_seconds{{{BY}}})", "s"),
                ("success", f"avg by (backend) (router_backend_success_ratio{{{BY}}})", "percentunit"),
                ("deliveries/s", rate("router_deliveries_total", BY, "backend"), "ops"),
            ],
            by="backend",
        ),
        graph(
            "Failures",
            "Deliveries that failed and count against their backend.",
            (rate("router_delivery_failures_total", BY, "backend, cause"), "{{backend}}: {{cause}}"),
            unit="ops",
        ),
        graph(
            "Deliveries",
            "Who gets how much.",
            (rate("router_deliveries_total", BY, "backend"), "{{backend}}"),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Deliveries by outcome",
            "busy, rejected and cancelled count against nobody.",
            (rate("router_deliveries_total", BY, "outcome"), "{{outcome}}"),
            unit="ops",
        ),
        graph(
            "Share that fails",
            "Of deliveries that say something of the backend. From 10 % on it is a ticket.",
            (
                ratio(
                    ("router_delivery_failures_total", BY),
                    ("router_deliveries_total", f'{BY},outcome=~"acked|failed|timeout|lost|malformed"'),
                    "backend",
                ),
                "{{backend}}",
            ),
            unit="percentunit",
            limit=0.1,
        ),
        graph(
            "Latency, moving average",
            "What the score sees.",
            (f"avg by (backend) (router_backend_latency_ewma_seconds{{{BY}}})", "{{backend}}"),
            unit="s",
        ),
        graph(
            "Success, moving average",
            "What the score sees.",
            (f"avg by (backend) (router_backend_success_ratio{{{BY}}})", "{{backend}}"),
            unit="percentunit",
            most=1.0,
        ),
        graph(
            "In flight",
            "Deliveries open at each.",
            (f"sum by (backend) (router_backend_in_flight{{{BY}}})", "{{backend}}"),
        ),
        graph(
            "Slowest 1 % by group",
            "From sending a delivery to its ACK or first PART, by the group that backends name.",
            (quantile(0.99, "router_delivery_seconds", OF, "group"), "group {{group}}"),
            unit="s",
        ),
        graph(
            "Ejected and lost",
            "How often backends began to get nothing, and how often they went without a word.",
            (f"sum by (backend) (increase(router_backend_ejections_total{{{BY}}}{W}))", "{{backend}} ejected"),
            (f"sum by (backend) (increase(router_backend_losses_total{{{BY}}}{W}))", "{{backend}} lost"),
        ),
        graph(
            "Answers without effect",
            "late is usual with fan-outs; unknown: an answer to no open delivery.",
            (rate("router_stray_answers_total", AT, "kind"), "{{kind}}"),
            unit="ops",
        ),
    ]


def routes() -> list[Json]:
    """Return what came of each route, and where the rollout stands."""
    return [
        row("Routes and rollout"),
        graph(
            "Shares",
            "Percent of the messages that each route gets.",
            (f"avg by (route) (router_rollout_percent{{{VIA}}})", "{{route}}"),
            unit="percent",
            most=100.0,
        ),
        stat(
            "Stopped",
            "Daemons whose candidate gets nothing: the guard found it worse, or somebody rolled it back.",
            (f"sum (router_rollout_stopped{{{AT}}})", ""),
            limits=[(RED, 1)],
            width=4,
        ),
        stat(
            "Breakers open",
            "Routes for which the fallback decides.",
            (f"sum (router_route_breaker_open{{{VIA}}})", ""),
            limits=[(RED, 1)],
            width=4,
        ),
        graph(
            "Verdicts",
            "How often the candidate was stopped, by cause.",
            (f"sum by (cause) (router_rollout_verdicts_total{{{AT}}})", "{{cause}}"),
        ),
        graph(
            "Messages by route",
            "Only where there are several.",
            (rate("router_route_messages_total", VIA, "route"), "{{route}}"),
            unit="ops",
        ),
        graph(
            "Answered by route",
            "Share of the messages of each route.",
            (
                ratio(
                    ("router_route_messages_total", f'{VIA},outcome="answered"'),
                    ("router_route_messages_total", VIA),
                    "route",
                ),
                "{{route}}",
            ),
            unit="percentunit",
            most=1.0,
        ),
        graph(
            "Slowest 1 % by route",
            "Of those answered.",
            (quantile(0.99, "router_route_seconds", VIA, "route"), "{{route}}"),
            unit="s",
        ),
        graph(
            "Deliveries per message by route",
            "What a route costs in work.",
            (
                ratio(("router_route_deliveries_total", VIA), ("router_route_messages_total", VIA), "route"),
                "{{route}}",
            ),
        ),
        graph(
            "Cost per message by route",
            "As backends tell it, else as they declare it.",
            (
                ratio(("router_route_cost_total", VIA), ("router_route_messages_total", VIA), "route"),
                "{{route}}",
            ),
        ),
        graph(
            "Quality by route",
            "Mean of the scores of FEEDBACK and ACKs.",
            (
                ratio(("router_route_quality_total", VIA), ("router_route_rated_total", VIA), "route"),
                "{{route}}",
            ),
            unit="percentunit",
            most=1.0,
        ),
        graph(
            "Fallback and faults",
            "Decisions that the fallback made, and what the route's policy did wrong.",
            (rate("router_route_fallbacks_total", VIA, "route, reason"), "{{route}} fallback: {{reason}}"),
            (rate("router_route_faults_total", VIA, "route, kind"), "{{route}} fault: {{kind}}"),
            unit="ops",
            width=24,
        ),
    ]


def ring() -> list[Json]:
    """Return the daemons as each other's neighbours."""
    trouble = ("resent", "gaps", "strays", "links_lost", "ignored", "duplicates")
    return [
        row("Ring (only where daemons are linked)"),
        graph(
            "Links",
            "1 while the neighbour answers.",
            (f"router_ring_link_up{{{AT}}}", "{{instance}} to {{neighbour}}"),
            most=1.0,
        ),
        graph(
            "Round trip times",
            "To each neighbour.",
            (f"router_ring_link_rtt_seconds{{{AT}}}", "{{instance}} to {{neighbour}}"),
            unit="s",
        ),
        graph(
            "Other daemons",
            "Known, and of them reachable; and their backends.",
            (f"min by (state) (router_ring_daemons{{{AT}}})", "daemons {{state}}"),
            (f"min (router_ring_backends{{{AT}}})", "backends"),
        ),
        graph(
            "Traffic",
            "Deliveries to backends of others, begun here for others, and passed on.",
            *((rate(f"router_ring_{what}_total", AT), what) for what in ("forwarded", "taken", "relayed")),
            unit="ops",
        ),
        graph(
            "How deliveries to others ended",
            "lost: their daemon cannot be reached any more.",
            (rate("router_ring_results_total", AT, "result"), "{{result}}"),
            unit="ops",
        ),
        graph("Links per delivery", "Of those that came here.", (mean("router_ring_hops", AT), "mean")),
        graph(
            "Trouble",
            "Each of these should be rare.",
            *((rate(f"router_ring_{what}_total", AT), what.replace("_", " ")) for what in trouble),
            (rate("router_ring_undeliverable_total", AT, "verb"), "undeliverable {{verb}}"),
            (rate("router_ring_errors_total", AT, "code"), "error {{code}}"),
            unit="ops",
            width=12,
        ),
        graph(
            "Reports and questions",
            "What the ring costs beside its work.",
            *((rate(f"router_ring_{what}_total", AT), what) for what in ("flooded", "asked")),
            unit="ops",
            width=12,
        ),
    ]


def process() -> list[Json]:
    """Return the process, its peers' faults and its own."""
    return [
        row("Process"),
        graph(
            "CPU",
            "The daemon decides on one core: at 1 it is full.",
            (f"rate(process_cpu_seconds_total{{{AT}}}{W})", "{{instance}}"),
            unit="percentunit",
            limit=1.0,
        ),
        graph("Memory", "Resident.", (f"process_resident_memory_bytes{{{AT}}}", "{{instance}}"), unit="bytes"),
        graph(
            "Open files",
            "Share of the limit; each connection is one.",
            (f"process_open_fds{{{AT}}} / process_max_fds{{{AT}}}", "{{instance}}"),
            unit="percentunit",
            limit=1.0,
        ),
        graph(
            "Peers that break the protocol",
            "By error code.",
            (rate("router_protocol_errors_total", AT, "code"), "{{code}}"),
            unit="ops",
        ),
        graph(
            "Faults, ignored FEEDBACK, label overflow",
            "Faults are the daemon's own: see its log. Overflow: names counted under other.",
            (f"sum (increase(router_faults_total{{{AT}}}{W}))", "faults"),
            (f"sum (increase(router_feedback_ignored_total{{{AT}}}{W}))", "feedback ignored"),
            (f"sum (increase(router_label_overflow_total{{{AT}}}{W}))", "label overflow"),
        ),
        graph(
            "Traces",
            "Messages whose spans were exported, dropped (full queue) or failed (at the collector); with [tracing].",
            (rate("router_traces_total", AT, "result"), "{{result}}"),
            unit="ops",
        ),
        graph(
            "Configuration and people",
            "A reload that was refused, keys that wait for a restart, overrides in force, and what people have said.",
            (f"sum (1 - router_config_last_reload_ok{{{AT}}})", "reload refused"),
            (f"sum (router_config_waiting_for_restart{{{AT}}})", "keys waiting for a restart"),
            (f"sum (router_overrides{{{AT}}})", "overrides"),
            (f"sum by (act) (increase(router_operator_acts_total{{{AT}}}{W}))", "{{act}}"),
            width=12,
        ),
        table(
            "Daemons",
            "Since when, which version, and whether it drains.",
            [
                ("up for", f"time() - process_start_time_seconds{{{AT}}}", "s"),
                ("draining", f"router_draining{{{AT}}}", "short"),
                ("build", f"router_build_info{{{AT}}}", "short"),
            ],
            by="instance",
            width=12,
        ),
    ]

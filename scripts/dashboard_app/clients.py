"""What clients feel, and what the daemon itself does about it: overview, waiting room, decisions."""

from __future__ import annotations

from dashboard_app.panels import RED, YELLOW, Json, graph, heat, row, stat
from dashboard_app.queries import AT, BY, ERRORS, JOB, OF, OWN, W, mean, quantile, rate, ratio


def overview() -> list[Json]:
    """Return the golden signals: traffic, errors, latency, saturation."""
    answered = f"router_messages_total{{{OF},{OWN}}}"
    errors = f"(sum (rate(router_messages_total{{{OF},{ERRORS}}}{W})) or vector(0)) / sum (rate({answered}{W}))"
    return [
        row("Overview: traffic, errors, latency, saturation"),
        stat("Messages", "SENDs that ended, per second.", (rate("router_messages_total", OF), ""), "ops"),
        stat(
            "Errors",
            "Share of messages that failed though their client did nothing wrong; the objective is 0.1 %.",
            (errors, ""),
            "percentunit",
            limits=[(YELLOW, 0.001), (RED, 0.0144)],
        ),
        stat(
            "Slowest 1 %",
            "What the slowest hundredth of the messages take, and more.",
            (quantile(0.99, "router_message_seconds", OF), ""),
            "s",
        ),
        stat(
            "Messages in flight",
            "Messages without their last answer.",
            (f"sum (router_messages_in_flight{{{AT}}})", ""),
        ),
        stat(
            "Waiting",
            "Messages that wait for a place. For minutes above 0: all backends are full.",
            (f"sum (router_messages_waiting{{{AT}}})", ""),
            limits=[(YELLOW, 1), (RED, 1000)],
        ),
        stat(
            "Backends up", "Registered and connected, at all daemons chosen.", (f"sum (router_backend_up{{{BY}}})", "")
        ),
        stat(
            "Ejected",
            "Backends that get nothing because they fail.",
            (f"sum (router_backend_ejected{{{BY}}})", ""),
            limits=[(RED, 1)],
        ),
        stat(
            "Daemons up",
            "Those that answer Prometheus.",
            (f"sum (up{{{AT}}} * on (job, instance) router_build_info{{{AT}}})", ""),
        ),
        graph(
            "Messages by outcome",
            "answered, or why not.",
            (rate("router_messages_total", OF, "outcome"), "{{outcome}}"),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Errors by capability",
            "Share of messages; the line is the pace that uses up a month's budget of 0.1 % in two days.",
            (f'job_capability:router_message_errors:ratio_rate5m{{{JOB},capability=~"$capability"}}', "{{capability}}"),
            unit="percentunit",
            limit=0.0144,
        ),
        graph(
            "Budget of errors, burn rate",
            "1: used up in exactly 30 days. 14.4 for an hour, or 6 for six hours, pages.",
            (
                f'job_capability:router_message_errors:ratio_rate1h{{{JOB},capability=~"$capability"}} / 0.001',
                "{{capability}}, 1 h",
            ),
            (
                f'job_capability:router_message_errors:ratio_rate6h{{{JOB},capability=~"$capability"}} / 0.001',
                "{{capability}}, 6 h",
            ),
            limit=14.4,
        ),
        graph(
            "Latency",
            "From reading a SEND to its last answer.",
            *((quantile(share, "router_message_seconds", OF), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99)),
            unit="s",
        ),
        graph(
            "Slowest 1 % by capability",
            "Which work is slow. Each is held against its own past by RouterDaemonLatencyHigh.",
            (quantile(0.99, "router_message_seconds", OF, "capability"), "{{capability}}"),
            unit="s",
        ),
        heat("Latencies", "How the times of all messages lie.", rate("router_message_seconds_bucket", OF, "le")),
        graph(
            "Load by capability",
            "Busy slots over slots. Near 1 for minutes: its backends are full.",
            (f"max by (capability) (router_capability_load{{{OF}}})", "{{capability}}"),
            unit="percentunit",
            limit=1.0,
        ),
        graph(
            "Further heads",
            "Retries after failures, hedges beside a late head, messages that explore. Holds: messages that wait for "
            "somebody faster than who has room.",
            *((rate(f"router_{what}_total", OF), what) for what in ("retries", "hedges", "explorations", "holds")),
            unit="ops",
        ),
        graph(
            "Deliveries per message",
            "1: each to one backend. More: fan-outs, hedges, retries.",
            (mean("router_heads_per_message", AT), "mean"),
        ),
    ]


def waiting() -> list[Json]:
    """Return the waiting room, and how near the limits are."""

    def share(metric: str, limit: str) -> str:
        return f'max (router_{metric}{{{AT}}} / on (job, instance) router_limit{{{AT},limit="{limit}"}})'

    return [
        row("Waiting room and limits"),
        graph(
            "Waiting by priority",
            "4 is critical, and goes first.",
            (f"sum by (priority) (router_waiting_messages{{{AT}}})", "priority {{priority}}"),
            stacked=True,
        ),
        graph(
            "How long they waited, slowest 1 %",
            "Of those that had to.",
            (quantile(0.99, "router_waiting_seconds", AT, "priority"), "priority {{priority}}"),
            unit="s",
        ),
        graph(
            "Shares of the limits",
            "Of the fullest daemon. At 100 % messages are refused.",
            (share("messages_waiting", "queue_messages"), "waiting messages"),
            (share("waiting_bytes", "queue_bytes"), "waiting bytes"),
            (share("messages_in_flight", "open_messages"), "open messages"),
            unit="percentunit",
            limit=1.0,
        ),
        graph(
            "Refused (overloaded)",
            "room, wait, late, displaced: too much work. budget: backends fail too often. client_*: one client floods.",
            (rate("router_refusals_total", OF, "cause"), "{{cause}}"),
            unit="ops",
        ),
        graph(
            "Budget of retries",
            "Below 1, failures reach the clients.",
            (f"min by (capability) (router_retry_budget_tokens{{{OF}}})", "{{capability}}"),
        ),
        graph(
            "Budget of hedges",
            "Below 1, no second head is asked.",
            (f"min by (capability) (router_hedge_budget_tokens{{{OF}}})", "{{capability}}"),
        ),
        graph(
            "Lost",
            "Messages without reply that were accepted and not done; answers that could not be handed over, by cause.",
            (rate("router_lost_messages_total", OF), "messages"),
            (rate("router_lost_answers_total", AT, "cause"), "answers: {{cause}}"),
            unit="ops",
            width=24,
        ),
    ]


def decisions() -> list[Json]:
    """Return how fast decisions are made, and what the cache saves."""
    return [
        row("Decisions and cache"),
        graph(
            "Decision time",
            "Choosing the heads of one message, by whether its ranking was in the cache.",
            *(
                (quantile(share, "router_decision_seconds", AT, "cache"), f"{{{{cache}}}} p{share * 100:g}")
                for share in (0.5, 0.99)
            ),
            unit="s",
        ),
        heat(
            "Decision times",
            "Microseconds are usual; from a millisecond on everybody waits.",
            rate("router_decision_seconds_bucket", AT, "le"),
        ),
        graph(
            "Cache",
            "hit; miss: never ranked; expired: too old; invalidated: a backend has come, gone or changed.",
            (rate("router_decision_cache_requests_total", AT, "result"), "{{result}}"),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Cache hit ratio",
            "Now, and since the start.",
            (
                ratio(
                    ("router_decision_cache_requests_total", f'{AT},result="hit"'),
                    ("router_decision_cache_requests_total", AT),
                ),
                "now",
            ),
            (f"avg (router_decision_cache_hit_ratio{{{AT}}})", "since the start"),
            unit="percentunit",
            most=1.0,
        ),
        graph(
            "Decisions",
            "Per second.",
            (rate("router_decision_seconds_count", AT, "instance"), "{{instance}}"),
            unit="ops",
        ),
        graph(
            "Embeddings that decided nothing",
            "Messages that embedding attention could not hold against the backends' keys, by reason.",
            (rate("router_ring_fallbacks_total", OF, "reason"), "{{reason}}"),
            unit="ops",
        ),
    ]

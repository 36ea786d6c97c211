"""The section about traces. Rules: as in `sections`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from router_daemon.config.base import DAY_MS, Section
from router_daemon.config.text import Rule

_ENDPOINT: Final = "an http:// or https:// URL with its path, such as http://127.0.0.1:4318/v1/traces; or empty"


class TracingSection(Section):
    """Spans of messages, their decisions and their deliveries, sent to an OpenTelemetry collector (OTLP over HTTP).

    Needs the extra: `pip install 'router-daemon[otel]'`. A trace context that clients bring is handed to backends with
    and without this.
    """

    endpoint: Annotated[str, Rule(_ENDPOINT), Field(pattern=r"^(https?://[^\s/]+/\S*)?$", max_length=2048)] = Field(
        default="",
        description='Where spans are sent: the whole URL, with /v1/traces. "": nowhere. Headers, as for a token, are '
        "taken from the environment, OTEL_EXPORTER_OTLP_HEADERS.",
    )
    ratio: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of the messages without a trace context of their own for which a trace begins here. Where a "
        "client brings one, its sampled flag decides. A span is some 500 bytes on its way, and a message has three.",
    )
    service_name: str = Field(
        default="router-daemon",
        min_length=1,
        max_length=128,
        description="The `service.name` of the spans. Daemons of one ring are told apart by `service.instance.id`.",
    )
    queue: int = Field(
        default=2048,
        ge=1,
        le=1_000_000,
        description="Messages whose spans wait to be sent, at most; those of further ones are dropped and counted in "
        "router_traces_total. One takes about 2 kB.",
    )
    batch: int = Field(default=256, ge=1, le=10_000, description="Messages whose spans are sent together, at most.")
    every_ms: float = Field(
        default=1000.0,
        gt=0,
        le=DAY_MS,
        description="How long spans wait for others, in milliseconds, before they are sent together.",
    )
    timeout_ms: float = Field(
        default=5000.0,
        gt=0,
        le=DAY_MS,
        description="How long the collector may take, in milliseconds, retries included. What fails is not kept.",
    )

"""The section about what is kept of decisions. Rules: as in `sections`."""

from __future__ import annotations

from pydantic import Field

from router_daemon.config.base import DAY_MS, Section


class WhySection(Section):
    """What is kept of messages and of the decisions about them, for `router-daemon why` and /decisions.

    Always kept are messages that failed, were refused, cancelled, slow, critical, or had a further head; of the others
    one every so often.
    """

    entries: int = Field(
        default=2000,
        ge=0,
        le=1_000_000,
        description="The most messages kept; further ones take the place of the oldest of their kind. 0: none.",
    )
    bytes: int = Field(
        default=8_388_608,
        ge=0,
        le=1 << 40,
        description="The most memory for them, in bytes. With a dozen candidates a message that is kept with all terms "
        "takes about 10 kB, one without 2 kB.",
    )
    sample_every_ms: float = Field(
        default=50.0,
        ge=0,
        le=DAY_MS,
        description="Of the messages that nothing else speaks for, one in so many milliseconds is kept, with the terms"
        " of all candidates; 0: every one. By time, so that what it costs does not rise with the rate, and little "
        "traffic is kept whole.",
    )
    slow_ms: float | None = Field(
        default=None,
        ge=0,
        le=DAY_MS,
        examples=[250.0],
        description="An answer that took longer, in milliseconds, is slow, of a stream its first piece. Absent: only "
        "`slow_times` counts.",
    )
    slow_times: float = Field(
        default=10.0,
        ge=0,
        le=1_000_000,
        description="An answer that took more than so many mean latencies of its capability is slow; 0: only `slow_ms`"
        " counts.",
    )

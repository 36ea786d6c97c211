"""One moment of a running daemon, as its admin room tells it: /backends, /routes, /ring and /metrics.

Rules:
- The four are read one after the other and belong to moments some milliseconds apart; `at` lies between them. That
  shifts a rate of seconds by thousandths.
- What is missing or of another type (an older or newer daemon) is left out, never a traceback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from router_daemon.cli import asking
from router_daemon.cli.exits import NO_DAEMON, CommandError

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[str, Mapping[Labels, float]]
"""Of each sample's name, the values by sorted labels."""

START: Final = "process_start_time_seconds"


class Reading(NamedTuple):
    """What the pages said.

    Attributes:
        at: seconds, of a clock that only goes forward.
        backends, routes, ring: the answers of these pages.
        samples: of /metrics.
        took_s: how long all of it took.
    """

    at: float
    backends: Mapping[str, Any]
    routes: Mapping[str, Any]
    ring: Mapping[str, Any]
    samples: Samples
    took_s: float

    @property
    def started_at(self) -> float | None:
        """When the daemon's process began (seconds since 1970), where it says so: tells it from its successor."""
        return self.samples.get(START, {}).get(())


def read(admin: str, clock: Callable[[], float] = time.monotonic) -> Reading:
    """Read all pages of the admin room at `admin` (HOST:PORT).

    Raises:
        CommandError: there is no daemon, or it answers something else.
    """
    began = clock()
    backends, routes = asking.fetch(admin, "/backends"), asking.fetch(admin, "/routes")
    ring = asking.fetch(admin, "/ring")
    text = asking.fetch_text(admin, "/metrics")
    ended = clock()
    return Reading((began + ended) / 2.0, backends, routes, ring, samples_of(text, admin), ended - began)


def samples_of(text: str, admin: str) -> Samples:
    """Return the samples of a page in Prometheus' text format.

    Raises:
        CommandError: it is none.
    """
    found: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    except (ValueError, KeyError, IndexError):  # what the parser raises for what it cannot read
        raise CommandError(NO_DAEMON, f"http://{admin}/metrics answered something that is no metrics") from None
    return found

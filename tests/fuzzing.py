"""How hard Hypothesis looks: a short look by default, a long one with ROUTER_DAEMON_FUZZ=long.

Every failure prints a blob that replays it (`@reproduce_failure`).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("ROUTER_DAEMON_FUZZ") == "long"
LONGER = 20
PATIENCE_S = 7_200 if LONG else 400
"""Of pytest: finding the shortest way to a failure takes long, too."""


def look(examples: int, **options: int) -> settings:
    """Return settings for so many examples, or for twenty times as many in a long look."""
    return settings(
        max_examples=examples * (LONGER if LONG else 1),
        deadline=None,  # the machine is shared: how long one example takes says nothing
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
        **options,  # type: ignore[arg-type]
    )

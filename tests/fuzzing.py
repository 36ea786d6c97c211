"""How hard Hypothesis looks, and where.

Rules:
- By default it is a short look at the same examples every time: who meets a failure has made it, and a rare one that is
  older does not stop everybody else.
- ROUTER_DAEMON_FUZZ=random takes other examples every time, ROUTER_DAEMON_FUZZ=long twenty times as many of them; with
  `--hypothesis-seed=N` either takes those of that seed.
- Every failure prints a blob that replays it (`@reproduce_failure`).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FORM = os.environ.get("ROUTER_DAEMON_FUZZ", "")
LONG = FORM == "long"
LONGER = 20
PATIENCE_S = 7_200 if LONG else 400
"""Of pytest: finding the shortest way to a failure takes long, too."""


def look(examples: int, **options: int) -> settings:
    """Return settings for so many examples, always the same ones, or for what ROUTER_DAEMON_FUZZ says.

    Raises:
        ValueError: it says something else than `random` or `long`.
    """
    if FORM not in ("", "random", "long"):
        raise ValueError(f"ROUTER_DAEMON_FUZZ is random or long, not {FORM!r}")
    return settings(
        max_examples=examples * (LONGER if LONG else 1),
        derandomize=not FORM,
        deadline=None,  # the machine is shared: how long one example takes says nothing
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
        **options,  # type: ignore[arg-type]
    )

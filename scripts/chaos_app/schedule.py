"""Which act comes next: drawn from the seed, every act once before any comes again.

Acts that end the daemon's life come only in the first `EARLY` of the time: what is left is one long life, in which its
memory can be seen to level off.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from chaos_app.acts import ENDS_DAEMON
from chaos_app.options import Options

EARLY: Final = 0.35


class Schedule:
    """The acts of one run; `next` is told how much of the time is over."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._rng = random.Random(f"schedule {options.seed}")
        self._first = [act for act in options.acts if act in ENDS_DAEMON]
        self._rng.shuffle(self._first)
        self._bag: list[str] = []
        self._drawn = 0
        self._once: Iterator[str] = iter(options.acts)

    def next(self, elapsed_s: float) -> str | None:
        """Return the next act, None when the run is over."""
        options = self._options
        if options.in_order:
            return next(self._once, None)
        if elapsed_s >= options.seconds:
            return None
        self._drawn += 1
        if self._first and self._drawn % 2 == 0 and elapsed_s < EARLY * options.seconds:
            return self._first.pop()
        while True:
            if not self._bag:
                self._bag = [act for act in options.acts if act not in ENDS_DAEMON]
                self._rng.shuffle(self._bag)
            if not self._bag:  # nothing but such acts was asked for
                return self._rng.choice(options.acts)
            return self._bag.pop()

"""What the demo learned: the findings of the backends per series, and how their messages fared.

Rules:
- Findings come from replies alone; nothing here analyses anything.
- Bounded: the last `LATENCIES_KEPT` round trips, the strongest `EPISODES_KEPT` anomalies per series, the last
  `ALERTS_KEPT` alerts, a few lines of news.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

from demo_app.analysis import quantile

LATENCIES_KEPT: Final = 4096
EPISODES_KEPT: Final = 50
ALERTS_KEPT: Final = 200
EPISODE_GAP_SAMPLES: Final = 6
"""Anomalous samples closer than this belong to one episode."""


@dataclass(slots=True)
class Episode:
    """Consecutive anomalous samples of one series, told by the strongest of them."""

    series: str
    first: float
    last: float
    time: float
    value: float
    score: float
    method: str
    backend: str
    samples: int = 1


@dataclass(slots=True)
class Story:
    """What is known of one series."""

    windows: int = 0
    samples: int = 0
    filled: int = 0
    dropped: int = 0
    aggregate: dict[str, Any] | None = None
    minimum: float = float("inf")
    maximum: float = float("-inf")
    trend: dict[str, Any] | None = None
    episodes: list[Episode] = field(default_factory=list)
    episodes_forgotten: int = 0


class Ledger:
    """The demo's one book-keeper."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}
        self.alerts: dict[str, dict[str, Any]] = {}
        self.alerts_forgotten = 0
        self.exports: Counter[str] = Counter()
        self.sent = 0
        self.answered = 0
        self.errors: Counter[tuple[str, str]] = Counter()
        self.error_detail: dict[tuple[str, str], str] = {}
        self.answers_of: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self.windows_delayed = 0
        self.news: deque[str] = deque(maxlen=5)

    def reply(self, backend: str, latency_ms: float) -> None:
        """Note a message that was answered."""
        self.answered += 1
        self.answers_of[backend] += 1
        self.latencies_ms.append(latency_ms)

    def error(self, capability: str, code: str, detail: str) -> None:
        """Note a message that ended in an error."""
        self.errors[capability, code] += 1
        self.error_detail[capability, code] = detail

    def latency_ms(self, share: float) -> float | None:
        """Return a quantile of the last round trips; None before the first."""
        return quantile(sorted(self.latencies_ms), share) if self.latencies_ms else None

    def cleaned(self, series: str, new_samples: int, result: dict[str, Any]) -> None:
        """Note a cleaned window."""
        story = self.stories.setdefault(series, Story())
        story.windows += 1
        story.samples += new_samples
        story.filled = max(story.filled, result["filled"])
        story.dropped = max(story.dropped, result["dropped"])

    def aggregated(self, series: str, result: dict[str, Any]) -> None:
        """Note a window's aggregate."""
        story = self.stories[series]
        story.aggregate = result
        story.minimum = min(story.minimum, result["minimum"])
        story.maximum = max(story.maximum, result["maximum"])

    def trended(self, series: str, result: dict[str, Any]) -> None:
        """Note a window's trend."""
        self.stories[series].trend = result

    def anomalous(self, series: str, result: dict[str, Any], step_s: float, backend: str) -> list[Episode]:
        """Note a verdict's points; returns the episodes that are new."""
        story = self.stories[series]
        fresh = []
        for point in result["points"]:
            episode = Episode(
                series,
                point["time"],
                point["time"],
                point["time"],
                point["value"],
                point["score"],
                result["method"],
                backend,
            )
            if not _joined(story.episodes, episode, EPISODE_GAP_SAMPLES * step_s):
                story.episodes.append(episode)
                fresh.append(episode)
        if len(story.episodes) > EPISODES_KEPT:
            story.episodes.remove(min(story.episodes, key=lambda each: each.score))
            story.episodes_forgotten += 1
        return fresh

    def alerted(self, alert: dict[str, Any]) -> bool:
        """Note an alert; returns False for a copy of one that is known."""
        if alert["id"] in self.alerts:
            return False
        if len(self.alerts) == ALERTS_KEPT:
            self.alerts.pop(next(iter(self.alerts)))
            self.alerts_forgotten += 1
        self.alerts[alert["id"]] = alert
        return True

    def episodes(self) -> list[Episode]:
        """Return all episodes, the strongest first."""
        found = [episode for story in self.stories.values() for episode in story.episodes]
        return sorted(found, key=lambda episode: -episode.score)

    def episode_count(self) -> int:
        """Return how many there were, forgotten ones too."""
        return sum(len(story.episodes) + story.episodes_forgotten for story in self.stories.values())


def _joined(episodes: list[Episode], new: Episode, gap_s: float) -> bool:
    """Return whether `new` was taken into an episode near it; windows may be answered out of order."""
    for episode in episodes:
        if episode.first - gap_s <= new.time <= episode.last + gap_s:
            episode.first = min(episode.first, new.time)
            episode.last = max(episode.last, new.time)
            episode.samples += 1
            if new.score > episode.score:
                episode.time, episode.value, episode.score = new.time, new.value, new.score
                episode.method, episode.backend = new.method, new.backend
            return True
    return False

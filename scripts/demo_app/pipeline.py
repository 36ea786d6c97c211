"""The way of one window through the backends: clean it, then analyse it, then alert and hand the alert on.

Rules:
- Everything goes through the daemon; a message that ends in an error is counted and its branch ends there. The demo
  sends nothing twice: trying another backend is the daemon's work.
- An exception that is no `RouterError` is a fault of the demo itself and ends it.
- At most `WINDOWS_OPEN` windows are under way; the feed waits beyond that.
- Alerts of one series are judged one after the other, since each needs the state that the one before left.
- A finding is handed on with mode `single`: one backend after the other until one succeeds, for three copies of the
  same alert outside help nobody. Everything else leaves `idempotent` and `mode` unsaid.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, Literal

import msgpack

from demo_app.analysis import AlertState, short
from demo_app.feed import Feed, Window
from demo_app.ledger import Ledger
from router_daemon import Client
from router_daemon.errors import RouterError

WINDOWS_OPEN: Final = 64
TTL_MS: Final = 5_000
SETTLE_S: Final = 2.0
"""How long the end waits for the windows under way."""

LOW, MEDIUM, HIGH, CRITICAL = 1, 2, 3, 4
PRIORITY: Final = {
    "metric_aggregation": LOW,
    "data_processing": MEDIUM,
    "trend_analysis": MEDIUM,
    "anomaly_detection": HIGH,
    "external_integration": HIGH,
    "alert_generation": CRITICAL,
}

Result = dict[str, Any]
Send = Callable[..., Any]


class Pipeline:
    """Sends a feed's windows through the backends and keeps the ledger."""

    def __init__(self, client: Client, ledger: Ledger, when: Callable[[float], str]) -> None:
        self._client = client
        self._ledger = ledger
        self._when = when
        self._room = asyncio.Semaphore(WINDOWS_OPEN)
        self._fault: BaseException | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._alert_turn: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._alert_state: defaultdict[str, AlertState] = defaultdict(AlertState)

    async def run(self, feed: Feed) -> None:
        """Feed until the feed ends or this task is cancelled; then give what is under way `SETTLE_S` to finish."""
        try:
            async with contextlib.aclosing(feed.windows()) as windows:
                async for window in windows:
                    if self._fault is not None:
                        raise self._fault
                    if self._room.locked():
                        self._ledger.windows_delayed += 1
                    await self._room.acquire()
                    self._start(window)
        finally:
            await self._settle()

    def _start(self, window: Window) -> None:
        task = asyncio.create_task(self._window(window))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = error

    async def _settle(self) -> None:
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=SETTLE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _ask(
        self, capability: str, body: Result, mode: Literal["single"] | None = None
    ) -> tuple[Result, str] | None:
        """Return the result and who gave it, or None when the message ended in an error."""
        self._ledger.sent += 1
        began_s = time.perf_counter()
        try:
            reply = await self._client.send(
                capability, msgpack.packb(body), priority=PRIORITY[capability], ttl_ms=TTL_MS, mode=mode
            )
        except RouterError as error:
            self._ledger.error(capability, error.code, error.detail)
            return None
        self._ledger.reply(reply.backend, (time.perf_counter() - began_s) * 1e3)
        return msgpack.unpackb(reply.data), reply.backend

    async def _window(self, window: Window) -> None:
        answer = await self._ask("data_processing", asdict(window))
        if answer is None:
            return
        cleaned, _ = answer
        self._ledger.cleaned(window.series, window.new_samples, cleaned)
        body = asdict(window) | {"times": cleaned["times"], "values": cleaned["values"]}
        await asyncio.gather(
            self._aggregate(window.series, body), self._trend(window.series, body), self._detect(window, body)
        )

    async def _aggregate(self, series: str, body: Result) -> None:
        if (answer := await self._ask("metric_aggregation", body)) is not None:
            self._ledger.aggregated(series, answer[0])

    async def _trend(self, series: str, body: Result) -> None:
        if (answer := await self._ask("trend_analysis", body)) is not None:
            self._ledger.trended(series, answer[0])

    async def _detect(self, window: Window, body: Result) -> None:
        if (answer := await self._ask("anomaly_detection", body)) is None:
            return
        verdict, backend = answer
        for episode in self._ledger.anomalous(window.series, verdict, window.step_s, backend):
            self._ledger.news.append(
                f"{self._when(episode.time)} anomaly in {window.series}: {short(episode.value)}, "
                f"{episode.score:.1f} sigma ({episode.method} on {backend})"
            )
        if verdict["points"] or self._alert_state[window.series].raised:
            async with self._alert_turn[window.series]:
                await self._alert(window, verdict["top"])

    async def _alert(self, window: Window, top: Result) -> None:
        question = {
            "series": window.series,
            "state": asdict(self._alert_state[window.series]),
            "point": top,
            "when": self._when(top["time"]),
            "step_s": window.step_s,
        }
        if (answer := await self._ask("alert_generation", question)) is None:
            return
        result, _ = answer
        self._alert_state[window.series] = AlertState(**result["state"])
        if (alert := result["alert"]) is not None and self._ledger.alerted(alert):
            self._ledger.news.append(f"alert: {alert['text']}")
            handed = await self._ask(
                "external_integration", alert | {"series": window.series, "time": top["time"]}, mode="single"
            )
            if handed is not None:
                self._ledger.exports[handed[0]["sink"]] += 1

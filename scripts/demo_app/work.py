"""From a message's body to a result's: the algorithms of the roster by name, and the two sinks outside the process.

Rules:
- Bodies are MessagePack maps; a window is `{series, times, values, since, floor}`, an alert question
  `{series, state, point, when, step_s}`, an export `{id, kind, text, series, time}`.
- numpy is loaded only by the backends whose algorithm uses it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from demo_app import analysis
from demo_app.analysis import AlertState, Point

Body = dict[str, Any]
Work = Callable[[Body], Body]

SYSLOG_PRIORITY: Final = 16 * 8 + 4  # facility local0, severity warning (RFC 5424)


def _detect(function: Callable[..., analysis.Verdict]) -> Work:
    return lambda body: asdict(function(body["times"], body["values"], body["since"], body["floor"]))


def _clean(function: Callable[..., analysis.Cleaned]) -> Work:
    return lambda body: asdict(function(body["times"], body["values"], body["floor"]))


def _fit(function: Callable[..., analysis.Trend]) -> Work:
    return lambda body: asdict(function(body["times"], body["values"], body["floor"]))


def _aggregate(function: Callable[..., analysis.Aggregate]) -> Work:
    return lambda body: asdict(function(body["values"]))


def _alert(body: Body) -> Body:
    state, alert = analysis.judge_alert(
        AlertState(**body["state"]), body["series"], Point(**body["point"]), body["when"], body["step_s"]
    )
    return {"state": asdict(state), "alert": alert and asdict(alert)}


def spool_to(path: Path) -> Work:
    """Append each finding to a file as one JSON line, on the disk before it counts as done."""

    def spool(body: Body) -> Body:
        line = (json.dumps(body) + "\n").encode()
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return {"sink": "spool", "bytes": len(line)}

    return spool


def syslog_to(port: int) -> Work:
    """Send each finding as a datagram in the form of RFC 5424 to loopback."""

    def syslog(body: Body) -> Body:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"<{SYSLOG_PRIORITY}>1 {when} demo router-demo {os.getpid()} {body['kind']} - {body['text']}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sent = sender.sendto(line.encode(), ("127.0.0.1", port))
        return {"sink": "syslog", "bytes": sent}

    return syslog


def _numpy(name: str) -> Work:
    from demo_app import analysis_numpy  # noqa: PLC0415 - most backends do without numpy

    return {
        "clean_numpy": _clean(analysis_numpy.clean),
        "mad_numpy": _detect(analysis_numpy.mad_zscore),
        "ols_numpy": _fit(analysis_numpy.least_squares),
        "aggregate_numpy": _aggregate(analysis_numpy.aggregate),
    }[name]


def algorithm(name: str, spool_path: Path, syslog_port: int) -> Work:
    """Return the work of that name in the roster.

    Args:
        name: as in `roster.Spec.work`.
        spool_path: the file that `spool` appends to.
        syslog_port: the UDP port on loopback that `syslog` sends to.
    """
    if name.endswith("_numpy"):
        return _numpy(name)
    if name == "spool":
        return spool_to(spool_path)
    if name == "syslog":
        return syslog_to(syslog_port)
    return {
        "clean": _clean(analysis.clean),
        "mad": _detect(analysis.mad_zscore),
        "ewma": _detect(analysis.ewma_band),
        "tukey": _detect(analysis.tukey_fences),
        "ols": _fit(analysis.least_squares),
        "theil_sen": _fit(analysis.theil_sen),
        "aggregate": _aggregate(analysis.aggregate),
        "alert": _alert,
    }[name]

"""One message of every verb that daemons say to each other, with every key."""

from __future__ import annotations

from typing import Any, Final

from router_daemon.core.events import Resource
from router_daemon.core.memory import ServiceRecord
from router_daemon.ring import messages as ring

PEER: Final = b"\x00peer"
LISTED: Final = ring.Listed(
    "b", ["c", "d"], 2, 1, [0.5, 1.0], 0.25, "zone", "group", [Resource("r", 7)], "1.0", draining=True
)
REPORT: Final = ring.Report(3, 0.75, {"c": ServiceRecord(0.001, 0.002, 0.0005, 12, 3.0)}, up=False, cost=2.0)
ROUTE: Final = {"hops": 2, "path": ["a", "x"]}
FORWARD: Final = ring.ForwardHeader(
    to="h",
    at=5,
    backend="b",
    origin="a",
    instance=1,
    id=7,
    message="m7",
    capability="c",
    priority=2,
    ttl_ms=900,
    attempt=1,
    head=1,
    heads=2,
    hops=1,
    path=["a"],
    embedding=[0.5, -1.0],
    traceparent="00-1-2-01",
    tracestate="v=1",
    route="candidate",
)
RESULT: Final = ring.ResultHeader(
    "a", 1, 7, "h", "nack", 1, ["h"], 3, "busy", "full", retry_after_ms=20, queue=4, elapsed_ms=1.5
)
SAMPLES: Final[tuple[Any, ...]] = (
    ring.Hello(PEER, ring.HelloHeader("a", "ring", 1, "0.1.0", "tcp://127.0.0.1:5572")),
    ring.Echo(PEER, ring.EchoHeader(1)),
    ring.Echoed(PEER, ring.EchoHeader(2**62)),
    ring.Links(PEER, ring.LinksHeader("a", 1, 2, {"b": 250, "x": 0}, 40)),
    ring.Roster(PEER, ring.RosterHeader("a", 1, 3, 0, 1, [LISTED], 40, {"candidate": 7})),
    ring.Profiles(PEER, ring.ProfilesHeader("a", 1, 4, {"b": REPORT})),
    ring.Forward(PEER, FORWARD, [b"body", b""]),
    ring.Result(PEER, RESULT, [b"result"]),
    ring.RingCancel(PEER, ring.RingCancelHeader("h", 5, "a", 1, 7, **ROUTE)),  # type: ignore[arg-type]
    ring.Ask(PEER, ring.AskHeader("h", 5, "a", 1, [7, 8], **ROUTE)),  # type: ignore[arg-type]
    ring.RingError(PEER, ring.RingErrorHeader("wrong_ring", "this is another one")),
    ring.RingBye(PEER, ring.ByeHeader()),
)

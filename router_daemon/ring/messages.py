"""RING1: what daemons say to each other over a link; one class per verb, for both directions.

Rules:
- As in `core.events`: the headers are the wire's maps as typed structs, a key that was not sent is `UNSET`, unknown
  keys are skipped unseen. On the wire a message is `RING1.` and its verb, a header, and for FORWARD and RESULT body
  frames.
- A daemon is known by its name; `instance` tells the processes under one name apart: a number larger than that of any
  earlier process of the name. Of two reports of one daemon the one with the larger (instance, seq) is the newer.
- LINKS, ROSTER and PROFILES are flooded: who hears a newer one passes it on, unchanged, to all neighbours but the one
  it came from. FORWARD, RESULT, CANCEL and ASK go hop by hop to the daemon in `to`, each relay adding to `hops`
  and `path`.
- HELLO is the first message on a link, from the daemon that dialled; the other answers with its own. Before that
  nothing else counts.
- A FORWARD is a delivery of its origin: `(origin, instance, id)` names it, and the daemon that has the backend (the
  home) begins it once, however often it comes. Each is answered by one RESULT `ack` or `nack`, which may come again.

An embedding is passed on as the client gave it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from router_daemon.core.events import Resource
from router_daemon.core.memory import Ratio as Success
from router_daemon.core.memory import ServiceRecord
from router_daemon.core.types import Body, Capability, Count, Embedding, Milliseconds, NonNegative, Peer, Record, Side

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[^/]*$")]
"""Of a daemon, or of a ring: a slash would be read as the end of it in `daemon/backend`."""
BackendName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
RouteName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
RolloutName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=2**62)]
Path: TypeAlias = Annotated[list[Name], Meta(max_length=256)]

NAMES: Final = 4096
"""Of daemons in one LINKS, of backends in one ROSTER or PROFILES: more are refused unread."""

# --- headers: a link ------------------------------------------------------------------------------------------------


class HelloHeader(Record):
    """The header of HELLO: who is at this end.

    Attributes:
        name: of the daemon. ring: of the ring it belongs to; other rings are refused with ERROR `wrong_ring`.
        instance: of its process, see the module.
        version: of its program, for people.
        address: where it listens for links, for people; unset where it listens nowhere.
    """

    name: Name
    ring: Name
    instance: Number
    version: str = ""
    address: str | UnsetType = UNSET


class EchoHeader(Record):
    """The header of ECHO and ECHOED: `seq` of the ECHO, said again in its answer."""

    seq: Number


class RingErrorHeader(Record):
    """The header of ERROR.

    `code`: `wrong_ring`, `name_taken`, `not_greeted` (something came before HELLO), or what breaks the protocol, as in
    CAR/1; `detail`: for a person.
    """

    code: str
    detail: str = ""


class ByeHeader(Record):
    """The header of BYE: this end leaves, and will not answer any more."""


# --- headers: what is flooded ---------------------------------------------------------------------------------------


class LinksHeader(Record):
    """The header of LINKS: the links of one daemon that are up.

    Attributes:
        origin, instance, seq: whose, and how new.
        links: by neighbour, the round trip time in microseconds, smoothed.
        age_ms: how long the sender has known this; 0 while it is passed on at once.
    """

    origin: Name
    instance: Number
    seq: Number
    links: Annotated[dict[Name, Count], Meta(max_length=NAMES)]
    age_ms: Count = 0


class Listed(Record):
    """One backend in a ROSTER: its registration as its daemon has it; `draining`: nothing new may be sent to it."""

    name: BackendName
    capabilities: Annotated[list[Capability], Meta(min_length=1, max_length=64)]
    slots: Annotated[int, Meta(ge=1)] = 1
    prefetch: Count = 0
    embedding: Embedding | UnsetType = UNSET
    cost: NonNegative | UnsetType = UNSET
    zone: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    resources: list[Resource] | UnsetType = UNSET
    version: str | UnsetType = UNSET
    draining: bool = False


class RosterHeader(Record):
    """The header of ROSTER: the backends that are registered with one daemon itself, in pages.

    Attributes:
        origin, instance, seq: whose, and how new; the pages of one roster share them.
        page, pages: this one (from 0), and how many there are; a roster holds once all of them have come.
        backends: of this page.
        age_ms: as in LINKS.
        stopped: rollouts that the origin has stopped, by name, with a number that is another one each time; on page 0.
    """

    origin: Name
    instance: Number
    seq: Number
    page: Count
    pages: Annotated[int, Meta(ge=1, le=NAMES)]
    backends: Annotated[list[Listed], Meta(max_length=NAMES)]
    age_ms: Count = 0
    stopped: Annotated[dict[RolloutName, Count], Meta(max_length=16)] | UnsetType = UNSET


class Report(Record):
    """What a daemon has measured of one of its backends.

    Attributes:
        queue: deliveries that are open or wait there, from whoever they are.
        up: it is connected, and may get something now but for its load.
        success: the average of its outcomes, 0 to 1.
        cost: the mean of the costs that it has told; unset where it told none.
        services: by capability: service_s, response_s, deviation_s, samples, age_s, as in the file of profiles.
    """

    queue: Count
    success: Success
    services: dict[Capability, ServiceRecord]
    up: bool = True
    cost: NonNegative | UnsetType = UNSET


class ProfilesHeader(Record):
    """The header of PROFILES: some or all of one daemon's backends, by name. A newer one adds to the older ones."""

    origin: Name
    instance: Number
    seq: Number
    backends: Annotated[dict[BackendName, Report], Meta(max_length=NAMES)]


# --- headers: what goes from one daemon to another, over others -----------------------------------------------------


class ForwardHeader(Record):
    """The header of FORWARD: one delivery, to a backend of the daemon `to`.

    Attributes:
        to, at: the home, and which process of it: another one under that name has not been asked.
        backend: its name there.
        origin, instance, id: who sends, and the number of the delivery there, never used again.
        message, capability, priority, ttl_ms, attempt, head, heads, embedding, traceparent, tracestate: those of
            DELIVER, for the backend; ttl_ms: what is left when it arrives, as far as the origin can tell.
        hops: links it has been sent over, this one included. path: the daemons it has left, the origin first.
        route: that it took at the origin, where there are several; the home counts it for the same.
    """

    to: Name
    at: Number
    backend: BackendName
    origin: Name
    instance: Number
    id: Number
    message: Annotated[str, Meta(max_length=64)]
    capability: Capability
    priority: Annotated[int, Meta(ge=1, le=4)]
    ttl_ms: Milliseconds
    attempt: Annotated[int, Meta(ge=1)]
    head: Annotated[int, Meta(ge=1)]
    heads: Annotated[int, Meta(ge=1)]
    hops: Count
    path: Path
    embedding: Embedding | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET
    tracestate: str | UnsetType = UNSET
    route: RouteName | UnsetType = UNSET


class ResultHeader(Record):
    """The header of RESULT: what became of a FORWARD; body: a piece or the result.

    Attributes:
        to, instance, id: the origin, its process, and its number of the delivery.
        home: the daemon that says so.
        kind: `ack`, `nack`, or a piece of a stream (`part`).
        seq: of a part: 0, 1, ...; of an ack or nack: how many parts there were.
        code: of a nack. `failed`, `busy`, `rejected`, `cancelled`: as in NACK. Not begun: `gone` (no such backend
            there, or it takes nothing more), `unreachable` (no way to the home, hops used up, or a loop; a relay says
            so). `unknown`: the answer to an ASK about a FORWARD that never came.
        reason: for a person. retry_after_ms: with `busy`.
        queue: as in PROFILES, of this backend, now.
        elapsed_ms: as in REPLY, at the home.
        hops, path: as in FORWARD, of the way back.
    """

    to: Name
    instance: Number
    id: Number
    home: Name
    kind: Literal["ack", "nack", "part"]
    hops: Count
    path: Path
    seq: Count = 0
    code: Literal["", "failed", "busy", "rejected", "cancelled", "gone", "unreachable", "unknown"] = ""
    reason: str = ""
    retry_after_ms: Count | UnsetType = UNSET
    queue: Count | UnsetType = UNSET
    elapsed_ms: NonNegative = 0.0


class RingCancelHeader(Record):
    """The header of CANCEL: the answer to a FORWARD is not wanted any more; it still gets one. Keys as in FORWARD."""

    to: Name
    at: Number
    origin: Name
    instance: Number
    id: Number
    hops: Count
    path: Path


class AskHeader(Record):
    """The header of ASK: are these FORWARDs known? Keys as in FORWARD; `ids`: those still open at the origin.

    The home says the RESULT of what has ended again, `unknown` of what never came, and nothing of what is going on.
    """

    to: Name
    at: Number
    origin: Name
    instance: Number
    ids: Annotated[list[Number], Meta(max_length=NAMES)]
    hops: Count
    path: Path


# --- messages -------------------------------------------------------------------------------------------------------


class RingMessage(Record):
    """What every message on a link has: the connection that it came over or goes out by."""

    side: ClassVar[Side] = Side.RING
    delimited: ClassVar[bool] = False
    verb: ClassVar[bytes] = b""
    has_body: ClassVar[bool] = False
    peer: Peer


class Plain(RingMessage):
    """A message without a body."""

    body: ClassVar[Body] = ()


class Hello(Plain):
    """HELLO."""

    verb: ClassVar[bytes] = b"HELLO"
    header: HelloHeader


class Echo(Plain):
    """ECHO: answered at once by ECHOED."""

    verb: ClassVar[bytes] = b"ECHO"
    header: EchoHeader


class Echoed(Plain):
    """ECHOED."""

    verb: ClassVar[bytes] = b"ECHOED"
    header: EchoHeader


class Links(Plain):
    """LINKS."""

    verb: ClassVar[bytes] = b"LINKS"
    header: LinksHeader


class Roster(Plain):
    """ROSTER."""

    verb: ClassVar[bytes] = b"ROSTER"
    header: RosterHeader


class Profiles(Plain):
    """PROFILES."""

    verb: ClassVar[bytes] = b"PROFILES"
    header: ProfilesHeader


class Forward(RingMessage):
    """FORWARD; body: the client's."""

    verb: ClassVar[bytes] = b"FORWARD"
    has_body: ClassVar[bool] = True
    header: ForwardHeader
    body: Body = ()


class Result(RingMessage):
    """RESULT; body: the backend's."""

    verb: ClassVar[bytes] = b"RESULT"
    has_body: ClassVar[bool] = True
    header: ResultHeader
    body: Body = ()


class RingCancel(Plain):
    """CANCEL."""

    verb: ClassVar[bytes] = b"CANCEL"
    header: RingCancelHeader


class Ask(Plain):
    """ASK."""

    verb: ClassVar[bytes] = b"ASK"
    header: AskHeader


class RingError(Plain):
    """ERROR: what came is refused; after `wrong_ring` and `name_taken` the connection is not used."""

    verb: ClassVar[bytes] = b"ERROR"
    header: RingErrorHeader


class RingBye(Plain):
    """BYE."""

    verb: ClassVar[bytes] = b"BYE"
    header: ByeHeader


MESSAGES: Final[tuple[type[Any], ...]] = (
    Hello,
    Echo,
    Echoed,
    Links,
    Roster,
    Profiles,
    Forward,
    Result,
    RingCancel,
    Ask,
    RingError,
    RingBye,
)
"""What a codec needs: `verb` is without the prefix; the type of `header` is the annotation of that field."""


class Opened(Record):
    """An event of the transport: a connection that it has dialled is up, or up again; `address`: what it dialled."""

    peer: Peer
    address: str


Routed: TypeAlias = Forward | Result | RingCancel | Ask
Flooded: TypeAlias = Links | Roster | Profiles
Spoken: TypeAlias = Hello | Echo | Echoed | RingError | RingBye
Message: TypeAlias = Routed | Flooded | Spoken

"""The documents say what the code does: every command, key, code, metric and setting stands where it is looked for.

`python tests/test_docs.py` prints the session of docs/protocol.md, to put there when the protocol has grown.
"""

from __future__ import annotations

import inspect
import json
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_type_hints

import msgpack
import msgspec
import pytest
import typer.main
from rollout_kit import send_and_answer, with_candidate
from tools import require_tool

from router_daemon.admin.server import AdminServer
from router_daemon.assembly import LINK_BYTES
from router_daemon.cli import app
from router_daemon.cli.reproducing import reproduce
from router_daemon.config import Config, section_types
from router_daemon.config.loaded import Loaded
from router_daemon.config.sections import RoutingSection
from router_daemon.core import actions, events
from router_daemon.core.broker import Broker
from router_daemon.core.chronicle import KINDS, OTHER, Chronicle
from router_daemon.core.counts import DELIVERY_OUTCOMES, FAILURE_CAUSES, MESSAGE_OUTCOMES
from router_daemon.core.operating import Operator
from router_daemon.core.retirement import CAUSES
from router_daemon.core.settings import Settings
from router_daemon.core.types import Side
from router_daemon.errors import RETRY
from router_daemon.lab.papers.content import Verdict
from router_daemon.lab.papers.cross_attention.report import ORDER as CROSS_ATTENTION_PARTS
from router_daemon.lab.papers.registry import PAPERS
from router_daemon.metrics import Snapshot, render
from router_daemon.operating_metrics import Operations
from router_daemon.policies.base import NAMES, make_policy
from router_daemon.ring.links import Link
from router_daemon.ring.messages import MESSAGES, Listed, Report, ResultHeader
from router_daemon.ring.messages import NAMES as MOST_NAMES
from router_daemon.ring.node import Node
from router_daemon.ring.settings import RingSettings
from router_daemon.wire import COMMANDS, Decoder, Limits, encode

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PROTOCOL: Final = (REPOSITORY / "docs/protocol.md").read_text()
OPERATIONS: Final = (REPOSITORY / "docs/operations.md").read_text()
PAPERS_PAGE: Final = (REPOSITORY / "docs/papers.md").read_text()
SITE_HOME: Final = REPOSITORY / "docs"
SITE: Final = runpy.run_path(str(SITE_HOME / "conf.py"))
BUILD: Final = runpy.run_path(str(REPOSITORY / "scripts/build_docs.py"))
DOCUMENTS: Final = sorted(
    path
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    if "node_modules" not in path.relative_to(REPOSITORY).parts
)


def section(text: str, *titles: str) -> str:
    """Return what stands under a heading, below the headings around it, without what comes after it."""
    for title in titles:
        match = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
        assert match is not None, f"no heading {title!r}"
        level = len(match[1])
        rest = text[match.end() :]
        end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
        text = rest[: end.start()] if end else rest
    return text


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of the tables in a text, by their first cell (a `name` in backquotes)."""
    found = {}
    for line in map(str.strip, text.splitlines()):
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in line.strip("|").split("|")]
            found[first.strip("`")] = others
    return found


# --- docs/protocol.md: commands and keys ---

SENT: Final = {
    "What a client sends": {
        "SEND": events.Request,
        "CANCEL": events.CancelHeader,
        "FEEDBACK": events.FeedbackHeader,
        "PING": events.EmptyHeader,
    },
    "What a backend sends": {
        "REGISTER": events.Registration,
        "UPDATE": events.Revision,
        "HEARTBEAT": events.HeartbeatHeader,
        "ACK": events.AckHeader,
        "NACK": events.NackHeader,
        "PART": events.PartHeader,
        "DRAIN": events.EmptyHeader,
        "UNREGISTER": events.EmptyHeader,
    },
}
RECEIVED: Final = {
    "What a client receives": {
        "REPLY": actions.ReplyHeader,
        "PART": actions.PieceHeader,
        "ACCEPT": actions.AcceptHeader,
        "ERROR": actions.ErrorHeader,
        "PONG": actions.PongHeader,
    },
    "What a backend receives": {
        "REGISTERED": actions.RegisteredHeader,
        "DELIVER": actions.DeliverHeader,
        "CANCEL": actions.CancelDeliveryHeader,
        "HEARTBEAT": events.EmptyHeader,
        "BYE": events.EmptyHeader,
        "ERROR": actions.ErrorHeader,
    },
}
Headers = dict[str, dict[str, Any]]


def described(tables: Headers) -> list[tuple[str, str, Any]]:
    return [(chapter, verb, header) for chapter, verbs in tables.items() for verb, header in verbs.items()]


def headings(chapter: str) -> set[str]:
    return set(re.findall(r"^### ([A-Z]+)$", section(PROTOCOL, chapter), re.MULTILINE))


@pytest.mark.parametrize(("chapter", "verb", "header"), described(SENT))
def test_the_keys_that_peers_send(chapter: str, verb: str, header: type[msgspec.Struct]) -> None:
    table = rows(section(PROTOCOL, chapter, verb).split("\n\n| code |")[0])
    fields = {field.name: field for field in msgspec.structs.fields(header)}
    assert table.keys() == fields.keys()
    for name, (_, required, default, _) in table.items():
        field = fields[name]
        assert required == ("yes" if field.required else "no"), name
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert default == str(field.default), name


@pytest.mark.parametrize(("chapter", "verb", "header"), described(RECEIVED)[:-1])
def test_the_keys_that_the_daemon_sends(chapter: str, verb: str, header: type[msgspec.Struct]) -> None:
    table = rows(section(PROTOCOL, chapter, verb))
    fields = {field.name: field for field in msgspec.structs.fields(header)}
    assert table.keys() == fields.keys()
    for name, (_, sent, _) in table.items():
        assert sent.startswith("always") or fields[name].default is msgspec.UNSET, name


def test_an_error_to_a_backend_has_the_keys_that_are_named() -> None:
    decoder, broker = Decoder(Side.BACKEND, Limits()), make_broker()
    (error,) = broker.handle(decoder.decode([b"peer", b"CAR1.DRAIN", b"\x80"]), 0.0)
    assert isinstance(error, actions.BackendError)
    sent = msgpack.unpackb(encode(error)[-1])
    text = section(PROTOCOL, "What a backend receives", "ERROR")
    assert set(re.findall(r"`(\w+)`", text)) == set(sent)


def test_the_commands_are_those_of_the_code() -> None:
    known = {chapter: set(verbs) for chapter, verbs in (SENT | RECEIVED).items()}
    assert {chapter: headings(chapter) for chapter in known} == known
    sides = {"What a client receives": actions.ToClient, "What a backend receives": actions.ToBackend}
    for chapter, base in sides.items():
        verbs = {name.decode().removeprefix("CAR1.") for kind, name in COMMANDS.items() if issubclass(kind, base)}
        assert verbs == known[chapter]


@pytest.mark.parametrize(
    ("side", "chapter"), [(Side.CLIENT, "What a client sends"), (Side.BACKEND, "What a backend sends")]
)
def test_each_socket_knows_the_commands_that_are_described_for_it(side: Side, chapter: str) -> None:
    decoder = Decoder(side, Limits())
    for verb in {verb for verbs in (SENT | RECEIVED).values() for verb in verbs}:
        event = decoder.decode([b"peer", f"CAR1.{verb}".encode(), b"\xc0"])
        assert isinstance(event, events.Malformed)
        assert event.code == ("bad_header" if verb in SENT[chapter] else "unknown_command"), verb


# --- docs/protocol.md: between daemons ---

RING: Final = "Between daemons: RING/1"


def ring_headers() -> dict[str, Any]:
    """Return the header of each verb that daemons say to each other."""
    return {kind.verb.decode(): get_type_hints(kind)["header"] for kind in MESSAGES}


def test_the_commands_between_daemons_are_those_of_the_code() -> None:
    assert headings(RING) == ring_headers().keys()


@pytest.mark.parametrize(
    ("titles", "header"),
    [
        *(((verb,), header) for verb, header in ring_headers().items()),
        (("ROSTER", "A backend in a ROSTER"), Listed),
        (("PROFILES", "A backend in PROFILES"), Report),
    ],
)
def test_the_keys_between_daemons(titles: tuple[str, ...], header: type[msgspec.Struct]) -> None:
    text = section(PROTOCOL, RING, *titles)
    table = rows(text if len(titles) > 1 else text.split("\n#### ")[0])
    fields = {field.name: field for field in msgspec.structs.fields(header)}
    assert table.keys() == fields.keys()
    for name, (_, required, _) in table.items():
        assert required == ("yes" if fields[name].required else "no"), name


def test_what_is_said_of_a_ring_in_numbers_is_so() -> None:
    text, ring, settings = section(PROTOCOL, RING), Config().ring, RingSettings("a")
    assert f"`{ring.addresses[0]}`" in text
    assert f"at most {MOST_NAMES}" in text
    assert f"pages of some {settings.page_bytes // 2**10} KiB" in text
    assert f"for {settings.forget_s:.0f} s" in text
    assert f"every {settings.refresh_s:.0f} s" in text
    assert f"weight 1/{1 / settings.rtt_alpha:.0f}" in text
    assert f"{LINK_BYTES // 2**10} KiB larger" in text
    codes = get_args(next(f for f in msgspec.structs.fields(ResultHeader) if f.name == "code").type)
    assert all(f"`{code}`" in section(PROTOCOL, RING, "RESULT") for code in codes if code)


# --- docs/protocol.md: codes, limits ---


def test_every_error_code_is_there_with_its_retry() -> None:
    table = rows(section(PROTOCOL, "Error codes"))
    assert table.keys() == RETRY.keys()
    for code, (_, retry, *_) in table.items():
        mostly = code in {"expired", "failed"}
        assert retry == ("mostly" if mostly else "yes" if RETRY[code] else "no"), code


def test_the_defaults_are_those_of_the_configuration() -> None:
    config = Config()
    table = rows(section(PROTOCOL, "What a client sends", "SEND"))
    assert table["ttl_ms"][2] == f"configured, {config.routing.default_ttl_ms}"
    assert f"({config.routing.max_ttl_ms})" in table["ttl_ms"][3]
    assert table["heads"][2] == f"configured, {config.routing.heads}"
    assert table["mode"][2] == f"configured, `{config.routing.mode}`"
    limits = section(PROTOCOL, "Messages")
    assert f"together | {config.limits.max_message_bytes // 2**20} MiB |" in limits
    assert f"header | {config.limits.max_header_bytes // 2**10} KiB |" in limits
    assert f"body frames | {config.limits.max_body_frames} |" in limits
    for address in (*config.frontend.addresses, *config.backend.addresses):
        assert f"`{address}`" in section(PROTOCOL, "Connections")


# --- docs/protocol.md: the session ---

BEGIN: Final = "<!-- session: written by `python tests/test_docs.py`, checked by that test -->\n```\n"
END: Final = "```\n<!-- end of session -->"
LINE_BYTES: Final = 32
PEERS: Final = {"client": b"a client's connection", "backend": b"a backend's connection"}


class Step(NamedTuple):
    """One message of the session; `frames` without the peer."""

    sender: str
    receiver: str
    frames: list[bytes]


def make_broker() -> Broker:
    settings = Settings(version="0.1.0")
    return Broker(
        settings,
        make_policy("attention", settings, random.Random(1)),
        rng=random.Random(1),
        timer=lambda: 0.0,
        instance="5f0c2a9be1d34786",
        first_delivery_id=1_764_000_000_000_000,
    )


def session(broker: Broker) -> Iterator[Step]:
    """Yield the messages of the session: what peers send, and what the broker answers."""
    decoders = {"client": Decoder(Side.CLIENT, Limits()), "backend": Decoder(Side.BACKEND, Limits())}
    delivery = 1_764_000_000_000_000

    def sent(verb: str, header: dict[str, Any], *body: bytes) -> list[bytes]:
        return [b"CAR1." + verb.encode(), msgpack.packb(header), *body]

    script: list[tuple[float, str, list[bytes]]] = [
        (0.0, "backend", sent("REGISTER", {"name": "upper-1", "capabilities": ["upper"], "slots": 2})),
        (0.5, "backend", sent("HEARTBEAT", {"queue": 0})),
        (1.0, "client", sent("SEND", {"id": 7, "capability": "upper", "ttl_ms": 5000}, b"hello")),
        (1.00390625, "backend", sent("ACK", {"id": delivery}, b"HELLO")),
        (2.0, "client", sent("SEND", {"id": 8, "capability": "lower"}, b"hello")),
        (3.0, "client", sent("PING", {})),
        (4.0, "client", sent("SEND", {"id": 9, "capability": "upper", "ttl_ms": 5000}, b"two", b"frames")),
        (4.0078125, "backend", sent("PART", {"id": delivery + 1}, b"TWO")),
        (4.015625, "backend", sent("PART", {"id": delivery + 1}, b"FRAMES", b"")),
        (4.03125, "backend", sent("ACK", {"id": delivery + 1, "queue": 0})),
        (5.0, "client", sent("SEND", {"id": 10, "capability": "upper", "ttl_ms": 5000})),
        (5.25, "client", sent("CANCEL", {"id": 10})),
        (5.2578125, "backend", sent("NACK", {"id": delivery + 2, "code": "cancelled"})),
        (6.0, "backend", sent("DRAIN", {})),
    ]
    for now, who, frames in script:
        yield Step(who, "daemon", frames)
        for action in broker.handle(decoders[who].decode([PEERS[who], *frames]), now):
            receiver = "client" if action.side is Side.CLIENT else "backend"
            peer, *answer = encode(action)
            assert peer == PEERS[receiver]
            yield Step("daemon", receiver, answer)


def step_text(step: Step) -> str:
    """Return a message as the document shows it: who to whom, the header readable, then each frame in hexadecimal."""
    verb, header, *body = step.frames
    readable = json.dumps(msgpack.unpackb(header))
    lines = [f"{step.sender} -> {step.receiver}   {verb.decode()} {readable} {' '.join(map(ascii, body))}".rstrip()]
    names = ["command", "header", *["body"] * len(body)]
    for name, frame in zip(names, step.frames, strict=True):
        size = f"    {name:7} [{len(frame)}]".ljust(18)
        pieces = [frame[at : at + LINE_BYTES].hex(" ", -4) for at in range(0, len(frame), LINE_BYTES)]
        lines.append((size + ("\n" + " " * len(size)).join(pieces)).rstrip())
    return "\n".join(lines) + "\n"


def session_text() -> str:
    return "\n".join(map(step_text, session(make_broker())))


def shown_session() -> str:
    return PROTOCOL.partition(BEGIN)[2].partition(END)[0]


def shown_steps() -> list[Step]:
    """Read the session back from the document: hexadecimal to frames."""
    steps = []
    for block in shown_session().strip().split("\n\n"):
        title, *lines = block.splitlines()
        sender, receiver = re.findall(r"client|backend|daemon", title)[:2]
        frames: list[bytes] = []
        for line in lines:
            if found := re.match(r" +\w+ +\[\d+\] *", line):
                frames.append(bytes.fromhex(line[found.end() :]))
            else:
                frames[-1] += bytes.fromhex(line)
        steps.append(Step(sender, receiver, frames))
    return steps


def test_the_session_is_what_the_daemon_does() -> None:
    assert shown_session() == session_text()


def test_the_session_s_bytes_decode() -> None:
    decoders = {"client": Decoder(Side.CLIENT, Limits()), "backend": Decoder(Side.BACKEND, Limits())}
    verbs = []
    for sender, receiver, frames in shown_steps():
        verbs.append(frames[0].decode().removeprefix("CAR1."))
        if receiver == "daemon":
            event = decoders[sender].decode([b"peer", *frames])
            assert type(event).__name__.upper() == verbs[-1]
        else:
            assert isinstance(msgpack.unpackb(frames[1]), dict)
    answers = ["REGISTERED", "HEARTBEAT", "DELIVER", "REPLY", "ERROR", "PONG"]
    answers += ["DELIVER", "PART", "PART", "REPLY", "DELIVER", "ERROR", "CANCEL", "BYE"]
    assert [verb for verb, step in zip(verbs, shown_steps(), strict=True) if step.sender == "daemon"] == answers


# --- docs/operations.md ---


def rendered_metrics() -> list[str]:
    """Return /metrics after a little of everything: of a daemon in a ring that traces, and of one with a rollout."""
    broker = make_broker()
    for _ in session(broker):
        pass
    node = Node(broker, RingSettings("a"), instance=1)
    node.links.by_peer[b"peer"] = Link(b"peer", dialled=True, address="", name="b", instance=1, rtt_s=0.001)
    node.counts.undeliverable["RESULT"] += 1
    node.counts.errors["not_greeted"] += 1
    rollout = with_candidate("a")
    send_and_answer(rollout, 1)
    operations = Operations(Operator(broker), Chronicle(), Loaded(Config(), 0.0))
    both = (Snapshot(broker, 4.0, node, operations, {"exported": 1}), Snapshot(rollout.broker, rollout.clock.now))
    return [render(snapshot, openmetrics=False).decode() for snapshot in both]


def test_every_metric_is_described() -> None:
    names = re.findall(r"^# TYPE (\S+) ", "".join(rendered_metrics()), re.MULTILINE)
    table = {name.partition("{")[0] for name in rows(section(OPERATIONS, "Metrics"))}
    process = {name for name in names if name.startswith("process_")}
    assert table == set(names) - process
    for name in process:
        assert f"`{name}`" in section(OPERATIONS, "Metrics")


def test_the_metrics_labels_are_described() -> None:
    samples = re.findall(r"^(router_\w+)\{([^}]*)\}", "".join(rendered_metrics()), re.MULTILINE)
    known = dict(name.rstrip("}").split("{") for name in rows(section(OPERATIONS, "Metrics")) if "{" in name)
    for name, found in samples:
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        labels = set(re.findall(r'(\w+)="', found)) - {"le"}
        assert labels == set(filter(None, known.get(family, "").split(","))), name


@pytest.mark.parametrize("outcomes", [MESSAGE_OUTCOMES, DELIVERY_OUTCOMES, FAILURE_CAUSES])
def test_every_outcome_is_described(outcomes: tuple[str, ...]) -> None:
    text = section(OPERATIONS, "Metrics")
    for outcome in set(outcomes) - set(RETRY):
        assert f"`{outcome}`" in text, outcome


def test_every_limit_is_described() -> None:
    table = {name.removeprefix("limits."): cells for name, cells in rows(section(OPERATIONS, "Limits")).items()}
    limits = dict(Config().limits)
    assert table.keys() == limits.keys()
    for name, (default, _) in table.items():
        value = limits[name]
        assert default.startswith((f"{value:g} ", f"{value}", f"{value / 2**20:g} MiB", f"{value / 2**10:g} KiB")), name


def test_every_policy_is_described() -> None:
    text = section(OPERATIONS, "How a message finds its backends")
    for name in NAMES:
        assert f"`{name}`" in text


@pytest.mark.parametrize("document", [section(PROTOCOL, "The life of a message"), OPERATIONS])
def test_every_mode_is_described(document: str) -> None:
    modes = get_args(RoutingSection.model_fields["mode"].annotation)
    assert set(modes) <= {name.partition("`")[0] for name in rows(document)}


def test_every_section_of_the_configuration_is_met() -> None:
    assert set(re.findall(r"`\[(\w+)\]`", section(OPERATIONS, "Configuration"))) == set(Config.model_fields)


def test_every_setting_that_is_named_exists() -> None:
    known = {f"{name}.{key}" for name, kind in section_types().items() for key in kind.model_fields}
    sections = "|".join(Config.model_fields)
    assert set(re.findall(rf"`((?:{sections})\.\w+)`", OPERATIONS + PROTOCOL)) <= known


def test_every_page_of_the_admin_server_is_described() -> None:
    text = section(OPERATIONS, "The HTTP pages")
    app = AdminServer(make_broker(), "")._app()
    for resource in app.router.resources():
        assert f"`{resource.canonical}" in text


def test_every_kind_of_event_is_described() -> None:
    kinds = {kind for first in rows(section(OPERATIONS, "What has happened")) for kind in first.split("`, `")}
    assert kinds == {*KINDS.values(), OTHER}


def test_every_cause_for_retirement_is_described() -> None:
    table = rows(section((REPOSITORY / "docs/rollout.md").read_text(), "Routes to be retired"))
    assert set(CAUSES) <= {cause for first in table for cause in first.split("`, `")}


def test_promtool_finds_no_fault_in_the_metrics() -> None:
    command = [require_tool("promtool"), "check", "metrics"]
    for page in rendered_metrics():
        done = subprocess.run(command, input=page, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- docs/papers.md ---


def test_every_paper_is_there_with_its_command() -> None:
    for name in PAPERS:
        assert f"router-daemon reproduce {name} " in PAPERS_PAGE, name


def test_every_option_of_reproduce_is_described() -> None:
    options = {f"--{parameter.replace('_', '-')}" for parameter in inspect.signature(reproduce).parameters}
    assert rows(PAPERS_PAGE.partition("\n## ")[0]).keys() == options - {"--paper"}


def test_every_part_of_the_cross_attention_report_is_described() -> None:
    text = section(PAPERS_PAGE, "Cross-attention routing between heterogeneous systems", "What each table says")
    assert {name for first in rows(text) for name in first.split("`, `")} == set(CROSS_ATTENTION_PARTS)


def test_every_verdict_is_described() -> None:
    assert {f"*{verdict.capitalize()}*:" for verdict in get_args(Verdict)} <= set(
        re.findall(r"\*[A-Z][a-z ]+\*:", PAPERS_PAGE.replace("\n", " "))
    )


# --- all documents ---


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, made as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    coming = {SITE_HOME / f"{name}.md" for name in SITE["missing"]()}
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (document.parent / place).resolve() if place else document
        if path in coming:
            continue
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_typed_exists(document: Path) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    typed = re.findall(r"(?:^ *|`|[|&;(] ?)router-daemon ([a-z]+)\b", document.read_text(), re.MULTILINE)
    assert set(typed) <= known


# --- the site ---


def test_every_page_is_in_the_navigation_once() -> None:
    listed = [name for names in SITE["pages"]().values() for name in names]
    there = {path.relative_to(SITE_HOME).with_suffix("").as_posix() for path in SITE_HOME.rglob("*.md")}
    there = {name for name in there if "node_modules" not in name}
    assert sorted([*listed, "index"]) == sorted(there)


def test_the_first_page_leads_to_every_other() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)\.md", (SITE_HOME / "index.md").read_text()))
    assert linked == {name for names in SITE["NAVIGATION"].values() for name in names}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nobody_else_for_anything(tmp_path: Path) -> None:
    require_tool("sphinx-build")
    command = [sys.executable, "-P", str(REPOSITORY / "scripts/build_docs.py"), "--out", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{tmp_path / 'site/index.html'}\n"
    for names in SITE["pages"]().values():
        for name in names:
            assert (tmp_path / f"site/{name}.html").exists(), name
    search = (tmp_path / "site/searchindex.js").read_text()
    assert all(word in search for word in ("majordomo", "ejected", "prefetch"))


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<script src="https://a/b.js"></script>', ["<script> https://a/b.js"]),
        ('<link rel="stylesheet" href="//a/b.css">', ["<link> //a/b.css"]),
        ('<img src="HTTP://a/b.png">', ["<img> HTTP://a/b.png"]),
        ('<p style="background: url(https://a/b.png)">', ["https://a/b.png"]),
        ('<style>@import "https://a/b.css";</style>', ["https://a/b.css"]),
        ('<a href="https://a/">there</a><link rel="canonical" href="https://a/">', []),
        ('<script src="_static/b.js"></script><img src="b.png">', []),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(page: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)
    assert list(BUILD["outside_requests"](tmp_path)) == [f"page.html loads {each}" for each in found]


# --- docs/runbook.md ---

RUNBOOK: Final = (SITE_HOME / "runbook.md").read_text()
RULES: Final = REPOSITORY / "deploy/prometheus/rules.yml"
ALERTS: Final = re.findall(r"^## (RouterDaemon\w+)$", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_told_in_full(alert: str) -> None:
    text = " ".join(section(RUNBOOK, alert).lower().split()).replace("| do |", "**do**")
    for part in ("means", "how bad", "look", "do", "over when", "escalate"):
        assert f"**{part}**" in text, part
    assert f"](#{alert.lower()})" in RUNBOOK.partition("\n## ")[0]


def test_the_alerts_are_those_of_the_rules() -> None:
    if not RULES.exists():
        pytest.skip("deploy/prometheus/rules.yml is not there yet")
    assert set(re.findall(r"alert: (\w+)", RULES.read_text())) == set(ALERTS)
    assert set(re.findall(r"runbook_url: docs/runbook\.md#(\w+)", RULES.read_text())) == set(map(str.lower, ALERTS))


def test_the_queries_of_the_runbook_are_sound(tmp_path: Path) -> None:
    queries = [line for block in re.findall(r"```promql\n(.*?)```", RUNBOOK, re.DOTALL) for line in block.splitlines()]
    table = {name.partition("{")[0] for name in rows(section(OPERATIONS, "Metrics"))}
    for name in re.findall(r"\brouter_\w+", "\n".join(queries)):
        assert re.sub(r"_(bucket|sum|count)$", "", name) in table, name
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "runbook", "rules": rules}]}))
    command = [require_tool("promtool"), "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    sys.stdout.write(session_text())

"""The checks of `router-daemon conform`, and what is said of them: they stand on docs/protocol.md, word for word."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

import msgpack
import pytest
from command_line import invoke
from test_docs import PROTOCOL, REPOSITORY, rows, section

from router_daemon.conform import backend_checks, backend_scripts, client_checks, client_scripts, report
from router_daemon.conform.checks import Book, Check
from router_daemon.conform.encodings import wide
from router_daemon.conform.messages import SHOWN_BYTES, Reader, pack, shown, shown_body
from router_daemon.core.types import Side

CONFORM: Final = (REPOSITORY / "docs/conform.md").read_text()
ALL = [*backend_checks.CHECKS, *client_checks.CHECKS]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def sections(title: str) -> list[str]:
    """Return what stands under each heading of that name, with what is below it."""
    found = []
    for match in re.finditer(rf"^(#+) {re.escape(title)}$", PROTOCOL, re.MULTILINE):
        rest = PROTOCOL[match.end() :]
        end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
        found.append(plain(rest[: end.start()] if end else rest))
    return found


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.id)
def test_every_check_stands_on_a_sentence_of_the_protocol(check: Check) -> None:
    assert any(plain(check.quote) in section for section in sections(check.section)), check.quote


@pytest.mark.parametrize("module", [backend_checks, client_checks])
def test_ids_are_unique_and_short_enough_for_their_column(module: object) -> None:
    idents = [check.id for check in module.CHECKS]  # type: ignore[attr-defined]
    assert len(set(idents)) == len(idents)
    assert max(map(len, idents)) < report.ID_CHARS


@pytest.mark.parametrize(
    ("checks", "scenarios"),
    [(backend_checks.CHECKS, backend_scripts.SCENARIOS), (client_checks.CHECKS, client_scripts.SCENARIOS)],
)
def test_every_check_is_decided_by_a_script(checks: tuple[Check, ...], scenarios: list[object]) -> None:
    decided = {ident for scenario in scenarios for ident in scenario.checks}  # type: ignore[attr-defined]
    assert decided == {check.id for check in checks}


@pytest.mark.parametrize(("title", "module"), [("Of a backend", backend_checks), ("Of a client", client_checks)])
def test_the_document_names_every_check(title: str, module: Any) -> None:
    table = rows(section(CONFORM, "The checks", title))
    assert table == {check.id: [check.title] for check in module.CHECKS}


def test_the_document_names_every_role_and_task() -> None:
    roles = rows(section(CONFORM, "A backend for it"))
    assert roles == {f"conform.{role}": [does] for role, does in backend_checks.ROLES.items()}
    asked_for = {"end", *re.findall(r"doing\(\"(\w+)\"\)", inspect.getsource(client_checks)), "send"}
    assert rows(section(CONFORM, "A client for it")).keys() == asked_for


def test_the_document_names_every_option() -> None:
    options = set(re.findall(r"--[a-z]+", invoke("conform", "--help").stdout)) - {"--help"}
    assert set(re.findall(r"`(--[a-z]+)", CONFORM)) >= options


# --- the book ---


def book() -> Book:
    return Book([Check("a", "title", "section", "quote", "a thing"), Check("b", "", "", "")])


def test_the_first_failure_stays_the_verdict() -> None:
    found = book()
    found.passed("a")
    found.failed("a", "this", "that")
    found.failed("a", "more", "of it")
    found.passed("a")
    assert found.finding("a").plain() == {
        "id": "a",
        "verdict": "fail",
        "title": "title",
        "section": "section",
        "quote": "quote",
        "expected": "this",
        "received": "that",
        "note": "",
    }


def test_what_nobody_did_is_not_seen_and_says_what_would_show_it() -> None:
    found = book()
    assert [each.verdict for each in found] == ["not seen", "not seen"]
    assert found.finding("a").note == "would be shown by a thing"
    found.unseen("a", "it rained")
    assert found.finding("a").note == "it rained"
    found.passed("a")
    assert found.finding("a").verdict == "pass"


def test_the_report_shows_failures_whole_and_counts() -> None:
    found = book()
    found.failed("a", "this", "that\nand that")
    text = report.text(list(found))
    assert 'docs/protocol.md, "section": quote' in text
    assert "received  that\n                    and that" in text
    assert text.endswith("2 checks: 0 pass, 1 fail, 1 not seen")
    assert report.plain("client", "tcp://x", list(found))["passed"] is False


# --- messages ---


@pytest.mark.parametrize("value", [{}, {"a": [1, None, True, 2.5, b"\x00"], "é": {"b": 2**64 - 1}}])
def test_the_widest_encoding_is_the_same_value(value: object) -> None:
    packed = wide(value)
    assert msgpack.unpackb(packed) == value
    assert len(packed) > len(msgpack.packb(value))


def test_a_wide_encoding_of_anything_else_is_refused() -> None:
    with pytest.raises(TypeError):
        wide(object())


def test_what_is_wrong_with_a_message_is_the_daemon_s_own_word() -> None:
    reader = Reader(Side.BACKEND)
    good = reader.read([b"peer", *pack("HEARTBEAT", {"queue": 0})], 1.0)
    assert (good.verb, good.header, good.fault, good.at) == ("HEARTBEAT", {"queue": 0}, None, 1.0)
    bad = reader.read([b"peer", b"", *pack("HEARTBEAT", {"queue": -1})], 1.0)
    assert bad.delimited
    assert bad.fault is not None
    assert bad.fault[0] == "bad_header"
    for frames in ([b"peer"], [b"peer", b"CAR1.PING"], [b"peer", b"CAR1.ACK", b"\xc1"], [b"peer", b"\xff", b"\x80"]):
        assert reader.read(frames, 1.0).fault is not None


def test_messages_are_shown_shortened() -> None:
    text = shown([b"CAR1.ACK", b"\x81\xa2id\x07", b"", bytes(1000), *[b"x"] * 60])
    lines = text.splitlines()
    assert lines[0] == 'CAR1.ACK {"id": 7}'
    assert lines[1] == "  [8] 43415231 2e41434b"
    assert lines[3] == "  [0]"
    assert lines[4].endswith("00000000 ...")
    assert len(lines[4]) < 4 * SHOWN_BYTES
    assert lines[-1] == "  and 59 more frames, 59 bytes"
    assert shown_body([]) == "a body of 0 frames, 0 bytes"
    assert shown([]).startswith("no frames")

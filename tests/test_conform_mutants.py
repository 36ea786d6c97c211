"""`conform` finds what is wrong: peers that break one rule each, in virtual time, and the check that has to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack
import pytest
from conform_backend_kit import FakeBackend
from conform_client_kit import UNSUPPORTED, FakeClient
from conform_kit import perform
from fuzzing import look
from hypothesis import given
from hypothesis import strategies as st

from router_daemon.conform import backend_scripts, client_scripts, report
from router_daemon.conform.backend_play import BackendPlay, backend_play
from router_daemon.conform.checks import Book
from router_daemon.conform.client_play import client_play
from router_daemon.conform.play import KEPT_MESSAGES, Scenario, Script, chosen

TIMEOUT_S: Final = 10.0

BACKENDS: Final = {
    "names itself": "routing-id",
    "heartbeat before REGISTER": "register-first",
    "no slots": "register-header",
    "ids of text": "answer-header",
    "queue in words": "heartbeat-header",
    "speaks as a client": "commands",
    "tries again at once": "name-taken",
    "gives up its name": "name-taken",
    "waits for its old socket": "register-unanswered",
    "new session each time": "session",
    "new name each time": "same-name",
    "beats too seldom": "heartbeat",
    "beats only when idle": "heartbeat-at-work",
    "wrong ids": "answer-id",
    "answers twice": "one-answer",
    "ids of 32 bits": "big-id",
    "reads short maps only": "wide-encoding",
    "joins frames": "body-frames",
    "empty frame for none": "body-empty",
    "a megabyte at most": "body-big",
    "wants known keys only": "unknown-keys",
    "dies of unknown commands": "unknown-commands",
    "takes any version": "other-version",
    "dies of errors": "errors",
    "forgets what waits": "full-house",
    "streams backwards": "stream",
    "never fails": "nack-failed",
    "blames itself": "nack-rejected",
    "drops what is cancelled": "cancel",
    "fails what is cancelled": "cancel",
    "answers every CANCEL": "cancel-late",
    "ignores not_registered": "not-registered",
    "finishes old work": "drop-unfinished",
    "trusts silence": "silence",
    "never comes back": "restart",
    "obeys BYE": "bye",
    "leaves its work": "drain",
}
CLIENTS: Final = {
    "names itself": "routing-id",
    "ttl in words": "send-header",
    "cancels nothing": "other-header",
    "speaks as a backend": "commands",
    "one id for all": "id-unique",
    "never pings": "ping",
    "keys of its own": "send-keys",
    "joins frames": "body-frames",
    "empty frame for none": "body-empty",
    "a megabyte at most": "body-big",
    "reads short maps only": "wide-encoding",
    "wants known keys only": "unknown-keys",
    "dies of unknown commands": "unknown-commands",
    "takes any version": "other-version",
    "trips over strangers": "foreign-answer",
    "takes the first for the last": "reply-all",
    "repeats itself": "after-last",
    "answers in order": "answers-by-id",
    "streams backwards": "stream",
    "ends streams with REPLY": "stream-error",
    "hides codes": "error",
    "always tries again": "no-retry",
    "tries again at once": "retry-after",
    "knows all codes": "unknown-code",
    "takes complaints for answers": "complaint",
    "wants more than ACCEPT": "accept",
    "cancels another": "cancel",
    "wants no REPLY after CANCEL": "cancel-crossed",
    "praises nobody": "feedback",
    "waits for ever": "gives-up",
    "gives up at once": "gives-up",
    "never comes back": "restart",
}


def backend(*breaks: str, only: tuple[str, ...] = (), can_end: bool = True) -> Book:
    play = backend_play(TIMEOUT_S, {}, can_end=can_end)
    return perform(play, chosen(backend_scripts.SCENARIOS, frozenset(only)), FakeBackend(frozenset(breaks)))


def client(*breaks: str, only: tuple[str, ...] = ()) -> Book:
    play = client_play(TIMEOUT_S, can_end=True)
    return perform(play, chosen(client_scripts.SCENARIOS, frozenset(only)), FakeClient(frozenset(breaks)))


def failed(book: Book) -> dict[str, str]:
    return {finding.check.id: finding.received for finding in book if finding.verdict == "fail"}


def unseen(book: Book) -> set[str]:
    return {finding.check.id for finding in book if finding.verdict == "not seen"}


@pytest.mark.parametrize("run", [backend, client])
def test_a_peer_that_keeps_to_the_protocol_passes_every_check(run: Callable[[], Book]) -> None:
    book = run()
    assert failed(book) == {}
    assert unseen(book) == set()


@pytest.mark.parametrize(("break_", "check"), BACKENDS.items())
def test_a_backend_that_breaks_a_rule_is_found(break_: str, check: str) -> None:
    found = failed(backend(break_))
    assert check in found
    assert found[check], "what was received is shown"


@pytest.mark.parametrize(("break_", "check"), CLIENTS.items())
def test_a_client_that_breaks_a_rule_is_found(break_: str, check: str) -> None:
    found = failed(client(break_)) | failed(client(break_, only=(check,)))  # one break may hide another
    assert check in found
    assert found[check], "what was received is shown"


def test_every_check_can_fail() -> None:
    assert {finding.check.id for finding in backend()} == set(BACKENDS.values())
    assert {finding.check.id for finding in client()} == set(CLIENTS.values())


# --- what there is beside ---


def test_a_backend_without_roles_is_checked_as_far_as_that_goes() -> None:
    play = backend_play(TIMEOUT_S, {}, can_end=False)
    peer = FakeBackend(frozenset({"offers echo as work"}))
    book = perform(play, backend_scripts.SCENARIOS, peer)
    assert failed(book) == {}
    assert unseen(book) == {
        *("body-frames", "body-empty", "body-big", "stream", "nack-failed", "nack-rejected"),
        *("heartbeat-at-work", "cancel", "drop-unfinished", "drain"),
    }
    assert "conform.stream" in book.finding("stream").note
    assert "--run" in book.finding("drain").note


def test_a_role_may_have_another_capability() -> None:
    play = backend_play(TIMEOUT_S, {"echo": "work"}, can_end=False)
    book = perform(play, backend_scripts.SCENARIOS, FakeBackend(frozenset({"offers echo as work"})))
    assert failed(book) == {}
    assert not {"body-frames", "body-empty", "body-big"} & unseen(book)


def test_a_client_that_asks_for_nothing_is_watched() -> None:
    book = client("never asks")
    assert failed(book) == {}
    assert {finding.check.id for finding in book if finding.verdict == "pass"} == {
        *("routing-id", "send-header", "commands", "id-unique"),
    }


def test_a_client_need_not_do_every_task() -> None:
    book = client(UNSUPPORTED)
    assert failed(book) == {}
    assert unseen(book) == {
        *("ping", "other-header", "answers-by-id", "stream", "stream-error", "accept", "reply-all"),
        *("feedback", "retry-after", "cancel", "cancel-crossed"),
    }
    assert "`stream`" in book.finding("stream").note


def test_a_program_that_says_nothing_fails_the_first_check() -> None:
    assert set(failed(backend("says nothing"))) == {"register-first"}
    assert set(failed(client("says nothing"))) == {"send-header"}


def test_a_program_that_dies_on_the_way_is_told_of() -> None:
    play = backend_play(TIMEOUT_S, {}, can_end=True)
    book = perform(play, backend_scripts.SCENARIOS, FakeBackend(frozenset({"dies of errors"})))
    assert play.broke_off == "the program has ended, exit code 3"
    assert "exit code 3" in book.finding("drain").note


def test_of_one_check_only_its_scripts_are_played() -> None:
    book = backend(only=("stream",))
    assert book.finding("stream").verdict == "pass"
    assert "body-big" in unseen(book)


def test_a_drain_that_nobody_announces_is_not_seen() -> None:
    assert unseen(backend("dies of SIGTERM")) == {"drain"}


def test_a_peer_that_uses_the_delimiter_gets_it_back() -> None:
    assert failed(backend("uses the delimiter")) == {}
    assert unseen(backend("uses the delimiter")) == set()
    book = client("uses the delimiter")
    assert failed(book) == {}
    assert unseen(book) == {
        *("unknown-commands", "other-version", "after-last", "stream", "stream-error", "complaint", "reply-all"),
        *("cancel", "cancel-crossed", "feedback"),
    }
    assert "delimiter" in book.finding("stream").note


def test_a_peer_that_floods_fills_no_memory() -> None:
    kept: list[int] = []

    def flooded(play: BackendPlay) -> Script[None]:
        kept.append(len((yield from play.pause(10.0, "heartbeat"))))

    play = backend_play(TIMEOUT_S, {}, can_end=False)
    play.start([Scenario("flooded", ("heartbeat",), flooded)], 0.0)
    for number in range(1, 1_001):
        play.on_message([b"\x00peer", b"CAR1.HEARTBEAT", b"\x80"], number / 100)
    assert play.finished
    assert kept == [KEPT_MESSAGES]


FRAMES: Final = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"\x80", *(f"CAR1.{verb}".encode() for verb in ("SEND", "REGISTER", "ACK", "PART", "CANCEL"))]
    ),
    st.dictionaries(
        st.sampled_from(["id", "name", "capabilities", "capability", "slots", "code", "queue"]),
        st.one_of(
            st.none(), st.integers(0, 2**64 - 1), st.floats(), st.text(max_size=5), st.lists(st.text(max_size=3))
        ),
    ).map(msgpack.packb),
)


@look(200)
@given(st.lists(st.lists(FRAMES, max_size=5), max_size=8), st.sampled_from(["backend", "client"]))
def test_whatever_a_peer_sends_is_judged(messages: list[list[bytes]], side: str) -> None:
    play: Any = backend_play(1.0, {}, can_end=False) if side == "backend" else client_play(1.0, can_end=False)
    scenarios: Any = backend_scripts.SCENARIOS if side == "backend" else client_scripts.SCENARIOS
    play.start(scenarios, 0.0)
    for number, frames in enumerate(messages):
        play.on_message([b"\x00peer", *frames], number * 0.1)
    play.on_exit(1, 2.0)
    assert play.finished
    assert report.text(list(play.book))

"""The checks on a backend, each with the sentence that it stands on.

Most want a backend made for the purpose: one that offers the capabilities of `ROLES`.
"""

from __future__ import annotations

from typing import Final

from router_daemon.conform.checks import Check

ROLES: Final = {
    "echo": "answers with the body as it came, frame by frame",
    "stream": "sends each frame of the body as a PART, then an ACK without a body",
    "slow": "works for as many milliseconds as its body says in ASCII, then answers as echo does",
    "fail": "fails: NACK `failed`",
    "reject": "finds the message at fault: NACK `rejected`",
}
"""What a backend made for the purpose offers, by default each as `conform.ROLE`."""


def offering(role: str) -> str:
    """Return what shows a check that needs a role."""
    return f"a backend that offers conform.{role} (--capability {role}=NAME): it {ROLES[role]}"


_HEADERS: Final = "a value has another type than its table says or is out of range"
_SKIPPED: Final = "A command that it does not know, of this or another version, a peer passes over."
_ECHO: Final = offering("echo")

CHECKS: Final = (
    Check("routing-id", "has no routing id of its own", "Connections", "**Leave the routing id unset**"),
    Check("register-first", "says REGISTER before all else", "What a backend sends", "Before anything else, REGISTER."),
    Check("register-header", "REGISTER and UPDATE have sound headers", "Messages", _HEADERS),
    Check("answer-header", "ACK, NACK and PART have sound headers", "Messages", _HEADERS),
    Check("heartbeat-header", "HEARTBEAT has a sound header", "Messages", _HEADERS),
    Check(
        "commands",
        "sends only commands that the backend socket knows",
        "Error codes",
        "a verb that this socket does not know; perhaps that of the other socket",
    ),
    Check(
        "name-taken",
        "tries again a second after name_taken",
        "The life of a backend",
        "Else it gets `name_taken`; try again every second.",
    ),
    Check(
        "register-unanswered",
        "opens a new socket where REGISTER is not answered for 3 s",
        "Connections",
        "a backend that has no answer to its REGISTER after 3 s closes the socket and opens a new one.",
    ),
    Check(
        "session",
        "brings the same session each time",
        "REGISTER",
        "random, made once per process; lets the registration survive a lost connection",
        "a REGISTER with `session`",
    ),
    Check(
        "same-name",
        "keeps its name",
        "REGISTER",
        "it must name the same `name` (else `bad_header`)",
    ),
    Check(
        "heartbeat",
        "sends HEARTBEAT often enough",
        "REGISTERED",
        "send a HEARTBEAT (or anything) at least this often; silent for three of them, a backend is lost",
    ),
    Check(
        "heartbeat-at-work",
        "sends HEARTBEAT while it works",
        "HEARTBEAT",
        "Send it from where long computations cannot hold it up.",
        offering("slow"),
    ),
    Check(
        "answer-id",
        "answers deliveries by their ids, and nothing else",
        "The life of a backend",
        "Answers to anything that is not open (a second one, another backend's, an unknown id) change nothing and are "
        "counted.",
    ),
    Check(
        "one-answer",
        "answers each DELIVER exactly once",
        "The life of a backend",
        "**Answer each DELIVER exactly once**, also after a CANCEL.",
    ),
    Check("big-id", "keeps ids up to 2^53 - 1", "DELIVER", "`id` | int, below 2^53"),
    Check(
        "wide-encoding",
        "reads every encoding of MessagePack",
        "Messages",
        "exactly one MessagePack map with string keys",
    ),
    Check(
        "body-frames", "keeps the frames of a body apart", "Messages", "passes on as many frames, in this order", _ECHO
    ),
    Check(
        "body-empty", "tells no frame from an empty one", "Messages", "any number of frames, also none; opaque", _ECHO
    ),
    Check("body-big", "takes bodies of megabytes", "Messages", "all frames of a message together | 16 MiB", _ECHO),
    Check(
        "unknown-keys",
        "passes over header keys that it does not know",
        "Messages",
        "Keys that are not known are skipped, by the daemon and by whoever follows this page.",
    ),
    Check("unknown-commands", "passes over commands that it does not know", "Messages", _SKIPPED),
    Check("other-version", "passes over commands of another version", "Messages", _SKIPPED),
    Check(
        "errors", "goes on after an ERROR", "What a backend receives", "It is no answer to a delivery and ends nothing"
    ),
    Check(
        "full-house",
        "answers all when all its places are taken",
        "DELIVER",
        "At most `slots + prefetch` are open at a time.",
    ),
    Check(
        "stream",
        "streams pieces in order, then ACK",
        "PART",
        "A piece of the result, in the body; the ACK ends the stream.",
        offering("stream"),
    ),
    Check(
        "nack-failed",
        "says NACK failed where the work failed",
        "NACK",
        "the work was begun and did not succeed",
        offering("fail"),
    ),
    Check(
        "nack-rejected",
        "says NACK rejected where the message is at fault",
        "NACK",
        "the message itself is wrong, no backend could do it",
        offering("reject"),
    ),
    Check(
        "cancel",
        "answers what was cancelled",
        "CANCEL",
        "ACK if it was done anyway, else NACK `cancelled`.",
        offering("slow"),
    ),
    Check(
        "cancel-late",
        "passes over a CANCEL of what is not open",
        "The life of a backend",
        "A CANCEL may cross the answer: of a delivery that is answered, or unknown, nothing is sent.",
    ),
    Check(
        "not-registered",
        "registers again after not_registered",
        "Error codes",
        "REGISTER, and drop unfinished work",
    ),
    Check(
        "drop-unfinished",
        "drops what was open in a registration that has ended",
        "Error codes",
        "REGISTER, and drop unfinished work",
        offering("slow"),
    ),
    Check(
        "silence",
        "opens a new socket where no HEARTBEAT comes back",
        "The life of a backend",
        "**No HEARTBEAT comes back** for a while: the daemon is gone or the connection is.",
    ),
    Check(
        "restart",
        "registers with a daemon that was started again",
        "The life of a backend",
        "Open a new socket and REGISTER again.",
    ),
    Check(
        "bye",
        "registers again after a BYE that it did not ask for",
        "BYE",
        "A backend that has not asked for it registers again, every second, until a daemon answers.",
    ),
    Check(
        "drain",
        "finishes its work between DRAIN and BYE",
        "DRAIN",
        "BYE comes when the last open delivery is settled, at once if none is open.",
        "--run, and a program that says DRAIN when it gets SIGTERM",
    ),
)

"""The checks on a client, each with the sentence that it stands on.

Most want a client made for the purpose, which asks for tasks: a SEND of capability `conform.task` carries what came of
the last task, its REPLY the next one (docs/conform.md). What any client sends by itself is judged as well.
"""

from __future__ import annotations

from typing import Final

from router_daemon.conform.checks import Check

TASK: Final = "conform.task"
WORK: Final = "conform.work"
ASKING: Final = f"a client that asks for tasks with SENDs of capability {TASK} (docs/conform.md)"


def doing(verb: str) -> str:
    """Return what shows a check that needs a kind of task."""
    return f"{ASKING}, and does not answer `{verb}` with `unsupported`"


_HEADERS: Final = "a value has another type than its table says or is out of range"
_SKIPPED: Final = "A command that it does not know, of this or another version, a peer passes over."
_LAST: Final = "`last: true` marks the final message about a SEND."

CHECKS: Final = (
    Check("routing-id", "has no routing id of its own", "Connections", "**Leave the routing id unset**"),
    Check("send-header", "SEND has a sound header", "Messages", _HEADERS),
    Check(
        "other-header", "CANCEL, FEEDBACK and PING have sound headers", "Messages", _HEADERS, "CANCEL, FEEDBACK or PING"
    ),
    Check(
        "commands",
        "sends only commands that the frontend knows",
        "Error codes",
        "a verb that this socket does not know; perhaps that of the other socket",
    ),
    Check(
        "id-unique",
        "uses no id that is open",
        "SEND",
        "Of an `id` that is open already, the second SEND is answered by `duplicate_id` with `last: false`",
    ),
    Check(
        "ping", "asks with PING and goes on after PONG", "PING", "Answered by PONG: the daemon is there", doing("ping")
    ),
    Check(
        "send-keys", "sends the keys that its user says", "SEND", "all the time there is until the last answer", ASKING
    ),
    Check(
        "body-frames", "keeps the frames of a body apart", "Messages", "passes on as many frames, in this order", ASKING
    ),
    Check(
        "body-empty", "tells no frame from an empty one", "Messages", "any number of frames, also none; opaque", ASKING
    ),
    Check(
        "body-big",
        "sends and takes bodies of megabytes",
        "Messages",
        "all frames of a message together | 16 MiB",
        ASKING,
    ),
    Check(
        "wide-encoding",
        "reads every encoding of MessagePack",
        "Messages",
        "exactly one MessagePack map with string keys",
        ASKING,
    ),
    Check(
        "unknown-keys",
        "passes over header keys that it does not know",
        "Messages",
        "Keys that are not known are skipped, by the daemon and by whoever follows this page.",
        ASKING,
    ),
    Check("unknown-commands", "passes over commands that it does not know", "Messages", _SKIPPED, ASKING),
    Check("other-version", "passes over commands of another version", "Messages", _SKIPPED, ASKING),
    Check(
        "foreign-answer",
        "passes over answers of ids that are not open",
        "What a client receives",
        "What comes of an `id` that is not open any more, or never was, a client passes over.",
        ASKING,
    ),
    Check("after-last", "passes over what comes after the last message", "What a client receives", _LAST, ASKING),
    Check(
        "answers-by-id",
        "tells answers apart by their ids",
        "SEND",
        "the client's own name for this message, returned unchanged in everything said about it",
        doing("pair"),
    ),
    Check(
        "stream",
        "takes the pieces in order, then the end",
        "PART",
        "0, 1, 2, ... for each head, without gaps",
        doing("stream"),
    ),
    Check(
        "stream-error",
        "ends a stream with the ERROR that follows",
        "PART",
        "a REPLY (often without a body) or an ERROR follows.",
        doing("stream"),
    ),
    Check("error", "gives its user the code of an ERROR", "ERROR", "The end of a SEND without a result", ASKING),
    Check(
        "no-retry",
        "does not send again where retry is false",
        "ERROR",
        "whether sending the same again may help and is safe",
        ASKING,
    ),
    Check("retry-after", "waits before it sends again", "ERROR", "wait this long first", doing("retry")),
    Check(
        "unknown-code",
        "takes a code of a later version for an error",
        "Error codes",
        "Take a code that is not in this table for one that came later, and do what `retry` says.",
        ASKING,
    ),
    Check(
        "complaint",
        "does not take an ERROR about no SEND for an answer",
        "ERROR",
        "a complaint about something that was no valid SEND, then with `id` nil and `last` false",
        ASKING,
    ),
    Check("accept", "is content with ACCEPT", "ACCEPT", "The answer to a SEND with `reply: none`", doing("post")),
    Check(
        "reply-all",
        "waits for the answer of each head",
        "The life of a message",
        "one REPLY or ERROR comes for each of them",
        doing("all"),
    ),
    Check(
        "cancel",
        "sends CANCEL of the id, and takes ERROR cancelled",
        "CANCEL",
        "The open SEND of that id ends in one ERROR `cancelled`",
        doing("cancel"),
    ),
    Check(
        "cancel-crossed",
        "takes a REPLY that crossed its CANCEL",
        "CANCEL",
        "Where no such SEND is open, nothing is sent.",
        doing("cancel"),
    ),
    Check(
        "feedback",
        "sends FEEDBACK about a SEND that was answered",
        "FEEDBACK",
        "Says how good an answer was: that of the newest answered SEND of this id",
        doing("feedback"),
    ),
    Check(
        "gives-up",
        "gives up by its own clock at ttl_ms + 1 s",
        "The life of a message",
        "so a client also watches its own clock and gives up at `ttl_ms` + 1 s",
        ASKING,
    ),
    Check(
        "restart",
        "goes on with a daemon that was started again",
        "Connections",
        "ZeroMQ connects in the background and queues meanwhile.",
        ASKING,
    ),
)

"""A client in virtual time that asks for tasks and keeps to the protocol, but for its breaks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import msgpack
from conform_kit import FakePeer

UNSUPPORTED: Final = "can only send"
Told = Callable[[list[bytes]], None]


class Call:
    """One SEND without its last message."""

    def __init__(self, header: dict[str, Any], body: list[bytes], told: Told) -> None:
        self.header = header
        self.body = body
        self.told = told
        self.pieces: list[bytes] = []
        self.heads: list[bytes] = []
        self.may_retry = False
        self.cancelled = False


class FakeClient(FakePeer):
    """Does every task."""

    def __init__(self, breaks: frozenset[str] = frozenset()) -> None:
        self.calls: dict[Any, Call] = {}
        self.numbers = itertools.count(1)
        self.on_pong: Callable[[], None] | None = None
        super().__init__(breaks)

    def start(self) -> None:
        if "says nothing" in self.breaks:
            return
        if "never asks" in self.breaks:
            self.send("SEND", {"id": 1, "capability": "other"}, [b"by itself"])
            self.after(0.5, lambda: setattr(self, "exit_code", 0))
        else:
            self.ask([])

    def ask(self, outcome: list[bytes]) -> None:
        """Say what came of the last task, and ask for the next one."""
        self.call({"capability": "conform.task"}, outcome, self.perform)

    def call(self, header: dict[str, Any], body: list[bytes], told: Told) -> Call:
        """SEND, and give up by the own clock."""
        ident = header.get("id", 1 if "one id for all" in self.breaks else next(self.numbers))
        header = {"id": ident, "ttl_ms": 5_000, **header}
        if "ttl in words" in self.breaks and header["capability"] != "conform.task":
            header["ttl_ms"] = "long"
        if "keys of its own" in self.breaks:
            header.pop("priority", None)
        call = self.calls[ident] = Call(header, body, told)
        if "joins frames" in self.breaks and len(body) > 3:
            body = [*body[:2], b"".join(body[2:])]
        elif "empty frame for none" in self.breaks and not body:
            body = [b""]
        self.send(
            "SEND", header, [frame[:1_000_000] for frame in body] if "a megabyte at most" in self.breaks else body
        )
        patience_s = 5.0 if "waits for ever" in self.breaks else 1.0
        if "gives up at once" in self.breaks and header["capability"] != "conform.task":
            patience_s = -0.3
        if isinstance(header["ttl_ms"], int):
            self.after(header["ttl_ms"] / 1000 + patience_s, lambda: self.end(ident, call, [b"lost"]))
        return call

    def end(self, ident: Any, call: Call, outcome: list[bytes]) -> None:
        if self.calls.get(ident) is call:
            del self.calls[ident]
            call.told(outcome)

    # --- tasks ---

    def perform(self, outcome: list[bytes]) -> None:
        try:
            _, verb, packed, *body = outcome
            keys = msgpack.unpackb(packed)
        except ValueError:  # lost, or no task
            self.exit_code = 1
            return
        cannot = UNSUPPORTED in self.breaks and verb not in (b"send", b"end")
        if cannot or (self.delimits and verb == b"cancel"):
            self.ask([b"unsupported"])
            return
        task = getattr(self, f"do_{verb.decode()}")
        task(keys, body)

    def do_end(self, keys: dict[str, Any], body: list[bytes]) -> None:
        self.exit_code = 0

    def do_send(self, keys: dict[str, Any], body: list[bytes]) -> None:
        self.call(keys, body, self.ask)

    def do_stream(self, keys: dict[str, Any], body: list[bytes]) -> None:
        self.call(keys, body, self.ask)

    def do_retry(self, keys: dict[str, Any], body: list[bytes]) -> None:
        self.call(keys, body, self.ask).may_retry = True

    def do_pair(self, keys: dict[str, Any], body: list[bytes]) -> None:
        replies: dict[bytes, bytes] = {}

        def told(which: bytes, outcome: list[bytes]) -> None:
            replies[which] = outcome[1]
            if len(replies) == 2:
                self.ask([b"pair", replies[b"1"], replies[b"2"]])

        for which in (b"1", b"2"):
            self.call(keys, [which], lambda outcome, which=which: told(which, outcome))  # type: ignore[misc]

    def do_post(self, keys: dict[str, Any], body: list[bytes]) -> None:
        self.call({**keys, "reply": "none"}, body, self.ask)

    def do_all(self, keys: dict[str, Any], body: list[bytes]) -> None:
        self.call({**keys, "reply": "all"}, body, self.ask)

    def do_cancel(self, keys: dict[str, Any], body: list[bytes]) -> None:
        call = self.call(keys, body, self.ask)
        ident = -1 if "cancels another" in self.breaks else call.header["id"]
        self.after(0.1, lambda: self.send("CANCEL", {} if "cancels nothing" in self.breaks else {"id": ident}))
        call.cancelled = True

    def do_feedback(self, keys: dict[str, Any], body: list[bytes]) -> None:
        ident = next(self.numbers)

        def told(outcome: list[bytes]) -> None:
            if outcome[0] == b"reply":
                self.send("FEEDBACK", {"id": "nobody" if "praises nobody" in self.breaks else ident, "score": 0.5})
            self.ask(outcome)

        self.call({"id": ident, **keys}, body, told)

    def do_ping(self, keys: dict[str, Any], body: list[bytes]) -> None:
        if "never pings" in self.breaks:
            self.ask([b"pong"])
            return
        self.on_pong = lambda: self.ask([b"pong"])
        self.send("HEARTBEAT" if "speaks as a backend" in self.breaks else "PING", {})

    # --- answers ---

    def on_message(self, verb: str, header: dict[str, Any], body: list[bytes]) -> None:
        if verb == "PONG" and self.on_pong is not None:
            self.on_pong()
            return
        ident = header.get("id")
        if "answers in order" in self.breaks and self.calls:
            ident = next(iter(self.calls))
        elif ident is None and "takes complaints for answers" in self.breaks and self.calls:
            ident = next(iter(self.calls))
            header["last"] = True
        elif ident not in self.calls and "trips over strangers" in self.breaks and verb in ("REPLY", "ERROR"):
            self.exit_code = 1
        elif ident not in self.calls and "repeats itself" in self.breaks and verb == "REPLY":
            self.ask([b"reply", *body])
        call = self.calls.get(ident)
        if call is not None:
            self.on_answer(ident, call, verb, header, body)

    def on_answer(self, ident: Any, call: Call, verb: str, header: dict[str, Any], body: list[bytes]) -> None:
        last = header.get("last") is True or ("takes the first for the last" in self.breaks and verb != "PART")
        if verb == "PART":
            call.pieces[:0] = body if "streams backwards" in self.breaks else []
            call.pieces += [] if "streams backwards" in self.breaks else body
        elif verb == "ACCEPT" and "wants more than ACCEPT" not in self.breaks:
            self.end(ident, call, [b"accept"])
        elif verb == "REPLY" and not (call.cancelled and "wants no REPLY after CANCEL" in self.breaks):
            call.heads.append(b"reply")
            if last:
                self.end(ident, call, self.result(call, [b"reply", *call.pieces, *body]))
        elif verb == "ERROR":
            self.on_error(ident, call, header, last=last)

    def on_error(self, ident: Any, call: Call, header: dict[str, Any], *, last: bool) -> None:
        code = header["code"]
        known = code in ("rejected", "failed", "overloaded", "cancelled", "bad_header")
        if (call.may_retry and header["retry"]) or ("always tries again" in self.breaks and code == "rejected"):
            wait_s = 0.05 if "tries again at once" in self.breaks else header.get("retry_after_ms", 100) / 1000
            del self.calls[ident]
            again = {key: value for key, value in call.header.items() if key != "id"}
            self.after(wait_s, lambda: self.call(again, call.body, call.told))
        elif not known and "knows all codes" in self.breaks:
            self.exit_code = 1
        elif call.pieces and "ends streams with REPLY" in self.breaks:
            return
        elif last:
            call.heads.append(code.encode())
            told = b"internal" if "hides codes" in self.breaks else code.encode()
            self.end(ident, call, self.result(call, [b"error", told]))

    def result(self, call: Call, outcome: list[bytes]) -> list[bytes]:
        return [b"all", *call.heads] if call.header.get("reply") == "all" else outcome

    def disconnected(self) -> None:
        self.connect()
        if "never comes back" in self.breaks:
            self.exit_code = 1

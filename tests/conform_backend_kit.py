"""A backend in virtual time that keeps to the protocol, but for its breaks."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from conform_kit import FakePeer

ROLES: Final = ("echo", "stream", "slow", "fail", "reject")
SLOTS: Final = 2
PREFETCH: Final = 2


class FakeBackend(FakePeer):
    """Offers every role."""

    def __init__(self, breaks: frozenset[str] = frozenset()) -> None:
        self.registered = False
        self.draining = False
        self.heartbeat_s = 0.5
        self.answered_at = 0.0
        self.jobs: dict[int, list[bytes]] = {}
        self.registers = 0
        self.asking = False
        super().__init__(breaks)

    def start(self) -> None:
        if "says nothing" in self.breaks:
            return
        if "heartbeat before REGISTER" in self.breaks:
            self.send("HEARTBEAT", {})
        self.register()
        self.beat()

    def register(self) -> None:
        """REGISTER; over a new connection where that is not answered for 3 s."""
        self.registered, self.asking = False, True
        self.registers += 1
        count = self.registers
        header: dict[str, Any] = {"name": "fake", "capabilities": [f"conform.{role}" for role in ROLES]}
        if "offers echo as work" in self.breaks:
            header["capabilities"] = ["work"]
        header |= {"slots": 0 if "no slots" in self.breaks else SLOTS, "prefetch": PREFETCH}
        if "no session" not in self.breaks:
            header["session"] = bytes([count if "new session each time" in self.breaks else 1]) * 8
        if "new name each time" in self.breaks:
            header["name"] = f"fake-{count}"
        self.send("REGISTER", header)
        self.after(3.0, lambda: self.unanswered() if self.asking and count == self.registers else None)

    def unanswered(self) -> None:
        if "waits for its old socket" not in self.breaks:
            self.connect()
        self.register()

    def beat(self) -> None:
        """HEARTBEAT twice as often as asked for; a new connection where none comes back."""
        self.after(1.2 if "beats too seldom" in self.breaks else self.heartbeat_s / 2, self.beat)
        busy = "beats only when idle" in self.breaks and self.jobs
        if not self.registered or busy:
            return
        if self.now - self.answered_at > 3 * self.heartbeat_s and not self.breaks & {
            "trusts silence",
            "ignores not_registered",
        }:
            self.connect()
            self.register()
            return
        self.send("HEARTBEAT", {"queue": "many"} if "queue in words" in self.breaks else {"queue": len(self.jobs)})
        if "speaks as a client" in self.breaks:
            self.send("PING", {})

    def on_message(self, verb: str, header: dict[str, Any], body: list[bytes]) -> None:
        if verb == "REGISTERED":
            self.registered, self.asking, self.answered_at = True, False, self.now
        elif verb == "HEARTBEAT":
            self.answered_at = self.now
        elif verb == "DELIVER":
            self.answered_at = max(self.answered_at, self.now)
            self.work(header, body)
        elif verb == "CANCEL":
            self.cancel(header["id"])
        elif verb == "ERROR":
            self.on_error(header["code"])
        elif verb == "BYE":
            self.on_bye()

    def on_error(self, code: str) -> None:
        if code == "name_taken":
            self.asking = False
            if "gives up its name" not in self.breaks:
                self.after(0.01 if "tries again at once" in self.breaks else 1.0, self.register)
        elif code == "not_registered":
            if self.registered and "ignores not_registered" not in self.breaks:
                if "finishes old work" not in self.breaks:
                    self.jobs.clear()
                self.register()
        elif "dies of errors" in self.breaks and code not in ("bad_header", "unknown_command"):
            self.exit_code = 3

    def on_bye(self) -> None:
        if self.draining:
            self.exit_code = 0
            return
        self.registered = False
        if "obeys BYE" not in self.breaks:
            self.after(1.0, self.register)

    def disconnected(self) -> None:
        self.connect()
        if "never comes back" not in self.breaks:
            self.register()
        else:
            self.registered = False

    def terminate(self) -> None:
        if "dies of SIGTERM" in self.breaks:
            super().terminate()
            return
        self.draining = True
        self.send("DRAIN", {})
        if "leaves its work" in self.breaks:
            self.after(0.01, lambda: setattr(self, "exit_code", 0))

    # --- work ---

    def work(self, header: dict[str, Any], body: list[bytes]) -> None:
        ident, role = header["id"], header["capability"].removeprefix("conform.")
        if "forgets what waits" in self.breaks and len(self.jobs) >= SLOTS:
            return
        if "ids of 32 bits" in self.breaks:
            ident &= 0xFFFF_FFFF
        self.jobs[ident] = body
        seconds = int(body[0]) / 1000 if role == "slow" else 0.01
        self.after(seconds, partial(self.finish, ident, role))

    def finish(self, ident: int, role: str) -> None:
        if (body := self.jobs.pop(ident, None)) is None:
            return
        if role == "fail" and "never fails" not in self.breaks:
            self.send("NACK", {"id": ident, "code": "failed", "reason": "as asked"})
        elif role == "reject":
            self.send("NACK", {"id": ident, "code": "failed" if "blames itself" in self.breaks else "rejected"})
        elif role == "stream":
            for piece in body if "streams backwards" not in self.breaks else reversed(body):
                self.send("PART", {"id": ident}, [piece])
            self.send("ACK", {"id": ident})
        else:
            self.ack(ident, body)

    def ack(self, ident: int, body: list[bytes]) -> None:
        if "joins frames" in self.breaks and len(body) > 1:
            body = [b"".join(body)]
        elif "empty frame for none" in self.breaks and not body:
            body = [b""]
        elif "a megabyte at most" in self.breaks:
            body = [frame[:1_000_000] for frame in body]
        if "ids of text" in self.breaks:
            self.send("ACK", {"id": str(ident)}, body)
            return
        self.send("ACK", {"id": ident + 500 if "wrong ids" in self.breaks else ident}, body)
        if "answers twice" in self.breaks:
            self.send("ACK", {"id": ident}, body)

    def cancel(self, ident: int) -> None:
        if self.jobs.pop(ident, None) is None:
            if "answers every CANCEL" in self.breaks:
                self.send("NACK", {"id": ident, "code": "cancelled"})
        elif "drops what is cancelled" not in self.breaks:
            code = "failed" if "fails what is cancelled" in self.breaks else "cancelled"
            self.send("NACK", {"id": ident, "code": code})

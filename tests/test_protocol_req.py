"""REQ peers, and whoever sends the empty delimiter: it comes back, and each message gets exactly one."""

from __future__ import annotations

from typing import Self

import zmq
from conftest import Room
from contract import Message, check_for_client, pack, parse


class Req:
    """A real REQ socket."""

    def __init__(self, room: Room) -> None:
        self.socket = room.context.socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(room.daemon.frontend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, verb: str, header: dict[str, object], *body: bytes) -> None:
        self.socket.send_multipart([b"CAR1." + verb.encode(), pack(header), *body])

    def recv(self) -> Message:
        assert self.socket.poll(5_000), "a REQ peer got no answer"
        message = parse(self.socket.recv_multipart())
        check_for_client(message)
        return message

    def ask(self, verb: str, header: dict[str, object], *body: bytes) -> Message:
        self.send(verb, header, *body)
        return self.recv()


def test_a_req_socket_sends_and_gets_its_reply(room: Room) -> None:
    backend = room.backend()
    with Req(room) as req:
        assert req.ask("PING", {}).verb == "PONG"
        for number in range(20):
            req.send("SEND", {"id": number, "capability": room.capability}, b"", b"question")
            delivery = backend.delivery()
            assert delivery.body == [b"", b"question"]
            backend.ack(delivery, b"answer", b"")
            reply = req.recv()
            assert (reply.verb, reply.header["id"], reply.header["last"]) == ("REPLY", number, True)
            assert reply.body == [b"answer", b""]


def test_a_req_socket_gets_one_error_for_each_fault(room: Room) -> None:
    with Req(room) as req:
        for _ in range(2):
            answer = req.ask("SEND", {"id": "mine", "capability": room.capability})
            assert (answer.header["code"], answer.header["id"]) == ("no_capability", "mine")
            assert req.ask("SEND", {"capability": "x"}).header["code"] == "bad_header"
            assert req.ask("NOPE", {}).header["code"] == "unknown_command"
            answer = req.ask("SEND", {"id": "mine", "capability": "x", "priority": 7})
            assert (answer.header["code"], answer.header["last"]) == ("bad_header", True)


def test_cancel_and_feedback_from_a_req_socket_are_bad_frames(room: Room) -> None:
    with Req(room) as req:
        for verb, header in (("CANCEL", {"id": 1}), ("FEEDBACK", {"id": 1, "score": 1})):
            answer = req.ask(verb, dict(header)).header
            assert (answer["code"], answer["id"], answer["last"]) == ("bad_frames", None, False)
        twice_wrong = req.ask("CANCEL", {}).header
        assert twice_wrong["code"] in {"bad_frames", "bad_header"}
        assert req.ask("PING", {}).verb == "PONG"


def test_reply_all_from_a_req_socket_is_bad_frames(room: Room) -> None:
    backend = room.backend()
    with Req(room) as req:
        answer = req.ask("SEND", {"id": "mine", "capability": room.capability, "reply": "all"})
        assert (answer.header["code"], answer.header["id"]) == ("bad_frames", "mine")
        assert answer.header["last"] is True
    assert backend.pending() == []


def test_reply_none_from_a_req_socket_is_one_accept(room: Room) -> None:
    backend = room.backend(slots=2)
    with Req(room) as req:
        for _ in range(2):
            answer = req.ask("SEND", {"id": "mine", "capability": room.capability, "reply": "none"})
            assert (answer.verb, answer.header["last"]) == ("ACCEPT", True)
            backend.ack(backend.delivery(), b"nobody hears this")
            assert backend.pending() == []
        assert req.ask("PING", {}).verb == "PONG"


def test_a_req_socket_gets_only_the_end_of_a_stream(room: Room) -> None:
    backend = room.backend()
    with Req(room) as req:
        req.send("SEND", {"id": "mine", "capability": room.capability})
        delivery = backend.delivery()
        for piece in (b"1", b"2", b"3"):
            backend.part(delivery, piece)
        backend.ack(delivery, b"end")
        reply = req.recv()
        assert (reply.verb, reply.body) == ("REPLY", [b"end"])
        assert req.ask("PING", {}).verb == "PONG"


def test_a_broken_stream_is_one_error_for_a_req_socket(room: Room) -> None:
    backend = room.backend()
    with Req(room) as req:
        req.send("SEND", {"id": "mine", "capability": room.capability})
        delivery = backend.delivery()
        backend.part(delivery, b"1")
        backend.nack(delivery)
        answer = req.recv()
        assert (answer.verb, answer.header["code"]) == ("ERROR", "failed")
        assert req.ask("PING", {}).verb == "PONG"


def test_a_dealer_that_sends_the_delimiter_is_treated_alike(room: Room) -> None:
    client, backend = room.client(delimiter=True), room.backend(slots=2)
    client.send(room.capability, b"", id="mine")
    delivery = backend.delivery()
    assert delivery.body == [b""]
    client.send(room.capability, id="mine")
    client.error("duplicate_id", "mine", last=False)
    client.command("CANCEL", {"id": "mine"})
    client.error("bad_frames", None, last=False)
    backend.part(delivery, b"1")
    assert backend.pending() == []
    assert client.pending() == []
    backend.ack(delivery, b"", b"2")
    assert client.expect("REPLY", id="mine", last=True).body == [b"", b"2"]
    assert client.pending() == []


def test_a_backend_that_sends_the_delimiter_gets_it_back(room: Room) -> None:
    backend = room.stranger(delimiter=True)
    backend.register(room.capability)
    assert backend.pending() == []

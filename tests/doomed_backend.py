"""A backend process that takes a delivery and never answers: the tests kill it in mid-message.

Usage: doomed_backend.py ADDRESS NAME CAPABILITY. It prints `registered`, then `delivered`, and sends heartbeats
until its end.
"""

import sys

import msgpack  # type: ignore[import-untyped, unused-ignore]
import zmq


def main(address: str, name: str, capability: str) -> None:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(address)
    socket.send_multipart([b"CAR1.REGISTER", msgpack.packb({"name": name, "capabilities": [capability]})])
    said = {b"CAR1.REGISTERED": "registered", b"CAR1.DELIVER": "delivered"}
    while True:
        if socket.poll(50):
            command = socket.recv_multipart()[0]
            if command in said:
                sys.stdout.write(said[command] + "\n")
                sys.stdout.flush()
        socket.send_multipart([b"CAR1.HEARTBEAT", b"\x80"])


if __name__ == "__main__":
    main(*sys.argv[1:])

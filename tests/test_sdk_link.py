"""Client and backend on the wire: frames, headers, bodies, embeddings, and bytes that are none of it."""

from __future__ import annotations

import array
import struct
from typing import Any

import msgpack
import numpy as np
import pytest

from router_daemon.client import Client
from router_daemon.sdk.answers import send_header
from router_daemon.sdk.link import body_frames, embedding_bytes, pack, unpack


def test_all_header_keys_go_out_by_name_and_newer_ones_too() -> None:
    keys: Any = {"id": b"me", "ttl_ms": 5, "mode": "single", "idempotent": False, "embedding": [1, 0.5]}
    keys |= {"resources": [{"id": "kv", "bytes": 3}], "traceparent": "00-x", "durable": True, "not_yet_known": [1]}
    assert send_header("all", "c", keys, 30_000) == {
        **keys,
        "capability": "c",
        "reply": "all",
        "embedding": struct.pack("<2f", 1.0, 0.5),
    }
    assert send_header("stream", "c", {"reply": "first"}, 7) == {"capability": "c", "ttl_ms": 7}
    with pytest.raises(ValueError, match="send_all"):
        send_header("first", "c", {"reply": "all"}, 7)


@pytest.mark.parametrize(
    "embedding",
    [
        [1.0, -2.5],
        (1, -2.5),
        struct.pack("<2f", 1.0, -2.5),
        np.array([1.0, -2.5]),
        np.array([1.0, -2.5], dtype=">f4"),
        np.array([1.0, 9.0, -2.5])[::2],
        array.array("d", [1.0, -2.5]),
    ],
)
def test_an_embedding_becomes_little_endian_float32_whatever_it_was(embedding: Any) -> None:
    assert embedding_bytes(embedding) == b"\x00\x00\x80?\x00\x00 \xc0"


def test_a_matrix_is_no_embedding() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        embedding_bytes(np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (b"x", [b"x"]),
        (b"", [b""]),
        ((), []),
        (None, []),
        (bytearray(b"x"), [b"x"]),
        (memoryview(b"x"), [b"x"]),
        ([b"x", bytearray(b"y")], [b"x", b"y"]),
    ],
)
def test_a_body_is_one_buffer_or_a_list_of_them(body: Any, frames: list[bytes]) -> None:
    assert body_frames(body) == frames
    assert all(type(frame) is bytes for frame in body_frames(body))


@pytest.mark.parametrize("body", ["text", ["text"], 5, {b"x"}, [1]])
def test_a_body_that_is_no_buffer_is_refused(body: Any) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        body_frames(body)


@pytest.mark.parametrize("call_id", [True, 1.5, 2**64, -(2**63) - 1, "x" * 65, "ü" * 33, b"x" * 65, [1]])
def test_an_id_that_no_daemon_could_answer_is_refused(call_id: Any) -> None:
    with pytest.raises(ValueError, match="an id must be"):
        send_header("first", "c", {"id": call_id}, 1)


@pytest.mark.parametrize("ttl_ms", [0, -1, True, 1.5, "9"])
def test_a_ttl_that_cannot_be_kept_is_refused(ttl_ms: Any) -> None:
    with pytest.raises(ValueError, match="ttl_ms"):
        send_header("first", "c", {"ttl_ms": ttl_ms}, 1)
    with pytest.raises(ValueError, match="ttl_ms"):
        Client(ttl_ms=ttl_ms)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"CAR1.REPLY"],
        [b"CAR2.REPLY", b"\x80"],
        [b"CAR1.REPLY", b"\x90"],
        [b"CAR1.REPLY", b"\x80\x80"],
        [b"CAR1.REPLY", b"\x81\xa1"],
        [b"CAR1.REPLY", b"\x81\xa1\xff\x01"],
        [b"CAR1.REPLY", b"\xc1"],
        [b"CAR1.\xff", b"\x80"],
        [b"", b"CAR1.REPLY", b"\x80"],
        [b"CAR1.REPLY", b"\x91" * 5000 + b"\xc0"],
    ],
)
def test_bytes_that_are_no_message_are_dropped(frames: list[bytes]) -> None:
    assert unpack(frames) is None


def test_what_is_packed_can_be_unpacked() -> None:
    message = unpack(pack("SEND", {"id": "ü", "bin": b"\xff", "list": [1, 2.5, None]}, [b"body"]))
    assert message == ("SEND", {"id": "ü", "bin": b"\xff", "list": [1, 2.5, None]}, [b"body"])


def test_unpackable_bytes_of_the_wire_are_logged_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    assert unpack([b"CAR1.REPLY", msgpack.packb(5)]) is None
    assert "no message of CAR/1" in caplog.text

"""Addresses: what binds and connects where, and which two cannot both be bound."""

from __future__ import annotations

import pytest

from router_daemon.config import addresses


@pytest.mark.parametrize(
    ("bound", "reached"),
    [
        ("tcp://*:5570", "tcp://127.0.0.1:5570"),
        ("tcp://0.0.0.0:5570", "tcp://127.0.0.1:5570"),
        ("tcp://[::]:5570", "tcp://[::1]:5570"),
        ("tcp://example.org:1", "tcp://example.org:1"),
        ("ipc:///run/x", "ipc:///run/x"),
        ("0.0.0.0:9575", "127.0.0.1:9575"),
        ("[::1]:9575", "[::1]:9575"),
    ],
)
def test_where_a_bound_address_is_reached(bound: str, reached: str) -> None:
    assert addresses.reachable(bound) == reached


@pytest.mark.parametrize("address", ["", "x", "tcp://*:*", "tcp://a:0", "a:0", "ipc://", "a:1:2"])
def test_what_cannot_be_reached(address: str) -> None:
    with pytest.raises(ValueError, match="must"):
        addresses.reachable(address)


@pytest.mark.parametrize(
    ("one", "other", "both_fail"),
    [
        ("tcp://a:1", "tcp://a:1", True),
        ("tcp://a:1", "tcp://b:1", False),
        ("tcp://a:1", "tcp://a:2", False),
        ("tcp://*:1", "tcp://b:1", True),
        ("tcp://b:1", "0.0.0.0:1", True),
        ("tcp://*:*", "tcp://*:*", False),
        ("ipc://a", "ipc://a", True),
        ("ipc://a", "tcp://a:1", False),
    ],
)
def test_clash(one: str, other: str, both_fail: bool) -> None:
    assert addresses.clash(one, other) is both_fail
    assert addresses.clash(other, one) is both_fail

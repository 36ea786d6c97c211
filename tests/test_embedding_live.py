"""Embedding attention through a real daemon: by sockets, by HTTP, by the command line."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from conftest import DaemonFactory, free_port
from peers import unique
from ring_kit import ring
from sdk_fakes import registered
from test_admin import Get, ask
from typer.testing import CliRunner

from router_daemon import errors
from router_daemon.assembly import make_settings
from router_daemon.backend import Backend, Delivery
from router_daemon.cli import app, embeddings
from router_daemon.cli.exits import CommandError
from router_daemon.client import Client
from router_daemon.config import Config
from router_daemon.config.embedding import load_projections
from router_daemon.errors import ConfigError

NUMBERS = 384


def keys_of(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).standard_normal((count, NUMBERS))


@pytest.mark.parametrize("policy", ["ring", "ring_multi"])
@pytest.mark.parametrize("engine", ["native", "libzmq"])
def test_messages_go_where_they_fit(daemon: DaemonFactory, policy: str, engine: str) -> None:
    """Numpy arrays, lists and bytes; without an embedding, or with a wrong one, a message is answered all the same."""
    admin = f"127.0.0.1:{free_port()}"
    running = daemon(
        transport={"engine": engine},
        routing={"policy": policy, "mode": "single"},
        ring_attention={"temperature": 0.01},
        admin={"bind": admin},
    )
    capability, keys = unique("fit"), keys_of(4)
    got = Counter[str]()

    async def main() -> None:
        backends = []
        for n, key in enumerate(keys):
            form = (key, key.tolist(), key.astype("<f4").tobytes(), key.astype(np.float32))[n]
            backend = Backend(unique(f"b{n}-"), running.backend, slots=8, embedding=form)

            def work(delivery: Delivery, number: int = n) -> bytes:
                got[f"b{number}"] += 1
                return str(number).encode()

            backend.handler(capability)(work)
            backends.append(backend)
        async with (
            asyncio.timeout(30),
            registered(backends[0]),
            registered(backends[1]),
            registered(backends[2]),
            registered(backends[3]),
            Client(running.frontend) as client,
        ):
            for n, key in enumerate(keys):
                for form in (key, key.tolist(), key.astype("<f4").tobytes(), key.astype(np.float32)):
                    reply = await client.send(capability, b"", embedding=form)
                    assert reply.data == str(n).encode()
            assert got == {"b0": 4, "b1": 4, "b2": 4, "b3": 4}
            for odd in (None, [0.0] * NUMBERS, [1.0, 2.0], [1.0] * 10_000):
                assert (await client.send(capability, b"", embedding=odd)).data in {b"0", b"1", b"2", b"3"}
            async with aiohttp.ClientSession() as session:
                query = {"capability": capability, "embedding": embeddings.packed(keys[2].astype("<f4"))}
                async with session.get(f"http://{admin}/explain", params=query) as response:
                    first = (await response.json())["candidates"][0]
                async with session.get(f"http://{admin}/metrics") as response:
                    metrics = await response.text()
        assert (first["backend"], first["head"]) == (backends[2].name, 1)
        assert set(first["terms"]) == {"alignment", "performance", "reliability"}
        assert sum(first["terms"].values()) == pytest.approx(first["logit"])
        for reason, count in {"missing": 1, "zero": 1, "dimension": 2, "partial": 0}.items():
            line = f'router_ring_fallbacks_total{{capability="{capability}",reason="{reason}"}} {count}.0'
            assert (line in metrics) == bool(count)

    asyncio.run(main())


def test_a_message_that_no_key_fits_is_refused_where_that_is_set(daemon: DaemonFactory) -> None:
    running = daemon(routing={"policy": "ring"}, ring_attention={"without_embedding": "refuse"})
    capability = unique("refuse")

    async def main() -> None:
        backend = Backend(unique("b"), running.backend, embedding=[1.0] * 384)
        backend.handler(capability)(lambda delivery: b"done")
        async with asyncio.timeout(30), registered(backend), Client(running.frontend) as client:
            with pytest.raises(errors.RequestRefused, match=r"got 768, keys: 384 \(1 backends\)") as refused:
                await client.send(capability, b"", embedding=[1.0] * 768)
            assert refused.value.code == "bad_header"
            assert (await client.send(capability, b"", embedding=[1.0] * 384)).data == b"done"

    asyncio.run(main())


# --- /explain ---


def test_explain_takes_an_embedding_in_two_forms() -> None:
    broker = ring({"a": (1.0, 0.0), "b": (0.0, 1.0)})

    async def questions(get: Get) -> None:
        packed = base64.urlsafe_b64encode(np.array([0.0, -2.0], dtype="<f4").tobytes()).decode()
        written = (await get("/explain?capability=c&embedding=0,-2")).json()
        assert written == (await get(f"/explain?capability=c&embedding={packed}")).json()
        assert written["embedding"] == 2
        assert [row["backend"] for row in written["candidates"]] == ["a", "b"]
        assert sum(row["weight"] for row in written["candidates"]) == pytest.approx(1.0)
        without = (await get("/explain?capability=c")).json()
        assert without["embedding"] is None
        assert {row["logit"] for row in without["candidates"]} == {None}
        long = np.ones(4096, dtype="<f4")
        assert (await get(f"/explain?capability=c&embedding={embeddings.packed(long)}")).json()["embedding"] == 4096

    ask(broker, questions)


@pytest.mark.parametrize("text", ["1,x", "nan", "inf,1", "1e39", "AAA=", "AACAfw==", "%2Fw==", "a%20b"])
def test_explain_says_what_is_wrong_with_an_embedding(text: str) -> None:
    async def questions(get: Get) -> None:
        answer = await get(f"/explain?capability=c&embedding={text}")
        assert answer.status == 400
        assert "embedding must be" in answer.json()["error"]

    ask(ring({"a": (1.0, 0.0)}), questions)


def test_explain_says_what_a_refused_message_gets() -> None:
    broker = ring({"a": (1.0, 0.0)}, without_embedding="refuse")

    async def questions(get: Get) -> None:
        answer = (await get("/explain?capability=c&embedding=1,2,3")).json()
        detail = "c: the policy ring needs an embedding as long as keys are: got 3, keys: 2 (1 backends)"
        assert answer["error"] == {"code": "bad_header", "detail": detail}
        assert answer["admission"]["would"] == "refuse"
        assert answer["auto"]["would"] is None
        assert [(row["head"], row["reason"]) for row in answer["candidates"]] == [
            (None, f"the policy refuses the message: {detail}")
        ]
        assert (await get("/explain?capability=c&embedding=1,2")).json()["error"] is None

    ask(broker, questions)


# --- the command line ---


@pytest.mark.parametrize("form", ["list", "npy", "json"])
def test_the_command_line_takes_a_list_or_a_file(form: str, tmp_path: Path) -> None:
    numbers = [0.5, -1.0, 2.0]
    text = ",".join(map(str, numbers)) if form == "list" else str(tmp_path / f"query.{form}")
    if form == "npy":
        np.save(text, np.array(numbers))
    elif form == "json":
        Path(text).write_text(json.dumps(numbers))
    assert embeddings.read(text).tolist() == numbers
    assert base64.urlsafe_b64decode(embeddings.packed(embeddings.read(text))) == np.array(numbers, "<f4").tobytes()


@pytest.mark.parametrize(
    "content", ["", "[", "[1, null]", '["a"]', "[[1]]", "[]", "3", "[1e39]", "[NaN]", "[1" + "0" * 400 + "]"]
)
def test_the_command_line_says_what_is_no_embedding(content: str, tmp_path: Path) -> None:
    path = tmp_path / "query.json"
    path.write_text(content)
    with pytest.raises(CommandError, match="--embedding"):
        embeddings.read(str(path))
    with pytest.raises(CommandError, match="No such file"):
        embeddings.read(str(tmp_path / "absent.npy"))
    (tmp_path / "query.npy").write_text(content)
    with pytest.raises(CommandError, match="--embedding"):
        embeddings.read(str(tmp_path / "query.npy"))


# --- the file of projections ---


def test_projections_are_read_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "heads.npy"
    np.save(path, np.arange(24.0).reshape(2, 3, 4))
    config = Config.model_validate({"ring_attention": {"projections": str(path), "attention_heads": 2}})
    own = make_settings(config).ring_attention
    assert own.projections.tolist() == np.arange(24.0).reshape(2, 3, 4).tolist()
    assert (own.attention_heads, make_settings(Config()).ring_attention.projections) == (2, None)
    result = CliRunner().invoke(app, ["check", "--config", str(_toml(tmp_path, str(path)))])
    assert (result.exit_code, result.stdout[:3]) == (0, "ok:")


WRONG: list[tuple[Any, str]] = [
    (np.ones((2, 2)), "expected shape"),
    (np.ones((3, 2, 2, 2)), "expected shape"),
    (np.ones((0, 2, 2)), "expected shape"),
    (np.array(["a"]), "array of numbers"),
    (np.full((1, 1, 1), np.nan), "NaN"),
    (np.full((1, 1, 1), 1e39), "too large"),
    (b"no array", "numpy.save"),
    (b"", "numpy.save"),
]


@pytest.mark.parametrize(("content", "word"), WRONG)
def test_a_file_that_holds_no_projections_stops_the_start(content: Any, word: str, tmp_path: Path) -> None:
    path = tmp_path / "heads.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ConfigError, match=word):
        load_projections(str(path))
    result = CliRunner().invoke(app, ["check", "--config", str(_toml(tmp_path, str(path)))])
    assert result.exit_code == 2
    with pytest.raises(ConfigError, match=r"ring_attention\.projections"):
        load_projections(str(tmp_path / "absent.npy"))


def _toml(directory: Path, projections: str) -> Path:
    path = directory / "daemon.toml"
    path.write_text(f"[ring_attention]\nprojections = {json.dumps(projections)}\n")
    return path

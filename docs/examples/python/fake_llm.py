"""A backend that streams like a language model: a slow first token, then one after the other. Its model is a fake.

    python docs/examples/python/fake_llm.py --name small-1 --first-ms 50 --token-ms 5 --cost 0.2
    python docs/examples/python/fake_llm.py --name large-1 --first-ms 400 --token-ms 20 --cost 2 --capability chat-large

What to keep for a real model:
- The model blocks, as real ones do, so it runs in a thread. The event loop of the backend stays free to hear a CANCEL.
- A CANCEL ends the handler at its `await`, and nobody asks the model for the next token. So a client that goes away, or
  an answer that somebody else gave first, stops costing after the token at hand.
- The last item is an `Answer` with what it has cost. The daemon takes the mean of such for this backend's cost.
- `slots` is how many answers the model really computes at once (its batch), and `prefetch` is 0: what waits at a
  backend is bound to it, and another one may be free first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Generator
from typing import Any

from router_daemon import Backend
from router_daemon.backend import Answer, Delivery, Reject

ADDRESS = os.environ.get("ROUTER_DAEMON__BACKEND__BIND", "tcp://127.0.0.1:5571")
"""As the daemon of this machine is told, else its default."""
MOST_PROMPT_BYTES = 20_000
"""The context window: a longer prompt is the message's own fault, and no other backend need try."""


class FakeModel:
    """Answers with the prompt's own words, each a token; it blocks like a model on a device.

    Args:
        first_ms: from the prompt to the first token.
        token_ms: from one token to the next.
    """

    def __init__(self, first_ms: float, token_ms: float) -> None:
        self.first_ms = first_ms
        self.token_ms = token_ms

    def generate(self, prompt: str) -> Generator[str]:
        """Yield the tokens of an answer; closing the generator ends the work."""
        pause_ms = self.first_ms
        for word in prompt.split():
            time.sleep(pause_ms / 1000)
            pause_ms = self.token_ms
            yield word + " "


def make_backend(options: argparse.Namespace) -> Backend:
    """Return the backend that serves one model."""
    keys: dict[str, Any] = (
        {"embedding": [float(number) for number in options.embedding.split(",")]} if options.embedding else {}
    )
    backend = Backend(
        options.name,
        options.address,
        slots=options.slots,
        prefetch=0,
        cost=options.cost,
        group=options.group,
        **keys,
    )
    model = FakeModel(options.first_ms, options.token_ms)

    @backend.handler("chat", *options.capability)
    async def chat(delivery: Delivery) -> AsyncIterator[bytes | Answer]:
        if len(delivery.data) > MOST_PROMPT_BYTES:
            raise Reject(f"the prompt has {len(delivery.data)} bytes, more than {MOST_PROMPT_BYTES}")
        tokens = model.generate(delivery.data.decode())
        count = 0
        try:
            while (token := await asyncio.to_thread(next, tokens, None)) is not None:
                count += 1
                yield token.encode()
        finally:
            if not delivery.cancelled.is_set():  # else the thread may be inside; it ends with its token
                tokens.close()
        yield Answer(
            cost=options.cost * count / options.usual_tokens, timing_us={"compute": 1e6 * spent_s(model, count)}
        )

    return backend


def spent_s(model: FakeModel, tokens: int) -> float:
    """Return how long the model has computed for an answer, in seconds."""
    return (model.first_ms + model.token_ms * max(0, tokens - 1)) / 1000


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="A backend that streams like a language model.")
    parser.add_argument("--name", required=True, help="of the backend; one registration each")
    parser.add_argument("--address", default=ADDRESS, help="the daemon's backend socket")
    parser.add_argument("--capability", action="append", default=[], help="offered beside `chat`; may be repeated")
    parser.add_argument("--first-ms", type=float, default=200.0, help="time to the first token")
    parser.add_argument("--token-ms", type=float, default=10.0, help="time from token to token")
    parser.add_argument("--slots", type=int, default=2, help="answers at once")
    parser.add_argument("--cost", type=float, default=1.0, help="of an answer of usual length")
    parser.add_argument("--usual-tokens", type=int, default=20, help="that length")
    parser.add_argument("--group", default="models", help="a label of the latency metrics")
    parser.add_argument("--embedding", default="", help="the key for the `ring` policies: numbers between commas")
    return parser.parse_args()


if __name__ == "__main__":
    make_backend(parse()).serve()

"""What a run is to do, and what is refused before anything is sent. PURE.

Rules:
- Closed loop: each client keeps `concurrency` messages open; the next leaves when one has ended. Open loop (`rate`):
  messages leave at moments of their own, at random (Poisson, as
  from users who do not know of each other) or evenly.
- Built-in backends offer a capability whose name begins with `bench`, and have such a name themselves: an echo must
  never answer somebody's real message.
"""

from __future__ import annotations

import math
import re
from random import Random
from typing import Final, NamedTuple

BENCH: Final = "bench"
MOST_SECONDS: Final = 3600.0
MOST_CLIENTS: Final = 200
MOST_CONCURRENCY: Final = 10_000
MOST_OPEN: Final = 50_000
MOST_BACKENDS: Final = 64
MOST_PROCESSES: Final = 64
MOST_RATE: Final = 1_000_000.0
MOST_BYTES: Final = 64 * 1024 * 1024
MOST_WORK_S: Final = 600.0
OPEN_CONCURRENCY: Final = 1000
CLOSED_CONCURRENCY: Final = 8
UNITS: Final = {"us": 1e6, "ms": 1e3, "s": 1.0}
"""How many of each are a second."""
TIME: Final = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|ms|s)"


class Work(NamedTuple):
    """How long a built-in backend works on a message: a distribution and its two numbers (seconds, or a shape).

    `fixed`: always `a`. `exp`: exponential with mean `a`. `uniform`: from `a` to `b`. `lognormal`: with median `a` and
    sigma `b`, as many services take: most a little, some long.
    """

    kind: str = "fixed"
    a: float = 0.0
    b: float = 0.0

    def draw(self, rng: Random) -> float:
        """Return one time, in seconds, at most `MOST_WORK_S`."""
        if self.kind == "exp":
            drawn = rng.expovariate(1.0 / self.a) if self.a else 0.0
        elif self.kind == "uniform":
            drawn = rng.uniform(self.a, self.b)
        elif self.kind == "lognormal":
            drawn = self.a * math.exp(rng.gauss(0.0, self.b))
        else:
            drawn = self.a
        return min(drawn, MOST_WORK_S)

    def __str__(self) -> str:
        shown = {"exp": f"exp:{self.a:g}s", "uniform": f"{self.a:g}s-{self.b:g}s"}
        shown["lognormal"] = f"lognormal:{self.a:g}s:{self.b:g}"
        return shown.get(self.kind, f"{self.a:g}s")


class Plan(NamedTuple):
    """A run.

    Attributes:
        frontend, backend: where clients and built-in backends connect.
        seconds, warmup_s: measured, and before that.
        clients, processes: connections, and over how many processes they are spread.
        concurrency: open at once, of each client.
        rate: messages per second in all, None for a closed loop. even: in equal steps.
        size: bytes of a body. ttl_ms, mode, priority: of SEND; None: not said.
        backends, slots, work, failing: how many built-in ones, of how many slots, how long each works, and the share of
            messages that each fails.
        seed: of the moments, the work and the failures.
    """

    frontend: str
    backend: str
    capability: str = BENCH
    seconds: float = 10.0
    warmup_s: float = 1.0
    clients: int = 4
    processes: int = 1
    concurrency: int = CLOSED_CONCURRENCY
    rate: float | None = None
    even: bool = False
    size: int = 64
    ttl_ms: int = 10_000
    mode: str | None = None
    priority: int | None = None
    backends: int = 0
    slots: int = 8
    work: Work = Work()
    failing: float = 0.0
    seed: int = 1


def check(plan: Plan) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: with a sentence that names the option.
    """
    numbers = (
        ("--seconds", plan.seconds, 0.1, MOST_SECONDS),
        ("--warmup", plan.warmup_s, 0.0, MOST_SECONDS),
        ("--clients", plan.clients, 1, MOST_CLIENTS),
        ("--processes", plan.processes, 1, MOST_PROCESSES),
        ("--concurrency", plan.concurrency, 1, MOST_CONCURRENCY),
        ("--size", plan.size, 0, MOST_BYTES),
        ("--ttl-ms", plan.ttl_ms, 1, 3_600_000),
        ("--backends", plan.backends, 0, MOST_BACKENDS),
        ("--slots", plan.slots, 1, MOST_CONCURRENCY),
        ("--failing", plan.failing, 0.0, 1.0),
    )
    for option, value, least, most in numbers:
        if not least <= value <= most:
            raise ValueError(f"{option} must be from {least:g} to {most:g}, got {value:g}")
    if plan.rate is not None and not 0.01 <= plan.rate <= MOST_RATE:
        raise ValueError(f"--rate must be from 0.01 to {MOST_RATE:g} messages/s, got {plan.rate:g}")
    if plan.rate is not None and plan.rate * plan.seconds < 1.0:
        raise ValueError(f"--rate {plan.rate:g} sends nothing in {plan.seconds:g} s: raise one of them")
    if plan.processes > plan.clients:
        raise ValueError(f"--processes {plan.processes}: there are {plan.clients} clients to spread over them")
    if plan.clients * plan.concurrency > MOST_OPEN:
        raise ValueError(
            f"--clients times --concurrency must be up to {MOST_OPEN}, got {plan.clients * plan.concurrency}"
        )
    if not 1 <= len(plan.capability) <= 128:
        raise ValueError("--capability must have 1 to 128 characters")
    _check_backends(plan)


def _check_backends(plan: Plan) -> None:
    if plan.backends and not plan.capability.startswith(BENCH):
        raise ValueError(
            f"--capability {plan.capability}: with --backends it must begin with {BENCH}, or an echo would answer "
            "the messages of others"
        )
    if not plan.backends and (plan.failing or plan.work != Work()):
        raise ValueError("--work and --failing are of built-in backends: say how many with --backends")


def work_of(text: str) -> Work:
    """Return a distribution from `5ms`, `exp:5ms`, `1ms-9ms` or `lognormal:5ms:0.5`.

    Raises:
        ValueError: it is none, or too long.
    """
    if match := re.fullmatch(TIME, text, re.ASCII):
        work = Work("fixed", _seconds(*match.groups()))
    elif match := re.fullmatch(f"exp:{TIME}", text, re.ASCII):
        work = Work("exp", _seconds(*match.groups()))
    elif match := re.fullmatch(f"{TIME}-{TIME}", text, re.ASCII):
        low, unit, high, other = match.groups()
        work = Work("uniform", _seconds(low, unit), _seconds(high, other))
    elif match := re.fullmatch(rf"lognormal:{TIME}:([0-9](?:\.[0-9]{{1,9}})?)", text, re.ASCII):
        number, unit, sigma = match.groups()
        work = Work("lognormal", _seconds(number, unit), float(sigma))
    else:
        raise ValueError(f"--work {text}: must be like 5ms, exp:5ms, 1ms-9ms or lognormal:5ms:0.5")
    if max(work.a, work.b if work.kind == "uniform" else 0.0) > MOST_WORK_S:
        raise ValueError(f"--work {text}: a time may be up to {MOST_WORK_S:g} s")
    if work.kind == "uniform" and work.b < work.a:
        raise ValueError(f"--work {text}: the first time must not be the longer one")
    return work


def _seconds(number: str, unit: str) -> float:
    return float(number) / UNITS[unit]


def shares(whole: int, parts: int) -> list[int]:
    """Return a number cut into nearly equal parts."""
    return [whole // parts + (index < whole % parts) for index in range(parts)]

"""What a run found, as text for people and as data for programs. PURE.

Rules:
- What makes the figures doubtful is said in the text and in the data: busy clients, late messages, a part measured.
- Percentiles are of the answered alone; of what failed there is a line of its own, since to fail is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from router_daemon.cli.asking import number_of, table
from router_daemon.cli.bench.load import NOT_SENT
from router_daemon.cli.bench.plan import Plan
from router_daemon.cli.bench.samples import Samples, histogram, summary
from router_daemon.cli.bench.workers import Outcome
from router_daemon.logs import printable

BUSY: Final = 0.85
"""Of a core: beyond, a process that waits for its turn adds to what it measures."""
LAG_MS: Final = 1.0
LAG_SHARE: Final = 0.1
SHORT_OF: Final = 0.97
BAR: Final = 40
BACKENDS_SHOWN: Final = 20


def doubts(plan: Plan, outcome: Outcome) -> list[str]:
    """Return why the figures may say more of this command than of the daemon; nothing where nothing says so."""
    found = []
    if outcome.client_cpu >= BUSY:
        found.append(
            f"the clients were the bottleneck: a process of theirs took {100 * outcome.client_cpu:.0f} % of a core; "
            "more --processes, or less load"
        )
    if outcome.backend_cpu >= BUSY:
        found.append(
            "the built-in backends were the bottleneck: a process of theirs took "
            f"{100 * outcome.backend_cpu:.0f} % of a core"
        )
    lag, answered = summary(outcome.lag), summary(outcome.answered)
    if lag and answered and lag.p99_ms > max(LAG_MS, LAG_SHARE * answered.p50_ms) and outcome.client_cpu < BUSY:
        found.append(
            f"the clients were late themselves: 1 % of their timers rang {lag.p99_ms:.1f} ms late or more, which is in "
            "the latencies; too much load for so few --processes, or the machine has other work"
        )
    if plan.rate is not None:
        found += _late(plan, outcome)
    if outcome.interrupted:
        found.append(f"interrupted: the first {outcome.seconds:.1f} s were measured")
    if outcome.answered.sampled:
        found.append("percentiles and histogram are of a uniform sample: there were too many messages to keep them all")
    return found


def _late(plan: Plan, outcome: Outcome) -> Iterator[str]:
    assert plan.rate is not None
    if outcome.held_back:
        yield (
            f"{outcome.held_back} messages left late, as {plan.concurrency} of their client were open: the daemon did "
            "not keep up (their latency counts from when they were to leave), or raise --concurrency"
        )
    left = outcome.codes.total() - outcome.codes[NOT_SENT]
    sent = left / outcome.seconds if outcome.seconds else 0.0
    expected = plan.rate * outcome.seconds
    if expected >= 100.0 and sent < SHORT_OF * plan.rate - 3.0 * expected**0.5 / outcome.seconds:
        yield f"only {sent:.0f} of {plan.rate:g} messages/s left"


def text(plan: Plan, outcome: Outcome) -> str:
    """Return the whole report."""
    return "\n\n".join(filter(None, _paragraphs(plan, outcome)))


def _paragraphs(plan: Plan, outcome: Outcome) -> Iterator[str]:
    yield _head(plan, outcome)
    yield _latencies(plan, outcome)
    yield _backends(outcome)
    yield _histogram(outcome.answered)
    busy = f"clients: {100 * outcome.client_cpu:.0f} % of a core in the busiest process"
    if plan.backends:
        busy += f"; built-in backends: {100 * outcome.backend_cpu:.0f} %"
    yield "\n".join([busy, *(f"note: {doubt}" for doubt in doubts(plan, outcome))])


def _head(plan: Plan, outcome: Outcome) -> str:
    loop = f"{plan.concurrency} open each" if plan.rate is None else f"{plan.rate:g} messages/s in all"
    said = [f"mode {plan.mode}" if plan.mode else "", f"priority {plan.priority}" if plan.priority else ""]
    what = ", ".join(filter(None, [f"{plan.size} bytes", *said]))
    over = f"{plan.clients} clients in {plan.processes} process{'es' if plan.processes > 1 else ''}"
    lines = [f"{plan.capability}: {outcome.seconds:.1f} s measured after {plan.warmup_s:g} s; {over}, {loop}; {what}"]
    if plan.backends:
        many = f"{plan.backends} built-in backend{'s' if plan.backends > 1 else ''} of {plan.slots} slots"
        lines.append(f"{many}, work {plan.work}, {100 * plan.failing:g} % fail")
    total = outcome.codes.total()
    answered = outcome.codes["answered"]
    rate = outcome.ended / outcome.seconds if outcome.seconds else 0.0
    share = f" ({100.0 * answered / total:.4g} %)" if total else ""
    lines.append(f"answered {answered} of {total}{share}, {rate:.0f}/s")
    others = [f"{code} {count}" for code, count in outcome.codes.most_common() if code != "answered"]
    if others:
        lines.append(f"not answered: {', '.join(others)}")
    return "\n".join(map(printable, lines))


def _latencies(plan: Plan, outcome: Outcome) -> str:
    rows = [("answered", outcome.answered), ("not answered", outcome.failed)]
    if plan.rate is not None:
        rows.append(("left late by", outcome.late))
    cells = [[name, *_figures(samples)] for name, samples in rows if samples.count]
    return table(["MS", "N", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"], cells) if cells else ""


def _figures(samples: Samples) -> list[str]:
    found = summary(samples)
    assert found is not None
    return [str(found.n), *(number_of({"": value}, "") for value in found[1:])]


def _backends(outcome: Outcome) -> str:
    total = outcome.backends.total()
    shown = outcome.backends.most_common(BACKENDS_SHOWN)
    cells = [[name, str(count), f"{100.0 * count / total:.1f}"] for name, count in shown]
    more = len(outcome.backends) - len(shown)
    rest = f"\nand {more} more" if more > 0 else ""
    return table(["BACKEND", "ANSWERS", "%"], cells) + rest if cells else ""


def _histogram(samples: Samples) -> str:
    bins = histogram(samples)
    most = max((each.n for each in bins), default=0)
    cells = [
        [
            f"{each.low_ms:g} - {each.high_ms:g}",
            str(each.n),
            "█" * max(each.n > 0, round(BAR * each.n / most)),
        ]
        for each in bins
    ]
    return table(["MS", "N", ""], cells) if cells else ""


def data(plan: Plan, outcome: Outcome, about: dict[str, str]) -> dict[str, Any]:
    """Return the same for a program; times in milliseconds, `about`: of the machine."""
    return {
        "plan": plan._asdict() | {"work": str(plan.work)},
        "about": about,
        "seconds": outcome.seconds,
        "interrupted": outcome.interrupted,
        "messages": outcome.codes.total(),
        "codes": dict(outcome.codes),
        "answered_per_s": outcome.ended / outcome.seconds if outcome.seconds else 0.0,
        "answered": _as_dict(outcome.answered),
        "not_answered": _as_dict(outcome.failed),
        "left_late": _as_dict(outcome.late) if plan.rate is not None else None,
        "held_back": outcome.held_back,
        "backends": dict(outcome.backends.most_common()),
        "histogram": [each._asdict() for each in histogram(outcome.answered)],
        "client_cpu": outcome.client_cpu,
        "backend_cpu": outcome.backend_cpu,
        "doubts": doubts(plan, outcome),
    }


def _as_dict(samples: Samples) -> dict[str, Any] | None:
    found = summary(samples)
    return None if found is None else found._asdict()

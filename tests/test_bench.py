"""`router-daemon bench`: what it refuses, how it counts, that a stall is seen, and whole runs against a real daemon."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import pytest
from command_line import invoke, process
from conftest import Daemon, DaemonFactory, Room, free_port

from router_daemon.cli.bench import echo, load, progress, report, workers
from router_daemon.cli.bench.load import Load, precise_loop
from router_daemon.cli.bench.plan import MOST_WORK_S, Plan, Work, check, shares, work_of
from router_daemon.cli.bench.samples import BINS, Samples, histogram, merged, quantile, summary
from router_daemon.cli.bench.workers import Outcome
from router_daemon.errors import ConnectionLost, Unavailable

OpenRoom = Callable[[Daemon], Room]
PLAN: Final = Plan("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", capability="c")


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seconds": 0.0}, "--seconds must be from 0.1"),
        ({"seconds": math.nan}, "--seconds"),
        ({"warmup_s": -1.0}, "--warmup"),
        ({"clients": 0}, "--clients"),
        ({"processes": 5}, "--processes 5: there are 4 clients"),
        ({"concurrency": 0}, "--concurrency"),
        ({"clients": 200, "concurrency": 10_000}, "--clients times --concurrency"),
        ({"rate": 0.0}, "--rate must be"),
        ({"rate": math.inf}, "--rate must be"),
        ({"rate": 0.05, "seconds": 1.0}, "sends nothing"),
        ({"size": -1}, "--size"),
        ({"ttl_ms": 0}, "--ttl-ms"),
        ({"backends": 65}, "--backends"),
        ({"backends": 1}, "must begin with bench"),
        ({"failing": 1.5, "backends": 1, "capability": "bench"}, "--failing"),
        ({"failing": 0.5}, "say how many with --backends"),
        ({"work": Work("fixed", 0.1)}, "say how many with --backends"),
        ({"capability": ""}, "--capability"),
    ],
)
def test_nonsense_is_refused_with_its_option(changes: dict[str, Any], word: str) -> None:
    check(PLAN)
    with pytest.raises(ValueError, match=word):
        check(PLAN._replace(**changes))


@pytest.mark.parametrize(
    ("text", "work"),
    [
        ("5ms", Work("fixed", 0.005)),
        ("250us", Work("fixed", 0.00025)),
        ("exp:1.5s", Work("exp", 1.5)),
        ("1ms-9ms", Work("uniform", 0.001, 0.009)),
        ("lognormal:5ms:0.5", Work("lognormal", 0.005, 0.5)),
    ],
)
def test_work_is_read_and_said_again(text: str, work: Work) -> None:
    assert work_of(text) == work
    assert work_of(str(work)) == work


@pytest.mark.parametrize("text", ["", "5", "-5ms", "5 ms", "exp:", "9ms-1ms", "601s", "lognormal:5ms", "normal:5ms:1"])
def test_work_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--work"):
        work_of(text)


def test_work_is_drawn_from_its_distribution() -> None:
    rng = Random(1)
    drawn = [work_of("exp:10ms").draw(rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.010, rel=0.03)
    drawn = [work_of("1ms-3ms").draw(rng) for _ in range(20_000)]
    assert (min(drawn) >= 0.001, max(drawn) <= 0.003) == (True, True)
    drawn = sorted(work_of("lognormal:5ms:1").draw(rng) for _ in range(20_001))
    assert drawn[10_000] == pytest.approx(0.005, rel=0.03)
    assert max(work_of("lognormal:600s:9").draw(rng) for _ in range(100)) == MOST_WORK_S
    assert work_of("exp:0ms").draw(rng) == 0.0


def test_a_number_is_cut_into_parts() -> None:
    assert (shares(7, 3), shares(2, 2), shares(1, 1)) == ([3, 2, 2], [1, 1], [1])


# --- samples ---


def samples_of(*values: float, limit: int = 1000) -> Samples:
    samples = Samples(limit=limit)
    for value in values:
        samples.add(value)
    return samples


def test_percentiles_are_those_of_the_sorted_values() -> None:
    found = summary(samples_of(*(number / 1000.0 for number in range(1, 1001))))
    assert found is not None
    assert found == pytest.approx((1000, 500.5, 500.0, 900.0, 990.0, 999.0, 1000.0))
    assert summary(samples_of()) is None
    assert [quantile([1.0, 2.0], share) for share in (0.0, 0.5, 0.51, 1.0)] == [1.0, 1.0, 2.0, 2.0]


def test_beyond_the_bound_a_uniform_sample_is_kept_and_the_largest_value() -> None:
    samples = samples_of(*(number / 1000.0 for number in range(20_000)), limit=2000)
    assert (len(samples.values), samples.count, samples.sampled) == (2000, 20_000, True)
    found = summary(samples)
    assert found is not None
    assert found.p50_ms == pytest.approx(10_000.0, rel=0.1)
    assert (found.max_ms, found.n) == (19_999.0, 20_000)
    assert sum(each.n for each in histogram(samples)) == pytest.approx(20_000, abs=BINS)


def test_samples_of_several_processes_are_one() -> None:
    whole = merged([samples_of(0.001, 0.002), samples_of(), samples_of(0.003)])
    assert (sorted(whole.values), whole.count, whole.most) == ([0.001, 0.002, 0.003], 3, 0.003)
    assert not whole.sampled
    parts = [samples_of(*[0.001] * 900, limit=300), samples_of(*[0.002] * 300, limit=300)]
    mixed = merged(parts, limit=400)
    assert Counter(mixed.values) == {0.001: 300, 0.002: 100}, "each counts by what it stands for"


@pytest.mark.parametrize(
    "values",
    [(0.001,), (0.0, 0.0), (0.00149, 0.0015, 0.00151), (0.000001, 100.0), (0.0005, *([0.003] * 50), 0.7)],
)
def test_a_histogram_has_every_value_in_its_bin(values: tuple[float, ...]) -> None:
    bins = histogram(samples_of(*values))
    assert 1 <= len(bins) <= BINS + 1
    assert sum(each.n for each in bins) == len(values)
    assert all(one.high_ms == other.low_ms for one, other in pairwise(bins))
    assert bins[-1].high_ms >= 1000.0 * max(values)
    for each in bins:
        within = [value for value in values if each.low_ms < 1000.0 * value <= each.high_ms]
        assert each.n == len(within) or each is bins[0]


# --- loops, with a client that does what a test says ---


class FakeClient:
    """Answers at once, but not from `begin` to `end` (seconds since the first was made)."""

    began = 0.0
    stall = (0.0, 0.0)
    most_open = open_now = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        FakeClient.began = time.monotonic()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, *_: Any, **__: Any) -> Any:
        FakeClient.open_now += 1
        FakeClient.most_open = max(FakeClient.most_open, FakeClient.open_now)
        after = time.monotonic() - FakeClient.began
        await asyncio.sleep(
            FakeClient.stall[1] - after if FakeClient.stall[0] <= after < FakeClient.stall[1] else 0.001
        )
        FakeClient.open_now -= 1
        return type("Reply", (), {"backend": "b"})


def loaded(monkeypatch: pytest.MonkeyPatch, client: type, plan: Plan) -> load.Measured:
    monkeypatch.setattr(load, "Client", client)
    FakeClient.most_open = FakeClient.open_now = 0

    async def run() -> load.Measured:
        loop = Load(plan, plan.clients, plan.rate, 1)
        await loop.run(time.monotonic())
        assert loop.window_s == pytest.approx(plan.seconds)
        return loop.measured

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(run())


def slow_share(measured: load.Measured) -> float:
    return sum(value > 0.05 for value in measured.answered.values) / len(measured.answered.values)


def test_a_stall_is_seen_by_all_that_it_holds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 0.6 s, 0.3 are a stall: an open loop sees it in about 40 % of its messages, a closed one in a single one."""
    FakeClient.stall = (0.2, 0.5)
    plan = PLAN._replace(seconds=0.6, warmup_s=0.0, clients=1)
    closed = loaded(monkeypatch, FakeClient, plan._replace(concurrency=1))
    opened = loaded(monkeypatch, FakeClient, plan._replace(rate=200.0, even=True, concurrency=1000))
    held = loaded(monkeypatch, FakeClient, plan._replace(rate=200.0, even=True, concurrency=1))
    assert slow_share(closed) < 0.1
    assert slow_share(opened) > 0.25
    assert slow_share(held) > 0.25, "also where the client could not even send them"
    assert (held.held_back > 20, opened.held_back) == (True, 0)


def test_a_closed_loop_keeps_just_so_many_open(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClient.stall = (0.0, 0.0)
    measured = loaded(monkeypatch, FakeClient, PLAN._replace(seconds=0.2, warmup_s=0.05, clients=2, concurrency=3))
    assert FakeClient.most_open == 6
    assert measured.codes["answered"] == measured.answered.count == measured.backends["b"] > 6
    assert abs(measured.ended - measured.answered.count) <= 6, "those at the ends of the window"


def test_an_open_loop_keeps_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClient.stall = (0.0, 0.0)
    plan = PLAN._replace(seconds=0.5, warmup_s=0.1, rate=400.0, concurrency=1000)
    assert loaded(monkeypatch, FakeClient, plan._replace(even=True)).codes.total() == pytest.approx(200, abs=2)
    assert loaded(monkeypatch, FakeClient, plan).codes.total() == pytest.approx(200, abs=60), "Poisson"


def test_what_cannot_leave_in_its_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClient.stall = (0.0, 0.4)
    plan = PLAN._replace(seconds=0.2, warmup_s=0.0, clients=1, concurrency=1, rate=200.0, even=True, ttl_ms=50)
    measured = loaded(monkeypatch, FakeClient, plan)
    assert measured.codes[load.NOT_SENT] > 20
    assert measured.codes.total() == pytest.approx(40, abs=2)


def test_errors_are_counted_by_code_and_a_lost_connection_is_no_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(FakeClient):
        async def send(self, *_: Any, **__: Any) -> Any:
            raise ConnectionLost("gone", retry=True)

    class Overloaded(FakeClient):
        async def send(self, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(0.001)
            raise Unavailable("full", code="overloaded", retry=True)

    plan = PLAN._replace(seconds=0.3, warmup_s=0.0, clients=1, concurrency=2)
    lost = loaded(monkeypatch, Refuses, plan)
    assert list(lost.codes) == ["connection_lost"]
    assert lost.codes.total() <= 8
    full = loaded(monkeypatch, Overloaded, plan)
    assert (list(full.codes), full.answered.count, full.failed.count == full.codes.total()) == (["overloaded"], 0, True)


# --- the report ---


def outcome_of(**changes: Any) -> Outcome:
    ten_ms = samples_of(*[0.01] * 100)
    none, on_time = samples_of(*[0.0] * 100), samples_of(*[0.0001] * 100)
    codes, backends = Counter(answered=100), Counter({"b\x1b[2J": 100})
    whole = Outcome(ten_ms, samples_of(), none, on_time, codes, backends, 2.0, 100, 0, 0.1, 0.1, False)
    return whole._replace(**changes)


def test_a_report_has_no_doubts_where_there_are_none() -> None:
    text = report.text(PLAN, outcome_of())
    assert "answered 100 of 100 (100 %), 50/s" in text
    assert "note:" not in text
    assert "b\\x1b[2J" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("plan", "changes", "word"),
    [
        ({}, {"client_cpu": 0.9}, "the clients were the bottleneck: a process of theirs took 90 % of a core"),
        ({}, {"backend_cpu": 0.9}, "the built-in backends were the bottleneck"),
        ({}, {"lag": samples_of(*[0.02] * 100)}, "the clients were late themselves: 1 % of their timers rang 20.0 ms"),
        ({}, {"interrupted": True}, "interrupted: the first 2.0 s were measured"),
        ({"rate": 50.0}, {"held_back": 3}, "3 messages left late, as 8 of their client were open"),
        ({"rate": 500.0}, {}, "only 50 of 500 messages/s left"),
        ({}, {"answered": samples_of(0.1, 0.1, limit=1)}, "uniform sample"),
    ],
)
def test_what_makes_figures_doubtful_is_said(plan: dict[str, Any], changes: dict[str, Any], word: str) -> None:
    planned, outcome = PLAN._replace(**plan), outcome_of(**changes)
    [doubt] = report.doubts(planned, outcome)
    assert word in doubt
    assert f"note: {doubt}" in report.text(planned, outcome)
    assert json.loads(json.dumps(report.data(planned, outcome, {})))["doubts"] == [doubt]


def test_a_report_of_nothing_says_so() -> None:
    nothing = outcome_of(answered=samples_of(), codes=Counter(), backends=Counter(), ended=0, seconds=0.0)
    assert "answered 0 of 0, 0/s" in report.text(PLAN, nothing)
    assert report.data(PLAN, nothing, {})["answered"] is None


def test_progress_is_shown_on_a_terminal_with_and_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.shown(PLAN, quiet=False) as tell:
        tell(0.5, 1, 0)
    assert capsys.readouterr().err == "", "no terminal, no bar"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(progress, "find_spec", lambda _: None)
    with progress.shown(PLAN, quiet=False) as tell:
        tell(0.5, 1, 0)
        tell(5.0, 10, 2)
    said = capsys.readouterr().err
    assert "warming up" in said
    assert "measuring  5/11 s, 10 answered, 2 not" in said
    monkeypatch.undo()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.shown(PLAN, quiet=False) as tell:
        tell(5.0, 10, 0)


# --- whole runs ---


def told(*arguments: str) -> tuple[int, str]:
    done = process("bench", "--quiet", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_closed_run_with_built_in_backends(daemon: DaemonFactory, tmp_path: Path) -> None:
    running = daemon(routing={"mode": "single"})
    file = tmp_path / "figures.json"
    code, text = told(
        *("--to", running.frontend, "--backend-to", running.backend, "--backends", "2", "--work", "exp:1ms"),
        *("--seconds", "0.5", "--warmup", "0.1", "--clients", "2", "--concurrency", "2", "--json", str(file)),
    )
    assert code == 0, text
    found = json.loads(file.read_text())
    assert found["codes"] == {"answered": found["messages"]}
    assert sum(found["backends"].values()) == found["messages"] > 0
    assert all(name.startswith("bench-") for name in found["backends"])
    answered = found["answered"]
    assert 0.5 < answered["p50_ms"] <= answered["p90_ms"] <= answered["p99_ms"] <= answered["max_ms"]
    assert f"answered {found['messages']} of {found['messages']} (100 %)" in text
    assert "2 built-in backends of 8 slots, work exp:0.001s" in text


def test_an_open_run_in_two_processes_with_failures(daemon: DaemonFactory, tmp_path: Path) -> None:
    running = daemon(routing={"mode": "single", "heads": 1}, retry={"same_backend": False})
    file = tmp_path / "figures.json"
    code, text = told(
        *("--to", running.frontend, "--backend-to", running.backend, "--backends", "1", "--failing", "0.5"),
        *("--rate", "200", "--even", "--processes", "2", "--seconds", "0.5", "--warmup", "0", "--json", str(file)),
        *("--priority", "3", "--mode", "single", "--size", "1000"),
    )
    assert code == 0, text
    found = json.loads(file.read_text())
    assert found["messages"] == pytest.approx(100, abs=4)
    assert found["codes"]["failed"] > 10
    assert found["left_late"]["n"] == found["messages"]
    assert "bench wants this one to fail" not in text, "a failure that was asked for is no line of a log"
    assert "1000 bytes, mode single, priority 3" in text


def test_with_nobody_to_answer_it_fails_and_says_why(daemon: DaemonFactory) -> None:
    running = daemon()
    code, text = told("--to", running.frontend, "--capability", "missing", "--seconds", "0.2", "--warmup", "0")
    assert (code, "not answered: no_capability " in text) == (4, True)


def test_backends_that_are_not_taken_end_it(
    daemon: DaemonFactory, open_room: OpenRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = daemon(limits={"backends": 1})
    open_room(running).backend(name="first", capabilities=["c"])
    monkeypatch.setattr(echo, "REGISTER_S", 0.5)
    with pytest.raises(TimeoutError) as raised:
        asyncio.run(echo.Echoes(PLAN._replace(backend=running.backend, capability="bench"), 1, 1).start())
    assert echo.reason_of(raised.value) == "the built-in backends were not registered within 0.5 s"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((), 2, "bench needs --capability C, or --backends N"),
        (("--capability", "c", "--rate", "-1"), 2, "--rate must be from 0.01"),
        (("--capability", "c", "--backends", "1"), 2, "must begin with bench"),
        (("--capability", "c", "--to", "nowhere"), 2, "--to nowhere: must be"),
        (("--capability", "c", "--json", "/nowhere/at/all"), 2, "--json /nowhere/at/all: No such file"),
        (("--capability", "c", "--to", "tcp://127.0.0.1:{port}"), 1, "no daemon at tcp://127.0.0.1:"),
    ],
)
def test_what_the_command_line_refuses(
    arguments: tuple[str, ...], code: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router_daemon.cli.bench.command.PING_TIMEOUT_S", 0.2)
    port = str(free_port())
    result = invoke("bench", *(each.replace("{port}", port) for each in arguments))
    assert (result.exit_code, word in result.stderr) == (code, True), result.output


def test_backends_of_a_process_are_at_most_so_many() -> None:
    assert (workers._parts(0), workers._parts(8), workers._parts(9), sum(workers._parts(64))) == ([], [8], [5, 4], 64)

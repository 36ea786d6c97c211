"""The parts of the demo: its analysis is right, its input is read with care, what it shows is what was measured."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import math
import random
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from demo_app import analysis, analysis_numpy, csv_input, gauges, ledger, options, roster, table, work  # noqa: E402
from demo_app.analysis import AlertState, Point  # noqa: E402
from demo_app.feed import FileFeed  # noqa: E402

SEED = 20240607
Detector = Callable[..., analysis.Verdict]
Cleaner = Callable[..., analysis.Cleaned]
Fitter = Callable[..., analysis.Trend]


def wave(count: int = 120, spike_at: int | None = None) -> tuple[list[float], list[float]]:
    """A noisy wave of one sample a minute, with one absurd sample where asked."""
    rng = random.Random(SEED)
    values = [50 + 3 * math.sin(index / 9) + rng.gauss(0, 1) for index in range(count)]
    if spike_at is not None:
        values[spike_at] = 400.0
    return [60.0 * index for index in range(count)], values


# -- analysis ---------------------------------------------------------------------------------------------------------

DETECTORS = (analysis.mad_zscore, analysis_numpy.mad_zscore, analysis.ewma_band, analysis.tukey_fences)


@pytest.mark.parametrize("detect", DETECTORS)
def test_every_detector_finds_the_spike_and_nothing_else(detect: Detector) -> None:
    times, values = wave(spike_at=110)
    verdict = detect(times, values, since=times[100], floor=0.0)
    assert [point.time for point in verdict.points] == [times[110]]
    assert verdict.top == verdict.points[0]
    assert verdict.top.score > analysis.RAISE_SCORE


@pytest.mark.parametrize("detect", DETECTORS)
def test_detectors_judge_new_samples_only(detect: Detector) -> None:
    times, values = wave(spike_at=50)
    assert detect(times, values, since=times[100], floor=0.0).points == []


@pytest.mark.parametrize("detect", DETECTORS)
def test_a_constant_series_alarms_at_a_jump_but_not_at_noise_under_its_floor(detect: Detector) -> None:
    times = [float(index) for index in range(40)]
    assert detect(times, [0.0] * 39 + [3.0], since=39.0, floor=5.0).points == []
    assert len(detect(times, [0.0] * 39 + [300.0], since=39.0, floor=5.0).points) == 1


@pytest.mark.parametrize("detect", DETECTORS)
def test_a_window_without_a_new_sample_is_refused(detect: Detector) -> None:
    times, values = wave()
    with pytest.raises(analysis.WindowTooShortError):
        detect(times, values, since=times[-1] + 1, floor=0.0)


def test_the_control_band_says_that_a_window_is_too_short() -> None:
    with pytest.raises(analysis.WindowTooShortError, match="needs 16 samples, got 8"):
        analysis.ewma_band(*wave(8), since=0.0, floor=0.0)


@pytest.mark.parametrize("clean", [analysis.clean, analysis_numpy.clean])
def test_cleaning_sorts_drops_fills_and_normalises(clean: Cleaner) -> None:
    missing = {3, 5, 6, 9}
    kept = [float(second) for second in range(21) if second not in missing]
    times = [*reversed(kept), 1.0, 3.0, 9.0]
    values = [*(10.0 * second for second in reversed(kept)), 10.0, math.nan, math.inf]
    values[times.index(1.0)] = 99.0  # the later of two samples of one time counts
    cleaned = clean(times, values)
    assert cleaned.times == [float(second) for second in range(21)]
    assert cleaned.values == pytest.approx([10.0 * second for second in range(21)])
    assert (cleaned.dropped, cleaned.filled) == (3, len(missing))
    assert cleaned.centre == pytest.approx(100.0)
    assert cleaned.normalised[10] == pytest.approx(0.0)
    assert cleaned.normalised[20] == pytest.approx(100.0 / cleaned.scale)


@pytest.mark.parametrize("clean", [analysis.clean, analysis_numpy.clean])
def test_cleaning_refuses_a_window_without_two_samples(clean: Cleaner) -> None:
    with pytest.raises(analysis.WindowTooShortError, match="1 usable samples of 2"):
        clean([1.0, 2.0], [math.nan, 3.0])


def test_the_numpy_twins_agree_with_pure_python() -> None:
    print(f"seed {SEED}")  # noqa: T201 - shown when it fails
    rng = random.Random(SEED)
    for _ in range(50):
        count = rng.randrange(8, 200)
        times = sorted(rng.uniform(0, 1e6) for _ in range(count))
        values = [rng.choice([rng.gauss(0, 1e3), 5.0, math.nan]) for _ in range(count - 4)] + [1.0, 2.0, 3.0, 9.0]
        plain, fast = analysis.clean(times, values, 0.1), analysis_numpy.clean(times, values, 0.1)
        assert fast.times == pytest.approx(plain.times)
        assert fast.values == pytest.approx(plain.values)
        assert fast.normalised == pytest.approx(plain.normalised)
        assert (fast.dropped, fast.filled) == (plain.dropped, plain.filled)
        window = (plain.times, plain.values)
        assert asdict(analysis_numpy.aggregate(window[1])) == pytest.approx(asdict(analysis.aggregate(window[1])))
        fast_trend, trend = analysis_numpy.least_squares(*window, 0.1), analysis.least_squares(*window, 0.1)
        assert fast_trend.slope_per_s == pytest.approx(trend.slope_per_s)
        since = plain.times[len(plain.times) // 2]
        fast_verdict, verdict = (each(*window, since, 0.1) for each in DETECTORS[1::-1])
        assert asdict(fast_verdict.top) == pytest.approx(asdict(verdict.top))
        assert len(fast_verdict.points) == len(verdict.points)


@pytest.mark.parametrize("fit", [analysis.least_squares, analysis_numpy.least_squares, analysis.theil_sen])
@pytest.mark.parametrize(("slope", "direction"), [(0.5, "rising"), (-0.5, "falling"), (0.0, "flat")])
def test_trends_have_the_slope_and_direction_of_the_line(fit: Fitter, slope: float, direction: str) -> None:
    rng = random.Random(SEED)
    times = [1e9 + 2.0 * index for index in range(100)]
    values = [7 + slope * (time_s - 1e9) + rng.gauss(0, 1) for time_s in times]
    trend = fit(times, values, floor=0.0)
    assert trend.slope_per_s == pytest.approx(slope, abs=0.02)
    assert trend.direction == direction
    assert trend.change == pytest.approx(slope * 198, abs=4)


def test_outliers_move_least_squares_but_not_theil_sen() -> None:
    times = [float(index) for index in range(50)]
    values = times[:40] + [1000.0] * 10
    assert analysis.theil_sen(times, values, 0.0).slope_per_s == pytest.approx(1.0)
    assert analysis.least_squares(times, values, 0.0).slope_per_s > 10


@pytest.mark.parametrize("aggregate", [analysis.aggregate, analysis_numpy.aggregate])
def test_aggregates_are_the_usual_numbers(aggregate: Callable[[list[float]], analysis.Aggregate]) -> None:
    result = aggregate([float(value) for value in range(100, -1, -1)])
    assert (result.count, result.p50, result.p95, result.mean) == (101, 50.0, 95.0, 50.0)
    assert (result.minimum, result.maximum) == (0.0, 100.0)


def alert_story(*scores: float) -> list[str]:
    """The kinds of alert that these scores, a minute apart, bring about."""
    state = AlertState()
    kinds: list[str] = []
    for index, score in enumerate(scores):
        point = Point(60.0 * index, 1.0, score)
        state, alert = analysis.judge_alert(state, "cpu", point, f"minute {index}", 60.0)
        kinds += [alert.kind] if alert else []
    return kinds


def test_alerts_have_hysteresis_and_do_not_repeat_themselves() -> None:
    calm = [0.0] * 5
    assert alert_story(7.9) == []
    assert alert_story(9, 20, 9, 5, 9) == ["RAISED"]
    assert alert_story(9, *calm[:4]) == ["RAISED"]
    assert alert_story(9, *calm) == ["RAISED", "CLEARED"]
    assert alert_story(9, 3, 3, 5, *calm[:4]) == ["RAISED"]  # not calm for long enough at any time
    assert alert_story(9, *calm, 9, *calm) == ["RAISED", "CLEARED"]  # back within minutes: without a word
    assert alert_story(9, *calm, *calm, *calm, 9) == ["RAISED", "CLEARED", "RAISED"]


def test_an_alert_says_what_when_and_how_far_and_its_copy_has_the_same_id() -> None:
    question = (AlertState(), "cpu", Point(60.0, 99.5, 12.3), "12:01:00", 60.0)
    (_, first), (_, copy) = analysis.judge_alert(*question), analysis.judge_alert(*question)
    assert first == copy
    assert first is not None
    assert first.text == "RAISED cpu = 99.5 at 12:01:00, 12.3 sigma off"


# -- input ------------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_csv_is_read_with_its_faults_counted_by_line(tmp_path: Path) -> None:
    good = "".join(f"2024-01-01 00:{minute:02}:00,{minute}\n" for minute in range(9, -1, -1))
    bad = "yesterday,1\n2024-01-01 01:00:00,\n2024-01-01 01:00:00\n2024-01-01 01:00:00,nan\n"
    read = csv_input.read(write(tmp_path / "load.csv", "timestamp,value\n" + good + bad))
    assert read.name == "load"
    assert read.values == [float(minute) for minute in range(10)]
    assert read.times[1] - read.times[0] == 60.0
    faults = "line 12: timestamp 'yesterday'; line 13: value ''; line 14: 1 columns; and 1 more"
    assert read.notes() == [
        f"4 of the file's rows were left out: {faults}",
        "the file's rows were not in time order: they were sorted",
    ]


def test_columns_are_found_by_name_and_times_may_be_numbers(tmp_path: Path) -> None:
    rows = "".join(f"{index},{1_700_000_000 + index},x\n" for index in range(8))
    read = csv_input.read(write(tmp_path / "a.csv", "VALUE, Timestamp ,other\n" + rows))
    assert (read.times[0], read.values[-1]) == (1_700_000_000.0, 7.0)
    assert csv_input.parse_time("1700000000500") == 1_700_000_000.5
    assert csv_input.parse_time("2023-11-14T22:13:20+00:00") == csv_input.parse_time("2023-11-14 22:13:20")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "line 1: the header must name the columns timestamp and value, found: nothing"),
        (b"time,value\n1,2\n", "line 1: the header must name .* found: time,value"),
        (b"timestamp,value\n1,2\nx,3\n", r"1 usable rows; at least 8 are needed to analyse \(line 3: timestamp 'x'\)"),
        (b"timestamp,value\n\xff\xfe\x00", "not a text file in UTF-8"),
        (b'timestamp,value\n"' + b"x" * 200_000 + b'",1\n', "field larger than field limit"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused_with_the_reason(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(csv_input.InputError, match=fault):
        csv_input.read(path)


async def collect(feed: FileFeed) -> list[tuple[float, float]]:
    return [(window.since, window.times[-1]) async for window in feed.windows()]


def test_a_file_feed_covers_every_row_once_within_its_seconds() -> None:
    rows = 1003
    read = csv_input.Table("load", [float(index) for index in range(rows)], [1.0] * rows)
    began_s = time.monotonic()
    spans = asyncio.run(collect(FileFeed(read, rate=4000, seconds=0.2)))
    assert time.monotonic() - began_s < 2
    assert spans[0][0] == 0.0
    assert spans[-1][1] == rows - 1
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(spans))


# -- sinks, gauges, ledger, table, options -----------------------------------------------------------------------------

FINDING = {"id": "cpu/raised/60.000", "kind": "RAISED", "text": "RAISED cpu = 99", "series": "cpu", "time": 60.0}


def test_the_sinks_hand_a_finding_to_something_outside(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        work.algorithm("syslog", tmp_path, listener.getsockname()[1])(FINDING)
        assert listener.recv(4096).startswith(b"<132>1 ")
    spool = work.algorithm("spool", tmp_path / "spool", 0)
    spool(FINDING)
    spool(FINDING)
    assert [json.loads(line) for line in (tmp_path / "spool").read_text().splitlines()] == [FINDING, FINDING]


def test_every_algorithm_of_the_roster_does_its_work(tmp_path: Path) -> None:
    times, values = wave(spike_at=119)
    window = {"series": "cpu", "times": times, "values": values, "since": times[100], "floor": 0.0}
    question = {"state": asdict(AlertState()), "point": asdict(Point(0.0, 1.0, 9.0)), "when": "now", "step_s": 60.0}
    for spec in roster.ROSTER:
        for name in spec.work.values():
            result = work.algorithm(name, tmp_path / "spool", 9)(window | question | FINDING)
            json.dumps(result)
            assert result


def test_the_roster_has_two_for_each_of_the_six_capabilities() -> None:
    assert len(roster.CAPABILITIES) == 6
    assert len(roster.ROSTER) >= 8
    for capability in roster.CAPABILITIES:
        assert sum(capability in spec.work for spec in roster.ROSTER) >= 2


def test_numbers_in_the_summary_are_short() -> None:
    values = (0.0, -0.5, 777.0, 9999.0, 12_345.0, -6_816_745.0, 2.5e9, 1e13)
    assert [analysis.short(value) for value in values] == (
        ["0", "-0.5", "777", "9999", "12.3k", "-6.82M", "2.5G", "10T"]
    )


EXPOSITION = """\
# TYPE router_messages_total counter
router_messages_total{capability="a",outcome="replied"} 7
router_messages_total{capability="b",outcome="failed"} 3
# TYPE router_deliveries_total counter
router_deliveries_total{backend="old-box",outcome="acked"} 4
router_deliveries_total{backend="old-box",outcome="lost"} 1
# TYPE router_decision_cache_hit_ratio gauge
router_decision_cache_hit_ratio 0.75
# TYPE router_decision_seconds histogram
router_decision_seconds_bucket{cache="hit",le="1e-06"} 80
router_decision_seconds_bucket{cache="hit",le="2e-06"} 90
router_decision_seconds_bucket{cache="hit",le="+Inf"} 90
router_decision_seconds_bucket{cache="miss",le="1e-06"} 0
router_decision_seconds_bucket{cache="miss",le="2e-06"} 5
router_decision_seconds_bucket{cache="miss",le="+Inf"} 10
"""


def test_the_gauges_read_prometheus_text() -> None:
    snapshot = gauges.Snapshot()
    gauges.read_metrics(EXPOSITION, snapshot)
    assert (snapshot.messages, snapshot.hit_ratio) == (10, 0.75)
    assert (snapshot.delivered("old-box"), snapshot.delivered("nobody"), snapshot.all_delivered()) == (5, 0, 5)
    assert snapshot.decision_us(0.5) == pytest.approx(50 / 80)
    assert snapshot.decision_us(0.9) == pytest.approx(1 + 10 / 15)
    assert snapshot.decision_us(0.99) == pytest.approx(2.0)
    assert gauges.Snapshot().decision_us(0.5) is None


def verdict_of(*rows: tuple[float, float]) -> dict[str, object]:
    return {"method": "m", "points": [{"time": time_s, "value": 1.0, "score": score} for time_s, score in rows]}


def test_the_ledger_joins_neighbouring_anomalies_and_ignores_copies_of_alerts() -> None:
    book = ledger.Ledger()
    book.cleaned("cpu", 10, {"filled": 1, "dropped": 0})
    assert len(book.anomalous("cpu", verdict_of((100, 7), (101, 9)), 1.0, "b")) == 1
    assert book.anomalous("cpu", verdict_of((96, 6)), 1.0, "b") == []
    assert len(book.anomalous("cpu", verdict_of((300, 20)), 1.0, "b")) == 1
    assert [(each.time, each.score, each.samples) for each in book.episodes()] == [(300, 20, 1), (101, 9, 3)]
    assert book.alerted(FINDING)
    assert not book.alerted(FINDING)


def test_the_table_shows_a_daemons_word_of_each_backend() -> None:
    snapshot = gauges.Snapshot(
        backends={
            "zscore-mad": {"up": True, "state": "up", "latency_ms": 2.25},
            "old-box": {"up": False, "state": "lost", "success_ratio": 0.8},
        },
        deliveries={"zscore-mad": {"acked": 9, "failed": 1}, "old-box": {"acked": 30}},
    )
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(table.draw(table.Scene("a test", 3.0, snapshot, ledger.Ledger(), {}), 130, 40))
    lines = {line.split()[0]: line for line in console.export_text().splitlines() if line.strip()}
    assert " up " in lines["zscore-mad"]
    assert "25.0%" in lines["zscore-mad"]
    assert " 2.2 " in lines["zscore-mad"]
    assert "lost" in lines["old-box"]
    assert "75.0%" in lines["old-box"]
    assert "starting" in lines["prep-numpy"]


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--seconds", "nan"], ["--rate", "-1"], ["--rate", "1e9"]])
def test_senseless_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        options.parse(arguments)
    assert exit_.value.code == 2
    assert arguments[0] in capsys.readouterr().err

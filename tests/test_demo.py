"""The demo: its analysis is right, its input is read with care, and a run finds things, survives, and leaves nothing."""

from __future__ import annotations

import json
import math
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from demo_app import analysis, analysis_numpy, csv_input, gauges, ledger, options, roster, table, work  # noqa: E402
from demo_app.analysis import AlertState, Point  # noqa: E402
from demo_app.feed import FileFeed  # noqa: E402

SEED = 20240607


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
def test_every_detector_finds_the_spike_and_nothing_else(detect):
    times, values = wave(spike_at=110)
    verdict = detect(times, values, since=times[100], floor=0.0)
    assert [point.time for point in verdict.points] == [times[110]]
    assert verdict.top == verdict.points[0]
    assert verdict.top.score > analysis.RAISE_SCORE


@pytest.mark.parametrize("detect", DETECTORS)
def test_detectors_judge_new_samples_only(detect):
    times, values = wave(spike_at=50)
    assert detect(times, values, since=times[100], floor=0.0).points == []


@pytest.mark.parametrize("detect", DETECTORS)
def test_a_constant_series_alarms_at_a_jump_but_not_at_noise_under_its_floor(detect):
    times = [float(index) for index in range(40)]
    assert detect(times, [0.0] * 39 + [3.0], since=39.0, floor=5.0).points == []
    assert len(detect(times, [0.0] * 39 + [300.0], since=39.0, floor=5.0).points) == 1


@pytest.mark.parametrize("detect", DETECTORS)
def test_a_window_without_a_new_sample_is_refused(detect):
    times, values = wave()
    with pytest.raises(analysis.WindowTooShortError):
        detect(times, values, since=times[-1] + 1, floor=0.0)


def test_the_control_band_says_that_a_window_is_too_short():
    with pytest.raises(analysis.WindowTooShortError, match="needs 16 samples, got 8"):
        analysis.ewma_band(*wave(8), since=0.0, floor=0.0)


@pytest.mark.parametrize("clean", [analysis.clean, analysis_numpy.clean])
def test_cleaning_sorts_drops_fills_and_normalises(clean):
    times = [4.0, 0.0, 1.0, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0, 10.0]
    values = [40.0, 0.0, 99.0, 10.0, 20.0, math.nan, 70.0, 80.0, math.inf, 100.0]
    cleaned = clean(times, values)
    assert cleaned.times == [float(second) for second in range(11)]
    assert cleaned.values == pytest.approx([10.0 * second for second in range(11)])
    assert (cleaned.dropped, cleaned.filled) == (3, 4)
    assert cleaned.centre == pytest.approx(50.0)
    assert cleaned.normalised[5] == pytest.approx(0.0)
    assert cleaned.normalised[10] == pytest.approx(50.0 / cleaned.scale)


@pytest.mark.parametrize("clean", [analysis.clean, analysis_numpy.clean])
def test_cleaning_refuses_a_window_without_two_samples(clean):
    with pytest.raises(analysis.WindowTooShortError, match="1 usable samples of 2"):
        clean([1.0, 2.0], [math.nan, 3.0])


def test_the_numpy_twins_agree_with_pure_python():
    print(f"seed {SEED}")
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
        assert analysis_numpy.aggregate(window[1]) == pytest.approx_equal(analysis.aggregate(window[1]))


@pytest.mark.parametrize("fit", [analysis.least_squares, analysis_numpy.least_squares, analysis.theil_sen])
@pytest.mark.parametrize(("slope", "direction"), [(0.5, "rising"), (-0.5, "falling"), (0.0, "flat")])
def test_trends_have_the_slope_and_direction_of_the_line(fit, slope, direction):
    rng = random.Random(SEED)
    times = [1e9 + 2.0 * index for index in range(100)]
    values = [7 + slope * (time_s - 1e9) + rng.gauss(0, 1) for time_s in times]
    trend = fit(times, values, floor=0.0)
    assert trend.slope_per_s == pytest.approx(slope, abs=0.02)
    assert trend.direction == direction
    assert trend.change == pytest.approx(slope * 198, abs=4)


def test_outliers_move_least_squares_but_not_theil_sen():
    times = [float(index) for index in range(50)]
    values = times[:40] + [1000.0] * 10
    assert analysis.theil_sen(times, values, 0.0).slope_per_s == pytest.approx(1.0)
    assert analysis.least_squares(times, values, 0.0).slope_per_s > 10


@pytest.mark.parametrize("aggregate", [analysis.aggregate, analysis_numpy.aggregate])
def test_aggregates_are_the_usual_numbers(aggregate):
    result = aggregate([float(value) for value in range(100, -1, -1)])
    assert (result.count, result.p50, result.p95, result.mean) == (101, 50.0, 95.0, 50.0)
    assert (result.minimum, result.maximum) == (0.0, 100.0)


def alert_story(*scores: float) -> list[str]:
    """The kinds of alert that these scores, a minute apart, bring about."""
    state, kinds = AlertState(), []
    for index, score in enumerate(scores):
        point = Point(60.0 * index, 1.0, score)
        state, alert = analysis.judge_alert(state, "cpu", point, f"minute {index}", 60.0)
        kinds += [alert.kind] if alert else []
    return kinds


def test_alerts_have_hysteresis_and_do_not_repeat_themselves():
    assert alert_story(7.9) == []
    assert alert_story(9, 20, 9, 5, 9) == ["RAISED"]
    assert alert_story(9, 3) == ["RAISED", "CLEARED"]
    assert alert_story(9, 3, 9, 3, 9) == ["RAISED", "CLEARED"]  # back within minutes: raised without a word
    assert alert_story(9, 3, *[0] * 12, 9) == ["RAISED", "CLEARED", "RAISED"]


def test_an_alert_says_what_when_and_how_far_and_its_copy_has_the_same_id():
    question = (AlertState(), "cpu", Point(60.0, 99.5, 12.3), "12:01:00", 60.0)
    (_, first), (_, copy) = analysis.judge_alert(*question), analysis.judge_alert(*question)
    assert first == copy
    assert first is not None
    assert first.text == "RAISED cpu = 99.5 at 12:01:00, 12.3 sigma off"


# -- input ------------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_csv_is_read_with_its_faults_counted_by_line(tmp_path):
    good = "".join(f"2024-01-01 00:{minute:02}:00,{minute}\n" for minute in range(9, -1, -1))
    bad = "yesterday,1\n2024-01-01 01:00:00,\n2024-01-01 01:00:00\n2024-01-01 01:00:00,nan\n"
    read = csv_input.read(write(tmp_path / "load.csv", "Value,x,Timestamp\n".replace("Value,x,T", "T") and (
        "timestamp,value\n" + good + bad
    )))
    assert read.name == "load"
    assert read.values == [float(minute) for minute in range(10)]
    assert read.times[1] - read.times[0] == 60.0
    assert read.notes() == [
        "4 of the file's rows were left out: line 12: timestamp 'yesterday'; line 13: value ''; "
        "line 14: 1 columns; and 1 more",
        "the file's rows were not in time order: they were sorted",
    ]


def test_columns_are_found_by_name_and_times_may_be_numbers(tmp_path):
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
def test_a_file_that_cannot_be_replayed_is_refused_with_the_reason(tmp_path, content, fault):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(csv_input.InputError, match=fault):
        csv_input.read(path)


async def collect(feed: FileFeed) -> list[tuple[float, float]]:
    return [(window.since, window.times[-1]) async for window in feed.windows()]


def test_a_file_feed_covers_every_row_once_within_its_seconds():
    import asyncio

    rows = 1003
    read = csv_input.Table("load", [float(index) for index in range(rows)], [1.0] * rows)
    began_s = time.monotonic()
    spans = asyncio.run(collect(FileFeed(read, rate=4000, seconds=0.2)))
    assert time.monotonic() - began_s < 2
    assert spans[0][0] == 0.0
    assert spans[-1][1] == rows - 1
    assert all(after[0] == before[1] + 1 for before, after in zip(spans, spans[1:], strict=False))

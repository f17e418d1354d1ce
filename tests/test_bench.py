"""What the benchmark makes of its figures; measuring itself is tried by running it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import report
from bench.machine import FOREIGN_LIMIT, CpuFile, Meter, Reading, Spent
from bench.measure import Batch, as_json, percentile, row
from bench.steps import medians


def batch(milliseconds: list[float], foreign: float = 0.0) -> Batch:
    latencies = tuple(int(value * 1e6) for value in milliseconds)
    spent = Spent(wall_ns=10**9, own_ns=len(latencies) * 4_000_000, kernel_ns=0, foreign=foreign)
    return Batch(latencies=latencies, running_ns=10**9, spent=spent)


def results() -> dict[str, Any]:
    rows = [
        row("http", "python", 0, [batch([3.0] * 4)], 1),
        row("http", "bare python3 -c", 0, [batch([12.0] * 4)], 1),
        row("http", "python", 8, [batch([9.0] * 400)], 1),
        row("http", "bare python3 -c", 8, [batch([30.0] * 100, foreign=0.5)], 1),
    ]
    step = {"name": "taken", "text": "a waiting box is taken", "took_ms": 0.1, "at_ms": 0.1}
    return {
        "machine": {"CPU": "a made-up one"},
        "measured": "never",
        "rows": [as_json(made) for made in rows],
        "steps": {"python": [step]},
        "ends": [{"name": "a loop", "answered_ms": 3.0, "worst_ms": 4.0, "gone_ms": 5.0}],
        "idle": [{"kind": "python", "boxes": 4, "pss_mib": 6.9}],
    }


def test_percentiles_are_values_that_occurred() -> None:
    values = [4_000_000, 1_000_000, 3_000_000, 2_000_000]
    assert [percentile(values, p) for p in (1, 50, 75, 100)] == [1, 2, 3, 4]


def test_quiet_batches_are_preferred_to_noisy_ones() -> None:
    made = row("http", "x", 0, [batch([9.0], foreign=0.9), batch([1.0]), batch([2.0])], 2)
    assert (made.least, made.p99, made.noisy) == (1, 2, False)


def test_what_is_noisy_is_marked() -> None:
    assert row("http", "x", 0, [batch([1.0], foreign=FOREIGN_LIMIT)], 1).noisy


def test_a_subject_that_never_ran_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not run"):
        row("http", "x", 0, [batch([])], 1)


def test_foreign_work_is_what_neither_we_nor_the_kernel_did(tmp_path: Any) -> None:
    clock = Meter(CpuFile(path=str(tmp_path / "unread")))
    before = Reading(at=0, own=0, kernel=0, total=0)
    after = Reading(at=1000, own=300, kernel=100, total=900)
    assert clock.between(before, after).foreign == pytest.approx(0.5)


def test_ratios_are_to_the_bare_start_of_the_same_minutes() -> None:
    found = results()
    assert "| python | 3.00 | 3.00 | 3.00 | **0.25** |" in report.latency(found, "http")
    assert "| python | 400 | **4.00** |" in report.throughput(found, "http")
    assert "bare python3 -c (noisy)" in report.throughput(found, "http")
    assert "noisy" not in report.latency(found, "http")


def test_every_part_of_the_page_is_made_anew() -> None:
    text = report.PAGE.read_text()
    assert set(report.PARTS) == {match[1] for match in report.PART.findall(text)}
    once = report.page(results(), text)
    assert "a made-up one" in once
    assert "Not measured yet" not in once
    assert report.page(results(), once) == once


def test_the_published_page_is_that_of_the_published_results() -> None:
    text = report.PAGE.read_text()
    if not report.RESULTS.exists():  # then the page says so, and shows nothing
        assert "Not measured yet" in text
        assert not report.PICTURE.exists()
        return
    published = json.loads(report.RESULTS.read_text())
    assert report.page(published, text) == text
    assert report.picture(published) == report.PICTURE.read_text()


def test_the_picture_shows_each_latency_once() -> None:
    picture = report.picture(results())
    assert picture.count(">python<") == 1
    assert picture.count(">bare python3 -c<") == 1


def test_steps_count_from_the_moment_before() -> None:
    rows = [{"taken": 1_000_000, "told": 3_000_000, "eof": 2_000_000} for _ in range(3)]
    assert [(step.name, step.took_ms) for step in medians(rows)] == [
        ("taken", 1),
        ("eof", 1),
        ("told", 1),
    ]

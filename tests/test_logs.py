"""A line of the log says why, without saying what was run."""

from __future__ import annotations

from era import logs
from era.errors import InternalError


def test_the_cause_of_a_failure_is_in_its_line() -> None:
    error = InternalError("execution_failed", details="mounts: Operation not permitted")
    line = logs.described(error)
    assert line["exception"] == "InternalError"
    assert line["words"] == "Failed to execute code: mounts: Operation not permitted"


def test_words_are_bounded() -> None:
    assert len(logs.described(ValueError("x" * 10_000))["words"]) == logs.MAX_WORDS

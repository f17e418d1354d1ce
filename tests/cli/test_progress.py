"""What is shown of a setup while it is under way."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from era.cli import progress
from era.client import SetupInfo
from era.client.answers import SetupProgress

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def state(
    step: str = "", index: int = 1, line: str = "", seconds: float = 0, total: int = 2
) -> SetupInfo:
    at = SetupProgress(
        step=step,
        step_index=index,
        steps_total=total,
        started_at=NOW,
        elapsed_ms=int(seconds * 1000),
        last_line=line,
    )
    return SetupInfo(setup_status="running", progress=at if step else None)


def over(status: Literal["completed", "failed"]) -> SetupInfo:
    return SetupInfo(setup_status=status)


STATES = (
    SetupInfo(setup_status="pending"),
    state("pip", seconds=0.4, line="Resolved 4 packages"),
    state("pip", seconds=1.6, line="Resolved 4 packages"),
    state("pip", seconds=2.5, line="Installed 4 packages"),
    state("npm", 2, seconds=1),
)


def test_lines_are_written_when_something_has_changed() -> None:
    written: list[str] = []
    show = progress.lines(written.append)
    for each in (*STATES, over("completed")):
        show(each)
    assert written == [
        "setup pending",
        "setup running, step 1 of 2 (pip), 0 s: Resolved 4 packages",
        "setup running, step 1 of 2 (pip), 2 s: Installed 4 packages",
        "setup running, step 2 of 2 (npm), 1 s",
        "setup completed",
    ]


def test_whoever_waited_tells_of_a_failure() -> None:
    written: list[str] = []
    show = progress.lines(written.append)
    for each in (STATES[0], over("failed")):
        show(each)
    assert written == ["setup pending"]


def drawn(*states: SetupInfo) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with progress.live(console) as show:
        for each in states:
            show(each)
            console.print("", end="")
    return out.getvalue()


def test_steps_that_are_over_stay_and_the_one_under_way_is_drawn() -> None:
    seen = drawn(*STATES)
    assert "pip 2.5 s\n" in seen
    assert "step 2 of 2 (npm), 1 s" in seen
    assert "npm 1.0 s\n" not in seen
    assert "npm 1.0 s\n" in drawn(*STATES, over("completed"))
    assert "npm 1.0 s\n" not in drawn(*STATES, over("failed"))


def test_an_installer_cannot_speak_to_the_terminal() -> None:
    hostile = "\x1b]0;title\x07\x1b[2J[bold]not markup[/bold]\u202e \r"
    seen = drawn(state("pip", line=hostile))
    assert "[bold]not markup[/bold]" in seen
    assert not [part for part in ("\x1b]", "\x1b[2J", "\x07", "\u202e") if part in seen]


@given(st.text())
def test_whatever_is_printable_stays(text: str) -> None:
    shown = progress.printable(text)
    assert shown.isprintable()
    assert progress.printable(shown) == shown
    if text.isprintable():
        assert shown == text.strip()

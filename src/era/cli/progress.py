"""How far a setup is, drawn from the states that a client sees: live on a terminal, as lines in a pipe.

The last line of an installer is a stranger's text: nothing of it that a terminal would obey is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from era.client import SetupInfo

Show = Callable[["SetupInfo"], None]


@contextmanager
def live(console: Console) -> Iterator[Show]:
    """Draws on a terminal while the context lasts: a line for each step that is over, and below them
    the one under way, with its time and the last line of its output."""
    from rich.text import Text

    before: SetupInfo | None = None
    with console.status(Text("setup")) as status:

        def show(state: SetupInfo) -> None:
            nonlocal before
            if before is not None and (done := ended(before, state)):
                console.print(Text(done))
            before = state
            words = in_words(state)
            status.update(Text(words[: max(console.width - 4, 20)]))

        yield show


def lines(write: Callable[[str], None]) -> Show:
    """Writes a line whenever there is something new to say; of a failure whoever waited tells more."""
    shown = ""

    def show(state: SetupInfo) -> None:
        nonlocal shown
        if state.setup_status == "failed":
            return
        known = in_words(state, with_time=False)
        if known != shown:
            shown = known
            write(in_words(state))

    return show


def in_words(state: SetupInfo, *, with_time: bool = True) -> str:
    """A state in one line."""
    at = state.progress
    if at is None:
        return f"setup {state.setup_status}"
    time = f", {at.elapsed_ms / 1000:.0f} s" if with_time else ""
    words = (
        f"setup {state.setup_status}, step {at.step_index} of {at.steps_total} ({at.step}){time}"
    )
    last = printable(at.last_line)
    return f"{words}: {last}" if last else words


def ended(before: SetupInfo, now: SetupInfo) -> str | None:
    """What to say of the step of `before`, when it is over in `now` and nothing has failed."""
    then, at = before.progress, now.progress
    if then is None or now.setup_status == "failed":
        return None
    if at is not None and at.step_index == then.step_index:
        return None
    return f"{then.step} {then.elapsed_ms / 1000:.1f} s"


def printable(text: str) -> str:
    """The text without what moves cursors, changes colours or turns writing around."""
    return "".join(char if char.isprintable() else " " for char in text).strip()

"""What commands print: tables and bars on a terminal, plain text in a pipe, JSON with `--json`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

from era import jsontext

if TYPE_CHECKING:
    from era.client import Result
    from era.errors import EraError


_CONTROL: Final = re.compile("[\x7f-\x9f]")
"""Control characters that JSON does not escape by itself, but terminals obey."""


def print_json(value: Any) -> None:
    """One compact line on standard output."""
    print_text(sys.stdout, f"{jsontext.dumps(value)}\n")


def print_pretty(value: Any) -> None:
    """JSON over several lines, for people."""
    text = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", jsontext.pretty(value))
    print_text(sys.stdout, f"{text}\n")


def visible(text: str) -> str:
    """Text that a program may have chosen, such as the name of a file: what would steer a terminal is
    written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_answer(answer: Any, *, as_json: bool) -> int:
    """An answer as it is, or laid out for people; 0, since there was one."""
    (print_json if as_json else print_pretty)(answer)
    return 0


def print_text(stream: TextIO, text: str) -> None:
    """Text as UTF-8, whatever the terminal is said to take."""
    stream.flush()
    stream.buffer.write(text.encode("utf-8", "replace"))
    stream.buffer.flush()


def note(words: str) -> None:
    """Words of our own, where no output of a program is expected."""
    lines = "\n".join(map(visible, words.split("\n")))
    print_text(sys.stderr, f"era: {lines}\n")


def print_error(error: EraError, *, as_json: bool) -> None:
    """What was refused and what may help, on standard error."""
    if as_json:
        print_text(sys.stderr, f"{jsontext.dumps(error.body())}\n")
        return
    message = error.extra.get("message")
    note(f"{error.text}: {message}" if message else error.text)
    for member in ("details", "hint"):
        words = error.extra.get(member)
        if isinstance(words, str):
            print_text(sys.stderr, f"  {visible(words)}\n")
    if supported := error.extra.get("supported"):
        print_text(sys.stderr, f"  supported: {', '.join(map(str, supported))}\n")


def print_usage_error(words: str, *, as_json: bool) -> None:
    """Why a command line cannot be carried out."""
    if as_json:
        print_text(sys.stderr, f"{jsontext.dumps({'error': words, 'code': 'wrong_usage'})}\n")
    else:
        note(f"{words}\n  See `era --help`.")


def print_result(result: Result, *, as_json: bool) -> int:
    """A program's output on its own streams; its exit code."""
    if as_json:
        print_json(result.raw)
    else:
        print_text(sys.stdout, result.stdout)
        print_text(sys.stderr, result.stderr)
        print_notes(result)
    return result.exit_code


def print_notes(result: Result) -> None:
    """What the output and the exit code do not say by themselves."""
    said = {
        "the timeout ended the program": result.timed_out,
        "the memory limit ended the program": result.oom_killed,
        "the program was cancelled": result.cancelled,
        "output beyond the limit was dropped": result.stdout_truncated or result.stderr_truncated,
        f"the data was not kept: {result.data_error}": result.data_error,
        f"the files were not kept: {result.files_error}": result.files_error,
    }
    for words in [words for words, true in said.items() if true]:
        note(words)
    for skipped in result.files_skipped:
        note(f"{skipped.path} was not kept: {skipped.reason}")
    for warning in result.warnings:
        note(warning)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns: drawn on a terminal, aligned text in a pipe."""
    rows = [[visible(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _drawn(headings, rows)
        return
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    for row in (headings, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_text(sys.stdout, f"{'  '.join(cells).rstrip()}\n")


def _drawn(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(escape(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def moment(text: Any) -> str:
    """A time as people read it; `-` for never."""
    if not text or str(text).startswith("0001"):
        return "-"
    return str(text)[:19].replace("T", " ")


def size(count: int) -> str:
    """A number of bytes in its largest unit."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{count} B"


def yes(value: Any) -> str:
    """Yes or no, as a cell."""
    return "yes" if value else "no"


def pairs(members: Mapping[str, Any], names: Iterable[str]) -> str:
    """Some members of an answer as one line."""
    return ", ".join(f"{name} {members[name]}" for name in names if members.get(name) is not None)

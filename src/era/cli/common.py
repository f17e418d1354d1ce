"""What the commands share: their common arguments, and what can go wrong before a request is made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

if TYPE_CHECKING:
    from era.client import Era

CANNOT_START: Final = 1
WRONG_USAGE: Final = 2
REFUSED: Final = 125
"""The service refused, or cannot be reached."""
INTERRUPTED: Final = 130


class UsageError(Exception):
    """The command line does not say something that can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every command is told."""

    log_level: str | None = None
    log_file: str | None = None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Which server a command talks to."""

    url: str | None = None
    """Address of the server; else ERA_API_URL, else the one on this machine."""
    api_key: str | None = None
    """Key of the server; else ERA_API_KEY."""

    def open(self) -> Era:
        """A client of that server."""
        from era.client import Era

        return Era(self.url, api_key=self.api_key)


Injected = Annotated[Common, Parameter(parse=False)]
Rest = Annotated[tuple[str, ...], Parameter(parse=False)]
"""What stood after `--`: the arguments of a program, never read as flags."""
Switch = Annotated[bool, Parameter(negative="")]
Repeated = Annotated[list[str] | None, Parameter(negative="")]
Server = Annotated[Remote, Parameter(name="*")]
HERE: Final = Remote()
STANDARD_INPUT: Final = "/dev/stdin"
"""What `-` is short for wherever a file is named."""


def examples(*lines: str) -> str:
    """Command lines for the end of a help text."""
    heading = "Examples:" if len(lines) > 1 else "Example:"
    return "\n\n".join([heading, *(f"  {line}" for line in lines)])


def session_path(session_id: str, rest: str = "") -> str:
    """The address of a session, or of something below it."""
    from era.client.bodies import segment

    return f"/api/sessions/{segment(session_id)}{rest}"


def variables(pairs: Sequence[str] | None, option: str = "--env") -> dict[str, str] | None:
    """`NAME=value` as a mapping.

    Raises:
        UsageError: there is no `=`.
    """
    split = [pair.partition("=") for pair in pairs or ()]
    if not all(separator for _, separator, _ in split):
        raise UsageError(f"{option} must be NAME=value")
    return {name: value for name, _, value in split} or None


def json_value(text: str | None, option: str) -> Any:
    """The value of a JSON text, None for none.

    Raises:
        UsageError: it is not JSON.
    """
    from era import jsontext

    if text is None:
        return None
    try:
        return jsontext.loads(text)
    except jsontext.JsonTextError as error:
        raise UsageError(f"{option} must be JSON: {error}") from None


def text_of(file: str) -> str:
    """The text of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if file == STANDARD_INPUT:
            return sys.stdin.read()
        with open(file, encoding="utf-8") as opened:
            return opened.read()
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}") from None


def program(code: str | None, file: str | None, stdin: str | None = None) -> str | None:
    """The code of `--code`, `--file` or standard input; None where nobody types and nothing comes.

    Raises:
        UsageError: it is said twice, or cannot be read.
    """
    if code is not None and file is not None:
        raise UsageError("give --code or --file, not both")
    from_stdin = file == STANDARD_INPUT or (code is None and file is None)
    if stdin == STANDARD_INPUT and from_stdin:
        raise UsageError("standard input is the code or its input, not both: use --code or --file")
    if code is not None:
        return code
    if file is not None:
        return text_of(file)
    return None if sys.stdin.isatty() else sys.stdin.read()


def attached(specs: Sequence[str] | None) -> dict[str, str | bytes] | None:
    """Local files to send along, as `FILE` or `PATH=FILE`: path in the workspace to bytes.

    Raises:
        UsageError: one cannot be read.
    """
    import os

    out: dict[str, str | bytes] = {}
    for spec in specs or ():
        path, separator, local = spec.partition("=")
        local = local if separator else spec
        try:
            with open(local, "rb") as opened:
                out[path if separator else os.path.basename(spec)] = opened.read()
        except OSError as error:
            raise UsageError(f"{local}: {(error.strerror or str(error)).lower()}") from None
    return out or None

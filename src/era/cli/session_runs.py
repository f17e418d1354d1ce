"""`era session run`, `stream` and `cancel`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from era.cli.common import (
    HERE,
    Injected,
    Repeated,
    Rest,
    Server,
    Switch,
    UsageError,
    json_value,
    program,
    session_path,
    text_of,
    variables,
)
from era.cli.output import print_json, print_notes, print_result, print_text

if TYPE_CHECKING:
    from era.client import Event


def arguments(
    code: str | None,
    file: str | None,
    command: str | None,
    stdin: str | None,
    timeout: float | None,
    env: list[str] | None,
    update_data: str | None,
    no_wait: bool,
    cancel_on_disconnect: bool,
    rest: Sequence[str],
) -> dict[str, Any]:
    """What a run is asked with.

    Raises:
        UsageError: a command and code, or something that cannot be read.
    """
    if command is not None and (code is not None or file is not None):
        raise UsageError("give --command or code, not both")
    return {
        "code": program(code, file, stdin) if command is None else None,
        "command": command,
        "timeout": timeout,
        "env": variables(env),
        "stdin": None if stdin is None else text_of(stdin),
        "args": rest or None,
        "update_data": json_value(update_data, "--update-data"),
        "wait_for_setup": False if no_wait else None,
        "cancel_on_disconnect": cancel_on_disconnect or None,
    }


def run(
    session_id: str,
    /,
    *,
    code: str | None = None,
    file: str | None = None,
    command: str | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    env: Repeated = None,
    update_data: str | None = None,
    no_wait: Switch = False,
    cancel_on_disconnect: Switch = False,
    rest: Rest = (),
    server: Server = HERE,
    common: Injected,
) -> int:
    """Run code in a session; exit with the program's exit code.

    What stands after -- are the program's arguments.  Without any code the stored code runs.

    Parameters
    ----------
    session_id
        Its id.
    code
        The program; read from --file or standard input when not given.
    file
        File that holds the program.
    command
        A shell command instead.
    stdin
        File that the program reads as its standard input; - for this one.
    timeout
        Seconds, fractions allowed.
    env
        NAME=value; may be given more than once.
    update_data
        JSON object, merged into the session's data before.
    no_wait
        Do not wait for an unfinished setup.
    cancel_on_disconnect
        End the run when this command is ended.
    """
    given = arguments(
        code,
        file,
        command,
        stdin,
        timeout,
        env,
        update_data,
        no_wait,
        cancel_on_disconnect,
        rest,
    )
    with server.open() as era:
        result = era.session(session_id).run(**given)
    return print_result(result, as_json=common.json)


def stream(
    session_id: str,
    /,
    *,
    code: str | None = None,
    file: str | None = None,
    command: str | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    env: Repeated = None,
    update_data: str | None = None,
    no_wait: Switch = False,
    cancel_on_disconnect: Switch = False,
    rest: Rest = (),
    server: Server = HERE,
    common: Injected,
) -> int:
    """Run code in a session and print its output as it comes.

    The same as `run`; with --json each event is a line.

    Parameters
    ----------
    session_id
        Its id.
    code
        The program; read from --file or standard input when not given.
    file
        File that holds the program.
    command
        A shell command instead.
    stdin
        File that the program reads as its standard input; - for this one.
    timeout
        Seconds, fractions allowed.
    env
        NAME=value; may be given more than once.
    update_data
        JSON object, merged into the session's data before.
    no_wait
        Do not wait for an unfinished setup.
    cancel_on_disconnect
        End the run when this command is ended.
    """
    given = arguments(
        code,
        file,
        command,
        stdin,
        timeout,
        env,
        update_data,
        no_wait,
        cancel_on_disconnect,
        rest,
    )
    exit_code = 0
    with server.open() as era:
        for event in era.session(session_id).stream(**given):
            exit_code = show(event, as_json=common.json)
    return exit_code


def show(event: Event, *, as_json: bool) -> int:
    """Print an event; the exit code that it brings, if it is the last."""
    if as_json:
        members = event.result.raw if event.result is not None else {}
        kept = {k: v for k, v in members.items() if k not in ("stdout", "stderr")}
        print_json({"type": event.kind, "content": event.text, **kept})
    elif event.result is not None:
        print_notes(event.result)
    else:
        print_text(sys.stdout if event.kind == "stdout" else sys.stderr, event.text)
    return 0 if event.result is None else event.result.exit_code


def cancel(session_id: str, /, *, server: Server = HERE, common: Injected) -> int:
    """End the run in progress; what it did is kept.

    Parameters
    ----------
    session_id
        Its id.
    """
    with server.open() as era:
        answer = era.request("POST", session_path(session_id, "/cancel"), {})
    if common.json:
        print_json(answer)
    else:
        print(f"Cancelled {answer['run_id']}" if answer["cancelled"] else "Nothing is running.")
    return 0

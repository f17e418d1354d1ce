"""`era session`: making sessions, and what becomes of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cyclopts import App

from era.cli import session_create, session_files, session_runs
from era.cli.common import (
    HERE,
    Injected,
    Server,
    Switch,
    UsageError,
    examples,
    json_value,
)
from era.cli.common import (
    session_path as path,
)
from era.cli.output import moment, note, print_json, print_table, size, yes
from era.cli.output import print_answer as show

if TYPE_CHECKING:
    pass

session = App(name="session", help="Sessions: code that finds its files and data again.")
for function, lines in (
    (
        session_create.create,
        (
            "era session create --language python --id demo --pip pandas --wait",
            "era session create --language node --package-json package.json",
        ),
    ),
    (session_create.setup, ("era session setup demo --wait",)),
    (
        session_runs.run,
        (
            "era session run demo --code 'print(6 * 7)'",
            "era session run demo --file count.py -- --from 1",
            "era session run demo --command 'ls -l'",
        ),
    ),
    (session_runs.stream, ("era session stream demo --file train.py",)),
    (session_runs.cancel, ("era session cancel demo",)),
    (session_files.files, ("era session files demo data/",)),
    (session_files.put, ("era session put demo cities.csv data/cities.csv",)),
    (session_files.fetch, ("era session fetch demo report.html .",)),
    (session_files.rm, ("era session rm demo data --recursive",)),
    (session_files.code, ("era session code demo --set serve.py", "era session code demo")),
):
    session.command(function, help_epilogue=examples(*lines))


@session.command(name="list", help_epilogue=examples("era session list --prefix user-"))
def list_(*, prefix: str = "", server: Server = HERE, common: Injected) -> int:
    """List the sessions, oldest first.

    Parameters
    ----------
    prefix
        Only ids that begin so.
    """
    with server.open() as era:
        query = {"prefix": prefix} if prefix else None
        answer = era.request("GET", "/api/sessions", query=query)
    if common.json:
        print_json(answer)
        return 0
    if not answer["sessions"]:
        print("No sessions found.")
        return 0
    headings = ("ID", "Language", "Files", "Size", "Setup", "Running", "Created", "Last Run")
    print_table(headings, [_row(entry) for entry in answer["sessions"]])
    print(f"Total: {answer['total_count']}")
    return 0


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        entry["id"],
        entry["language"],
        str(entry["file_count"]),
        size(entry["total_size_bytes"]),
        entry.get("setup_status", "-"),
        yes(entry["running"]),
        moment(entry["created_at"]),
        moment(entry["last_run_at"]),
    )


@session.command(help_epilogue=examples("era session get demo --json"))
def get(session_id: str, /, *, server: Server = HERE, common: Injected) -> int:
    """Show a session as it was last committed.

    Parameters
    ----------
    session_id
        Its id.
    """
    with server.open() as era:
        return show(era.request("GET", path(session_id)), as_json=common.json)


@session.command(help_epilogue=examples("era session delete demo", "era session delete --all"))
def delete(
    session_id: str | None = None,
    /,
    *,
    all: Switch = False,
    prefix: str = "",
    yes: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Delete a session with all it holds, or all of them.

    Parameters
    ----------
    session_id
        Its id.
    all
        All sessions; asks before.
    prefix
        With --all: only ids that begin so.
    yes
        Do not ask.
    """
    if (session_id is None) != all:
        raise UsageError("give the id of a session, or --all")
    if prefix and not all:
        raise UsageError("--prefix goes with --all")
    if session_id is None and not yes and not _agreed(prefix):
        note("nothing was deleted")
        return 0
    with server.open() as era:
        if session_id is None:
            query = {"prefix": prefix} if prefix else None
            answer = era.request("DELETE", "/api/sessions", query=query)
            words = f"Deleted {answer['deleted_count']} sessions"
        else:
            answer = era.request("DELETE", path(session_id))
            words = f"Deleted {answer['deleted']}"
    if common.json:
        print_json(answer)
    else:
        print(words)
    return 0


def _agreed(prefix: str) -> bool:
    """Ask whoever sits there.

    Raises:
        UsageError: nobody does.
    """
    if not sys.stdin.isatty():
        raise UsageError("--all asks before it deletes: add --yes where nobody can answer")
    which = f"all sessions that begin with {prefix}" if prefix else "all sessions"
    print(f"Delete {which}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@session.command(help_epilogue=examples("era session duplicate template user-17"))
def duplicate(
    session_id: str,
    new_id: str | None = None,
    /,
    *,
    data: str | None = None,
    files: bool | None = None,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Copy a session, and print the copy's id.

    Parameters
    ----------
    session_id
        Id of the source.
    new_id
        Id of the copy; made up by the server if not given.
    data
        JSON instead of the source's data.
    files
        Whether the copy has the files; else when the source is persistent.
    """
    body = {"new_id": new_id, "data": json_value(data, "--data"), "include_files": files}
    body = {name: value for name, value in body.items() if value is not None}
    with server.open() as era:
        copy = era.request("POST", path(session_id, "/duplicate"), body)
    if common.json:
        print_json(copy)
    else:
        print(copy["id"])
    return 0


@session.command(help_epilogue=examples("era session patch demo --default-timeout 60 --public"))
def patch(
    session_id: str,
    /,
    *,
    data: str | None = None,
    metadata: str | None = None,
    allow_internet: bool | None = None,
    public: bool | None = None,
    default_timeout: str | None = None,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Change a session's settings; what is not named stays.

    Parameters
    ----------
    session_id
        Its id.
    data
        JSON that replaces its data.
    metadata
        JSON object that replaces its metadata.
    allow_internet
        Whether its runs reach public addresses.
    public
        Whether everyone reaches a server in it.
    default_timeout
        Seconds that its runs may take, or none.
    """
    body: dict[str, Any] = {
        "data": json_value(data, "--data"),
        "metadata": json_value(metadata, "--metadata"),
        "allowInternetAccess": allow_internet,
        "allowPublicAccess": public,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if default_timeout is not None:
        body["default_timeout"] = _seconds(default_timeout)
    with server.open() as era:
        answer = era.request("PATCH", path(session_id), body)
    return show(answer if common.json else answer["metadata"], as_json=common.json)


def _seconds(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError("--default-timeout must be a number of seconds, or none") from None


@session.command(help_epilogue=examples("era session host demo --port 8000"))
def host(session_id: str, /, *, port: int, server: Server = HERE, common: Injected) -> int:
    """Print where a server that a run starts can be reached.

    Parameters
    ----------
    session_id
        Its id.
    port
        The port it listens on.
    """
    with server.open() as era:
        answer = era.request("GET", path(session_id, "/host"), query={"port": port})
    if common.json:
        print_json(answer)
        return 0
    print(answer["url"])
    if not answer["public"]:
        note(str(answer.get("hint", "")))
    return 0

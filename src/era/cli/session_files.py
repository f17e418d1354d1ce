"""`era session files`, `put`, `fetch`, `rm` and `code`."""

from __future__ import annotations

import os
import sys

from era.cli.common import HERE, STANDARD_INPUT, Injected, Server, Switch, UsageError, text_of
from era.cli.common import session_path as address
from era.cli.output import moment, print_json, print_table, print_text, size, visible


def files(session_id: str, prefix: str = "", /, *, server: Server = HERE, common: Injected) -> int:
    """List the files of a session.

    Parameters
    ----------
    session_id
        Its id.
    prefix
        Only paths that begin so.
    """
    with server.open() as era:
        query = {"prefix": prefix} if prefix else None
        answer = era.request("GET", address(session_id, "/files"), query=query)
    if common.json:
        print_json(answer)
        return 0
    if not answer["files"]:
        print("No files found.")
        return 0
    rows = [
        (entry["path"], size(entry["size"]), entry["mode"], moment(entry["modified_at"]))
        for entry in answer["files"]
    ]
    print_table(("Path", "Size", "Mode", "Modified"), rows)
    print(f"Total: {answer['total_count']}, {size(answer['total_size_bytes'])}")
    return 0


def put(
    session_id: str,
    local: str,
    path: str | None = None,
    /,
    *,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Store a local file in a session.

    Parameters
    ----------
    session_id
        Its id.
    local
        The local file; - for standard input.
    path
        Its path in the session; else its own name.
    """
    if local == STANDARD_INPUT and path is None:
        raise UsageError("give the path that standard input is stored at")
    with server.open() as era:
        held = era.session(session_id).files
        try:
            if local == STANDARD_INPUT:
                stored = held.write(path or "", iter(_standard_input, b""))
            else:
                stored = held.upload(local, path or os.path.basename(os.path.abspath(local)))
        except OSError as error:
            raise UsageError(f"{local}: {(error.strerror or str(error)).lower()}") from None
    if common.json:
        print_json(stored.raw)
    else:
        print(f"{visible(stored.path)}  {size(stored.size)}")
    return 0


def _standard_input() -> bytes:
    return sys.stdin.buffer.read(1 << 20)


def fetch(
    session_id: str,
    path: str,
    local: str | None = None,
    /,
    *,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Write a file of a session to a local file, or to standard output.

    Parameters
    ----------
    session_id
        Its id.
    path
        Its path in the session.
    local
        The local file; standard output when not given, or -.
    """
    with server.open() as era:
        held = era.session(session_id).files
        if local in (None, STANDARD_INPUT):
            for piece in held.chunks(path):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return 0
        assert local is not None
        target = os.path.join(local, os.path.basename(path)) if os.path.isdir(local) else local
        try:
            held.download(path, target)
        except OSError as error:
            raise UsageError(f"{target}: {(error.strerror or str(error)).lower()}") from None
    if common.json:
        print_json({"path": path, "local": target})
    return 0


def rm(
    session_id: str,
    path: str,
    /,
    *,
    recursive: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Delete a file of a session.

    Parameters
    ----------
    session_id
        Its id.
    path
        Its path in the session.
    recursive
        A directory with all below it.
    """
    with server.open() as era:
        era.session(session_id).files.delete(path, recursive=recursive)
    if common.json:
        print_json({"deleted": path})
    else:
        print(f"Deleted {visible(path)}")
    return 0


def code(
    session_id: str,
    /,
    *,
    set: str | None = None,
    description: str | None = None,
    show: Switch = False,
    clear: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Show, store or forget the code that a session runs when none is given.

    Parameters
    ----------
    session_id
        Its id.
    set
        File that holds the code to store; - for standard input.
    description
        With --set: what it does.
    show
        Print it; the same as no flag.
    clear
        Forget it.
    """
    if [set is not None, show, clear].count(True) > 1:
        raise UsageError("give one of --set, --show and --clear")
    where = address(session_id, "/code")
    with server.open() as era:
        if set is not None:
            body = {"code": text_of(set), "description": description}
            body = {name: value for name, value in body.items() if value is not None}
            answer = era.request("PUT", where, body)
            words = f"Stored {answer['code_length']} characters\n"
        elif clear:
            answer, words = era.request("DELETE", where), "Cleared\n"
        else:
            answer = era.request("GET", where)
            words = answer["code"]
    if common.json:
        print_json(answer)
    else:
        print_text(sys.stdout, words)
    return 0

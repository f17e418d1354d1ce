"""What comes into a session over HTTP: to a server that its run has, or to its stored code."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import Final

from era import layout, wire
from era.errors import TooLargeError
from era.models import HttpRequest, SessionRecord
from era.sandbox.base import Bind, Connection
from era.sessions import folders
from era.sessions.active import Active, Phase, Registry
from era.workspace.failures import settled, translated

PATIENCE_SECONDS: Final = 2.0
"""How long a server in a run has to begin to listen."""
INLINE_BODY_BYTES: Final = 64 << 10
"""Up to here a body is a variable too."""
MAX_HEADERS_BYTES: Final = 120_000
"""Of the JSON text of all headers; the kernel takes at most 131072 bytes for one `NAME=value`."""
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.25
_MODE: Final = 0o444


async def reach(
    registry: Registry, record: SessionRecord, port: int, patience_seconds: float
) -> Connection | None:
    """A connection to what the run in progress serves on `port`; None when there is no such server.

    A run that answers a request is asked once: it has something else to do than to begin to serve.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_seconds
    pause = _FIRST_PAUSE_SECONDS
    while (run := in_progress(registry, record)) is not None:
        try:
            if run.box is not None:
                return await run.box.connect(port)
        except OSError:
            pass
        if run.answers or loop.time() + pause > deadline:
            return None
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
    return None


def in_progress(registry: Registry, record: SessionRecord) -> Active | None:
    """The run of a session whose program runs, or is about to."""
    run = registry.current(record.uid)
    return run if run is not None and run.phase is Phase.RUNNING else None


def variables(http: HttpRequest | None) -> dict[str, str]:
    """What stored code learns of the request that it answers."""
    if http is None:
        return {}
    return {
        "ERA_REQUEST_MODE": "proxy",
        "ERA_HTTP_METHOD": http.method,
        "ERA_HTTP_PATH": http.path,
        "ERA_HTTP_QUERY": http.query,
        "ERA_HTTP_HEADERS": _headers(http),
        "ERA_HTTP_BODY": _inline(http.body),
        "ERA_HTTP_BODY_FILE": layout.REQUEST_BODY,
    }


def check(http: HttpRequest | None) -> None:
    """Refuse a request that no program could be told of.

    Raises:
        TooLargeError: `body_too_large`, for its headers.
    """
    if http is not None and len(_headers(http).encode()) > MAX_HEADERS_BYTES:
        text = f"request headers exceed {MAX_HEADERS_BYTES} bytes"
        raise TooLargeError("body_too_large", MAX_HEADERS_BYTES, text, hint="Send fewer headers.")


def _headers(http: HttpRequest) -> str:
    return wire.encode(dict(http.headers)).decode()


def _inline(body: bytes) -> str:
    """The body as a variable: none when it is too large, is not UTF-8, or holds a NUL."""
    if len(body) > INLINE_BODY_BYTES or 0 in body:
        return ""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""


async def body_bind(http: HttpRequest | None, directory: str, held: ExitStack) -> tuple[Bind, ...]:
    """The body as a file of the box.  It lies in `directory`, whose entries of that name are removed
    at the next start, until `held` is closed.

    Raises:
        UnavailableError: `storage_full`.
    """
    if http is None or not http.body:
        return ()
    path = os.path.join(directory, folders.unfinished("body"))
    held.callback(_remove, path)
    await settled(asyncio.to_thread(_write, path, http.body))
    return (Bind(source=path, target=layout.REQUEST_BODY),)


def _write(path: str, data: bytes) -> None:
    with translated(), open(path, "xb") as file:
        file.write(data)
        os.fchmod(file.fileno(), _MODE)


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)

"""The tools that agents are shown: names, what they do, and what they take.

Plain JSON schemas; `tools` carries the calls out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

_TIMEOUT: Final = {"type": "number", "description": "Seconds the program may take; 30 if absent."}
_INTERNET: Final = {"type": "boolean", "description": "Reach public addresses; else offline."}
_SESSION: Final = {"type": "string", "description": "The id of the session."}
_LANGUAGE: Final = {"type": "string", "description": "python, node, typescript, go or deno."}
_PATH: Final = {"type": "string", "description": "A path relative to the workspace."}
_PATH_TOO: Final = {"type": "string", "description": "The same as `path`."}
_VARIABLES: Final = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "Environment variables of the program.",
}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One tool as it is shown."""

    name: str
    description: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    """At least one of these is needed."""
    reads: bool = False
    """It changes nothing."""
    deletes: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of the arguments."""
        out: dict[str, Any] = {"type": "object", "properties": dict(self.properties)}
        if self.required:
            out["required"] = list(self.required)
        if self.any_of:
            out["anyOf"] = [{"required": [name]} for name in self.any_of]
        return out


def _code(language: str, called: str) -> Shown:
    return Shown(
        name=f"era_{language}",
        description=(
            f"Run a {called} program once, in a box of its own, and return what it wrote. "
            "Nothing is kept: use a session for work of several steps."
        ),
        properties={
            "code": _text("The program."),
            "timeout": _TIMEOUT,
            "allowInternetAccess": _INTERNET,
        },
        required=("code",),
    )


TOOLS: Final = (
    _code("python", "Python"),
    _code("node", "JavaScript (Node.js)"),
    _code("typescript", "TypeScript"),
    _code("deno", "Deno (TypeScript with URL imports)"),
    Shown(
        name="era_shell",
        description=(
            "Run a command with bash: once, in a box of its own; or in the workspace of a session, "
            "whatever its language."
        ),
        properties={
            "command": _text("The command."),
            "session_id": _SESSION,
            "timeout": _TIMEOUT,
        },
        required=("command",),
    ),
    Shown(
        name="era_execute_code",
        description="Run a program once, in any language, with files and environment variables.",
        properties={
            "code": _text("The program."),
            "language": _LANGUAGE,
            "files": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Files placed in the workspace first: path to text.",
            },
            "envs": _VARIABLES,
            "timeout": _TIMEOUT,
            "allowInternetAccess": _INTERNET,
        },
        required=("code", "language"),
    ),
    Shown(
        name="era_create_session",
        description=(
            "Create a session: a workspace whose files and packages stay from run to run until it is "
            "deleted. Packages are installed in the background; the first run waits for them."
        ),
        properties={
            "language": _LANGUAGE,
            "session_id": _text("1 to 128 of A-Z a-z 0-9 - _; generated if absent."),
            "persistent": {"type": "boolean", "description": "Keep the files of runs; true."},
            "packages": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Packages of the language: pip, npm or Go modules.",
            },
            "setup": {
                "type": "object",
                "description": "A whole setup: `pip`, `npm`, `go`, `commands`, `envs`.",
            },
            "allowInternetAccess": _INTERNET,
            "default_timeout": {
                "type": "number",
                "description": "Seconds; of runs that name none.",
            },
        },
        required=("language",),
    ),
    Shown(
        name="era_run_in_session",
        description="Run a program in a session, in its language, with its files and packages.",
        properties={
            "session_id": _SESSION,
            "code": _text("The program."),
            "timeout": _TIMEOUT,
            "env": _VARIABLES,
        },
        required=("session_id", "code"),
    ),
    Shown(name="era_list_sessions", description="List the sessions.", properties={}, reads=True),
    Shown(
        name="era_get_session",
        description="A session: settings, data, state of its setup, counts of its files.",
        properties={"session_id": _SESSION},
        required=("session_id",),
        reads=True,
    ),
    Shown(
        name="era_update_session",
        description="Change settings of a session.",
        properties={
            "session_id": _SESSION,
            "default_timeout": {
                "type": "number",
                "description": "Seconds; of runs that name none.",
            },
            "allowInternetAccess": _INTERNET,
            "allowPublicAccess": {
                "type": "boolean",
                "description": "Let callers reach servers in the session without the key.",
            },
        },
        required=("session_id",),
        any_of=("default_timeout", "allowInternetAccess", "allowPublicAccess"),
    ),
    Shown(
        name="era_delete_session",
        description="Delete a session with everything in it.",
        properties={"session_id": _SESSION},
        required=("session_id",),
        deletes=True,
    ),
    Shown(
        name="era_upload_file",
        description="Write a text file into the workspace of a session.",
        properties={
            "session_id": _SESSION,
            "path": _PATH,
            "file_path": _PATH_TOO,
            "content": _text("The whole text."),
        },
        required=("session_id", "content"),
        any_of=("path", "file_path"),
    ),
    Shown(
        name="era_read_file",
        description="Read a text file of the workspace of a session.",
        properties={"session_id": _SESSION, "path": _PATH, "file_path": _PATH_TOO},
        required=("session_id",),
        any_of=("path", "file_path"),
        reads=True,
    ),
    Shown(
        name="era_list_files",
        description="List the files of the workspace of a session.",
        properties={"session_id": _SESSION},
        required=("session_id",),
        reads=True,
    ),
)

RUNS_THERE: Final = frozenset({"era_run_in_session", "era_shell"})
"""Tools that are carried out by the server that has the session they name."""
ENDS_THERE: Final = frozenset({"era_delete_session"})
"""Those that such a server should carry out, if it can be reached."""

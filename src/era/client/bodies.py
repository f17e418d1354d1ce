"""What requests say: the SDK's arguments as the members of JSON bodies.  None is left out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from era.client.answers import Raw
from era.models import UNSET, Unset
from era.relpath import RelPath

LIST_LIMIT: Final = 1000
"""Items asked for at once; the most that the service gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Packages and commands that are installed once and are there in every run.

    For each ecosystem give names, or the text of its own file.  `env` holds variables for all steps;
    the service returns none of their values.
    """

    pip: Sequence[str] = ()
    requirements: str | None = None
    npm: Sequence[str] = ()
    package_json: str | Mapping[str, Any] | None = None
    go: Sequence[str] = ()
    go_mod: str | None = None
    commands: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> Raw:
        """The `setup` member of a request.

        Raises:
            ValueError: both names and a file for one ecosystem.
        """
        out: Raw = {
            "pip": _either("pip", self.pip, "requirements", self.requirements),
            "npm": _either("npm", self.npm, "packageJson", self.package_json),
            "go": _either("go", self.go, "goMod", self.go_mod),
            "commands": list(self.commands),
            "envs": dict(self.env),
        }
        return {name: value for name, value in out.items() if value}


def _either(kind: str, names: Sequence[str], member: str, text: Any) -> Any:
    if isinstance(names, str):
        raise ValueError(f"{kind} must be a list of strings")
    if names and text is not None:
        raise ValueError(f"give either {kind} or {member}")
    return list(names) if text is None else {member: text}


def given(**members: Any) -> Raw:
    """The members that have a value."""
    return {name: value for name, value in members.items() if value is not None}


def setup_body(setup: Setup | Mapping[str, Any] | None) -> Raw | None:
    """A setup as the service takes it; a mapping is one already."""
    return setup.body() if isinstance(setup, Setup) else None if setup is None else dict(setup)


def files_body(files: Mapping[str, str | bytes] | None) -> Raw | None:
    """Files of a one-shot execution; text as it is, bytes in base64."""
    if files is None:
        return None
    return {path: _file(content) for path, content in files.items()}


def _file(content: str | bytes) -> Any:
    if isinstance(content, str):
        return content
    return {"content": base64.b64encode(content).decode(), "encoding": "base64"}


def strings(values: Sequence[str] | None, name: str) -> list[str] | None:
    """A list of strings; one string is none.

    Raises:
        ValueError: it is one string.
    """
    if isinstance(values, str):
        raise ValueError(f"{name} must be a list of strings")
    return None if values is None else list(values)


def patch_body(**members: Any) -> Raw:
    """The members of a PATCH: all that are not UNSET, None included."""
    return {name: value for name, value in members.items() if not isinstance(value, Unset)}


def file_path(path: str) -> str:
    """A workspace path in an address.

    Raises:
        InputError: `invalid_path`; such a path would be another address.
    """
    return quote(RelPath(path), safe="/")


def segment(text: str) -> str:
    """One identifier in an address; `.` and `..` would be taken for directories."""
    return quote(text, safe="").replace(".", "%2E") if text.strip(".") == "" else quote(text, "")


__all__ = [
    "LIST_LIMIT",
    "UNSET",
    "Setup",
    "Unset",
    "file_path",
    "files_body",
    "given",
    "patch_body",
    "segment",
    "setup_body",
    "strings",
]

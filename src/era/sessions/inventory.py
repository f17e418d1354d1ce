"""Which packages a layer holds, in which versions: read from what installers leave beside them.

Everything there was made by strangers: no link is followed, and no more is read than is bounded here.
What cannot be understood is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from era import jsontext
from era.languages.packages import NODE_LOCK
from era.models import JsonText
from era.sessions.specs import modules
from era.workspace import beneath

Installed = dict[str, list[str]]
"""Kind of packages to `name==version`, sorted."""

MAX_PACKAGES: Final = 5000
"""Named of each kind."""
_HEAD_BYTES: Final = 16 << 10
_LIST_BYTES: Final = 8 << 20
"""Read of a list, which packages may have written: as JSON it may need thirty times that in memory."""
_NAME_CHARACTERS: Final = 300
_INFO: Final = ".dist-info"
_FIELD: Final = re.compile(r"^(Name|Version): *(\S+)\s*$", re.MULTILINE)


def installed(directory: str, kinds: Sequence[str]) -> Installed:
    """What the package steps of these kinds have left in the layer `directory`."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = {kind: _NAMED[kind](fd) for kind in kinds if kind in _NAMED}
        return {kind: sorted(set(_listed(names))) for kind, names in found.items()}
    finally:
        os.close(fd)


def as_text(found: Installed) -> JsonText:
    """As it is kept with a layer."""
    return jsontext.dumps({"installed": found} if found else {})


def from_text(text: JsonText) -> Installed:
    """What `as_text` kept."""
    found: Installed = jsontext.loads(text).get("installed", {})
    return found


def _listed(names: Iterator[str]) -> Iterator[str]:
    for _, name in zip(range(MAX_PACKAGES), names, strict=False):
        # Packages choose their names, and terminals show them.
        if len(name) <= _NAME_CHARACTERS and name.isprintable():
            yield name


def _python(dir_fd: int) -> Iterator[str]:
    """Each distribution has a directory that names it, in a normal form; its metadata has its own."""
    with suppress(OSError):
        fd = beneath.open_dir(dir_fd, "python")
        try:
            names = [os.fsdecode(name) for name, _ in beneath.iterate(fd)]
            for name in names:
                if name.endswith(_INFO) and name.isprintable():
                    head = _text(fd, f"{name}/METADATA", _HEAD_BYTES).partition("\n\n")[0]
                    fields = dict(_FIELD.findall(head))
                    plain, _, version = name.removesuffix(_INFO).rpartition("-")
                    yield f"{fields.get('Name', plain)}=={fields.get('Version', version)}"
        finally:
            os.close(fd)


def _node(dir_fd: int) -> Iterator[str]:
    """npm keeps a list of all that it has installed, by the paths of the packages."""
    with suppress(jsontext.JsonTextError, AttributeError, TypeError, KeyError):
        entries: dict[str, Any] = jsontext.loads(_text(dir_fd, NODE_LOCK, _LIST_BYTES))["packages"]
        for path, entry in entries.items():
            if isinstance(entry.get("version"), str):
                name = entry.get("name") or path.rpartition("node_modules/")[2]
                yield f"{name}=={entry['version']}"


def _go(dir_fd: int) -> Iterator[str]:
    yield from map("==".join, modules(_text(dir_fd, "go/go.mod", _LIST_BYTES)))


_NAMED: Final = {"pip": _python, "npm": _node, "go": _go}


def _text(dir_fd: int, path: str, most: int) -> str:
    """The beginning of a file; empty when it is none."""
    try:
        with os.fdopen(beneath.open_regular(dir_fd, path), "rb") as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""

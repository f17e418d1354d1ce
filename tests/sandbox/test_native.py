"""The helper in C: compiled once, without a warning, and never needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from era.sandbox.namespaces import native
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import BoxTools, one, shell
from tests.sandbox.boxes import namespaces_driver

COMPILER = shutil.which("cc") or "cc"


def _fake_compiler(directory: Path, text: str) -> Path:
    path = directory / "cc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_is_compiled_once(tmp_path: Path) -> None:
    made = native.built(str(tmp_path))
    assert made is not None
    assert os.access(made.first, os.X_OK)
    before = Path(made.first).stat().st_mtime_ns
    assert native.built(str(tmp_path)) == made
    assert Path(made.first).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".draft")] == []


def test_another_text_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = native.built(str(tmp_path / "kept"))
    sources = tmp_path / "sources"
    shutil.copytree(native._SOURCES, sources)
    with open(sources / "first.c", "a") as file:
        file.write("/* more */\n")
    monkeypatch.setattr(native, "_SOURCES", sources)
    assert native.built(str(tmp_path / "kept")) != made


@pytest.mark.parametrize("text", ["exit 1", "echo no >&2; exit 1", "kill -9 $$"])
def test_a_compiler_that_fails_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    _fake_compiler(tmp_path, text)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.built(str(tmp_path / "kept")) is None
    assert list((tmp_path / "kept").iterdir()) == []


def test_without_a_compiler_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.built(str(tmp_path / "kept")) is None
    assert not (tmp_path / "kept").exists()


def test_a_place_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    assert native.built(str(tmp_path / "kept")) is None


@pytest.mark.parametrize("options", [native._FIRST, native._STAND], ids=["first", "stand"])
def test_it_has_no_warnings(tmp_path: Path, options: tuple[str, ...]) -> None:
    more = ("-Werror", "-Wconversion", "-Wshadow", "-Wno-sign-conversion")
    argv = [COMPILER, *native._COMMON, *more, "-o", str(tmp_path / "made"), *options]
    done = subprocess.run(argv, cwd=native._SOURCES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.anyio
async def test_a_program_that_does_not_run_here_is_done_without(tmp_path: Path) -> None:
    """Of another processor, say."""
    broken = tmp_path / "first"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)

    class Broken(NamespacesDriver):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self._foundation = replace(self._foundation, first=str(broken), stand=str(broken))

    async with namespaces_driver(str(tmp_path / "state"), on_disk=False, kind=Broken) as driver:
        assert (await one(driver, shell(BoxTools(), "echo hi"))).stdout == b"hi\n"

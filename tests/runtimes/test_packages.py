"""Python packages for boxes: which are found, what is laid out of them, and where they would not fit."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import era.runtimes
from era.assemble import StartError
from era.assemble.parts import python_packages, warm
from era.config import load
from era.languages import given
from era.languages.table import Tools, launch
from era.runtimes import discover
from era.runtimes.packages import installed, lay_out
from era.runtimes.pythons import Python, find_pythons
from era.sandbox.base import Warm


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages of our own: `red` needs `blue` and, as `red[extra]`, `green`."""
    place = tmp_path / "environment"
    files = {
        "red/__init__.py": "import blue\n",
        "red/tests/test_red.py": "",
        "red.pth": "import os",
        "../outside.py": "",
        "blue.py": "",
        "green.py": "",
        "_private.py": "",
    }
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    _distribution(
        place,
        "Red_One",
        ["red/__init__.py", "red/tests/test_red.py", "red.pth", "../outside.py", "_private.py"],
        ["blue>=1; python_version > '3'", "green; extra == 'extra'", "absent; sys_platform == 'x'"],
    )
    _distribution(place, "blue", ["blue.py"], [])
    _distribution(place, "green", ["green.py"], [])
    monkeypatch.syspath_prepend(str(place))
    return place


def _distribution(place: Path, name: str, files: list[str], requires: list[str]) -> None:
    info = place / f"{name}-1.0.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
    listed = [*files, f"{info.name}/METADATA", f"{info.name}/RECORD"]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))


def _laid_out(directory: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(at, name), directory)
        for at, _, names in os.walk(directory)
        for name in names
        if not name.endswith(".pyc") and "dist-info" not in at
    }


def test_what_is_named_and_what_it_requires_is_laid_out(own: Path, tmp_path: Path) -> None:
    found = lay_out(str(tmp_path / "out"), ["red-one"])
    expected = {"red/__init__.py", "red/tests/test_red.py", "blue.py", "_private.py"}
    assert _laid_out(found.directory) == expected
    assert found.notes == ("Red_One 1.0", "blue 1.0")
    assert found.modules == ("_private", "blue", "red")
    assert found.ahead == ("red",)
    # Boxes cannot keep what Python compiles.
    cache = tmp_path / "out" / os.path.basename(found.directory) / "red" / "__pycache__"
    assert any(cache.iterdir())


def test_an_extra_brings_what_it_requires(own: Path, tmp_path: Path) -> None:
    assert "green 1.0" in lay_out(str(tmp_path / "out"), ["red-one[extra]"]).notes


def test_it_is_laid_out_once_and_again_for_another_version(own: Path, tmp_path: Path) -> None:
    first = lay_out(str(tmp_path / "out"), ["red-one"])
    seen = os.stat(first.directory).st_ino
    assert lay_out(str(tmp_path / "out"), ["red-one"]) == first
    assert os.stat(first.directory).st_ino == seen
    shutil.rmtree(own / "blue-1.0.dist-info")
    (own / "blue.py").write_text("new = 1\n")
    _distribution(own, "blue", ["blue.py", "more.py"], [])
    second = lay_out(str(tmp_path / "out"), ["red-one"])
    assert os.listdir(tmp_path / "out") == [os.path.basename(second.directory)]
    assert second.directory != first.directory


def test_files_that_not_everyone_may_read_are_copied(own: Path, tmp_path: Path) -> None:
    (own / "blue.py").chmod(0o600)
    found = lay_out(str(tmp_path / "out"), ["blue"])
    assert os.stat(f"{found.directory}/blue.py").st_mode & 0o777 == 0o644
    assert os.stat(own / "blue.py").st_mode & 0o777 == 0o600
    linked = lay_out(str(tmp_path / "other"), ["green"])
    assert os.stat(f"{linked.directory}/green.py").st_nlink == 2


def test_the_root_shows_them_where_the_python_looks(own: Path, tmp_path: Path) -> None:
    found = discover(str(tmp_path), packages=("red-one",))
    assert found.no_packages is None
    (bind,) = [bind for bind in found.image.binds if "/packages/" in bind.source]
    assert bind.target.endswith("-packages")
    assert not bind.writable
    earlier = [it.target for it in found.image.binds[: found.image.binds.index(bind)]]
    assert bind.target in earlier or not bind.target.startswith("/usr/")
    assert found.tools.packages == ("_private", "blue", "red")
    assert not discover(str(tmp_path / "none")).packages


def test_a_python_of_another_minor_version_is_given_none(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def others(path: str) -> list[Python]:
        best = find_pythons(path)[0]
        return [replace(best, version=(3, sys.version_info[1] + 1, 0))]

    monkeypatch.setattr(era.runtimes, "find_pythons", others)
    found = discover(str(tmp_path), packages=("red-one",))
    assert "boxes have Python 3." in (found.no_packages or "")
    assert (found.packages, found.tools.packages) == ((), ())


def test_a_python_that_fits_comes_first(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(path: str) -> list[Python]:
        best = find_pythons(path)[0]
        other = replace(best, version=(3, sys.version_info[1] + 1, 0), executable="/usr/bin/other")
        return [other, replace(best, version=(*sys.version_info[:2], 0))]

    monkeypatch.setattr(era.runtimes, "find_pythons", both)
    assert discover(str(tmp_path)).tools.python == "/usr/bin/other"
    assert discover(str(tmp_path), packages=("red-one",)).packages


# --- the setting ---------------------------------------------------------------------------------


def test_which_packages_are_given() -> None:
    assert python_packages(load()) == installed(given.USUAL) == given.USUAL
    assert python_packages(load({"ERA_PYTHON_PACKAGES": "none"})) == ()
    assert python_packages(load({"ERA_PYTHON_PACKAGES": "numpy, packaging"})) == (
        "numpy",
        "packaging",
    )


@pytest.mark.parametrize("name", ["no-such-thing", "../etc", "none,numpy"])
def test_a_package_that_is_not_installed_is_refused(name: str) -> None:
    with pytest.raises(StartError, match="ERA_PYTHON_PACKAGES names") as refused:
        python_packages(load({"ERA_PYTHON_PACKAGES": name}))
    assert "pip install" in str(refused.value.extra["hint"])


# --- who gets them ready -------------------------------------------------------------------------

TOOLS = Tools(packages=("numpy", "pandas"), packages_ahead=("numpy",))


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("import numpy", True),
        ("x = 1\n  import numpy as np\n", True),
        ("import os, pandas.io, sys", True),
        ("from numpy.linalg import svd", True),
        ("from\tpandas import (\n DataFrame)", True),
        ("import os", False),
        ("import numpyro", False),
        ("from . import numpy", False),
        ("# import numpy", False),
        ("print('import numpy')", False),
        ("", False),
        ("import " + "a," * 100_000, False),
        (" " * 100_000 + "\nimport", False),
    ],
)
def test_who_imports_them(code: str, wanted: bool) -> None:
    started = launch("python", code, (), tools=TOOLS, taken=lambda _: False, has_layer=False)
    assert started.interpreter == ("python-data" if wanted else "python")
    assert started.env["OPENBLAS_NUM_THREADS"] == "1"
    bare = launch("python", code, (), tools=Tools(), taken=lambda _: False, has_layer=False)
    assert bare.interpreter == "python"
    assert "OPENBLAS_NUM_THREADS" not in bare.env


def _kept(boxes: int, tools: Tools) -> dict[str, Warm]:
    return {it.name: it for it in warm(load({"ERA_READY_BOXES": boxes}), tools)}


def test_few_boxes_wait_with_them() -> None:
    assert _kept(8, TOOLS)["python-data"].count == 2
    assert _kept(1, TOOLS)["python-data"].count == 1
    assert _kept(0, TOOLS) == {}
    assert "python-data" not in _kept(8, Tools())

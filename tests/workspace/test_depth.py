"""Many files deep down: what is done grows with how much there is, not with that times its depth."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from era.models import FileEntry
from era.relpath import RelPath
from era.storage.base import Blob
from era.workspace import beneath
from era.workspace.patch import Patch
from era.workspace.scan import CollectContext, Scan
from tests.counting import calls
from tests.workspace.keepers import directory, file
from tests.workspace.overlay import opened

SIZES = (100, 200)
EMPTY = Blob(hash="0" * 64, size=0)


def deep(size: int, *, stored: bool) -> tuple[list[FileEntry], list[FileEntry]]:
    """`size` directories in each other and as many files in the last: directories, files."""
    chain = ["/".join(["d"] * depth) for depth in range(1, size + 1)]
    files = [file(f"{chain[-1]}/{number:03}", EMPTY) for number in range(size)]
    return [directory(path) for path in chain] if stored else [], files


def patched(
    fd: int, removed: list[RelPath], others: list[FileEntry], files: list[FileEntry]
) -> None:
    patch = Patch(dir_fd=fd, owner=None)
    patch.remove(removed, [*others, *files])
    patch.make_dirs_and_links(others)
    with ExitStack() as stack:
        for item in patch.exports(files, stack):
            os.close(os.open(item.name, os.O_CREAT | os.O_WRONLY, dir_fd=item.dir_fd))
    patch.finish()


def in_proportion(costs: list[int]) -> bool:
    small, large = costs
    return 0 < large < 2.3 * small


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "implied"])
def test_a_tree_is_made_changed_and_emptied_in_proportion(room: str, stored: bool) -> None:
    made, changed, emptied = [], [], []
    for size in SIZES:
        os.mkdir(f"{room}/{size}")
        others, files = deep(size, stored=stored)
        gone = [entry.path for entry in (*others, *files)]
        with opened(f"{room}/{size}") as fd:
            made.append(calls(lambda: patched(fd, [], others, files)))  # noqa: B023
            found = beneath.lstat(fd, files[-1].path)
            assert found is not None
            changed.append(calls(lambda: patched(fd, [], [], files)))  # noqa: B023
            emptied.append(calls(lambda: patched(fd, gone, [], [])))  # noqa: B023
            assert os.listdir(fd) == []
    assert in_proportion(made), made
    assert in_proportion(changed), changed
    assert in_proportion(emptied), emptied


def test_an_upper_is_read_in_proportion(room: str) -> None:
    costs = []
    for size in SIZES:
        os.mkdir(f"{room}/{size}")
        others, files = deep(size, stored=True)
        with opened(f"{room}/{size}") as fd:
            patched(fd, [], others, files)
            scan = Scan(context=CollectContext(tree_fd=fd))
            costs.append(calls(lambda: scan.run(fd)))  # noqa: B023
            assert sum(map(len, scan.files.values())) == size
    assert in_proportion(costs), costs

"""Following links by the manifest; compared with what a real file system says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era.models import FileEntry, FileKind
from era.relpath import RelPath
from era.storage.links import (
    MAX_LOOKUPS,
    above,
    all_above,
    destination,
    follow,
    nearest_above,
    walk,
)
from tests.contracts.records import file, folder, link


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("l", "f", "f"),
        ("d/l", "f", "d/f"),
        ("d/l", "../f", "f"),
        ("d/l", "./x//y/.", "d/x/y"),
        ("l", "/workspace/f", "f"),
        ("l", "../workspace/f", "f"),
        ("l", "/workspace", None),
        ("l", "/workspaces/f", None),
        ("l", "..", None),
        ("d/l", "../../etc", None),
        ("l", "", None),
        ("l", ".", None),
    ],
)
def test_where_a_link_points(path: str, target: str, expected: str | None) -> None:
    assert destination(path, target) == expected


NAMES = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a"]
TARGETS = st.lists(st.sampled_from(["a", "b", "d", "e", "..", "."]), min_size=1, max_size=4).map(
    "/".join
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(NAMES), TARGETS, max_size=5))
def test_a_real_file_system_agrees(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    """Where `..` stays clear of links; there the walk is lexical on purpose."""
    root = tmp_path_factory.mktemp("links")
    tree: dict[str, FileEntry] = {}
    for path in NAMES:
        if any(f"{parent}" in links for parent in RelPath(path).parents):
            continue
        inner = any(other.startswith(f"{path}/") for other in NAMES)
        place = Path(root, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path in links:
            tree[path] = link(path, links[path])
            place.symlink_to(links[path])
        elif inner:
            tree[path] = folder(path)
            place.mkdir(exist_ok=True)
        else:
            tree[path] = file(path, path)
            place.write_text(path)
    for entry in tree.values():
        if entry.kind is not FileKind.LINK or ".." in f"{links}":
            continue
        found = follow(entry, tree)
        real = os.path.realpath(root / entry.path)
        expected = os.path.isfile(real) and real.startswith(f"{root}/")
        assert (found is not None) == expected
        if found is not None:
            assert real == f"{root}/{found.path}"


def test_a_maze_is_left_after_a_bounded_number_of_looks() -> None:
    deep = "/".join("d" * 500)
    steps = walk(link("l", f"{deep}/x"))
    next(steps)
    assert sum(1 for _ in steps) <= MAX_LOOKUPS


def test_a_loop_through_directories_ends() -> None:
    tree = {"a": link("a", "b/x"), "b": link("b", "a")}
    assert follow(tree["a"], tree) is None


def test_a_file_is_no_directory() -> None:
    tree = {"f": file("f"), "l": link("l", "f/x"), "None/x": file("None/x")}
    assert follow(tree["l"], tree) is None


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=6).map("/".join)))
def test_what_is_above_many_paths_is_what_is_above_each(paths: list[str]) -> None:
    assert all_above(paths) == {directory for path in paths for directory in above(path)}


def test_the_way_up_ends_at_the_first_known_directory() -> None:
    assert list(nearest_above("a/b/c/d", ())) == ["a/b/c", "a/b", "a"]
    assert list(nearest_above("a/b/c/d", {"a/b"})) == ["a/b/c"]
    assert list(nearest_above("a", ())) == []

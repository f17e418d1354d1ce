"""What is kept on this machine, within its bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from era.sessions import folders
from era.sessions.kept import Bounds, Kept

pytestmark = pytest.mark.anyio


async def opened(root: Path, *, size: int = 1000, count: int = 100) -> Kept:
    kept = Kept(str(root), Bounds(size_bytes=size, count=count))
    await kept.start()
    return kept


def keep(kept: Kept, name: str, size: int = 1, text: str = "") -> None:
    draft = folders.unfinished(name)
    os.mkdir(kept.path(draft))
    Path(kept.path(draft, "content")).write_text(text)
    kept.keep(draft, name, size)


def there(root: Path) -> set[str]:
    return {name for name in os.listdir(root) if not name.startswith(folders.BOOT)}


async def test_it_is_found_again(tmp_path: Path) -> None:
    kept = await opened(tmp_path)
    assert not kept.use("a")
    for name in ("a", "b", "c"):
        keep(kept, name)
    assert kept.use("a")
    await kept.close()
    again = await opened(tmp_path)
    assert again.names() == ("b", "c", "a")
    assert again.use("b")


async def test_one_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    kept = await opened(tmp_path)
    for text in ("old", "new"):
        keep(kept, "a", text=text)
    await kept.close()
    assert there(tmp_path) == {"a"}
    assert Path(kept.path("a", "content")).read_text() == "new"


async def test_what_is_unfinished_or_without_size_is_removed(tmp_path: Path) -> None:
    kept = await opened(tmp_path)
    keep(kept, "a")
    os.mkdir(kept.path(folders.unfinished("half")))
    os.mkdir(kept.path("no-size"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "size").write_text("many")
    again = await opened(tmp_path)
    assert again.names() == ("a",)
    assert there(tmp_path) == {"a"}


async def test_after_a_restart_of_the_machine_nothing_is_believed(tmp_path: Path) -> None:
    keep(await opened(tmp_path), "a")
    (boot,) = (path for path in tmp_path.iterdir() if path.name.startswith(folders.BOOT))
    boot.rename(tmp_path / f"{folders.BOOT}another")
    assert (await opened(tmp_path)).names() == ()


@pytest.mark.parametrize("bounds", [{"size": 20}, {"count": 2}])
async def test_bounds(tmp_path: Path, bounds: dict[str, int]) -> None:
    kept = await opened(tmp_path, **bounds)
    for name in ("a", "b"):
        keep(kept, name, 10)
    kept.use("a")
    keep(kept, "c", 10)
    assert kept.names() == ("a", "c")
    with kept.pinned("a"):
        keep(kept, "d", 10)
        assert kept.names() == ("a", "d")
    keep(kept, "e", 10)
    assert kept.names() == ("d", "e")
    await kept.close()
    assert there(tmp_path) == {"d", "e"}


async def test_bounds_of_a_part(tmp_path: Path) -> None:
    kept = await opened(tmp_path)
    for name in ("1-a", "2-a", "1-b", "1-c", "11-a"):
        keep(kept, name, 10)
    kept.trim(Bounds(size_bytes=100, count=1), "1-")
    assert kept.names() == ("2-a", "1-c", "11-a")
    kept.forget("1-")
    assert kept.names() == ("2-a", "11-a")
    await kept.close()
    assert there(tmp_path) == {"2-a", "11-a"}


async def test_what_is_lost_is_not_there(tmp_path: Path) -> None:
    kept = await opened(tmp_path)
    keep(kept, "a")
    os.rename(kept.path("a"), kept.path("elsewhere"))
    assert not kept.use("a")
    assert kept.names() == ()

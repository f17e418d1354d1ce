"""How an unpacked layer is shown to a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from era import layout
from era.sandbox.base import Overlay
from era.sessions.layers import attachment

PARTS = ("workspace", "home", "tmp", "go/cache")


def test_parts_that_hold_something_are_shown(tmp_path: Path) -> None:
    for name in PARTS:
        (tmp_path / name / "sub").mkdir(parents=True)
    found = attachment(str(tmp_path))
    assert found.workspace == (f"{tmp_path}/workspace",)
    assert found.overlays == (
        Overlay(target=layout.LAYER, lowers=(str(tmp_path),)),
        Overlay(target=layout.HOME, lowers=(f"{tmp_path}/home",)),
        Overlay(target=layout.TMP, lowers=(f"{tmp_path}/tmp",)),
    )
    assert found.go_cache == f"{tmp_path}/go/cache"


@pytest.mark.parametrize("kind", ["missing", "empty", "link", "file", "link above"])
def test_what_is_no_directory_with_something_in_it_is_not_shown(tmp_path: Path, kind: str) -> None:
    layer, host = tmp_path / "layer", tmp_path / "host"
    (host / "cache").mkdir(parents=True)
    (host / "secret").touch()
    (host / "cache" / "secret").touch()
    for name in PARTS:
        place = layer / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "empty":
            place.mkdir()
        elif kind == "link":
            place.symlink_to(host)
        elif kind == "file":
            place.touch()
    if kind == "link above":
        (layer / "go").rmdir()
        (layer / "go").symlink_to(host)
    found = attachment(str(layer))
    whole = Overlay(target=layout.LAYER, lowers=(str(layer),))
    assert (found.workspace, found.overlays, found.go_cache) == ((), (whole,), None)

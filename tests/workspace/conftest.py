"""Directories for tests of this room: on a file system that takes whatever names and sizes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from era.workspace import beneath
from tests.workspace.overlay import Overlay, opened

SHM = "/dev/shm"


@pytest.fixture
def room() -> Iterator[str]:
    """An empty directory; removed as the service removes things, since tests go deep in it."""
    base = SHM if os.path.isdir(SHM) else tempfile.gettempdir()
    path = tempfile.mkdtemp(prefix="era-test-", dir=base)
    yield path
    with opened(base) as fd:
        beneath.remove_tree(fd, os.path.basename(path))
    assert not os.path.lexists(path)


@pytest.fixture
def room_fd(room: str) -> Iterator[int]:
    with opened(room) as fd:
        yield fd


@pytest.fixture(params=["trusted", "user"])
def overlay(room: str, request: pytest.FixtureRequest) -> Overlay:
    """A real overlay, with either kind of attributes."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    return Overlay(room, userxattr=request.param == "user").make()


@pytest.fixture(params=["openat2", "walk"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of staying below a directory."""
    if request.param == "walk":
        monkeypatch.setattr(beneath, "kernel_resolves", lambda: False)
    elif not beneath.kernel_resolves():
        pytest.skip("no openat2 here")
    return str(request.param)


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """Descriptors are what they were before."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before

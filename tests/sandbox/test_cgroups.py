"""cgroup v1 on the real hierarchies; v2 on a directory tree that stands for one.

The hosts this suite was written on have no v2 controllers.  A directory is not a cgroup: it keeps
what is written and enforces nothing, so the v2 tests prove the right files and values only.  The
limits themselves are tested from inside a box, on whatever the host has.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from era.sandbox.base import Limits
from era.sandbox.namespaces.cgroups import detect
from era.sandbox.namespaces.cgroups.none import NoCgroups
from era.sandbox.namespaces.cgroups.v1 import CgroupsV1, GroupV1, remove_service
from era.sandbox.namespaces.cgroups.v2 import CgroupsV2, GroupV2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make groups here")


def tree(directory: str, files: dict[str, str]) -> str:
    os.makedirs(directory, exist_ok=True)
    for name, text in files.items():
        with open(os.path.join(directory, name), "w", encoding="ascii") as file:
            file.write(text)
    return directory


def text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


CONTROL_FILES = dict.fromkeys(
    ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max", "cgroup.procs"),
    "",
)


@pytest.fixture
def group_tree(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A parent whose new directories get the control files a kernel would put there."""
    parent = str(tmp_path_factory.mktemp("unified"))
    tree(parent, {"cgroup.procs": "", "cgroup.subtree_control": ""})
    make = os.mkdir

    def mkdir(path: str, mode: int = 0o777, **more: int) -> None:
        make(path, mode, **more)
        if path.startswith(parent):
            tree(path, {**CONTROL_FILES, "cgroup.subtree_control": ""})

    monkeypatch.setattr(os, "mkdir", mkdir)
    return parent


def test_v2_writes_every_limit(group_tree: str) -> None:
    cgroups = CgroupsV2(group_tree, "era-1-2")
    group = cgroups.create("box-1", Limits(memory_bytes=1 << 20, cpus=1.5, pids=9))
    home = f"{group_tree}/era-1-2"
    assert text(f"{home}/box-1/memory.max") == str(1 << 20)
    assert text(f"{home}/box-1/memory.swap.max") == "0"
    assert text(f"{home}/box-1/memory.oom.group") == "1"
    assert text(f"{home}/box-1/pids.max") == "10"  # and process 1
    assert text(f"{home}/box-1/cpu.max") == "150000 100000"
    assert text(f"{home}/cgroup.subtree_control") == "+cpu +memory +pids"
    assert text(f"{group_tree}/cgroup.subtree_control") == "+cpu +memory +pids"
    assert text(f"{group_tree}/era-1-2-self/cgroup.procs") == str(os.getpid())
    for fd in group.join_fds:
        os.close(fd)


def test_v2_reads_usage(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("group"))
    group = GroupV2.__new__(GroupV2)
    group._path = path
    group._cpu_before_ns = 0
    group._peak_fd = -1
    figures = {
        "cpu.stat": "usage_usec 1234\nuser_usec 1000\n",
        "memory.events": "low 0\noom 3\noom_kill 2\n",
    }
    tree(path, figures)
    assert group.read().peak_memory_bytes is None
    tree(path, {"memory.peak": "4096\n"})
    reading = group.read()
    assert (reading.cpu_ns, reading.peak_memory_bytes, reading.oom_kills) == (1_234_000, 4096, 2)


SMALL = Limits(memory_bytes=64 << 20, cpus=0.5, pids=5)


@pytest.fixture
def v1() -> Iterator[CgroupsV1]:
    if os.geteuid() != 0:
        pytest.skip("only root may make groups here")
    parents = detect.find_v1()
    assert parents is not None, "this test needs the cgroup v1 hierarchies of a root service"
    # Not the service's name: drivers of other tests may live in this process.
    cgroups = CgroupsV1(parents, f"era-test-{os.getpid()}")
    yield cgroups
    cgroups.close()
    assert not any(os.path.exists(home) for home in cgroups._homes.values())


def run_in(group: GroupV1, code: str) -> None:
    """Run Python `code` in the group, waited for; however it ends."""
    pid = os.fork()
    if pid == 0:
        try:
            for fd in group.join_fds:
                os.write(fd, b"0")
            exec(code)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_v1_limits_are_written_and_a_new_group_has_used_nothing(v1: CgroupsV1) -> None:
    group = v1.create("box-1", SMALL)
    memory = f"{v1._homes['memory']}/box-1"
    assert text(f"{memory}/memory.limit_in_bytes").strip() == str(64 << 20)
    assert text(f"{v1._homes['pids']}/box-1/pids.max").strip() == "6"  # and process 1
    reading = group.read()
    assert (reading.cpu_ns, reading.oom_kills) == (0, 0)
    assert group.alone()


def test_v1_a_group_serves_again_with_other_limits_and_nothing_used(v1: CgroupsV1) -> None:
    group = v1.create("box-1", SMALL)
    run_in(group, "sum(range(10**6)); bytearray(8 << 20)")
    assert group.read().cpu_ns
    assert group.empty()
    assert group.recycle()
    again = v1.create("box-2", replace(SMALL, memory_bytes=48 << 20, pids=9))
    assert again is group
    reading = again.read()
    assert reading.cpu_ns == 0
    assert reading.peak_memory_bytes is not None
    assert reading.peak_memory_bytes < 1 << 20
    paths = {name: f"{home}/box-1" for name, home in v1._homes.items()}
    assert text(f"{paths['memory']}/memory.limit_in_bytes").strip() == str(48 << 20)
    assert text(f"{paths['pids']}/pids.max").strip() == "10"


def test_v1_a_group_that_was_freed_of_its_cpu_limit_has_it_again(v1: CgroupsV1) -> None:
    group = v1.create("box-1", SMALL)
    group.unbind()
    quota = f"{v1._homes['cpu']}/box-1/cpu.cfs_quota_us"
    assert text(quota).strip() == "-1"
    assert not group.recycle()
    assert group.discard()
    v1.create("box-1", SMALL)
    assert text(quota).strip() == "50000"


@pytest.mark.parametrize(
    "code",
    ["bytearray(128 << 20)", "open('/dev/shm/era-kept', 'wb').write(bytes(4 << 20))"],
    ids=["killed at its limit", "memory is left"],
)
def test_v1_a_group_that_is_not_as_new_does_not_serve_again(v1: CgroupsV1, code: str) -> None:
    group = v1.create("box-1", SMALL)
    home = f"{v1._homes['memory']}/box-1"
    try:
        run_in(group, code)
        assert not group.recycle()
        assert group.discard()
        assert v1.create("box-2", SMALL) is not group
        assert not os.path.exists(home)
    finally:
        with suppress(FileNotFoundError):
            os.unlink("/dev/shm/era-kept")


def test_v1_a_group_with_a_process_does_not_go_yet(v1: CgroupsV1) -> None:
    group = v1.create("box-1", SMALL)
    sleeper = subprocess.Popen(["/bin/sleep", "60"])
    try:
        for path in group._paths.values():
            Path(path, "cgroup.procs").write_text(str(sleeper.pid))
        assert group.alone()  # one process is no more than process 1
        assert not group.empty()
        assert not group.recycle()
        assert not group.discard()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert group.discard()


@needs_root
def test_groups_of_a_dead_service_are_swept() -> None:
    parents = detect.find_v1()
    assert parents is not None, "this test needs the cgroup v1 hierarchies of a root service"
    dead = f"{parents['pids']}/era-{os.getpid()}-1"  # this pid, but another start time
    alive = f"{parents['pids']}/{detect.service_name()}"
    os.makedirs(f"{dead}/box-9")
    os.makedirs(f"{alive}/box-9")
    try:
        detect.sweep(parents["pids"])
        assert not os.path.exists(dead)
        assert os.path.exists(alive)
    finally:
        os.rmdir(f"{alive}/box-9")
        with suppress(OSError):  # a driver of another test lives in this process
            os.rmdir(alive)


def test_without_cgroups_it_says_so() -> None:
    keeper = NoCgroups()
    assert any("memory" in words for words in keeper.unenforced)
    assert keeper.create("x", Limits()).join_fds == ()


def test_the_end_of_a_service_takes_forgotten_boxes_along(tmp_path: Path) -> None:
    (tmp_path / "era-1-2" / "box-1").mkdir(parents=True)
    remove_service(str(tmp_path / "era-1-2"))
    assert list(tmp_path.iterdir()) == []

"""What untrusted code tries against the kernel and against other processes.

Each attack runs in a box while others answer (`attack.py`), and has its mirror: with the guard away
the same act succeeds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from era.sandbox.base import Bind, Box, BoxSpec, Limits, Program
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import output_of, place, python, shell
from tests.sandbox import programs
from tests.sandbox.attack import ROOT, SMALL, TOOLS, attack, ok
from tests.sandbox.boxes import Unfiltered, namespaces_driver

REFUSALS = Path(__file__).with_name("refusals.py")
ZOMBIES = 10_000 if ROOT else 1_000
NICE_ENV = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
async def driver(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    directory = str(tmp_path_factory.mktemp("attacks"))
    async with namespaces_driver(directory, on_disk=ROOT) as driver:
        yield driver


@pytest.fixture(scope="module")
async def unfiltered(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    directory = str(tmp_path_factory.mktemp("unfiltered"))
    async with namespaces_driver(directory, on_disk=False, kind=Unfiltered) as driver:
        yield driver


# --- against the kernel ----------------------------------------------------------------------------

WITHOUT_THE_FILTER = """
    unshare user/clone user/clone time/clone parent/clone3/open_tree/name_to_handle_at/add_key/
    keyctl/vmsplice/mbind/move_pages/aio/ptrace traceme/ptrace parent/process_vm_readv/
    process_vm_writev/kcmp/pidfd_getfd/limits of process 1/personality/filter on a socket/
    filter of its own/filter of its own by prctl/socket mptcp/socket netlink generic/
    socket netlink diag/socket netlink uevent/namespace root mounts/namespace root sniffs
""".replace("\n", "").split("/")
"""What a program could do in a box that has everything but the filter."""
AS_NAMESPACE_ROOT = """
    unshare mount/unshare pid/unshare net/unshare uts/clone net/mount tmpfs/chroot/fsopen/
    open_tree clone/sethostname/add an address/socket packet/socket raw
""".replace("\n", "").split("/")
"""What a program could do with capabilities over the namespaces it is in."""
OUTSIDE = """
import ctypes, os, runpy, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
flags = 0x20000 | 0x4000000 | 0x40000000 | (0x10000000 if uid else 0)
assert libc.unshare(flags) == 0
for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    if uid:
        open("/proc/self/" + name, "w").write(line)
assert libc.mount(None, b"/", None, 16384 | (1 << 18), None) == 0
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Throwaway namespaces on the host, whose root the acts are."""


def _clean(names: list[str]) -> list[str]:
    return [name.strip() for name in names]


async def _refusals(box: Box, *names: str) -> dict[str, object]:
    place(box, "refusals.py", REFUSALS.read_bytes())
    argv = (TOOLS.python, "-I", "-S", "refusals.py", *names)
    program = Program(argv=argv, env=NICE_ENV, timeout_seconds=60)
    return dict(json.loads(await output_of(box, program)))


@pytest.mark.anyio
async def test_everything_forbidden_is_refused(driver: NamespacesDriver, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)  # a lower, so that /workspace is an overlay
    async with driver.box(BoxSpec(workspace=(str(tmp_path),))) as box:
        outcomes = await _refusals(box)
    assert len(outcomes) > 150
    assert [name for name, it in outcomes.items() if not str(it).startswith("E")] == []


@pytest.mark.anyio
async def test_the_filter_is_what_refuses_it(unfiltered: NamespacesDriver) -> None:
    names = _clean(WITHOUT_THE_FILTER)
    async with unfiltered.box(SMALL) as box:
        outcomes = await _refusals(box)
    assert [name for name in names if outcomes[name] != 0] == []
    # The rest of the box holds without it.
    for name in ("mount tmpfs", "chroot", "setuid 0", "capset", "write to usr", "core pattern",
                 "namespace root uncovers usr", "namespace root lifts a mask", "umount proc",
                 "block device", "memory of process 1", "add an interface"):  # fmt: skip
        assert str(outcomes[name]).startswith("E"), name


def test_with_capabilities_it_would_succeed() -> None:
    names = _clean(AS_NAMESPACE_ROOT)
    argv = [TOOLS.python, "-c", OUTSIDE, str(REFUSALS), *names]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert json.loads(done.stdout) == dict.fromkeys(names, 0)


@pytest.mark.anyio
async def test_memory_of_shared_files_is_copied_when_written(driver: NamespacesDriver) -> None:
    """/proc/self/mem writes where the mapping is read-only; the file's page must not change."""
    target = "/usr/bin/env"
    before = Path(target).read_bytes()
    program = Program(argv=(TOOLS.python, "-c", programs.PAGE, target), env=NICE_ENV)
    told = ok(await attack(driver, program)).splitlines()
    assert told == ["1 Input/output error", "2 forged", "False"]  # its own copy did change
    assert Path(target).read_bytes() == before


SUID = "cp /usr/bin/id {0}/id && chmod 6755 {0}/id"


@pytest.mark.anyio
async def test_setuid_programs_are_inert(driver: NamespacesDriver) -> None:
    if not ROOT:
        pytest.skip("only root can make a program that is root's")
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        subprocess.run(["/bin/sh", "-c", SUID.format(directory)], check=True)
        bind = Bind(source=directory, target="/opt/suid")
        spec = BoxSpec(limits=SMALL.limits, binds=(bind,))
        ended = await attack(driver, shell(TOOLS, "/opt/suid/id -u; /opt/suid/id -g"), spec)
        assert ok(ended) == "1000\n1000\n"
        outside = subprocess.run(
            [f"{directory}/id", "-u"], user=65534, group=65534, capture_output=True, check=True
        )
    assert outside.stdout == b"0\n"


@pytest.mark.anyio
async def test_a_program_from_memory_has_no_more_rights(driver: NamespacesDriver) -> None:
    rows = dict(
        line.split(":\t") for line in ok(await attack(driver, programs.FROM_MEMORY)).splitlines()
    )
    assert (int(rows["CapEff"], 16), rows["NoNewPrivs"], rows["Seccomp"]) == (0, "1", "2")
    assert rows["Uid"] == "1000\t1000\t1000\t1000"


@pytest.mark.anyio
@pytest.mark.parametrize("given", ["whole", "empty"])
async def test_standard_input_cannot_be_written(driver: NamespacesDriver, given: str) -> None:
    text = "given" if given == "whole" else ""
    *outcomes, kept = ok(
        await attack(driver, programs.SPOIL_STDIN, stdin=text.encode())
    ).splitlines()
    assert kept == text
    harmless = set() if ROOT else {"chmod"}  # rootless the file is its own, and sealed
    if not text:
        harmless.add("shrink")  # there is nothing to take away
    names = ("write", "chmod", "change", "enlarge", "shrink", "unseal")
    done = {name for name, outcome in zip(names, outcomes, strict=True) if outcome == "done"}
    assert done <= harmless


@pytest.mark.anyio
async def test_memory_files_of_ones_own_can_be_written(driver: NamespacesDriver) -> None:
    """The mirror: the same acts on a file that is not sealed."""
    code = """
import os
fd = os.memfd_create("x")
os.write(fd, b"given")
os.pwrite(os.open(f"/proc/self/fd/{fd}", os.O_RDWR), b"forged", 0)
print(os.pread(fd, 10, 0).decode())
"""
    assert ok(await attack(driver, code)) == "forged\n"


# --- against processes -----------------------------------------------------------------------------


@pytest.mark.anyio
async def test_kill_everyone_reaches_the_box_only(driver: NamespacesDriver) -> None:
    assert ok(await attack(driver, programs.KILL_EVERYONE)) == "9\n"


@pytest.mark.anyio
async def test_process_1_takes_no_signal(driver: NamespacesDriver) -> None:
    """Every signal by every way; a process of one's own dies of the same ones."""
    died, of = ok(await attack(driver, programs.SIGNALS)).split()
    assert died == of


@pytest.mark.anyio
async def test_a_stopped_tree_ends_at_the_deadline(driver: NamespacesDriver) -> None:
    ended = await attack(driver, programs.STOPPED, timeout_seconds=0.5, grace_seconds=0.2)
    assert (ended.exit_code, ended.timed_out) == (124, True)
    assert ended.stdout == b"stopped\n"


@pytest.mark.anyio
async def test_a_vfork_parent_ends_at_the_deadline(driver: NamespacesDriver) -> None:
    """A parent whose vfork child does not exec waits uninterruptibly but for a kill."""
    ended = await attack(driver, programs.VFORK, timeout_seconds=0.7, grace_seconds=0.2)
    assert (ended.exit_code, ended.timed_out, ended.stdout) == (124, True, b"in\n")


@pytest.mark.anyio
async def test_orphans_are_reaped(driver: NamespacesDriver) -> None:
    """More orphans, one after the other, than processes may exist at once."""
    assert ok(await attack(driver, programs.ORPHANS)) == "done\n"


@pytest.mark.anyio
async def test_ten_thousand_zombies(driver: NamespacesDriver) -> None:
    code = programs.MANY_ZOMBIES
    many = Limits(memory_bytes=1 << 30, disk_bytes=64 << 20, pids=12_000)
    code = code.replace("MANY", str(ZOMBIES))
    ended = await attack(driver, code, BoxSpec(limits=many), timeout_seconds=60)
    assert (ended.exit_code, ended.signal) == (137, "SIGKILL")
    assert ended.stdout == b"%d\n" % ZOMBIES


@pytest.mark.anyio
async def test_closing_every_descriptor_and_all_else_gone(driver: NamespacesDriver) -> None:
    code = "import os; os.closerange(0, 4096); os._exit(7)"
    ended = await attack(driver, code)
    assert (ended.exit_code, ended.stdout) == (7, b"")


@pytest.mark.anyio
async def test_an_inherited_alarm_is_none(driver: NamespacesDriver) -> None:
    signal.setitimer(signal.ITIMER_REAL, 3600)
    try:
        code = "import signal; print(signal.getitimer(signal.ITIMER_REAL)[0], signal.alarm(0))"
        assert ok(await attack(driver, code)) == "0.0 0\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.anyio
async def test_other_boxes_processes_are_out_of_reach(driver: NamespacesDriver) -> None:
    """Signals to every number there can be, while another box runs."""
    async with driver.box(SMALL) as other:
        async with driver.box(SMALL) as box:
            code = """
import os, signal
reached = []
for pid in range(2, 70_000):
    if pid == os.getpid(): continue
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: continue
    reached.append(pid)
print(reached)
"""
            assert await output_of(box, python(TOOLS, code)) == "[]\n"
        assert await output_of(other, shell(TOOLS, "echo alive")) == "alive\n"


@pytest.mark.anyio
async def test_no_way_up_through_a_descriptor(driver: NamespacesDriver) -> None:
    """From every directory that can be opened, `..` ends at the box's own root."""
    assert ok(await attack(driver, programs.UPWARDS)) == "True\n"
    assert os.stat("/").st_ino != 0
